//! Softcapped cross-entropy with its gradient, and the most likely token.

use super::check::require;
use super::indices;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::DTYPES;
use crate::{Device, Result};

dims! {
    /// Rows and columns, leading axes flattened into rows.
    RowDims {
        /// Rows.
        n: b'N',
        /// Columns.
        c: b'C',
    }
}

operation! {
    /// Softcapped cross-entropy per row: with z = softcap · tanh(logits / softcap) over the first `vocab` columns,
    /// losses\[n\] = log Σ exp z − z\[target\], in nats; 0 where the target is −1.
    ///
    /// With `grad: Some(g)`, `logits` becomes g · ∂losses\[n\]/∂logits in place (0 in padding columns and ignored rows), so
    /// that a chunk of rows is all the logits that ever exist. With `None`, the first `vocab` columns of `logits` become z and padding columns 0.
    ///
    /// # Shapes
    /// losses (N) master dtype, logits (N, C) compute dtype, targets (N) I32 in −1..vocab, vocab ≤ C.
    /// # Errors
    /// [`Error::Index`](crate::Error::Index) for a target outside the vocabulary.
    CrossEntropy = fn cross_entropy(
        losses: write Master "(N)",
        logits: update Compute "(N, C)",
        targets: read Index "(N)",
    ) with (
        /// Columns that are tokens.
        vocab: usize,
        /// The bound on logits.
        softcap: f64,
        /// The factor on the gradient, where that is wanted.
        grad: Option<f64>,
    ) -> RowDims, first [logits], rule |op: &Self, dims| {
        let softcap = op.softcap;
        within(Self::NAME, op.vocab, dims)?;
        require(Self::NAME, softcap > 0.0 && softcap.is_finite(), || {
            format!("softcap {softcap}, expected a positive number")
        })
    }
}

operation! {
    /// out\[n\] = the first column with the largest value among the first `vocab` of row n.
    ///
    /// # Shapes
    /// out (N) I32, logits (N, C).
    Argmax = fn argmax(
        out: write Index "(N)",
        logits: read Compute "(N, C)",
    ) with (
        /// Columns that are tokens.
        vocab: usize,
    ) -> RowDims, first [logits], rule |op: &Self, dims| within(Self::NAME, op.vocab, dims)
}

fn within(op: &'static str, vocab: usize, RowDims { c, .. }: RowDims) -> Result<()> {
    require(op, 1 <= vocab && vocab <= c, || format!("vocab {vocab} of {c} columns"))
}

impl CrossEntropy<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let RowDims { n, c } = self.check(&DTYPES)?;
        let Self { losses, logits, targets, vocab, softcap, grad } = self;
        let (losses, logits) = (losses.slice::<f64>()?, logits.slice::<f64>()?);
        let targets = targets.slice::<i32>()?;
        indices("cross_entropy", targets, -1, vocab)?;
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
}

impl Argmax<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let RowDims { n, c } = self.check(&DTYPES)?;
        let Self { out, logits, vocab } = self;
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
}

/// Rows, columns, vocabulary.
const LOGITS: [(usize, usize, usize); 5] =
    [(1, 1, 1), (1, 64, 50), (7, 33, 33), (65, 320, 300), (130, 1024, 1000)];

/// [`CrossEntropy`]: losses, gradients and capped logits; targets repeat and some are
/// −1; padding columns hold NaN.
pub fn cross_entropy(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "cross_entropy");
    for (n, v, vocab) in LOGITS {
        for (softcap, spread) in [(15.0, 4.0), (15.0, 25.0), (3.0, 1.0)] {
            for grad in [None, Some(1.0 / n as f64)] {
                check.case(format!(
                    "N {n}, V {v}, vocab {vocab}, softcap {softcap}, logits ± {spread}, grad {grad:?}"
                ));
                // A loss or gradient may be what is left of a cancellation where a row is sure of its target.
                check.floor = if vocab == 1 { 1.0 } else { 0.0 };
                let pad = |i, x| if i % v < vocab { spread * x } else { f64::NAN };
                let logits = check.normal([n, v]).edit(pad);
                let ignore = |i, target| if i % 3 == 1 { -1.0 } else { target };
                let targets = check.integers([n], 0, vocab as i32).edit(ignore);
                let losses = Operand::poison([n]).master();
                check.run([&losses, &logits], [&targets], |d, [losses, logits], [targets]| {
                    d.cross_entropy(losses, logits, targets, vocab, softcap, grad)
                })?;
            }
        }
    }
    Ok(check.worst)
}

/// [`Argmax`], with ties and larger values in padding columns.
pub fn argmax(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "argmax");
    for (n, v, vocab) in LOGITS {
        check.case(format!("N {n}, V {v}, vocab {vocab}"));
        let pad = |i, x: f64| if i % v < vocab { x.round() - 5.0 } else { 100.0 };
        let logits = check.normal([n, v]).edit(pad);
        let out = Operand::index([n], vec![-7; n]);
        check.run([&out], [&logits], |d, [out], [logits]| d.argmax(out, logits, vocab))?;
    }
    Ok(check.worst)
}
