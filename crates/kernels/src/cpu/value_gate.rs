//! Gated value embeddings, forward and backward.

use super::simd::{dot, vectorised, with_math};
use super::work::{Partials, Workers, add_partials, block_rows, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{GateDims, ValueGate, ValueGateBackward};

impl Cpu {
    pub(super) fn value_gate(&self, op: ValueGate<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let ValueGate { v, gate, ve, x, w, max } = op;
        let (v, gate) = (v.slice()?, gate.slice()?);
        let (ve, x, w) = (ve.slice()?, x.slice()?, w.slice()?);
        forward(&self.workers, dims, max as f32, v, gate, ve, x, w);
        Ok(())
    }

    pub(super) fn value_gate_backward(&self, op: ValueGateBackward<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let ValueGateBackward { dve, dw, dx, dv, ve, gate, x, w, max } = op;
        let (dve, dw, dx) = (dve.slice()?, dw.slice()?, dx.slice()?);
        let (dv, ve, gate, x, w) =
            (dv.slice()?, ve.slice()?, gate.slice()?, x.slice()?, w.slice()?);
        backward(&self.workers, dims, max as f32, dve, dw, dx, dv, ve, gate, x, w);
        Ok(())
    }
}

/// See [`ValueGate`](crate::ops::ValueGate).
fn forward(
    workers: &Workers,
    dims: GateDims,
    max: f32,
    v: &mut [f32],
    gate: &mut [f32],
    ve: &[f32],
    x: &[f32],
    w: &[f32],
) {
    let GateDims { n, k, d, c, g } = dims;
    if k * d == 0 {
        return;
    }
    let cut = (rows(v, k * d), rows(gate, k));
    workers.blocks(n, block_rows(k * d), cut, |first, (v, gate)| {
        let heads = v.data.chunks_exact_mut(k * d).zip(gate.data.chunks_exact_mut(k));
        for (n, (v, gate)) in (first..).zip(heads) {
            let (x, ve) = (&x[n * c..n * c + g], &ve[n * k * d..(n + 1) * k * d]);
            with_math(
                #[inline(always)]
                |math| {
                    let heads = v.chunks_exact_mut(d).zip(ve.chunks_exact(d)).zip(gate);
                    for (head, ((v, ve), gate)) in heads.enumerate() {
                        *gate = max * math.sigmoid(dot(x, &w[head * g..(head + 1) * g]));
                        v.iter_mut().zip(ve).for_each(|(v, ve)| *v += *gate * ve);
                    }
                },
            );
        }
    });
}

/// See [`ValueGateBackward`](crate::ops::ValueGateBackward).
fn backward(
    workers: &Workers,
    dims: GateDims,
    max: f32,
    dve: &mut [f32],
    dw: &mut [f32],
    dx: &mut [f32],
    dv: &[f32],
    ve: &[f32],
    gate: &[f32],
    x: &[f32],
    w: &[f32],
) {
    let GateDims { n, k, d, c, g } = dims;
    if k * d == 0 || c == 0 {
        return;
    }
    let block = block_rows(k * d);
    workers.scratch(Partials::len(n, block, k * g), |partials: &mut [f64]| {
        partials.fill(0.0);
        let cut = (rows(dve, k * d), rows(dx, c), Partials::new(partials, k * g, block));
        workers.blocks(n, block, cut, |first, (dve, dx, dw)| {
            let each = dve.data.chunks_exact_mut(k * d).zip(dx.data.chunks_exact_mut(c));
            for (n, (dve, dx)) in (first..).zip(each) {
                let (x, dx) = (&x[n * c..n * c + g], &mut dx[..g]);
                let (dv, ve) = (&dv[n * k * d..(n + 1) * k * d], &ve[n * k * d..(n + 1) * k * d]);
                let gate = &gate[n * k..(n + 1) * k];
                vectorised(
                    #[inline(always)]
                    || {
                        for head in 0..k {
                            let (gate, span) = (gate[head], head * d..(head + 1) * d);
                            let (dv, ve) = (&dv[span.clone()], &ve[span.clone()]);
                            dve[span].iter_mut().zip(dv).for_each(|(dve, dv)| *dve = gate * dv);
                            // gate = max·σ, and σ' = σ·(1 − σ).
                            let dlogit = dot(dv, ve) * gate * (1.0 - gate / max);
                            let span = head * g..(head + 1) * g;
                            let w = &w[span.clone()];
                            dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dlogit * w);
                            let dw = dw.data[span].iter_mut();
                            dw.zip(x).for_each(|(dw, x)| *dw += f64::from(dlogit * x));
                        }
                    },
                );
            }
        });
        add_partials(dw, partials);
    });
}
