//! Gated value embeddings, and their gradient.

use super::check::require;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::{DTYPES, add_scaled, dot, sigmoid};
use crate::{Device, Result};

dims! {
    /// The value gate's dimensions.
    GateDims {
        /// Rows.
        n: b'N',
        /// Key/value heads.
        k: b'K',
        /// Head dim.
        d: b'D',
        /// Channels of x.
        c: b'C',
        /// Channels of x that the gate reads.
        g: b'G',
    }
}

operation! {
    /// Adds gated value embeddings: v += gate · ve with gate\[n, k\] = max · sigmoid(Σ_g w\[k, g\]·x\[n, g\]) over the first G channels.
    ///
    /// # Shapes
    /// v and ve (N, K, D), gate (N, K) master dtype, x (N, C) with C ≥ G, w (K, G) compute dtype.
    ValueGate = fn value_gate(
        v: update Compute "(N, K, D)",
        gate: write Master "(N, K)",
        ve: read Compute "(N, K, D)",
        x: read Compute "(N, C)",
        w: read Compute "(K, G)",
    ) with (
        /// The gate's upper bound.
        max: f64,
    ) -> GateDims, first [v, ve], rule |_: &Self, dims| narrow(Self::NAME, dims)
}

operation! {
    /// The gradient of [`ValueGate`]: dve = gate · dv; adds to dw; adds to the first G channels of dx.
    ///
    /// # Shapes
    /// dve, dv and ve (N, K, D), dw (K, G) master dtype, dx and x (N, C), gate (N, K), w (K, G).
    ValueGateBackward = fn value_gate_backward(
        dve: write Compute "(N, K, D)",
        dw: update Master "(K, G)",
        dx: update Compute "(N, C)",
        dv: read Compute "(N, K, D)",
        ve: read Compute "(N, K, D)",
        gate: read Master "(N, K)",
        x: read Compute "(N, C)",
        w: read Compute "(K, G)",
    ) with (
        /// The forward's upper bound.
        max: f64,
    ) -> GateDims, first [dv, ve, gate, x, w], rule |_: &Self, dims| narrow(Self::NAME, dims)
}

fn narrow(op: &'static str, GateDims { g, c, .. }: GateDims) -> Result<()> {
    require(op, g <= c, || format!("w reads {g} channels, x has {c}"))
}

impl ValueGate<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let GateDims { n, k, d, c, g } = self.check(&DTYPES)?;
        let Self { v, gate, ve, x, w, max } = self;
        let (v, gate, ve) = (v.slice::<f64>()?, gate.slice::<f64>()?, ve.slice::<f64>()?);
        let (x, w) = (x.slice::<f64>()?, w.slice::<f64>()?);
        for n in 0..n {
            for k_ in 0..k {
                let row = n * k + k_;
                let seen = dot(&w[k_ * g..(k_ + 1) * g], &x[n * c..n * c + g]);
                gate[row] = max * sigmoid(seen);
                add_scaled(&mut v[row * d..(row + 1) * d], gate[row], &ve[row * d..(row + 1) * d]);
            }
        }
        Ok(())
    }
}

impl ValueGateBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let GateDims { n, k, d, c, g } = self.check(&DTYPES)?;
        let Self { dve, dw, dx, dv, ve, gate, x, w, max } = self;
        let (dve, dw, dx) = (dve.slice::<f64>()?, dw.slice::<f64>()?, dx.slice::<f64>()?);
        let (dv, ve, gate) = (dv.slice::<f64>()?, ve.slice::<f64>()?, gate.slice::<f64>()?);
        let (x, w) = (x.slice::<f64>()?, w.slice::<f64>()?);
        for n in 0..n {
            for k_ in 0..k {
                let row = n * k + k_;
                let (dv, ve) = (&dv[row * d..(row + 1) * d], &ve[row * d..(row + 1) * d]);
                let dve = &mut dve[row * d..(row + 1) * d];
                dve.fill(0.0);
                add_scaled(dve, gate[row], dv);
                // gate = max·σ, so ∂gate/∂seen = max·σ·(1 − σ).
                let dseen = dot(dv, ve) * gate[row] * (1.0 - gate[row] / max);
                add_scaled(&mut dw[k_ * g..(k_ + 1) * g], dseen, &x[n * c..n * c + g]);
                add_scaled(&mut dx[n * c..n * c + g], dseen, &w[k_ * g..(k_ + 1) * g]);
            }
        }
        Ok(())
    }
}

/// Rows, key/value heads, head dim, channels, gate channels.
const GATES: [(usize, usize, usize, usize, usize); 4] =
    [(1, 1, 2, 3, 1), (5, 2, 6, 33, 12), (64, 3, 64, 48, 48), (257, 1, 33, 100, 32)];

/// [`ValueGate`].
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

/// [`ValueGateBackward`].
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
