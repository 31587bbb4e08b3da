//! Weighted sums of two streams, alone and normed, and their gradient.

use super::RowDims;
use super::rms_norm::norm_row;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand, ROWS};
use crate::reference::{DTYPES, add_scaled, dot};
use crate::{Device, Ref, Result};

/// A factor that is a host number times, optionally, one parameter on the device.
#[derive(Clone, Copy)]
pub struct Coef<'a> {
    /// The parameter, one element of the master dtype; 1 when absent.
    pub parameter: Option<Ref<'a>>,
    /// The host factor.
    pub times: f64,
}

impl<'a> Coef<'a> {
    /// The number one.
    pub const ONE: Coef<'static> = Coef { parameter: None, times: 1.0 };

    /// `times · parameter`.
    pub fn new(parameter: Ref<'a>, times: f64) -> Self {
        Self { parameter: Some(parameter), times }
    }
}

operation! {
    /// out = a·x + b·y.
    ///
    /// # Shapes
    /// out, x and y of one shape.
    Mix = fn mix(
        out: write Compute any,
        x: read Compute [like out],
        a: factor Master one,
        y: read Compute [like out],
        b: factor Master one,
    ) -> usize
}

operation! {
    /// [`Mix`] and [`RmsNorm`](crate::ops::RmsNorm) of its result in one pass: out = a·x + b·y, normed = out · rstd.
    ///
    /// # Shapes
    /// out, normed, x and y (N, C), rstd (N) master dtype.
    MixNorm = fn mix_norm(
        out: write Compute "(N, C)",
        normed: write Compute "(N, C)",
        rstd: write Master "(N)",
        x: read Compute "(N, C)",
        a: factor Master one,
        y: read Compute "(N, C)",
        b: factor Master one,
    ) -> RowDims, first [x, y]
}

operation! {
    /// The gradient of [`Mix`]. `dx` holds ∂loss/∂out on entry and a·that on exit; dy += b·∂loss/∂out;
    /// da += a.times · Σ ∂loss/∂out·x and db += b.times · Σ ∂loss/∂out·y where given (the gradients by the parameters in a and b).
    ///
    /// # Shapes
    /// dx, dy, x and y of one shape; da and db (1) master dtype.
    MixBackward = fn mix_backward(
        dx: update Compute any,
        dy: update Compute [like dx],
        da: update(?) Master one,
        db: update(?) Master one,
        x: read Compute [like dx],
        a: factor Master one,
        y: read Compute [like dx],
        b: factor Master one,
    ) -> usize
}

impl Mix<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let elements = self.check(&DTYPES)?;
        let Self { out, x, a, y, b } = self;
        let (a, b) = (value(a)?, value(b)?);
        let (out, x, y) = (out.slice::<f64>()?, x.slice::<f64>()?, y.slice::<f64>()?);
        for i in 0..elements {
            out[i] = a * x[i] + b * y[i];
        }
        Ok(())
    }
}

impl MixNorm<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let RowDims { n, c } = self.check(&DTYPES)?;
        let Self { out, normed, rstd, x, a, y, b } = self;
        let (a, b) = (value(a)?, value(b)?);
        let (out, normed, rstd) =
            (out.slice::<f64>()?, normed.slice::<f64>()?, rstd.slice::<f64>()?);
        let (x, y) = (x.slice::<f64>()?, y.slice::<f64>()?);
        for i in 0..n * c {
            out[i] = a * x[i] + b * y[i];
        }
        for n in 0..n {
            rstd[n] = norm_row(&mut normed[n * c..(n + 1) * c], &out[n * c..(n + 1) * c]);
        }
        Ok(())
    }
}

impl MixBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        self.check(&DTYPES)?;
        let Self { dx, dy, da, db, x, a, y, b } = self;
        let (dx, dy) = (dx.slice::<f64>()?, dy.slice::<f64>()?);
        if let Some(da) = da {
            da.slice::<f64>()?[0] += a.times * dot(dx, x.slice()?);
        }
        if let Some(db) = db {
            db.slice::<f64>()?[0] += b.times * dot(dx, y.slice()?);
        }
        let (a, b) = (value(a)?, value(b)?);
        add_scaled(dy, b, dx);
        for dx in dx.iter_mut() {
            *dx *= a;
        }
        Ok(())
    }
}

fn value(coef: Coef<'_>) -> Result<f64> {
    Ok(match coef.parameter {
        Some(parameter) => coef.times * parameter.slice::<f64>()?[0],
        None => coef.times,
    })
}

/// [`Mix`], with factors from the host and from the device.
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

/// [`MixNorm`].
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

/// [`MixBackward`], with and without gradients of the factors.
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
