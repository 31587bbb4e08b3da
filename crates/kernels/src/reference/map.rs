//! An interpreter of `Expr`, one element at a time.

use super::memory::{get, set};
use crate::{Binary, Expr, Mut, Ref, Result, Unary};

pub(super) fn run(
    exprs: &[Expr],
    out: &mut [Mut<'_>],
    ins: &[Ref<'_>],
    scalars: &[f64],
    elements: usize,
) -> Result<()> {
    let mut values = [0.0; Expr::MAX_OUTPUTS];
    for i in 0..elements {
        for (value, expr) in values.iter_mut().zip(exprs) {
            *value = eval(expr, &Element { i, ins, olds: out, scalars })?;
        }
        for (out, value) in out.iter_mut().zip(values) {
            set(out, i, value)?;
        }
    }
    Ok(())
}

/// What an expression's names mean at one element.
struct Element<'a, 'v> {
    i: usize,
    ins: &'a [Ref<'v>],
    olds: &'a [Mut<'v>],
    scalars: &'a [f64],
}

fn eval(expr: &Expr, at: &Element<'_, '_>) -> Result<f64> {
    Ok(match expr {
        Expr::Input(i) => get(at.ins[*i], at.i)?,
        Expr::Old(i) => get(at.olds[*i].view(), at.i)?,
        Expr::Scalar(i) => at.scalars[*i],
        Expr::Const(x) => *x,
        Expr::Unary(f, x) => unary(*f, eval(x, at)?),
        Expr::Binary(f, x, y) => binary(*f, eval(x, at)?, eval(y, at)?),
        Expr::Select(x, then, otherwise) => {
            eval(if eval(x, at)? >= 0.0 { then } else { otherwise }, at)?
        }
    })
}

fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        Unary::Sign => 0.0,
        Unary::Sqrt => x.sqrt(),
        Unary::Exp => x.exp(),
        Unary::Ln => x.ln(),
        Unary::Tanh => x.tanh(),
    }
}

fn binary(f: Binary, x: f64, y: f64) -> f64 {
    match f {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
    }
}
