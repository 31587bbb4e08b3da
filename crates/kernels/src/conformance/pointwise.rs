//! [`Pointwise`](crate::Pointwise) against the reference.

use super::Outcome;
use super::case::{Check, Operand};
use crate::{Coef, DType, Device, Expr};

/// Rows and channels: one row, one channel, widths on no vector's edge, and one beyond what a GPU's warp keeps in registers.
const ROWS: [(usize, usize); 7] =
    [(1, 7), (5, 64), (3, 1), (33, 100), (130, 129), (257, 1024), (3, 2600)];

/// [`Pointwise::rms_norm`](crate::Pointwise::rms_norm), down to rows where the epsilon counts and zero.
///
/// # Errors
/// The first case that does not conform.
pub fn rms_norm(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "rms_norm");
    for (n, c) in ROWS {
        for size in [1.0, 1e-4, 0.0] {
            check.case(format!("N {n}, C {c}, |x| {size}"));
            let x = check.normal([n, c]).edit(|_, x| size * x);
            let (y, rstd) = (Operand::poison([n, c]), Operand::poison([n]).master());
            check.run([&y, &rstd], [&x], |d, [y, rstd], [x]| d.rms_norm(y, rstd, x))?;
        }
    }
    Ok(check.worst)
}

/// [`Pointwise::rms_norm_backward`](crate::Pointwise::rms_norm_backward).
///
/// # Errors
/// The first case that does not conform.
pub fn rms_norm_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "rms_norm_backward");
    for (n, c) in ROWS {
        for accumulate in [false, true] {
            check.case(format!("N {n}, C {c}, accumulate {accumulate}"));
            // One channel is ±1 whatever x was: its gradient is 0.
            check.floor = if c == 1 { 1.0 } else { 0.0 };
            let (x, dy) = (check.normal([n, c]), check.normal([n, c]));
            let outs = [&Operand::poison([n, c]), &Operand::poison([n]).master()];
            let [y, rstd] =
                check.reference(outs, [&x], |d, [y, rstd], [x]| d.rms_norm(y, rstd, x))?;
            let dx = check.out([n, c], accumulate);
            check.run([&dx], [&dy, &y, &rstd], |d, [dx], [dy, y, rstd]| {
                d.rms_norm_backward(dx, dy, y, rstd, accumulate)
            })?;
        }
    }
    Ok(check.worst)
}

/// [`Pointwise::mix`](crate::Pointwise::mix), with factors from the host and from the device.
///
/// # Errors
/// The first case that does not conform.
pub fn mix(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "mix");
    for (n, c) in ROWS {
        check.case(format!("N {n}, C {c}"));
        let (x, y, out) = (check.normal([n, c]), check.normal([n, c]), Operand::poison([n, c]));
        let a = check.normal([1]).master();
        check.run([&out], [&x, &y, &a], |d, [out], [x, y, a]| {
            d.mix(out, x, Coef::new(a, 0.75), y, Coef { parameter: None, times: -1.5 })
        })?;
        check.run([&out], [&x, &y, &a], |d, [out], [x, y, a]| {
            d.mix(out, x, Coef::ONE, y, Coef::new(a, -1.0))
        })?;
    }
    Ok(check.worst)
}

/// [`Pointwise::mix_norm`](crate::Pointwise::mix_norm).
///
/// # Errors
/// The first case that does not conform.
pub fn mix_norm(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "mix_norm");
    for (n, c) in ROWS {
        check.case(format!("N {n}, C {c}"));
        let (x, y, out) = (check.normal([n, c]), check.normal([n, c]), Operand::poison([n, c]));
        let (a, b) = (check.normal([1]).master(), check.normal([1]).master());
        let outs = [&out, &Operand::poison([n, c]), &Operand::poison([n]).master()];
        check.run(outs, [&x, &y, &a, &b], |d, [out, normed, rstd], [x, y, a, b]| {
            d.mix_norm(out, normed, rstd, x, Coef::new(a, 0.75), y, Coef::new(b, 2.0))
        })?;
    }
    Ok(check.worst)
}

