//! Arguments of [`Pointwise`](crate::Pointwise)'s operations.

use super::{Compute, Dtypes, Float, Master, Op, RowDims, View};
use crate::{Coef, Expr, Mut, Ref, Result};

/// Checks [`Pointwise::rms_norm`](crate::Pointwise::rms_norm).
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported), [`Error::Shape`](crate::Error::Shape).
pub fn rms_norm(d: &Dtypes, y: &Mut<'_>, rstd: &Mut<'_>, x: &Ref<'_>) -> Result<RowDims> {
    let op = d.op("rms_norm", &[(y, Compute), (rstd, Master), (x, Compute)])?;
    let (n, [c]) = op.leading("x", x, "(N, C)")?;
    op.rows("y", y, "(N, C)", n, &[c])?;
    op.rows("rstd", rstd, "(N)", n, &[])?;
    Ok(RowDims { n, c })
}

/// Checks [`Pointwise::rms_norm_backward`](crate::Pointwise::rms_norm_backward).
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_backward(
    d: &Dtypes,
    dx: &Mut<'_>,
    dy: &Ref<'_>,
    y: &Ref<'_>,
    rstd: &Ref<'_>,
) -> Result<RowDims> {
    let op =
        d.op("rms_norm_backward", &[(dx, Compute), (dy, Compute), (y, Compute), (rstd, Master)])?;
    let (n, [c]) = op.leading("y", y, "(N, C)")?;
    op.rows("dx", dx, "(N, C)", n, &[c])?;
    op.rows("dy", dy, "(N, C)", n, &[c])?;
    op.rows("rstd", rstd, "(N)", n, &[])?;
    Ok(RowDims { n, c })
}

/// Checks what is optional, one by one, so that nothing is allocated.
fn coefs(d: &Dtypes, op: Op, a: &Coef<'_>, b: &Coef<'_>) -> Result<()> {
    for (name, coef) in [("a", a), ("b", b)] {
        if let Some(parameter) = &coef.parameter {
            d.op(op.0, &[(parameter, Master)])?.one(name, parameter)?;
        }
    }
    Ok(())
}

/// Checks [`Pointwise::mix`](crate::Pointwise::mix); returns the number of elements.
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported), [`Error::Shape`](crate::Error::Shape).
pub fn mix(
    d: &Dtypes,
    out: &Mut<'_>,
    x: &Ref<'_>,
    a: &Coef<'_>,
    y: &Ref<'_>,
    b: &Coef<'_>,
) -> Result<usize> {
    let op = d.op("mix", &[(out, Compute), (x, Compute), (y, Compute)])?;
    op.like("x", x, "out", out.shape())?;
    op.like("y", y, "out", out.shape())?;
    coefs(d, op, a, b)?;
    Ok(out.shape().elements())
}

/// Checks [`Pointwise::mix_norm`](crate::Pointwise::mix_norm).
///
/// # Errors
/// As [`mix`].
pub fn mix_norm(
    d: &Dtypes,
    out: &Mut<'_>,
    normed: &Mut<'_>,
    rstd: &Mut<'_>,
    x: &Ref<'_>,
    a: &Coef<'_>,
    y: &Ref<'_>,
    b: &Coef<'_>,
) -> Result<RowDims> {
    let op = d.op(
        "mix_norm",
        &[(out, Compute), (normed, Compute), (rstd, Master), (x, Compute), (y, Compute)],
    )?;
    let (n, [c]) = op.leading("x", x, "(N, C)")?;
    op.rows("y", y, "(N, C)", n, &[c])?;
    op.rows("out", out, "(N, C)", n, &[c])?;
    op.rows("normed", normed, "(N, C)", n, &[c])?;
    op.rows("rstd", rstd, "(N)", n, &[])?;
    coefs(d, op, a, b)?;
    Ok(RowDims { n, c })
}

