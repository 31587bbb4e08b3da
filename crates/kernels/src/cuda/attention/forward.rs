//! Launches of attention's forward pass: which kernel, with what grid. The kernels are in `cu/attention.cu` and `cu/attention_plain.cu`.

use super::super::driver::{Arg, Kernel, Module};
use super::super::{Cuda, OnDevice};
use super::{aligned16, int};
use crate::ops::AttentionDims;
use crate::{AttentionShape, Mut, Ref, Result};

static ATTENTION: Module =
    Module { name: "attention", ptx: include_str!("../../../ptx/sm80/attention.ptx") };
pub(super) static ATTENTION_PLAIN: Module =
    Module { name: "attention_plain", ptx: include_str!("../../../ptx/sm80/attention_plain.ptx") };

/// Queries of a block, and keys of a tile, on tensor cores.
pub(super) const TILE: usize = 64;

/// The kernel for head dim `d`: two stages of a tile of keys and one of values.
const fn tensor_core(name: &'static str, d: usize) -> Kernel {
    Kernel { module: &ATTENTION, name, threads: 128, shared_bytes: (4 * TILE * d * 2) as u32 }
}

static ATTENTION_16: Kernel = tensor_core("attention_16", 16);
static ATTENTION_32: Kernel = tensor_core("attention_32", 32);
static ATTENTION_64: Kernel = tensor_core("attention_64", 64);
static ATTENTION_128: Kernel = tensor_core("attention_128", 128);
/// One warp for a query and 256 columns.
static PLAIN: Kernel =
    Kernel { module: &ATTENTION_PLAIN, name: "attention_plain", threads: 128, shared_bytes: 0 };

/// The factor on scores that lets exponentials be powers of two.
pub(super) fn scale_log2(at: AttentionShape) -> f32 {
    (at.scale * std::f64::consts::LOG2_E) as f32
}

/// Whether tensor-core kernels take this scale: they mask scores with −∞ before it multiplies them.
pub(super) fn positive(scale: f32) -> bool {
    scale > 0.0 && scale.is_finite()
}

/// See [`Attention`](crate::ops::Attention).
pub(super) fn launch(
    dev: &Cuda,
    dims: AttentionDims,
    at: AttentionShape,
    out: &Mut<'_>,
    lse: &Mut<'_>,
    q: Ref<'_>,
    k: Ref<'_>,
    v: Ref<'_>,
) -> Result<()> {
    let AttentionDims { b, t, s, h, k: kv_heads, d } = dims;
    let rows = b * t * h;
    let scale = scale_log2(at);
    let int = |what, n| int("attention", what, n);
    let sizes = [
        Arg::I32(int("T", t)?),
        Arg::I32(int("S", s)?),
        Arg::I32(int("H", h)?),
        Arg::I32(int("K", kv_heads)?),
    ];
    let window = Arg::I32(int("S", at.window.min(s))?);
    let views = [out.arg(), lse.arg(), q.arg(), k.arg(), v.arg()];
    if let Some(kernel) = kernel(d)
        && positive(scale)
        && aligned16(&[out.device_address(), q.device_address(), k.device_address()])
        && aligned16(&[v.device_address()])
    {
        let args = [&views[..], &sizes, &[window, Arg::F32(scale)]].concat();
        return dev.launch(kernel, b * h * t.div_ceil(TILE), &args);
    }
    let jobs = rows * d.div_ceil(256).max(1);
    let rows = [Arg::I64(rows as i64)];
    let rest = [Arg::I32(int("D", d)?), window, Arg::F32(scale)];
    dev.launch(&PLAIN, jobs.div_ceil(4), &[&views[..], &rows, &sizes, &rest].concat())
}

/// The tensor-core kernel for head dim `d`.
fn kernel(d: usize) -> Option<&'static Kernel> {
    match d {
        16 => Some(&ATTENTION_16),
        32 => Some(&ATTENTION_32),
        64 => Some(&ATTENTION_64),
        128 => Some(&ATTENTION_128),
        _ => None,
    }
}
