//! The product inside a SwiGLU MLP, and its gradient.

use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand, ROWS};
use crate::reference::{DTYPES, sigmoid};
use crate::{Device, Result};

operation! {
    /// y = silu(gate) · x with silu(g) = g · sigmoid(g): the product inside a SwiGLU MLP.
    ///
    /// # Shapes
    /// y, gate and x of one shape.
    /// # Source
    /// arXiv 2002.05202.
    Swiglu = fn swiglu(
        y: write Compute any,
        gate: read Compute [like y],
        x: read Compute [like y],
    ) -> usize
}

operation! {
    /// The gradient of [`Swiglu`]. `dx` holds ∂loss/∂y on entry and silu(gate) times it on exit;
    /// dgate = ∂loss/∂y · x · s · (1 + gate · (1 − s)) with s = sigmoid(gate), which is computed again rather than stored.
    ///
    /// # Shapes
    /// dx, dgate, gate and x of one shape.
    SwigluBackward = fn swiglu_backward(
        dx: update Compute any,
        dgate: write Compute [like dx],
        gate: read Compute [like dx],
        x: read Compute [like dx],
    ) -> usize
}

impl Swiglu<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let elements = self.check(&DTYPES)?;
        let Self { y, gate, x } = self;
        let (y, gate, x) = (y.slice::<f64>()?, gate.slice::<f64>()?, x.slice::<f64>()?);
        for i in 0..elements {
            y[i] = gate[i] * sigmoid(gate[i]) * x[i];
        }
        Ok(())
    }
}

impl SwigluBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let elements = self.check(&DTYPES)?;
        let Self { dx, dgate, gate, x } = self;
        let (dx, dgate) = (dx.slice::<f64>()?, dgate.slice::<f64>()?);
        let (gate, x) = (gate.slice::<f64>()?, x.slice::<f64>()?);
        for i in 0..elements {
            let s = sigmoid(gate[i]);
            dgate[i] = dx[i] * x[i] * s * (1.0 + gate[i] * (1.0 - s));
            dx[i] *= gate[i] * s;
        }
        Ok(())
    }
}

/// [`Swiglu`], with gates from closed to open.
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

/// [`SwigluBackward`], with gates from closed to open.
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