/// Checks [`Pointwise::mix_backward`](crate::Pointwise::mix_backward); returns the number of elements.
///
/// # Errors
/// As [`mix`].
pub fn mix_backward(
    d: &Dtypes,
    dx: &Mut<'_>,
    dy: &Mut<'_>,
    da: Option<&Mut<'_>>,
    db: Option<&Mut<'_>>,
    x: &Ref<'_>,
    a: &Coef<'_>,
    y: &Ref<'_>,
    b: &Coef<'_>,
) -> Result<usize> {
    let op = d.op("mix_backward", &[(dx, Compute), (dy, Compute), (x, Compute), (y, Compute)])?;
    op.like("dy", dy, "dx", dx.shape())?;
    op.like("x", x, "dx", dx.shape())?;
    op.like("y", y, "dx", dx.shape())?;
    for (name, gradient) in [("da", da), ("db", db)] {
        if let Some(gradient) = gradient {
            d.op(op.0, &[(gradient, Master)])?.one(name, gradient)?;
        }
    }
    coefs(d, op, a, b)?;
    Ok(dx.shape().elements())
}

/// Smear's dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmearDims {
    /// Batch.
    pub b: usize,
    /// Positions.
    pub t: usize,
    /// Channels.
    pub c: usize,
    /// Channels that the gate reads.
    pub g: usize,
}

fn smeared(
    op: Op,
    out: (&'static str, &dyn View),
    gate: &dyn View,
    x: &dyn View,
    w: &dyn View,
    lambda: &dyn View,
) -> Result<SmearDims> {
    let [b, t, c] = op.dims("x", x, "(B, T, C)")?;
    op.like(out.0, out.1, "x", x.shape())?;
    op.is("gate", gate, "(B, T)", &[b, t])?;
    let [_, g] = op.dims("w", w, "(1, G)")?;
    op.is("w", w, "(1, G)", &[1, g])?;
    op.one("lambda", lambda)?;
    op.require(g <= c, || format!("w reads {g} channels, x has {c}"))?;
    Ok(SmearDims { b, t, c, g })
}

/// Checks [`Pointwise::smear`](crate::Pointwise::smear).
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) when G > C.
pub fn smear(
    d: &Dtypes,
    out: &Mut<'_>,
    gate: &Mut<'_>,
    x: &Ref<'_>,
    prev: Option<&Ref<'_>>,
    w: &Ref<'_>,
    lambda: &Ref<'_>,
) -> Result<SmearDims> {
    let op = d.op(
        "smear",
        &[(out, Compute), (gate, Master), (x, Compute), (w, Compute), (lambda, Master)],
    )?;
    let dims = smeared(op, ("out", out), gate, x, w, lambda)?;
    if let Some(prev) = prev {
        d.op(op.0, &[(prev, Compute)])?.is("prev", prev, "(B, C)", &[dims.b, dims.c])?;
    }
    Ok(dims)
}

/// Checks [`Pointwise::smear_backward`](crate::Pointwise::smear_backward).
///
/// # Errors
/// As [`smear`].
pub fn smear_backward(
    d: &Dtypes,
    dx: &Mut<'_>,
    dw: &Mut<'_>,
    dlambda: &Mut<'_>,
    dout: &Ref<'_>,
    x: &Ref<'_>,
    gate: &Ref<'_>,
    w: &Ref<'_>,
    lambda: &Ref<'_>,
) -> Result<SmearDims> {
    let args: [(&dyn View, _); 8] = [
        (dx, Compute),
        (dw, Master),
        (dlambda, Master),
        (dout, Compute),
        (x, Compute),
        (gate, Master),
        (w, Compute),
        (lambda, Master),
    ];
    let op = d.op("smear_backward", &args)?;
    let dims = smeared(op, ("dx", dx), gate, x, w, lambda)?;
    op.like("dout", dout, "x", x.shape())?;
    op.is("dw", dw, "(1, G)", &[1, dims.g])?;
    op.one("dlambda", dlambda)?;
    Ok(dims)
}

/// Checks [`Pointwise::relu2`](crate::Pointwise::relu2); returns the number of elements.
///
/// # Errors
/// As [`rms_norm`].
pub fn relu2(d: &Dtypes, y: &Mut<'_>, x: &Ref<'_>) -> Result<usize> {
    let op = d.op("relu2", &[(y, Compute), (x, Compute)])?;
    op.like("x", x, "y", y.shape())?;
    Ok(y.shape().elements())
}

