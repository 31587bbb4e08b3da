//! Rotary embedding with QK-norm, in place, and its gradient.

use super::check::require;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::{DTYPES, EPS, dot};
use crate::{Device, Result};

dims! {
    /// Heads of one tensor.
    HeadDims {
        /// Batch.
        b: b'B',
        /// Positions.
        t: b'T',
        /// Heads.
        h: b'H',
        /// Head dim, even.
        d: b'D',
    }
}

operation! {
    /// Rotary embedding, RMS norm over the head dim, and a gain, in place: x = gain · norm(rotate(x)).
    ///
    /// With halves x1, x2 of a head: y1 = x1·cos + x2·sin, y2 = −x1·sin + x2·cos. norm(y) = y·rstd,
    /// rstd = 1/√(mean(y²) + 2⁻²³).
    ///
    /// # Shapes
    /// x (B, T, H, D), rstd (B, T, H) master dtype, cos and sin (T, D/2) master dtype.
    RotaryNorm = fn rotary_norm(
        x: update Compute "(B, T, H, D)",
        rstd: write Master "(B, T, H)",
        cos: read Master "(T, D/2)",
        sin: read Master "(T, D/2)",
    ) with (
        /// The factor on what was normed.
        gain: f64,
    ) -> HeadDims, rule |_: &Self, dims| even(Self::NAME, dims)
}

operation! {
    /// The gradient of [`RotaryNorm`], in place: `dx` holds ∂loss/∂y on entry and ∂loss/∂x on exit.
    ///
    /// # Shapes
    /// dx and y (B, T, H, D), y being the forward's result; rstd (B, T, H); cos and sin (T, D/2).
    RotaryNormBackward = fn rotary_norm_backward(
        dx: update Compute "(B, T, H, D)",
        y: read Compute [like dx],
        rstd: read Master "(B, T, H)",
        cos: read Master "(T, D/2)",
        sin: read Master "(T, D/2)",
    ) with (
        /// The forward's factor.
        gain: f64,
    ) -> HeadDims, rule |_: &Self, dims| even(Self::NAME, dims)
}

fn even(op: &'static str, HeadDims { d, .. }: HeadDims) -> Result<()> {
    require(op, d % 2 == 0, || format!("head dim {d} is odd"))
}

impl RotaryNorm<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let HeadDims { b, t, h, d } = self.check(&DTYPES)?;
        let Self { x, rstd, cos, sin, gain } = self;
        let (x, rstd) = (x.slice::<f64>()?, rstd.slice::<f64>()?);
        let (cos, sin) = (cos.slice::<f64>()?, sin.slice::<f64>()?);
        let half = d / 2;
        for row in 0..b * t * h {
            let t = row / h % t;
            let x = &mut x[row * d..(row + 1) * d];
            for j in 0..half {
                let (c, s) = (cos[t * half + j], sin[t * half + j]);
                let (x1, x2) = (x[j], x[half + j]);
                x[j] = x1 * c + x2 * s;
                x[half + j] = -x1 * s + x2 * c;
            }
            rstd[row] = 1.0 / (dot(x, x) / d as f64 + EPS).sqrt();
            for x in x.iter_mut() {
                *x *= gain * rstd[row];
            }
        }
        Ok(())
    }
}

impl RotaryNormBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let HeadDims { b, t, h, d } = self.check(&DTYPES)?;
        let Self { dx, y, rstd, cos, sin, gain } = self;
        let (dx, y, rstd) = (dx.slice::<f64>()?, y.slice::<f64>()?, rstd.slice::<f64>()?);
        let (cos, sin) = (cos.slice::<f64>()?, sin.slice::<f64>()?);
        let half = d / 2;
        for row in 0..b * t * h {
            let t = row / h % t;
            let (dx, y) = (&mut dx[row * d..(row + 1) * d], &y[row * d..(row + 1) * d]);
            // y = gain · r with r the rotated and normed head: the gradient by what was normed, written with y,
            // is gain · rstd · (dy − y · mean(dy · y) / gain²).
            let mean = dot(dx, y) / d as f64 / (gain * gain);
            for j in 0..d {
                dx[j] = gain * rstd[row] * (dx[j] - y[j] * mean);
            }
            for j in 0..half {
                let (c, s) = (cos[t * half + j], sin[t * half + j]);
                let (dy1, dy2) = (dx[j], dx[half + j]);
                dx[j] = dy1 * c - dy2 * s;
                dx[half + j] = dy1 * s + dy2 * c;
            }
        }
        Ok(())
    }
}

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

/// [`RotaryNorm`].
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

/// [`RotaryNormBackward`].
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
