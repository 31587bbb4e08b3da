//! RMS norm over the channels, and its gradient from the result.

use super::RowDims;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand, ROWS};
use crate::reference::{DTYPES, EPS, add_scaled, dot};
use crate::{Device, Result};

operation! {
    /// y = x · rstd, rstd = 1/√(mean over C of x² + 2⁻²³).
    ///
    /// # Shapes
    /// y and x (N, C), rstd (N) master dtype.
    RmsNorm = fn rms_norm(
        y: write Compute "(N, C)",
        rstd: write Master "(N)",
        x: read Compute "(N, C)",
    ) -> RowDims, first [x]
}

operation! {
    /// dx = rstd · (dy − y · mean(dy·y)), or dx += … when `accumulate`: the gradient of [`RmsNorm`], from its result.
    ///
    /// # Shapes
    /// dx, dy and y (N, C), rstd (N).
    RmsNormBackward = fn rms_norm_backward(
        dx: write Compute "(N, C)",
        dy: read Compute "(N, C)",
        y: read Compute "(N, C)",
        rstd: read Master "(N)",
    ) with (
        /// Whether dx is added to.
        accumulate: bool,
    ) -> RowDims, first [y], adds accumulate
}

impl RmsNorm<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let RowDims { n, c } = self.check(&DTYPES)?;
        let Self { y, rstd, x } = self;
        let (y, rstd, x) = (y.slice::<f64>()?, rstd.slice::<f64>()?, x.slice::<f64>()?);
        for n in 0..n {
            rstd[n] = norm_row(&mut y[n * c..(n + 1) * c], &x[n * c..(n + 1) * c]);
        }
        Ok(())
    }
}

impl RmsNormBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let RowDims { n, c } = self.check(&DTYPES)?;
        let Self { dx, dy, y, rstd, accumulate } = self;
        let (dx, dy) = (dx.slice::<f64>()?, dy.slice::<f64>()?);
        let (y, rstd) = (y.slice::<f64>()?, rstd.slice::<f64>()?);
        if !accumulate {
            dx.fill(0.0);
        }
        for n in 0..n {
            let row = n * c..(n + 1) * c;
            let (dx, dy, y) = (&mut dx[row.clone()], &dy[row.clone()], &y[row]);
            let mean = dot(dy, y) / c as f64;
            add_scaled(dx, rstd[n], dy);
            add_scaled(dx, -rstd[n] * mean, y);
        }
        Ok(())
    }
}

/// y = x · rstd for one row; returns rstd.
pub(super) fn norm_row(y: &mut [f64], x: &[f64]) -> f64 {
    let rstd = 1.0 / (dot(x, x) / x.len() as f64 + EPS).sqrt();
    for (y, x) in y.iter_mut().zip(x) {
        *y = x * rstd;
    }
    rstd
}

/// [`RmsNorm`], down to rows where the epsilon counts and zero.
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

/// [`RmsNormBackward`].
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
