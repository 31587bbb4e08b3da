//! Attention, and what prepares its operands. One file per pair of passes holds the launches.

mod backward;
mod forward;
mod rotary;
mod value_gate;

use super::Cuda;
use crate::ops::{
    Attention, AttentionBackward, RotaryNorm, RotaryNormBackward, ValueGate, ValueGateBackward,
};
use crate::{Error, Result};

impl Cuda {
    /// # Cost
    /// Moves 4·D + 4 bytes a head and 4·D a position for the angles; head dims that are powers of two from 16 to 512 in 16-byte
    /// accesses, others and misaligned views element by element, x twice.
    pub(in crate::cuda) fn rotary_norm(&self, op: RotaryNorm<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let RotaryNorm { x, rstd, cos, sin, gain } = op;
        rotary::forward(self, dims, gain, &x, &rstd, cos, sin)
    }

    /// # Cost
    /// Moves 6·D + 4 bytes a head and 4·D a position, as [`RotaryNorm`].
    pub(in crate::cuda) fn rotary_norm_backward(&self, op: RotaryNormBackward<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let RotaryNormBackward { dx, y, rstd, cos, sin, gain } = op;
        rotary::backward(self, dims, gain, &dx, y, rstd, cos, sin)
    }

    /// # Cost
    /// Moves 6·D + 4 bytes a head and 2·G a row; 16-byte accesses where D/8 is a power of two up to 32 and views are aligned.
    pub(in crate::cuda) fn value_gate(&self, op: ValueGate<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let ValueGate { v, gate, ve, x, w, max } = op;
        value_gate::forward(self, dims, max, &v, &gate, ve, x, w)
    }

    /// # Numerics
    /// dw is summed in f32: over each block's rows, then over blocks, in an order that depends on shapes alone.
    /// # Errors
    /// [`Error::Argument`] for K over 4,096 or K·G over 262,144.
    /// # Cost
    /// Moves 6·D + 4 bytes a head and 6·G a row.
    pub(in crate::cuda) fn value_gate_backward(&self, op: ValueGateBackward<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let ValueGateBackward { dve, dw, dx, dv, ve, gate, x, w, max } = op;
        value_gate::backward(self, dims, max, &dve, &dw, &dx, dv, ve, gate, x, w)
    }

    /// On tensor cores for head dims 16, 32, 64 and 128, a positive scale and 16-byte aligned views; by a plain kernel, some ten times
    /// slower, for anything else.
    ///
    /// # Numerics
    /// Scores, their maxima and sums are f32, probabilities are rounded to bf16 on tensor cores only: within 3e-3 of f64
    /// (‖Δ‖/‖ref‖), lse within 1e-5; `tests/cuda_attention.rs` shows it.
    /// # Cost
    /// Reads q once and writes out and lse once. For each block of 64 queries, k and v are read from the first of its tiles of 64
    /// keys that a window reaches to its last query.
    pub(in crate::cuda) fn attention(&self, op: Attention<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let Attention { out, lse, q, k, v, at } = op;
        forward::launch(self, dims, at, &out, &lse, q, k, v)
    }

    /// Three kernels: delta; dq, a block for each 64 queries; dk and dv, a block for each 64 keys. No atomics, so the same bits every time,
    /// for which scores and their gradients are computed twice. Tensor cores for head dims 16, 32, 64 and 128 and 16-byte aligned views,
    /// plain kernels for anything else.
    ///
    /// # Numerics
    /// Sums are f32; probabilities and scores' gradients are rounded to bf16 on tensor cores only: within 4e-3 of f64
    /// (‖Δ‖/‖ref‖); `tests/cuda_attention_backward.rs` shows it.
    /// # Cost
    /// About 14·D FLOPs per (query, visible key) pair and head. Reads dout and out for delta; then q and dout once and k and v for each
    /// block of 64 queries, k and v once and q and dout for each block of 64 keys, within the window; writes each result once.
    pub(in crate::cuda) fn attention_backward(&self, op: AttentionBackward<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let AttentionBackward { dq, dk, dv, delta, dout, out, lse, q, k, v, at } = op;
        let read = backward::Read { dout, out, lse, q, k, v };
        backward::launch(self, dims, at, [&dq, &dk, &dv, &delta], &read)
    }
}

/// Whether 16-byte accesses may start at each of these addresses.
fn aligned16(addresses: &[u64]) -> bool {
    addresses.iter().all(|address| address % 16 == 0)
}

/// Lanes for a head of `d` elements, and whether they take it by 16-byte accesses.
fn lanes(d: usize, addresses: &[u64]) -> (usize, bool) {
    let lanes = d / 8;
    let wide =
        d.is_multiple_of(8) && lanes.is_power_of_two() && lanes <= 32 && aligned16(addresses);
    (if wide { lanes } else { 32 }, wide)
}

/// A size as kernels take it.
fn int(op: &'static str, what: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n)
        .map_err(|_| Error::Argument { op, what: format!("{what} is {n}, kernels count to 2^31") })
}
