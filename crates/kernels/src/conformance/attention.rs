//! [`Attention`](crate::Attention) against the reference.

use super::case::{Check, Operand};
use super::{Mismatch, Outcome};
use crate::{AttentionShape, Device};

/// Batch, positions, heads, head dim.
const HEADS: [(usize, usize, usize, usize); 5] =
    [(1, 1, 1, 2), (2, 3, 1, 6), (1, 17, 3, 24), (2, 65, 2, 64), (1, 130, 3, 100)];

/// (cos, sin) of position · 10,000^(−2j/D).
fn angles(t: usize, d: usize) -> (Operand, Operand) {
    let table = |f: fn(f64) -> f64| {
        let angle = |i: usize| {
            let (t, j) = (i / (d / 2), i % (d / 2));
            f(t as f64 * 1e4f64.powf(-2.0 * j as f64 / d as f64))
        };
        Operand::given([t, d / 2], (0..t * d / 2).map(angle).collect()).master()
    };
    (table(f64::cos), table(f64::sin))
}

/// [`Attention::rotary_norm`](crate::Attention::rotary_norm).
///
/// # Errors
/// The first case that does not conform.
pub fn rotary_norm(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "rotary_norm");
    for (b, t, h, d) in HEADS {
        for gain in [1.0, 1.2] {
            check.case(format!("B {b}, T {t}, H {h}, D {d}, gain {gain}"));
            let (cos, sin) = angles(t, d);
            let (x, rstd) = (check.normal([b, t, h, d]), Operand::poison([b, t, h]).master());
            check.run([&x, &rstd], [&cos, &sin], |dev, [x, rstd], [cos, sin]| {
                dev.rotary_norm(x, rstd, cos, sin, gain)
            })?;
        }
    }
    Ok(check.worst)
}

/// [`Attention::rotary_norm_backward`](crate::Attention::rotary_norm_backward).
///
/// # Errors
/// The first case that does not conform.
pub fn rotary_norm_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "rotary_norm_backward");
    for (b, t, h, d) in HEADS {
        for gain in [1.0, 1.2] {
            check.case(format!("B {b}, T {t}, H {h}, D {d}, gain {gain}"));
            // With D = 2 the gradient is what is left of a cancellation.
            check.floor = if d == 2 { 1.0 } else { 0.0 };
            let (cos, sin) = angles(t, d);
            let (x, rstd) = (check.normal([b, t, h, d]), Operand::poison([b, t, h]).master());
            let [y, rstd] =
                check.reference([&x, &rstd], [&cos, &sin], |dev, [x, rstd], [cos, sin]| {
                    dev.rotary_norm(x, rstd, cos, sin, gain)
                })?;
            let dx = check.normal([b, t, h, d]);
            check.run([&dx], [&y, &rstd, &cos, &sin], |dev, [dx], [y, rstd, cos, sin]| {
                dev.rotary_norm_backward(dx, y, rstd, cos, sin, gain)
            })?;
        }
    }
    Ok(check.worst)
}

/// Rows, key/value heads, head dim, channels, gate channels.
const GATES: [(usize, usize, usize, usize, usize); 4] =
    [(1, 1, 2, 3, 1), (5, 2, 6, 33, 12), (64, 3, 64, 48, 48), (257, 1, 33, 100, 32)];

/// [`Attention::value_gate`](crate::Attention::value_gate).
///
/// # Errors
/// The first case that does not conform.
pub fn value_gate(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "value_gate");
    for (n, k, d, c, g) in GATES {
        check.case(format!("N {n}, K {k}, D {d}, C {c}, G {g}"));
        let (v, gate) = (check.normal([n, k, d]), Operand::poison([n, k]).master());
        let (ve, x, w) = (check.normal([n, k, d]), check.normal([n, c]), check.normal([k, g]));
        check.run([&v, &gate], [&ve, &x, &w], |dev, [v, gate], [ve, x, w]| {
            dev.value_gate(v, gate, ve, x, w, 3.0)
        })?;
    }
    Ok(check.worst)
}

/// [`Attention::value_gate_backward`](crate::Attention::value_gate_backward).
///
/// # Errors
/// The first case that does not conform.
pub fn value_gate_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "value_gate_backward");
    for (n, k, d, c, g) in GATES {
        check.case(format!("N {n}, K {k}, D {d}, C {c}, G {g}"));
        let (v, gate) = (check.normal([n, k, d]), Operand::poison([n, k]).master());
        let (ve, x) = (check.normal([n, k, d]), check.normal([n, c]));
        // Small enough that gates are not saturated: 1 − σ would lose digits before either side sees it.
        let w = check.normal([k, g]).edit(|_, w| w / (g as f64).sqrt());
        let [_, gate] =
            check.reference([&v, &gate], [&ve, &x, &w], |dev, [v, gate], [ve, x, w]| {
                dev.value_gate(v, gate, ve, x, w, 3.0)
            })?;
        let (dve, dw) = (Operand::poison([n, k, d]), check.normal([k, g]).master());
        let (dx, dv) = (check.normal([n, c]), check.normal([n, k, d]));
        check.run(
            [&dve, &dw, &dx],
            [&dv, &ve, &gate, &x, &w],
            |dev, [dve, dw, dx], [dv, ve, gate, x, w]| {
                dev.value_gate_backward(dve, dw, dx, dv, ve, gate, x, w, 3.0)
            },
        )?;
    }
    Ok(check.worst)
}