/// Checks [`Pointwise::relu2_backward`](crate::Pointwise::relu2_backward); returns the number of elements.
///
/// # Errors
/// As [`rms_norm`].
pub fn relu2_backward(d: &Dtypes, dx: &Mut<'_>, x: &Ref<'_>) -> Result<usize> {
    let op = d.op("relu2_backward", &[(dx, Compute), (x, Compute)])?;
    op.like("x", x, "dx", dx.shape())?;
    Ok(dx.shape().elements())
}

/// Checks [`Pointwise::swiglu`](crate::Pointwise::swiglu); returns the number of elements.
///
/// # Errors
/// As [`rms_norm`].
pub fn swiglu(d: &Dtypes, y: &Mut<'_>, gate: &Ref<'_>, x: &Ref<'_>) -> Result<usize> {
    let op = d.op("swiglu", &[(y, Compute), (gate, Compute), (x, Compute)])?;
    op.like("gate", gate, "y", y.shape())?;
    op.like("x", x, "y", y.shape())?;
    Ok(y.shape().elements())
}

/// Checks [`Pointwise::swiglu_backward`](crate::Pointwise::swiglu_backward); returns the number of elements.
///
/// # Errors
/// As [`rms_norm`].
pub fn swiglu_backward(
    d: &Dtypes,
    dx: &Mut<'_>,
    dgate: &Mut<'_>,
    gate: &Ref<'_>,
    x: &Ref<'_>,
) -> Result<usize> {
    let op =
        d.op("swiglu_backward", &[(dx, Compute), (dgate, Compute), (gate, Compute), (x, Compute)])?;
    op.like("dgate", dgate, "dx", dx.shape())?;
    op.like("gate", gate, "dx", dx.shape())?;
    op.like("x", x, "dx", dx.shape())?;
    Ok(dx.shape().elements())
}

/// Checks [`Pointwise::map`](crate::Pointwise::map); returns the number of elements.
///
/// # Errors
/// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported) for integers,
/// [`Error::Shape`](crate::Error::Shape); [`Error::Argument`](crate::Error::Argument) unless there is one expression per
/// output, of at most [`Expr::MAX_OUTPUTS`], and each names only inputs, outputs and scalars that are given.
pub fn map(
    d: &Dtypes,
    exprs: &[Expr],
    out: &[Mut<'_>],
    ins: &[Ref<'_>],
    scalars: &[f64],
) -> Result<usize> {
    let op = d.op("map", &[])?;
    op.require(exprs.len() == out.len(), || {
        format!("{} expressions for {} outputs", exprs.len(), out.len())
    })?;
    op.require(out.len() <= Expr::MAX_OUTPUTS, || {
        format!("{} outputs, at most {}", out.len(), Expr::MAX_OUTPUTS)
    })?;
    let n = out.first().map_or(0, |m| m.shape().elements());
    let outs = out.iter().map(|m| ("out", m as &dyn View));
    for (arg, view) in outs.chain(ins.iter().map(|r| ("ins", r as &dyn View))) {
        d.op("map", &[(view, Float)])?;
        if view.shape().elements() != n {
            return Err(op.fault(arg, view, format!("{n} elements, as the first output")));
        }
    }
    exprs.iter().try_for_each(|e| names(op, e, ins.len(), out.len(), scalars.len()))?;
    Ok(n)
}

/// Whether an expression names only what is given.
fn names(op: Op, expr: &Expr, ins: usize, outs: usize, scalars: usize) -> Result<()> {
    let below = |what: &str, i: usize, n: usize| {
        op.require(i < n, || format!("the expression names {what} {i} of {n}"))
    };
    match expr {
        Expr::Input(i) => below("input", *i, ins),
        Expr::Old(i) => below("output", *i, outs),
        Expr::Scalar(i) => below("scalar", *i, scalars),
        Expr::Const(_) => Ok(()),
        Expr::Unary(_, x) => names(op, x, ins, outs, scalars),
        Expr::Binary(_, x, y) => {
            names(op, x, ins, outs, scalars)?;
            names(op, y, ins, outs, scalars)
        }
        Expr::Select(x, y, z) => {
            names(op, x, ins, outs, scalars)?;
            names(op, y, ins, outs, scalars)?;
            names(op, z, ins, outs, scalars)
        }
    }
}
