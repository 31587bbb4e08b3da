//! Attention, and what prepares its operands.

use super::Cuda;
use crate::{Attention, AttentionShape, Mut, Ref, Result, shapes};

impl Attention for Cuda {
    fn rotary_norm(
        &self,
        x: Mut<'_>,
        rstd: Mut<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        _: f64,
    ) -> Result<()> {
        shapes::rotary_norm(&self.dtypes, &x, &rstd, &cos, &sin)?;
        Err(self.missing("rotary_norm"))
    }

    fn rotary_norm_backward(
        &self,
        dx: Mut<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        _: f64,
    ) -> Result<()> {
        shapes::rotary_norm_backward(&self.dtypes, &dx, &y, &rstd, &cos, &sin)?;
        Err(self.missing("rotary_norm_backward"))
    }

    fn value_gate(
        &self,
        v: Mut<'_>,
        gate: Mut<'_>,
        ve: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        _: f64,
    ) -> Result<()> {
        shapes::value_gate(&self.dtypes, &v, &gate, &ve, &x, &w)?;
        Err(self.missing("value_gate"))
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
        _: f64,
    ) -> Result<()> {
        shapes::value_gate_backward(&self.dtypes, &dve, &dw, &dx, &dv, &ve, &gate, &x, &w)?;
        Err(self.missing("value_gate_backward"))
    }

    fn attention(
        &self,
        out: Mut<'_>,
        lse: Mut<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        _: AttentionShape,
    ) -> Result<()> {
        shapes::attention(&self.dtypes, &out, &lse, &q, &k, &v)?;
        Err(self.missing("attention"))
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
        _: AttentionShape,
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
        Err(self.missing("attention_backward"))
    }
}
