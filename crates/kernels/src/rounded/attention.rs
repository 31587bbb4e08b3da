//! Rotary embedding, value gates and attention on bf16 operands; statistics and gates are not rounded.

use super::Rounded;
use crate::{Attention, AttentionShape, Mut, Ref, Result, shapes};

impl Attention for Rounded {
    fn rotary_norm(
        &self,
        x: Mut<'_>,
        rstd: Mut<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()> {
        shapes::rotary_norm(&self.dtypes, &x, &rstd, &cos, &sin)?;
        self.through([x], [], |[x], []| self.device.rotary_norm(x, rstd, cos, sin, gain))
    }

    fn rotary_norm_backward(
        &self,
        dx: Mut<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()> {
        shapes::rotary_norm_backward(&self.dtypes, &dx, &y, &rstd, &cos, &sin)?;
        self.through([dx], [y], |[dx], [y]| {
            self.device.rotary_norm_backward(dx, y, rstd, cos, sin, gain)
        })
    }

    fn value_gate(
        &self,
        v: Mut<'_>,
        gate: Mut<'_>,
        ve: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()> {
        shapes::value_gate(&self.dtypes, &v, &gate, &ve, &x, &w)?;
        self.through([v], [ve, x, w], |[v], [ve, x, w]| {
            self.device.value_gate(v, gate, ve, x, w, max)
        })
    }

    fn value_gate_backward(
        &self,
        dve: Mut<'_>,
        dw: Mut<'_>,
        dx: Mut<'_>,
        dv: Ref<'_>,
        ve: Ref<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()> {
        shapes::value_gate_backward(&self.dtypes, &dve, &dw, &dx, &dv, &ve, &gate, &x, &w)?;
        self.through([dve, dx], [dv, ve, x, w], |[dve, dx], [dv, ve, x, w]| {
            self.device.value_gate_backward(dve, dw, dx, dv, ve, gate, x, w, max)
        })
    }

    fn attention(
        &self,
        out: Mut<'_>,
        lse: Mut<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()> {
        shapes::attention(&self.dtypes, &out, &lse, &q, &k, &v)?;
        self.through([out], [q, k, v], |[out], [q, k, v]| {
            self.device.attention(out, lse, q, k, v, at)
        })
    }

    fn attention_backward(
        &self,
        dq: Mut<'_>,
        dk: Mut<'_>,
        dv: Mut<'_>,
        delta: Mut<'_>,
        dout: Ref<'_>,
        out: Ref<'_>,
        lse: Ref<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()> {
        shapes::attention_backward(
            &self.dtypes,
            &dq,
            &dk,
            &dv,
            &delta,
            &dout,
            &out,
            &lse,
            &q,
            &k,
            &v,
        )?;
        self.through([dq, dk, dv], [dout, out, q, k, v], |[dq, dk, dv], [dout, out, q, k, v]| {
            self.device.attention_backward(dq, dk, dv, delta, dout, out, lse, q, k, v, at)
        })
    }
}