/// [`Pointwise::mix_backward`](crate::Pointwise::mix_backward), with and without gradients of the factors.
///
/// # Errors
/// The first case that does not conform.
pub fn mix_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "mix_backward");
    for (n, c) in ROWS {
        check.case(format!("N {n}, C {c}"));
        let (x, y) = (check.normal([n, c]), check.normal([n, c]));
        let (dx, dy) = (check.normal([n, c]), check.normal([n, c]));
        let (a, b) = (check.normal([1]).master(), check.normal([1]).master());
        let (da, db) = (check.normal([1]).master(), check.normal([1]).master());
        let ins = [&x, &y, &a, &b];
        // Sums of products that cancel: judged by the size of what was summed.
        check.floor = ((n * c) as f64).sqrt();
        check.run([&da, &db], ins, |d, [da, db], [x, y, a, b]| {
            let (mut dx, mut dy) = (d.activations([n, c])?, d.activations([n, c])?);
            d.mix(dx.view_mut(), x, Coef::ONE, y, Coef { parameter: None, times: 0.5 })?;
            let (a, b) = (Coef::new(a, 0.75), Coef::new(b, -2.0));
            d.mix_backward(dx.view_mut(), dy.view_mut(), Some(da), Some(db), x, a, y, b)
        })?;
        check.floor = 0.0;
        check.run([&dx, &dy], ins, |d, [dx, dy], [x, y, a, b]| {
            let mut db = d.master([1])?;
            let (a, b) = (Coef::new(a, 0.75), Coef::new(b, -2.0));
            d.mix_backward(dx, dy, None, Some(db.view_mut()), x, a, y, b)
        })?;
        check.run([&dx, &dy], ins, |d, [dx, dy], [x, y, a, _]| {
            d.mix_backward(dx, dy, None, None, x, Coef::new(a, 0.75), y, Coef::ONE)
        })?;
    }
    Ok(check.worst)
}

/// Batch, positions, channels, gate channels.
const SMEARS: [(usize, usize, usize, usize); 5] =
    [(1, 1, 3, 1), (3, 1, 24, 24), (2, 5, 33, 24), (1, 130, 64, 12), (3, 65, 100, 24)];

/// [`Pointwise::smear`](crate::Pointwise::smear), with and without a previous position.
///
/// # Errors
/// The first case that does not conform.
pub fn smear(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "smear");
    for (b, t, c, g) in SMEARS {
        check.case(format!("B {b}, T {t}, C {c}, G {g}"));
        let (x, prev, w) = (check.normal([b, t, c]), check.normal([b, c]), check.normal([1, g]));
        let lambda = Operand::given([1], vec![0.7]).master();
        let outs = [&Operand::poison([b, t, c]), &Operand::poison([b, t]).master()];
        check.run(outs, [&x, &w, &lambda], |d, [out, gate], [x, w, lambda]| {
            d.smear(out, gate, x, None, w, lambda)
        })?;
        check.run(outs, [&x, &prev, &w, &lambda], |d, [out, gate], [x, prev, w, lambda]| {
            d.smear(out, gate, x, Some(prev), w, lambda)
        })?;
    }
    Ok(check.worst)
}

/// [`Pointwise::smear_backward`](crate::Pointwise::smear_backward).
///
/// # Errors
/// The first case that does not conform.
pub fn smear_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "smear_backward");
    for (b, t, c, g) in SMEARS {
        check.case(format!("B {b}, T {t}, C {c}, G {g}"));
        let (x, dout) = (check.normal([b, t, c]), check.normal([b, t, c]));
        let w = check.normal([1, g]).edit(|_, w| w / (g as f64).sqrt());
        let lambda = Operand::given([1], vec![0.7]).master();
        let outs = [&Operand::poison([b, t, c]), &Operand::poison([b, t]).master()];
        let [_, gate] =
            check.reference(outs, [&x, &w, &lambda], |d, [out, gate], [x, w, lambda]| {
                d.smear(out, gate, x, None, w, lambda)
            })?;
        let dx = Operand::poison([b, t, c]);
        let (dw, dlambda) = (check.normal([1, g]).master(), check.normal([1]).master());
        let ins = [&dout, &x, &gate, &w, &lambda];
        check.run([&dx], ins, |d, [dx], [dout, x, gate, w, lambda]| {
            let (mut dw, mut dlambda) = (d.master([1, g])?, d.master([1])?);
            let (dw, dlambda) = (dw.view_mut(), dlambda.view_mut());
            d.smear_backward(dx, dw, dlambda, dout, x, gate, w, lambda)
        })?;
        // Sums over positions of products that cancel: judged by the size of what was summed.
        check.floor = ((b * t * c) as f64).sqrt();
        check.run([&dw, &dlambda], ins, |d, [dw, dlambda], [dout, x, gate, w, lambda]| {
            let mut dx = d.activations([b, t, c])?;
            d.smear_backward(dx.view_mut(), dw, dlambda, dout, x, gate, w, lambda)
        })?;
    }
    Ok(check.worst)
}

