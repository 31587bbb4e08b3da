//! Cross-entropy, argmax and sums.

use super::{DTYPES, Reference, dot};
use crate::shapes::{self, RowDims};
use crate::{Loss, Mut, Ref, Result};

impl Loss for Reference {
    fn cross_entropy(
        &self,
        losses: Mut<'_>,
        logits: Mut<'_>,
        targets: Ref<'_>,
        vocab: usize,
        softcap: f64,
        grad: Option<f64>,
    ) -> Result<()> {
        let RowDims { n, c } =
            shapes::cross_entropy(&DTYPES, &losses, &logits, &targets, vocab, softcap)?;
        let (losses, logits) = (losses.slice::<f64>()?, logits.slice::<f64>()?);
        let targets = targets.slice::<i32>()?;
        shapes::indices("cross_entropy", targets, -1, vocab)?;
        for n in 0..n {
            let (row, padding) = logits[n * c..(n + 1) * c].split_at_mut(vocab);
            padding.fill(0.0);
            for x in row.iter_mut() {
                *x = softcap * (*x / softcap).tanh();
            }
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
            let target = usize::try_from(targets[n]).ok();
            losses[n] = target.map_or(0.0, |target| lse - row[target]);
            let Some(g) = grad else { continue };
            let Some(target) = target else {
                row.fill(0.0);
                continue;
            };
            for (j, z) in row.iter_mut().enumerate() {
                let dz = (*z - lse).exp() - if j == target { 1.0 } else { 0.0 };
                // d tanh = 1 − tanh².
                *z = g * dz * (1.0 - (*z / softcap).powi(2));
            }
        }
        Ok(())
    }

    fn argmax(&self, out: Mut<'_>, logits: Ref<'_>, vocab: usize) -> Result<()> {
        let RowDims { n, c } = shapes::argmax(&DTYPES, &out, &logits, vocab)?;
        let (out, logits) = (out.slice::<i32>()?, logits.slice::<f64>()?);
        for n in 0..n {
            let row = &logits[n * c..n * c + vocab];
            let mut best = 0;
            for (j, &x) in row.iter().enumerate() {
                if x > row[best] {
                    best = j;
                }
            }
            out[n] = best as i32;
        }
        Ok(())
    }

    fn sum(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::sum(&DTYPES, &out, &x)?;
        out.slice::<f64>()?[0] = x.slice::<f64>()?.iter().sum();
        Ok(())
    }

    fn sum_squares(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::sum_squares(&DTYPES, &out, &x)?;
        let x = x.slice::<f64>()?;
        out.slice::<f64>()?[0] = dot(x, x);
        Ok(())
    }
}