/// One attention call's sizes.
struct Sizes {
    b: usize,
    t: usize,
    s: usize,
    h: usize,
    k: usize,
    d: usize,
    window: usize,
}

const fn sizes(
    (b, t, s): (usize, usize, usize),
    (h, k, d): (usize, usize, usize),
    window: usize,
) -> Sizes {
    Sizes { b, t, s, h, k, d, window }
}

/// Blocks of 64 and 128 and windows have edges inside; H/K is 1, 2 and 3.
const SELF: [Sizes; 11] = [
    sizes((1, 1, 1), (1, 1, 8), 0),
    sizes((2, 5, 5), (2, 1, 16), 0),
    sizes((1, 70, 70), (2, 2, 32), 3),
    sizes((1, 64, 64), (1, 1, 32), 63),
    sizes((2, 130, 130), (3, 1, 24), 64),
    sizes((1, 129, 129), (2, 2, 20), 127),
    sizes((1, 300, 300), (2, 1, 64), 128),
    sizes((1, 390, 390), (3, 3, 32), 200),
    sizes((1, 333, 333), (6, 2, 16), 1000),
    sizes((1, 257, 257), (2, 2, 128), 255),
    sizes((2, 70, 70), (2, 1, 18), usize::MAX),
];

/// The last T of S positions.
const CACHED: [Sizes; 6] = [
    sizes((1, 1, 257), (4, 2, 64), 128),
    sizes((2, 1, 300), (3, 1, 16), 1000),
    sizes((2, 3, 100), (2, 2, 16), 40),
    sizes((1, 65, 200), (2, 1, 32), 128),
    sizes((1, 130, 391), (3, 1, 24), 0),
    sizes((1, 100, 330), (2, 2, 32), usize::MAX),
];

impl Sizes {
    fn announce(&self, check: &mut Check<'_>) -> AttentionShape {
        let Self { b, t, s, h, k, d, window } = self;
        check.case(format!("B {b}, T {t}, S {s}, H {h}, K {k}, D {d}, window {window}"));
        AttentionShape { window: *window, scale: 1.0 / (*d as f64).sqrt() }
    }

    /// Queries, keys, values; queries large enough for an uneven softmax.
    fn draw(&self, check: &mut Check<'_>) -> [Operand; 3] {
        let Self { b, t, s, h, k, d, .. } = *self;
        let q = check.normal([b, t, h, d]).edit(|_, q| 2.0 * q);
        [q, check.normal([b, s, k, d]), check.normal([b, s, k, d])]
    }

    fn results(&self) -> [Operand; 2] {
        let Self { b, t, h, d, .. } = *self;
        [Operand::poison([b, t, h, d]), Operand::poison([b, h, t]).master()]
    }
}

/// [`Attention::attention`](crate::Attention::attention), with and without a cache.
///
/// # Errors
/// The first case that does not conform.
pub fn attention(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "attention");
    for sizes in SELF.iter().chain(&CACHED) {
        let at = sizes.announce(&mut check);
        let ([q, k, v], [out, lse]) = (sizes.draw(&mut check), sizes.results());
        check.run([&out, &lse], [&q, &k, &v], |dev, [out, lse], [q, k, v]| {
            dev.attention(out, lse, q, k, v, at)
        })?;
    }
    large_scores(&mut check)?;
    Ok(check.worst)
}

/// Scores beyond what exp can hold: only differences may be exponentiated.
fn large_scores(check: &mut Check<'_>) -> Result<(), Mismatch> {
    let sizes = sizes((1, 70, 70), (2, 1, 16), 66);
    let at = AttentionShape { scale: 64.0, ..sizes.announce(check) };
    let ([q, k, v], [out, lse]) = (sizes.draw(check), sizes.results());
    // Integers, so that scores are exact in any type and the softmax is as sharp on each side.
    let (q, k) = (q.edit(|_, x| x.round()), k.edit(|_, x| x.round()));
    check.run([&out, &lse], [&q, &k, &v], |dev, [out, lse], [q, k, v]| {
        dev.attention(out, lse, q, k, v, at)
    })
}

/// [`Attention::attention_backward`](crate::Attention::attention_backward).
///
/// # Errors
/// The first case that does not conform.
pub fn attention_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "attention_backward");
    for sizes in &SELF {
        let at = sizes.announce(&mut check);
        let ([q, k, v], [out, lse]) = (sizes.draw(&mut check), sizes.results());
        let [out, lse] =
            check.reference([&out, &lse], [&q, &k, &v], |dev, [out, lse], [q, k, v]| {
                dev.attention(out, lse, q, k, v, at)
            })?;
        let Sizes { b, t, h, k: heads, d, window, .. } = *sizes;
        // With one key per query dq and dk are 0, and what rounding leaves has no relative size.
        check.floor = if window == 0 || t == 1 { 1.0 } else { 0.0 };
        let dout = check.normal([b, t, h, d]);
        let dq = Operand::poison([b, t, h, d]);
        let [dk, dv] = [Operand::poison([b, t, heads, d]), Operand::poison([b, t, heads, d])];
        check.run(
            [&dq, &dk, &dv],
            [&dout, &out, &lse, &q, &k, &v],
            |dev, [dq, dk, dv], [dout, out, lse, q, k, v]| {
                let mut delta = dev.master([b, h, t])?;
                dev.fill(delta.view_mut(), f64::NAN)?;
                let delta = delta.view_mut();
                dev.attention_backward(dq, dk, dv, delta, dout, out, lse, q, k, v, at)
            },
        )?;
    }
    Ok(check.worst)
}