/// [`Pointwise::relu2`](crate::Pointwise::relu2).
///
/// # Errors
/// The first case that does not conform.
pub fn relu2(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "relu2");
    for (n, c) in ROWS {
        check.case(format!("{n} × {c}"));
        let x = check.normal([n, c]);
        check.run([&Operand::poison([n, c])], [&x], |d, [y], [x]| d.relu2(y, x))?;
    }
    Ok(check.worst)
}

/// [`Pointwise::relu2_backward`](crate::Pointwise::relu2_backward).
///
/// # Errors
/// The first case that does not conform.
pub fn relu2_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "relu2_backward");
    for (n, c) in ROWS {
        check.case(format!("{n} × {c}"));
        let (x, dx) = (check.normal([n, c]), check.normal([n, c]));
        check.run([&dx], [&x], |d, [dx], [x]| d.relu2_backward(dx, x))?;
    }
    Ok(check.worst)
}

/// [`Pointwise::swiglu`](crate::Pointwise::swiglu), with gates from closed to open.
///
/// # Errors
/// The first case that does not conform.
pub fn swiglu(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "swiglu");
    for (n, c) in ROWS {
        for size in [1.0, 40.0] {
            check.case(format!("{n} × {c}, gates of size {size}"));
            let (gate, x) = (check.normal([n, c]).edit(|_, g| size * g), check.normal([n, c]));
            let y = Operand::poison([n, c]);
            check.run([&y], [&gate, &x], |d, [y], [gate, x]| d.swiglu(y, gate, x))?;
        }
    }
    Ok(check.worst)
}

/// [`Pointwise::swiglu_backward`](crate::Pointwise::swiglu_backward), with gates from closed to open.
///
/// # Errors
/// The first case that does not conform.
pub fn swiglu_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "swiglu_backward");
    for (n, c) in ROWS {
        for size in [1.0, 40.0] {
            check.case(format!("{n} × {c}, gates of size {size}"));
            let (gate, x) = (check.normal([n, c]).edit(|_, g| size * g), check.normal([n, c]));
            let outs = [&check.normal([n, c]), &Operand::poison([n, c])];
            check.run(outs, [&gate, &x], |d, [dx, dgate], [gate, x]| {
                d.swiglu_backward(dx, dgate, gate, x)
            })?;
        }
    }
    Ok(check.worst)
}

/// [`Pointwise::map`](crate::Pointwise::map): every function, two outputs that read each other's old values, mixed types,
/// and NaN where only `select`, `sign`, `min` and `max` see it.
///
/// # Errors
/// The first case that does not conform.
pub fn map(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "map");
    for n in [1, 16, 33, 1000] {
        check.case(format!("{n} elements, every function"));
        let (x, y) = (check.normal([n]), check.normal([n]).master());
        let (p, q) = (check.normal([n]).master(), check.normal([n]));
        let first = (Expr::input(0).abs() + 0.1).sqrt() * Expr::scalar(0)
            - (Expr::input(1) * 0.3).exp()
                / (Expr::input(0).abs() + Expr::scalar(1)).ln().abs().max(0.5)
            + Expr::old(1);
        let second = (-Expr::old(0)).tanh().min(Expr::input(1))
            + Expr::input(0).sign() * Expr::input(1).select(Expr::input(0), 2.0);
        let exprs = [first, second];
        let scalars = [0.7, 1.5];
        check.run([&p, &q], [&x, &y], |d, mut out, ins| d.map(&exprs, &mut out, &ins, &scalars))?;

        check.case(format!("{n} elements, not numbers"));
        let holes = check.normal([n]).edit(|i, x| [x, f64::NAN, 0.0, -0.0][i % 4]);
        let exprs = [
            Expr::input(0).select(3.0, -2.0),
            Expr::input(0).sign(),
            Expr::input(0).min(0.5),
            Expr::input(0).max(-0.5),
        ];
        let outs = [0; 4].map(|_| Operand::poison([n]));
        check
            .run(outs.each_ref(), [&holes], |d, mut out, ins| d.map(&exprs, &mut out, &ins, &[]))?;

        check.case(format!("{n} elements, 16-bit"));
        let (x, y) = (check.normal([n]).of(DType::BF16), check.normal([n]));
        let out = Operand::poison([n]).of(DType::BF16);
        let exprs = [Expr::input(0) * Expr::input(1)];
        check.run([&out], [&x, &y], |d, mut out, ins| d.map(&exprs, &mut out, &ins, &[]))?;
    }
    Ok(check.worst)
}
