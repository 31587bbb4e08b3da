//! Softcapped cross-entropy, argmax and sums.

use super::simd::{self, vectorised};
use super::work::{BLOCK_ELEMENTS, Partials, block_rows, rows};
use super::{Cpu, DTYPES};
use crate::shapes::RowDims;
use crate::{Loss, Mut, Ref, Result, shapes};

impl Loss for Cpu {
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
        let (losses, logits) = (losses.slice::<f32>()?, logits.slice::<f32>()?);
        let targets = targets.slice::<i32>()?;
        shapes::indices("cross_entropy", targets, -1, vocab)?;
        let (softcap, grad) = (softcap as f32, grad.map(|g| g as f32));
        let cut = (rows(losses, 1), rows(logits, c));
        self.workers.blocks(n, block_rows(c), cut, |first, (losses, logits)| {
            let each = losses.data.iter_mut().zip(logits.data.chunks_exact_mut(c));
            for ((loss, row), &target) in each.zip(&targets[first..]) {
                let (row, padding) = row.split_at_mut(vocab);
                padding.fill(0.0);
                *loss = vectorised(
                    #[inline(always)]
                    || cross_entropy_row(row, usize::try_from(target).ok(), softcap, grad),
                );
            }
        });
        Ok(())
    }

    fn argmax(&self, out: Mut<'_>, logits: Ref<'_>, vocab: usize) -> Result<()> {
        let RowDims { n, c } = shapes::argmax(&DTYPES, &out, &logits, vocab)?;
        let (out, logits) = (out.slice::<i32>()?, logits.slice::<f32>()?);
        self.workers.blocks(n, block_rows(c), rows(out, 1), |first, out| {
            for (out, row) in out.data.iter_mut().zip(logits.chunks_exact(c).skip(first)) {
                let row = &row[..vocab];
                let max = vectorised(
                    #[inline(always)]
                    || simd::max(row),
                );
                *out = row.iter().position(|&x| x == max).unwrap_or(0) as i32;
            }
        });
        Ok(())
    }

    fn sum(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::sum(&DTYPES, &out, &x)?;
        self.total(
            out.slice()?,
            x.slice()?,
            #[inline(always)]
            |x| x,
        );
        Ok(())
    }

    fn sum_squares(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::sum_squares(&DTYPES, &out, &x)?;
        self.total(
            out.slice()?,
            x.slice()?,
            #[inline(always)]
            |x| x * x,
        );
        Ok(())
    }
}

impl Cpu {
    /// out = Σ f(x), in f64.
    fn total(&self, out: &mut [f32], x: &[f32], f: impl Fn(f64) -> f64 + Copy + Sync) {
        let len = Partials::len(x.len(), BLOCK_ELEMENTS, 1);
        self.workers.scratch(len, |partials: &mut [f64]| {
            let cut = Partials::new(partials, 1, BLOCK_ELEMENTS);
            self.workers.blocks(x.len(), BLOCK_ELEMENTS, cut, |first, part| {
                let x = &x[first..x.len().min(first + BLOCK_ELEMENTS)];
                part.data[0] = vectorised(
                    #[inline(always)]
                    || simd::sum_f64(x, f),
                );
            });
            out[0] = partials.iter().sum::<f64>() as f32;
        });
    }
}

/// One row: turns logits into z or into the gradient, returns the loss.
#[inline(always)]
fn cross_entropy_row(
    row: &mut [f32],
    target: Option<usize>,
    softcap: f32,
    grad: Option<f32>,
) -> f32 {
    let inverse = 1.0 / softcap;
    for x in row.iter_mut() {
        *x = softcap * simd::tanh(*x * inverse);
    }
    let Some(target) = target else {
        if grad.is_some() {
            row.fill(0.0);
        }
        return 0.0;
    };
    let max = simd::max(row);
    let log_sum = simd::sum_of(
        row,
        #[inline(always)]
        |z| simd::exp(z - max),
    )
    .ln();
    let at_target = row[target];
    if let Some(grad) = grad {
        for z in row.iter_mut() {
            *z = grad * simd::exp((*z - max) - log_sum) * slope(*z, inverse);
        }
        row[target] -= grad * slope(at_target, inverse);
    }
    log_sum + (max - at_target)
}

/// ∂z/∂logit = 1 − tanh², where z = softcap·tanh.
#[inline(always)]
fn slope(z: f32, inverse_softcap: f32) -> f32 {
    1.0 - (z * inverse_softcap) * (z * inverse_softcap)
}
