//! Arguments of [`Loss`](crate::Loss)'s operations.

use super::{Compute, Dtypes, Index, Master, Op, RowDims, View};
use crate::{Mut, Ref, Result};

fn over_vocab(op: Op, logits: &dyn View, vocab: usize) -> Result<RowDims> {
    let (n, [c]) = op.leading("logits", logits, "(N, V)")?;
    op.require(1 <= vocab && vocab <= c, || format!("vocab {vocab} of {c} columns"))?;
    Ok(RowDims { n, c })
}

/// Checks [`Loss::cross_entropy`](crate::Loss::cross_entropy), all but the targets' range.
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) unless 1 ≤ vocab ≤ V and 0 < softcap < ∞.
pub fn cross_entropy(
    d: &Dtypes,
    losses: &Mut<'_>,
    logits: &Mut<'_>,
    targets: &Ref<'_>,
    vocab: usize,
    softcap: f64,
) -> Result<RowDims> {
    let op = d.op("cross_entropy", &[(losses, Master), (logits, Compute), (targets, Index)])?;
    let dims = over_vocab(op, logits, vocab)?;
    op.rows("losses", losses, "(N)", dims.n, &[])?;
    op.rows("targets", targets, "(N)", dims.n, &[])?;
    op.require(softcap > 0.0 && softcap.is_finite(), || {
        format!("softcap {softcap}, expected a positive number")
    })?;
    Ok(dims)
}

/// Checks [`Loss::argmax`](crate::Loss::argmax).
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) unless 1 ≤ vocab ≤ V.
pub fn argmax(d: &Dtypes, out: &Mut<'_>, logits: &Ref<'_>, vocab: usize) -> Result<RowDims> {
    let op = d.op("argmax", &[(out, Index), (logits, Compute)])?;
    let dims = over_vocab(op, logits, vocab)?;
    op.rows("out", out, "(N)", dims.n, &[])?;
    Ok(dims)
}

/// Checks [`Loss::sum`](crate::Loss::sum); returns the number of elements.
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported), [`Error::Shape`](crate::Error::Shape).
pub fn sum(d: &Dtypes, out: &Mut<'_>, x: &Ref<'_>) -> Result<usize> {
    reduced(d, "sum", out, x)
}

/// Checks [`Loss::sum_squares`](crate::Loss::sum_squares); returns the number of elements.
///
/// # Errors
/// As [`sum`].
pub fn sum_squares(d: &Dtypes, out: &Mut<'_>, x: &Ref<'_>) -> Result<usize> {
    reduced(d, "sum_squares", out, x)
}

fn reduced(d: &Dtypes, op: &'static str, out: &Mut<'_>, x: &Ref<'_>) -> Result<usize> {
    d.op(op, &[(out, Master), (x, Master)])?.one("out", out)?;
    Ok(x.shape().elements())
}
