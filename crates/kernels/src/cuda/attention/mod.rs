//! Attention, and what prepares its operands. One file per pair of passes holds the launches.

mod forward;

use super::Cuda;
use crate::{Attention, AttentionShape, Error, Mut, Ref, Result, shapes};

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

    /// On tensor cores for head dims 16, 32, 64 and 128, a positive scale and 16-byte aligned views; by a plain kernel, some ten times
    /// slower, for anything else.
    ///
    /// # Numerics
    /// Scores, their maxima and sums are f32, probabilities are rounded to bf16 on tensor cores only: within 6e-3 of f64
    /// (‖Δ‖/‖ref‖), lse within 1e-4; `tests/cuda_attention.rs` shows it.
    /// # Cost
    /// Reads q once and writes out and lse once. For each block of 64 queries, k and v are read from the first of its tiles of 64
    /// keys that a window reaches to its last query.
    fn attention(
        &self,
        out: Mut<'_>,
        lse: Mut<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()> {
        let dims = shapes::attention(&self.dtypes, &out, &lse, &q, &k, &v)?;
        forward::launch(self, dims, at, &out, &lse, q, k, v)
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

/// Whether 16-byte accesses may start at each of these addresses.
fn aligned16(addresses: &[u64]) -> bool {
    addresses.iter().all(|address| address % 16 == 0)
}

/// A size as kernels take it.
fn int(op: &'static str, what: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n)
        .map_err(|_| Error::Argument { op, what: format!("{what} is {n}, kernels count to 2^31") })
}
