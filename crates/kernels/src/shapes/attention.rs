//! Arguments of [`Attention`](crate::Attention)'s operations.

use super::{Compute, Dtypes, Master, Op, View};
use crate::{Mut, Ref, Result};

/// Heads of one tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadDims {
    /// Batch.
    pub b: usize,
    /// Positions.
    pub t: usize,
    /// Heads.
    pub h: usize,
    /// Head dim, even.
    pub d: usize,
}

fn rotary(
    op: Op,
    x: (&'static str, &dyn View),
    rstd: &dyn View,
    cos: &dyn View,
    sin: &dyn View,
) -> Result<HeadDims> {
    let [b, t, h, d] = op.dims(x.0, x.1, "(B, T, H, D)")?;
    op.require(d % 2 == 0, || format!("head dim {d} is odd"))?;
    op.is("rstd", rstd, "(B, T, H)", &[b, t, h])?;
    op.is("cos", cos, "(T, D/2)", &[t, d / 2])?;
    op.is("sin", sin, "(T, D/2)", &[t, d / 2])?;
    Ok(HeadDims { b, t, h, d })
}

/// Checks [`Attention::rotary_norm`](crate::Attention::rotary_norm).
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) when D is odd.
pub fn rotary_norm(
    d: &Dtypes,
    x: &Mut<'_>,
    rstd: &Mut<'_>,
    cos: &Ref<'_>,
    sin: &Ref<'_>,
) -> Result<HeadDims> {
    let op = d.op("rotary_norm", &[(x, Compute), (rstd, Master), (cos, Master), (sin, Master)])?;
    rotary(op, ("x", x), rstd, cos, sin)
}

/// Checks [`Attention::rotary_norm_backward`](crate::Attention::rotary_norm_backward).
///
/// # Errors
/// As [`rotary_norm`].
pub fn rotary_norm_backward(
    d: &Dtypes,
    dx: &Mut<'_>,
    y: &Ref<'_>,
    rstd: &Ref<'_>,
    cos: &Ref<'_>,
    sin: &Ref<'_>,
) -> Result<HeadDims> {
    let op = d.op(
        "rotary_norm_backward",
        &[(dx, Compute), (y, Compute), (rstd, Master), (cos, Master), (sin, Master)],
    )?;
    let dims = rotary(op, ("dx", dx), rstd, cos, sin)?;
    op.like("y", y, "dx", dx.shape())?;
    Ok(dims)
}

/// The value gate's dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GateDims {
    /// Rows.
    pub n: usize,
    /// Key/value heads.
    pub k: usize,
    /// Head dim.
    pub d: usize,
    /// Channels of x.
    pub c: usize,
    /// Channels of x that the gate reads.
    pub g: usize,
}

fn gated(
    op: Op,
    v: (&'static str, &dyn View),
    ve: &dyn View,
    gate: &dyn View,
    x: &dyn View,
    w: &dyn View,
) -> Result<GateDims> {
    let (n, [k, d]) = op.leading(v.0, v.1, "(N, K, D)")?;
    op.rows("ve", ve, "(N, K, D)", n, &[k, d])?;
    op.rows("gate", gate, "(N, K)", n, &[k])?;
    let (_, [c]) = op.leading("x", x, "(N, C)")?;
    op.rows("x", x, "(N, C)", n, &[c])?;
    let [_, g] = op.dims("w", w, "(K, G)")?;
    op.is("w", w, "(K, G)", &[k, g])?;
    op.require(g <= c, || format!("w reads {g} channels, x has {c}"))?;
    Ok(GateDims { n, k, d, c, g })
}

/// Checks [`Attention::value_gate`](crate::Attention::value_gate).
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) when G > C.
pub fn value_gate(
    d: &Dtypes,
    v: &Mut<'_>,
    gate: &Mut<'_>,
    ve: &Ref<'_>,
    x: &Ref<'_>,
    w: &Ref<'_>,
) -> Result<GateDims> {
    let op = d.op(
        "value_gate",
        &[(v, Compute), (gate, Master), (ve, Compute), (x, Compute), (w, Compute)],
    )?;
    gated(op, ("v", v), ve, gate, x, w)
}

