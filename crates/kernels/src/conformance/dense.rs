//! [`Dense`](crate::Dense) against the reference.

use super::Outcome;
use super::case::{Check, Operand};
use crate::Device;

/// Rows, channels in, channels out: single rows and columns, and sizes on no block's edge.
const PRODUCTS: [(usize, usize, usize); 7] = [
    (1, 48, 20),
    (2, 1, 1),
    (3, 17, 33),
    (33, 256, 65),
    (70, 100, 129),
    (130, 64, 31),
    (257, 96, 96),
];

fn products(
    dev: &dyn Device,
    op: &'static str,
    body: impl Fn(&mut Check<'_>, (usize, usize, usize), bool) -> Result<(), super::Mismatch>,
) -> Outcome {
    let mut check = Check::new(dev, op);
    for (n, i, o) in PRODUCTS {
        for accumulate in [false, true] {
            check.case(format!("N {n}, I {i}, O {o}, accumulate {accumulate}"));
            body(&mut check, (n, i, o), accumulate)?;
        }
    }
    Ok(check.worst)
}

/// [`Dense::linear`](crate::Dense::linear), also over (B, T, C).
///
/// # Errors
/// The first case that does not conform.
pub fn linear(dev: &dyn Device) -> Outcome {
    products(dev, "linear", |check, (n, i, o), accumulate| {
        let (x, w) = (check.normal([n, i]), check.normal([o, i]));
        let y = check.out([n, o], accumulate);
        check.run([&y], [&x, &w], |d, [y], [x, w]| d.linear(y, x, w, accumulate))?;
        let (x, y) = (check.normal([2, n, i]), check.out([2, n, o], accumulate));
        check.run([&y], [&x, &w], |d, [y], [x, w]| d.linear(y, x, w, accumulate))
    })
}

/// [`Dense::linear_dx`](crate::Dense::linear_dx).
///
/// # Errors
/// The first case that does not conform.
pub fn linear_dx(dev: &dyn Device) -> Outcome {
    products(dev, "linear_dx", |check, (n, i, o), accumulate| {
        let (dy, w) = (check.normal([n, o]), check.normal([o, i]));
        let dx = check.out([n, i], accumulate);
        check.run([&dx], [&dy, &w], |d, [dx], [dy, w]| d.linear_dx(dx, dy, w, accumulate))
    })
}

/// [`Dense::linear_dw`](crate::Dense::linear_dw).
///
/// # Errors
/// The first case that does not conform.
pub fn linear_dw(dev: &dyn Device) -> Outcome {
    products(dev, "linear_dw", |check, (n, i, o), accumulate| {
        let (x, dy) = (check.normal([n, i]), check.normal([n, o]));
        let dw = check.out([o, i], accumulate).master();
        check.run([&dw], [&x, &dy], |d, [dw], [x, dy]| d.linear_dw(dw, x, dy, accumulate))
    })
}

/// Ids, rows, columns.
const LOOKUPS: [(usize, usize, usize); 4] = [(1, 1, 1), (5, 11, 7), (64, 9, 48), (300, 130, 33)];

/// [`Dense::embed`](crate::Dense::embed).
///
/// # Errors
/// The first case that does not conform.
pub fn embed(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "embed");
    for (n, v, c) in LOOKUPS {
        check.case(format!("N {n}, V {v}, C {c}"));
        let (table, ids) = (check.normal([v, c]), check.integers([n], 0, v as i32));
        let call = Operand::poison([n, c]);
        check.run([&call], [&table, &ids], |d, [out], [table, ids]| d.embed(out, table, ids))?;
    }
    Ok(check.worst)
}

/// [`Dense::embed_backward`](crate::Dense::embed_backward), with ids that occur once, often and never.
///
/// # Errors
/// The first case that does not conform.
pub fn embed_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "embed_backward");
    for (n, v, c) in LOOKUPS {
        check.case(format!("N {n}, V {v}, C {c}"));
        let draw: Vec<i32> =
            (0..n).map(|_| (check.uniform() * check.uniform() * v as f64) as i32).collect();
        let mut order: Vec<i32> = (0..n as i32).collect();
        order.sort_by_key(|&n| (draw[n as usize], n));
        let (ids, order) = (Operand::index([n], draw), Operand::index([n], order));
        let (dout, dtable) = (check.normal([n, c]), check.normal([v, c]).master());
        check.run([&dtable], [&dout, &ids, &order], |d, [dtable], [dout, ids, order]| {
            d.embed_backward(dtable, dout, ids, order)
        })?;
    }
    Ok(check.worst)
}
