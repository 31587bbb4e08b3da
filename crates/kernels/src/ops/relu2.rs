//! relu², and its gradient.

use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand, ROWS};
use crate::reference::DTYPES;
use crate::{Device, Result};

operation! {
    /// y = max(x, 0)².
    ///
    /// # Shapes
    /// y and x of one shape.
    Relu2 = fn relu2(y: write Compute any, x: read Compute [like y]) -> usize
}

operation! {
    /// In place, dx holds ∂loss/∂y on entry and 2·max(x, 0) times it on exit: the gradient of [`Relu2`].
    ///
    /// # Shapes
    /// dx and x of one shape.
    Relu2Backward = fn relu2_backward(dx: update Compute any, x: read Compute [like dx]) -> usize
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
        let Self { dx, x } = self;
        for (dx, x) in dx.slice::<f64>()?.iter_mut().zip(x.slice::<f64>()?) {
            *dx *= 2.0 * x.max(0.0);
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
        let (x, dx) = (check.normal([n, c]), check.normal([n, c]));
        check.run([&dx], [&x], |d, [dx], [x]| d.relu2_backward(dx, x))?;
    }
    Ok(check.worst)
}
