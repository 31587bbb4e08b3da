//! relu², alone and with the matrix product beside it, and its gradient, which takes the result: √ of it is what went in, wherever the gradient is not 0.

use super::linear::{LinearDims, PRODUCTS};
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand, ROWS};
use crate::reference::{DTYPES, add_scaled, dot};
use crate::{Device, Result};

operation! {
    /// y = max(x, 0)².
    ///
    /// # Shapes
    /// y and x of one shape.
    Relu2 = fn relu2(y: write Compute any, x: read Compute [like y]) -> usize
}

operation! {
    /// In place, dx holds ∂loss/∂y on entry and 2·√y times it on exit, y ≥ 0: the gradient of [`Relu2`] by its input, whose positive part is √y.
    ///
    /// # Shapes
    /// dx and y of one shape.
    /// # Numerics
    /// √y is rounded to the compute dtype: it then is the input that y was computed from, to the bit, unless y under- or overflowed.
    Relu2Backward = fn relu2_backward(dx: update Compute any, y: read Compute [like dx]) -> usize
}

operation! {
    /// y = max(x · wᵀ, 0)²: [`Linear`](crate::ops::Linear), then [`Relu2`].
    ///
    /// # Shapes
    /// y (N, O), x (N, I), w (O, I).
    /// # Numerics
    /// A device may round the product to the compute dtype before it is squared.
    /// # Cost
    /// 2·N·O·I FLOPs.
    LinearRelu2 = fn linear_relu2(
        y: write Compute "(N, O)",
        x: read Compute "(N, I)",
        w: read Compute "(O, I)",
    ) -> LinearDims, first [w, x], flops |_, d: LinearDims| 2 * d.n * d.o * d.i
}

operation! {
    /// dx = 2·√x ⊙ (dy · w), where x, the result of [`Relu2`], went into a linear layer of weights w: the gradient by what was squared.
    ///
    /// # Shapes
    /// dx (N, I), x (N, I), dy (N, O), w (O, I).
    /// # Numerics
    /// As [`Relu2Backward`]; a device may round the product to the compute dtype before it is multiplied.
    /// # Cost
    /// 2·N·O·I FLOPs.
    LinearDxRelu2 = fn linear_dx_relu2(
        dx: write Compute "(N, I)",
        dy: read Compute "(N, O)",
        w: read Compute "(O, I)",
        x: read Compute "(N, I)",
    ) -> LinearDims, first [w, dy], flops |_, d: LinearDims| 2 * d.n * d.o * d.i
}

impl Relu2<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        self.check(&DTYPES)?;
        let Self { y, x } = self;
        for (y, x) in y.slice::<f64>()?.iter_mut().zip(x.slice::<f64>()?) {
            *y = x.max(0.0).powi(2);
        }
        Ok(())
    }
}

impl Relu2Backward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        self.check(&DTYPES)?;
        let Self { dx, y } = self;
        for (dx, y) in dx.slice::<f64>()?.iter_mut().zip(y.slice::<f64>()?) {
            *dx *= 2.0 * y.sqrt();
        }
        Ok(())
    }
}

impl LinearRelu2<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let LinearDims { n, i, o } = self.check(&DTYPES)?;
        let Self { y, x, w } = self;
        let (y, x, w) = (y.slice::<f64>()?, x.slice::<f64>()?, w.slice::<f64>()?);
        for (at, y) in y[..n * o].iter_mut().enumerate() {
            let (row, col) = (at / o, at % o);
            *y = dot(&x[row * i..(row + 1) * i], &w[col * i..(col + 1) * i]).max(0.0).powi(2);
        }
        Ok(())
    }
}

impl LinearDxRelu2<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let LinearDims { n, i, o } = self.check(&DTYPES)?;
        let Self { dx, dy, w, x } = self;
        let (dx, dy) = (dx.slice::<f64>()?, dy.slice::<f64>()?);
        let (w, x) = (w.slice::<f64>()?, x.slice::<f64>()?);
        dx.fill(0.0);
        for row in 0..n {
            let dx = &mut dx[row * i..(row + 1) * i];
            for col in 0..o {
                add_scaled(dx, dy[row * o + col], &w[col * i..(col + 1) * i]);
            }
            for (dx, x) in dx.iter_mut().zip(&x[row * i..]) {
                *dx *= 2.0 * x.sqrt();
            }
        }
        Ok(())
    }
}

/// [`Relu2`].
pub fn relu2(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "relu2");
    for (n, c) in ROWS {
        check.case(format!("{n} × {c}"));
        let x = check.normal([n, c]);
        check.run([&Operand::poison([n, c])], [&x], |d, [y], [x]| d.relu2(y, x))?;
    }
    Ok(check.worst)
}

/// [`Relu2Backward`].
pub fn relu2_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "relu2_backward");
    for (n, c) in ROWS {
        check.case(format!("{n} × {c}"));
        let (y, dx) = (squared(&mut check, [n, c]), check.normal([n, c]));
        check.run([&dx], [&y], |d, [dx], [y]| d.relu2_backward(dx, y))?;
    }
    Ok(check.worst)
}

/// Results of relu².
fn squared(check: &mut Check<'_>, shape: [usize; 2]) -> Operand {
    check.normal(shape).edit(|_, x| x.max(0.0).powi(2))
}

/// [`LinearRelu2`].
pub fn linear_relu2(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "linear_relu2");
    for (n, i, o) in PRODUCTS {
        check.case(format!("N {n}, I {i}, O {o}"));
        let (x, w) = (check.normal([n, i]), check.normal([o, i]));
        let y = Operand::poison([n, o]);
        check.run([&y], [&x, &w], |d, [y], [x, w]| d.linear_relu2(y, x, w))?;
    }
    Ok(check.worst)
}

/// [`LinearDxRelu2`].
pub fn linear_dx_relu2(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "linear_dx_relu2");
    for (n, i, o) in PRODUCTS {
        check.case(format!("N {n}, I {i}, O {o}"));
        let (dy, w, x) = (check.normal([n, o]), check.normal([o, i]), squared(&mut check, [n, i]));
        let dx = Operand::poison([n, i]);
        check.run([&dx], [&dy, &w, &x], |d, [dx], [dy, w, x]| d.linear_dx_relu2(dx, dy, w, x))?;
    }
    Ok(check.worst)
}
