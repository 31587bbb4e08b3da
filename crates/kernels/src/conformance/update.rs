//! [`Update`](crate::Update) against the reference.

use super::Outcome;
use super::case::{Check, Operand};
use crate::{AdamW, DType, Device, Mut, Result, Shape};

/// Matrices, rows, columns: tall, wide, square, vectors, on no block's edge.
const STACKS: [(usize, usize, usize); 7] =
    [(1, 1, 1), (2, 1, 37), (3, 37, 1), (3, 16, 16), (2, 33, 70), (2, 100, 48), (1, 130, 65)];

/// [`Update::adamw`](crate::Update::adamw), first and later steps.
///
/// # Errors
/// The first case that does not conform.
pub fn adamw(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "adamw");
    for (k, r, s) in STACKS {
        for step in [1, 7, 100_000] {
            check.case(format!("({k}, {r}, {s}), step {step}"));
            let hyper =
                AdamW { lr: 0.02, beta1: 0.8, beta2: 0.95, eps: 1e-10, weight_decay: 0.1, step };
            let (p, g) = (check.normal([k, r, s]).master(), check.normal([k, r, s]).master());
            let first = step == 1;
            let m = check.normal([k, r, s]).edit(|_, x| if first { 0.0 } else { x }).master();
            let v = check.normal([k, r, s]).edit(|_, x| if first { 0.0 } else { x * x }).master();
            check.run([&p, &m, &v], [&g], |d, [p, m, v], [g]| d.adamw(p, m, v, g, hyper))?;
        }
    }
    Ok(check.worst)
}

/// [`Update::nesterov`](crate::Update::nesterov).
///
/// # Errors
/// The first case that does not conform.
pub fn nesterov(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "nesterov");
    for (k, r, s) in STACKS {
        check.case(format!("({k}, {r}, {s})"));
        let (buf, g) = (check.normal([k, r, s]).master(), check.normal([k, r, s]).master());
        let out = Operand::poison([k, r, s]).master();
        check.run([&out, &buf], [&g], |d, [out, buf], [g]| d.nesterov(out, buf, g, 0.95))?;
    }
    Ok(check.worst)
}

/// [`Update::equilibrate_rows`](crate::Update::equilibrate_rows), with a row of zeros.
///
/// # Errors
/// The first case that does not conform.
pub fn equilibrate_rows(dev: &dyn Device) -> Outcome {
    in_place(dev, "equilibrate_rows", |d, x| d.equilibrate_rows(x))
}

/// [`Update::renormalize`](crate::Update::renormalize), with a matrix of zeros.
///
/// # Errors
/// The first case that does not conform.
pub fn renormalize(dev: &dyn Device) -> Outcome {
    in_place(dev, "renormalize", |d, x| d.renormalize(x))
}

fn in_place(
    dev: &dyn Device,
    op: &'static str,
    call: impl Fn(&dyn Device, Mut<'_>) -> Result<()>,
) -> Outcome {
    let mut check = Check::new(dev, op);
    for (k, r, s) in STACKS {
        check.case(format!("({k}, {r}, {s})"));
        // Rows of many sizes; the first row, and the whole of the last matrix of several, zero.
        let size = |i: usize, x: f64| {
            let (matrix, row) = (i / (r * s), i / s % r);
            if row == 0 || (k > 1 && matrix == k - 1) { 0.0 } else { x * 0.1 * (1 + row) as f64 }
        };
        let x = check.normal([k, r, s]).edit(size).master();
        check.run([&x], [], |d, [x], []| call(d, x))?;
    }
    Ok(check.worst)
}

/// [`Update::polar_express`](crate::Update::polar_express), with no more scratch than asked for. Each of its steps multiplies the rounding of
/// the one before, so that a device whose iterates are BF16 is allowed four times the tolerance.
///
/// # Errors
/// The first case that does not conform.
pub fn polar_express(dev: &dyn Device) -> Outcome {
    // Coefficients of arXiv 2505.16932.
    let steps = [
        [8.156_554_524_902_461, -22.483_292_925_577_95, 15.878_769_915_207_462],
        [4.042_929_935_166_739, -2.808_917_465_908_714, 0.500_017_845_105_131_6],
        [3.891_667_802_292_660_7, -2.772_484_153_217_685, 0.506_064_817_850_339_3],
        [3.285_753_657_755_655, -2.368_129_493_342_537_6, 0.464_490_242_330_031_06],
        [2.346_541_325_859_637_7, -1.709_782_838_268_708_1, 0.423_235_511_693_053_93],
    ];
    let mut check = Check::new(dev, "polar_express");
    check.slack = if dev.compute_dtype() == DType::BF16 { 4.0 } else { 1.0 };
    for (k, r, s) in STACKS {
        for count in [0, 1, 5] {
            check.case(format!("({k}, {r}, {s}), {count} steps"));
            let x = check.normal([k, r, s]).master();
            check.run([&x], [], |d, [x], []| {
                let mut scratch = d.master([d.polar_express_scratch(Shape::from([k, r, s]))])?;
                d.fill(scratch.view_mut(), f64::NAN)?;
                d.polar_express(x, scratch.view_mut(), 1.01, &steps[..count])
            })?;
        }
    }
    Ok(check.worst)
}

/// [`Update::variance_reduce`](crate::Update::variance_reduce), from zero moments too.
///
/// # Errors
/// The first case that does not conform.
pub fn variance_reduce(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "variance_reduce");
    for (k, r, s) in STACKS {
        for size in [0.0, 1.0] {
            check.case(format!("({k}, {r}, {s}), moments {size}"));
            let x = check.normal([k, r, s]).master();
            let moments = check.normal([k, r.max(s)]).edit(|_, x| size * x * x).master();
            check.run([&x, &moments], [], |d, [x, moments], []| {
                d.variance_reduce(x, moments, 0.9)
            })?;
        }
    }
    Ok(check.worst)
}

/// [`Update::cautious_update`](crate::Update::cautious_update), with zeros, where the product is not negative.
///
/// # Errors
/// The first case that does not conform.
pub fn cautious_update(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "cautious_update");
    for (k, r, s) in STACKS {
        check.case(format!("({k}, {r}, {s})"));
        let p = check.normal([k, r, s]).master();
        let x = check.normal([k, r, s]).edit(|i, x| if i % 5 == 2 { 0.0 } else { x }).master();
        check.run([&p], [&x], |d, [p], [x]| d.cautious_update(p, x, 0.1, 0.5))?;
    }
    Ok(check.worst)
}
