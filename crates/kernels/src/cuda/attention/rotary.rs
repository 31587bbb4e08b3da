//! Launches of rotary embedding with QK-norm, and of its gradient. The kernels are in `cu/rotary.cu`.

use super::super::driver::{Arg, Kernel, Module};
use super::super::{Cuda, OnDevice};
use super::{aligned16, int};
use crate::ops::HeadDims;
use crate::{Mut, Ref, Result};

static ROTARY: Module =
    Module { name: "rotary", ptx: include_str!("../../../ptx/sm80/rotary.ptx") };

const fn kernel(name: &'static str) -> Kernel {
    Kernel { module: &ROTARY, name, threads: 256, shared_bytes: 0 }
}

static ROTARY_NORM: Kernel = kernel("rotary_norm");
static ROTARY_NORM_PLAIN: Kernel = kernel("rotary_norm_plain");
static ROTARY_NORM_BACKWARD: Kernel = kernel("rotary_norm_backward");
static ROTARY_NORM_BACKWARD_PLAIN: Kernel = kernel("rotary_norm_backward_plain");

/// Warps of a block.
const WARPS: usize = 8;

/// Whether a group of D/16 lanes can take a head by 16-byte accesses.
fn wide(d: usize, addresses: &[u64]) -> bool {
    (16..=512).contains(&d) && d.is_power_of_two() && aligned16(addresses)
}

/// See [`RotaryNorm`](crate::ops::RotaryNorm).
pub(super) fn forward(
    dev: &Cuda,
    dims: HeadDims,
    gain: f64,
    x: &Mut<'_>,
    rstd: &Mut<'_>,
    cos: Ref<'_>,
    sin: Ref<'_>,
) -> Result<()> {
    let addresses = [x.device_address(), cos.device_address(), sin.device_address()];
    let views = [x.arg(), rstd.arg(), cos.arg(), sin.arg()];
    let kernels = [&ROTARY_NORM, &ROTARY_NORM_PLAIN];
    launch(dev, "rotary_norm", kernels, wide(dims.d, &addresses), dims, gain, &views)
}

/// See [`RotaryNormBackward`](crate::ops::RotaryNormBackward).
pub(super) fn backward(
    dev: &Cuda,
    dims: HeadDims,
    gain: f64,
    dx: &Mut<'_>,
    y: Ref<'_>,
    rstd: Ref<'_>,
    cos: Ref<'_>,
    sin: Ref<'_>,
) -> Result<()> {
    let angles = [cos.device_address(), sin.device_address()];
    let aligned = aligned16(&[dx.device_address(), y.device_address()]);
    let wide = aligned && wide(dims.d, &angles);
    let kernels = [&ROTARY_NORM_BACKWARD, &ROTARY_NORM_BACKWARD_PLAIN];
    let views = [dx.arg(), y.arg(), rstd.arg(), cos.arg(), sin.arg()];
    launch(dev, "rotary_norm_backward", kernels, wide, dims, gain, &views)
}

/// The wide kernel with a warp for each position, or the plain one with a warp for each head.
fn launch(
    dev: &Cuda,
    op: &'static str,
    [of_positions, of_heads]: [&'static Kernel; 2],
    wide: bool,
    dims: HeadDims,
    gain: f64,
    views: &[Arg],
) -> Result<()> {
    let HeadDims { b, t, h, d } = dims;
    let (kernel, warps) = if wide { (of_positions, b * t) } else { (of_heads, b * t * h) };
    let sizes = [
        Arg::I64(warps as i64),
        Arg::I32(int(op, "T", t)?),
        Arg::I32(int(op, "H", h)?),
        Arg::I32(int(op, "D", d)?),
        Arg::F32(gain as f32),
    ];
    dev.launch(kernel, warps.div_ceil(WARPS), &[views, &sizes].concat())
}
