//! Smear: each position takes a gated share of the one before it; and its gradient.

use super::check::require;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::{DTYPES, add_scaled, dot, sigmoid};
use crate::{Device, Ref, Result};

dims! {
    /// Smear's dimensions.
    SmearDims {
        /// Batch.
        b: b'B',
        /// Positions.
        t: b'T',
        /// Channels.
        c: b'C',
        /// Channels that the gate reads.
        g: b'G',
    }
}

operation! {
    /// Smear: out_t = x_t + lambda · gate_t · x_{t−1}, gate_t = sigmoid(Σ_g w\[g\]·x_t\[g\]) over the first G channels.
    /// x_{−1} is `prev` when given (a key/value-cached step), else out_0 = x_0 and gate_0 = 0.
    ///
    /// # Shapes
    /// out and x (B, T, C), gate (B, T) master dtype, prev (B, C), w (1, G) compute dtype, lambda (1) master dtype.
    Smear = fn smear(
        out: write Compute [like x],
        gate: write Master "(B, T)",
        x: read Compute "(B, T, C)",
        prev: read(?) Compute "(B, C)",
        w: read Compute "(1, G)",
        lambda: read Master one,
    ) -> SmearDims, first [x], rule |_: &Self, dims| narrow(Self::NAME, dims)
}

operation! {
    /// The gradient of [`Smear`] without `prev`: overwrites dx; adds to dw and dlambda.
    ///
    /// # Shapes
    /// dx, dout and x (B, T, C), dw (1, G) and dlambda (1) master dtype, gate (B, T), w (1, G), lambda (1).
    SmearBackward = fn smear_backward(
        dx: write Compute [like x],
        dw: update Master "(1, G)",
        dlambda: update Master one,
        dout: read Compute [like x],
        x: read Compute "(B, T, C)",
        gate: read Master "(B, T)",
        w: read Compute "(1, G)",
        lambda: read Master one,
    ) -> SmearDims, first [x, w], rule |_: &Self, dims| narrow(Self::NAME, dims)
}

fn narrow(op: &'static str, SmearDims { g, c, .. }: SmearDims) -> Result<()> {
    require(op, g <= c, || format!("w reads {g} channels, x has {c}"))
}

impl Smear<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let SmearDims { b, t, c, g } = self.check(&DTYPES)?;
        let Self { out, gate, x, prev, w, lambda } = self;
        let (out, gate, x) = (out.slice::<f64>()?, gate.slice::<f64>()?, x.slice::<f64>()?);
        let (w, lambda) = (w.slice::<f64>()?, lambda.slice::<f64>()?[0]);
        let prev = prev.map(Ref::slice::<f64>).transpose()?;
        out.copy_from_slice(x);
        for row in 0..b * t {
            let before = match (row % t, prev) {
                (0, None) => {
                    gate[row] = 0.0;
                    continue;
                }
                (0, Some(prev)) => &prev[row / t * c..(row / t + 1) * c],
                _ => &x[(row - 1) * c..row * c],
            };
            gate[row] = sigmoid(dot(w, &x[row * c..row * c + g]));
            add_scaled(&mut out[row * c..(row + 1) * c], lambda * gate[row], before);
        }
        Ok(())
    }
}

impl SmearBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let SmearDims { b, t, c, g } = self.check(&DTYPES)?;
        let Self { dx, dw, dlambda, dout, x, gate, w, lambda } = self;
        let (dx, dw) = (dx.slice::<f64>()?, dw.slice::<f64>()?);
        let dlambda = &mut dlambda.slice::<f64>()?[0];
        let (dout, x, gate) = (dout.slice::<f64>()?, x.slice::<f64>()?, gate.slice::<f64>()?);
        let (w, lambda) = (w.slice::<f64>()?, lambda.slice::<f64>()?[0]);
        dx.copy_from_slice(dout);
        for row in (0..b * t).filter(|row| row % t > 0) {
            let (before, here) = dx.split_at_mut(row * c);
            let dout = &dout[row * c..(row + 1) * c];
            let through = dot(dout, &x[(row - 1) * c..row * c]);
            *dlambda += gate[row] * through;
            add_scaled(&mut before[(row - 1) * c..], lambda * gate[row], dout);
            let dseen = lambda * through * gate[row] * (1.0 - gate[row]);
            add_scaled(dw, dseen, &x[row * c..row * c + g]);
            add_scaled(&mut here[..g], dseen, w);
        }
        Ok(())
    }
}

/// Batch, positions, channels, gate channels.
const SMEARS: [(usize, usize, usize, usize); 5] =
    [(1, 1, 3, 1), (3, 1, 24, 24), (2, 5, 33, 24), (1, 130, 64, 12), (3, 65, 100, 24)];

/// [`Smear`], with and without a previous position.
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

/// [`SmearBackward`].
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