/// Checks [`Attention::value_gate_backward`](crate::Attention::value_gate_backward).
///
/// # Errors
/// As [`value_gate`].
pub fn value_gate_backward(
    d: &Dtypes,
    dve: &Mut<'_>,
    dw: &Mut<'_>,
    dx: &Mut<'_>,
    dv: &Ref<'_>,
    ve: &Ref<'_>,
    gate: &Ref<'_>,
    x: &Ref<'_>,
    w: &Ref<'_>,
) -> Result<GateDims> {
    let args: [(&dyn View, _); 8] = [
        (dve, Compute),
        (dw, Master),
        (dx, Compute),
        (dv, Compute),
        (ve, Compute),
        (gate, Master),
        (x, Compute),
        (w, Compute),
    ];
    let op = d.op("value_gate_backward", &args)?;
    let dims = gated(op, ("dv", dv), ve, gate, x, w)?;
    let GateDims { n, k, d, c, g } = dims;
    op.rows("dve", dve, "(N, K, D)", n, &[k, d])?;
    op.is("dw", dw, "(K, G)", &[k, g])?;
    op.rows("dx", dx, "(N, C)", n, &[c])?;
    Ok(dims)
}

/// Attention's dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttentionDims {
    /// Batch.
    pub b: usize,
    /// Queries, the last T of S positions.
    pub t: usize,
    /// Keys.
    pub s: usize,
    /// Query heads.
    pub h: usize,
    /// Key/value heads, a divisor of H.
    pub k: usize,
    /// Head dim.
    pub d: usize,
}

/// Checks [`Attention::attention`](crate::Attention::attention).
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) unless S ≥ T and K divides H.
pub fn attention(
    d: &Dtypes,
    out: &Mut<'_>,
    lse: &Mut<'_>,
    q: &Ref<'_>,
    k: &Ref<'_>,
    v: &Ref<'_>,
) -> Result<AttentionDims> {
    let op = d.op(
        "attention",
        &[(out, Compute), (lse, Master), (q, Compute), (k, Compute), (v, Compute)],
    )?;
    attended(op, out, lse, q, k, v)
}

fn attended(
    op: Op,
    out: &dyn View,
    lse: &dyn View,
    q: &dyn View,
    keys: &dyn View,
    values: &dyn View,
) -> Result<AttentionDims> {
    let [b, t, h, d] = op.dims("q", q, "(B, T, H, D)")?;
    let [_, s, k, _] = op.dims("k", keys, "(B, S, K, D)")?;
    op.is("k", keys, "(B, S, K, D)", &[b, s, k, d])?;
    op.is("v", values, "(B, S, K, D)", &[b, s, k, d])?;
    op.like("out", out, "q", q.shape())?;
    op.is("lse", lse, "(B, H, T)", &[b, h, t])?;
    op.require(k > 0 && h % k == 0, || format!("{h} query heads over {k} key/value heads"))?;
    op.require(s >= t, || format!("{t} queries, the last of {s} positions"))?;
    Ok(AttentionDims { b, t, s, h, k, d })
}

/// Checks [`Attention::attention_backward`](crate::Attention::attention_backward).
///
/// # Errors
/// As [`attention`], and [`Error::Argument`](crate::Error::Argument) unless S = T.
pub fn attention_backward(
    d: &Dtypes,
    dq: &Mut<'_>,
    dk: &Mut<'_>,
    dv: &Mut<'_>,
    delta: &Mut<'_>,
    dout: &Ref<'_>,
    out: &Ref<'_>,
    lse: &Ref<'_>,
    q: &Ref<'_>,
    k: &Ref<'_>,
    v: &Ref<'_>,
) -> Result<AttentionDims> {
    let args: [(&dyn View, _); 10] = [
        (dq, Compute),
        (dk, Compute),
        (dv, Compute),
        (delta, Master),
        (dout, Compute),
        (out, Compute),
        (lse, Master),
        (q, Compute),
        (k, Compute),
        (v, Compute),
    ];
    let op = d.op("attention_backward", &args)?;
    let dims = attended(op, out, lse, q, k, v)?;
    op.require(dims.s == dims.t, || {
        format!("{} queries and {} keys; gradients need as many", dims.t, dims.s)
    })?;
    op.like("dq", dq, "q", q.shape())?;
    op.like("dk", dk, "k", k.shape())?;
    op.like("dv", dv, "v", v.shape())?;
    op.like("delta", delta, "lse", lse.shape())?;
    op.like("dout", dout, "q", q.shape())?;
    Ok(dims)
}
