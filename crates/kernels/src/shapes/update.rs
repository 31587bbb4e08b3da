//! Arguments of [`Update`](crate::Update)'s operations.

use super::{Dtypes, Master};
use crate::{AdamW, Mut, Ref, Result};

/// A stack of matrices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackDims {
    /// Matrices.
    pub k: usize,
    /// Rows of each.
    pub r: usize,
    /// Columns of each.
    pub s: usize,
}

/// Checks [`Update::adamw`](crate::Update::adamw); returns the number of elements.
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) for step 0.
pub fn adamw(
    d: &Dtypes,
    p: &Mut<'_>,
    m: &Mut<'_>,
    v: &Mut<'_>,
    g: &Ref<'_>,
    hyper: &AdamW,
) -> Result<usize> {
    let op = d.op("adamw", &[(p, Master), (m, Master), (v, Master), (g, Master)])?;
    op.like("m", m, "p", p.shape())?;
    op.like("v", v, "p", p.shape())?;
    op.like("g", g, "p", p.shape())?;
    op.require(hyper.step >= 1, || "step 0; steps count from 1".into())?;
    Ok(p.shape().elements())
}

/// Checks [`Update::nesterov`](crate::Update::nesterov); returns the number of elements.
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported), [`Error::Shape`](crate::Error::Shape).
pub fn nesterov(d: &Dtypes, out: &Mut<'_>, buf: &Mut<'_>, g: &Ref<'_>) -> Result<usize> {
    let op = d.op("nesterov", &[(out, Master), (buf, Master), (g, Master)])?;
    op.like("buf", buf, "out", out.shape())?;
    op.like("g", g, "out", out.shape())?;
    Ok(out.shape().elements())
}

fn stack(d: &Dtypes, op: &'static str, x: &Mut<'_>) -> Result<StackDims> {
    let [k, r, s] = d.op(op, &[(x, Master)])?.dims("x", x, "(K, R, S)")?;
    Ok(StackDims { k, r, s })
}

/// Checks [`Update::equilibrate_rows`](crate::Update::equilibrate_rows).
///
/// # Errors
/// As [`nesterov`].
pub fn equilibrate_rows(d: &Dtypes, x: &Mut<'_>) -> Result<StackDims> {
    stack(d, "equilibrate_rows", x)
}

/// Checks [`Update::polar_express`](crate::Update::polar_express), `needed` being the device's own `polar_express_scratch`.
///
/// # Errors
/// As [`nesterov`]; [`Error::Shape`](crate::Error::Shape) also when scratch is too small.
pub fn polar_express(
    d: &Dtypes,
    x: &Mut<'_>,
    scratch: &Mut<'_>,
    needed: usize,
) -> Result<StackDims> {
    let op = d.op("polar_express", &[(x, Master), (scratch, Master)])?;
    let [k, r, s] = op.dims("x", x, "(K, R, S)")?;
    let [len] = op.dims("scratch", scratch, "(elements)")?;
    if len < needed {
        return Err(op.fault("scratch", scratch, format!("at least ({needed})")));
    }
    Ok(StackDims { k, r, s })
}

/// Checks [`Update::renormalize`](crate::Update::renormalize).
///
/// # Errors
/// As [`nesterov`].
pub fn renormalize(d: &Dtypes, x: &Mut<'_>) -> Result<StackDims> {
    stack(d, "renormalize", x)
}

/// Checks [`Update::variance_reduce`](crate::Update::variance_reduce).
///
/// # Errors
/// As [`nesterov`].
pub fn variance_reduce(d: &Dtypes, x: &Mut<'_>, moment: &Mut<'_>) -> Result<StackDims> {
    let op = d.op("variance_reduce", &[(x, Master), (moment, Master)])?;
    let [k, r, s] = op.dims("x", x, "(K, R, S)")?;
    let letters = if r >= s { "(K, R)" } else { "(K, S)" };
    op.is("s", moment, letters, &[k, r.max(s)])?;
    Ok(StackDims { k, r, s })
}

/// Checks [`Update::cautious_update`](crate::Update::cautious_update); returns the number of elements.
///
/// # Errors
/// As [`nesterov`].
pub fn cautious_update(d: &Dtypes, p: &Mut<'_>, x: &Ref<'_>) -> Result<usize> {
    let op = d.op("cautious_update", &[(p, Master), (x, Master)])?;
    op.like("x", x, "p", p.shape())?;
    Ok(p.shape().elements())
}
