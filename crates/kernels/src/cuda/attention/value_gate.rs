//! Launches of gated value embeddings, and of their gradients. The kernels are in `cu/value_gate.cu`.

use super::super::driver::{Arg, Kernel, Module};
use super::super::{Cuda, OnDevice, PARTIALS};
use super::{int, lanes};
use crate::ops::GateDims;
use crate::{Error, Mut, Ref, Result};

static VALUE_GATE_MODULE: Module =
    Module { name: "value_gate", ptx: include_str!("../../../ptx/sm80/value_gate.ptx") };

const fn kernel(name: &'static str) -> Kernel {
    Kernel { module: &VALUE_GATE_MODULE, name, threads: THREADS as u32, shared_bytes: 0 }
}

static VALUE_GATE: Kernel = kernel("value_gate");
static VALUE_GATE_BACKWARD: Kernel = kernel("value_gate_backward");
static VALUE_GATE_WEIGHTS: Kernel = kernel("value_gate_weights");

const THREADS: usize = 256;
/// Rows that a block of the backward pass takes at a time, at most, and the gates among them that it has room for.
const ROWS: usize = 32;
const KEPT: usize = 4096;
/// Sums that a block of `value_gate_weights` adds up.
const FOLDED: usize = 64;

/// K, D, C, G, max, lanes, wide: what both kernels end with.
fn sizes(op: &'static str, dims: GateDims, max: f64, lanes: (usize, bool)) -> Result<[Arg; 7]> {
    let GateDims { k, d, c, g, .. } = dims;
    Ok([
        Arg::I32(int(op, "K", k)?),
        Arg::I32(int(op, "D", d)?),
        Arg::I32(int(op, "C", c)?),
        Arg::I32(int(op, "G", g)?),
        Arg::F32(max as f32),
        Arg::I32(lanes.0 as i32),
        Arg::I32(lanes.1.into()),
    ])
}

/// See [`ValueGate`](crate::ops::ValueGate).
pub(super) fn forward(
    dev: &Cuda,
    dims: GateDims,
    max: f64,
    v: &Mut<'_>,
    gate: &Mut<'_>,
    ve: Ref<'_>,
    x: Ref<'_>,
    w: Ref<'_>,
) -> Result<()> {
    let heads = dims.n * dims.k;
    let lanes = lanes(dims.d, &[v.device_address(), ve.device_address()]);
    let views = [v.arg(), gate.arg(), ve.arg(), x.arg(), w.arg(), Arg::I64(heads as i64)];
    let sizes = sizes("value_gate", dims, max, lanes)?;
    dev.launch(&VALUE_GATE, (heads * lanes.0).div_ceil(THREADS), &[&views[..], &sizes].concat())
}

/// See [`ValueGateBackward`](crate::ops::ValueGateBackward). Blocks, and so the order of dw's sums, depend on
/// shapes alone.
pub(super) fn backward(
    dev: &Cuda,
    dims: GateDims,
    max: f64,
    dve: &Mut<'_>,
    dw: &Mut<'_>,
    dx: &Mut<'_>,
    dv: Ref<'_>,
    ve: Ref<'_>,
    gate: Ref<'_>,
    x: Ref<'_>,
    w: Ref<'_>,
) -> Result<()> {
    let GateDims { n, k, g, .. } = dims;
    let op = "value_gate_backward";
    if n == 0 || k == 0 {
        return Ok(());
    }
    if k > KEPT || k * g > PARTIALS {
        let what = format!(
            "{k} heads with {g} gate channels; kernels have room for {KEPT} heads and {PARTIALS} weights"
        );
        return Err(Error::Argument { op, what });
    }
    let rows = ROWS.min(KEPT / k);
    let turns = n.div_ceil(rows).div_ceil(PARTIALS / (k * g).max(1));
    let rows_per_block = rows * turns;
    let blocks = n.div_ceil(rows_per_block);
    let lanes = lanes(dims.d, &[dve.device_address(), dv.device_address(), ve.device_address()]);
    let partials = Arg::Address(dev.partials.address);
    let views = [
        dve.arg(),
        partials,
        dx.arg(),
        dv.arg(),
        ve.arg(),
        gate.arg(),
        x.arg(),
        w.arg(),
        Arg::I64(n as i64),
        Arg::I64(rows_per_block as i64),
        Arg::I32(rows as i32),
    ];
    let sizes = sizes(op, dims, max, lanes)?;
    dev.launch(&VALUE_GATE_BACKWARD, blocks, &[&views[..], &sizes].concat())?;
    if g == 0 {
        return Ok(());
    }
    // Pieces of FOLDED sums, then of those, until one is left.
    let (mut count, mut step) = (blocks, 1);
    loop {
        let pieces = count.div_ceil(FOLDED);
        let args = [
            dw.arg(),
            partials,
            Arg::I32(int(op, "blocks", count)?),
            Arg::I64(step),
            Arg::I32((k * g) as i32),
            Arg::I32((pieces == 1).into()),
        ];
        dev.launch(&VALUE_GATE_WEIGHTS, pieces * (k * g).div_ceil(32), &args)?;
        if pieces == 1 {
            return Ok(());
        }
        (count, step) = (pieces, step * FOLDED as i64);
    }
}
