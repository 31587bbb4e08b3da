//! Launches of attention's backward pass: delta, then dq, then dk and dv. The kernels are in `cu/attention_backward.cu` and
//! `cu/attention_plain.cu`.

use super::super::driver::{Arg, Kernel, Module};
use super::super::{Cuda, OnDevice};
use super::forward::{ATTENTION_PLAIN, TILE, positive, scale_log2};
use super::{aligned16, int, lanes};
use crate::ops::AttentionDims;
use crate::{AttentionShape, Mut, Ref, Result};

static ATTENTION_BACKWARD: Module = Module {
    name: "attention_backward",
    ptx: include_str!("../../../ptx/sm80/attention_backward.ptx"),
};

const fn kernel(name: &'static str, shared_bytes: usize) -> Kernel {
    let (module, threads) = (&ATTENTION_BACKWARD, 128);
    Kernel { module, name, threads, shared_bytes: shared_bytes as u32 }
}

/// Two stages of a tile of keys and one of values.
const fn of_queries(name: &'static str, d: usize) -> Kernel {
    kernel(name, 4 * TILE * d * 2)
}

/// A tile of keys and one of values, and two stages of `queries` queries, their gradients, lse and delta.
const fn of_keys(name: &'static str, d: usize, queries: usize) -> Kernel {
    kernel(name, 2 * TILE * d * 2 + 2 * (2 * queries * d * 2 + 8 * queries))
}

static DELTA: Kernel = Kernel { threads: 256, ..kernel("attention_delta", 0) };
static QUERIES_16: Kernel = of_queries("attention_queries_16", 16);
static QUERIES_32: Kernel = of_queries("attention_queries_32", 32);
static QUERIES_64: Kernel = of_queries("attention_queries_64", 64);
static QUERIES_128: Kernel = of_queries("attention_queries_128", 128);
static KEYS_16: Kernel = of_keys("attention_keys_16", 16, 64);
static KEYS_32: Kernel = of_keys("attention_keys_32", 32, 64);
static KEYS_64: Kernel = of_keys("attention_keys_64", 64, 64);
static KEYS_128: Kernel = of_keys("attention_keys_128", 128, 32);

const fn plain(name: &'static str) -> Kernel {
    Kernel { module: &ATTENTION_PLAIN, name, threads: 128, shared_bytes: 0 }
}

static QUERIES_PLAIN: Kernel = plain("attention_queries_plain");
static KEYS_PLAIN: Kernel = plain("attention_keys_plain");

/// The tensor-core kernels for head dim `d`: of queries, of keys.
fn kernels(d: usize) -> Option<[&'static Kernel; 2]> {
    match d {
        16 => Some([&QUERIES_16, &KEYS_16]),
        32 => Some([&QUERIES_32, &KEYS_32]),
        64 => Some([&QUERIES_64, &KEYS_64]),
        128 => Some([&QUERIES_128, &KEYS_128]),
        _ => None,
    }
}

/// What both passes read.
pub(super) struct Read<'a> {
    pub(super) dout: Ref<'a>,
    pub(super) out: Ref<'a>,
    pub(super) lse: Ref<'a>,
    pub(super) q: Ref<'a>,
    pub(super) k: Ref<'a>,
    pub(super) v: Ref<'a>,
}

/// See [`AttentionBackward`](crate::ops::AttentionBackward).
pub(super) fn launch(
    dev: &Cuda,
    dims: AttentionDims,
    at: AttentionShape,
    [dq, dk, dv, delta]: [&Mut<'_>; 4],
    read: &Read<'_>,
) -> Result<()> {
    let AttentionDims { b, t, h, k, d, .. } = dims;
    let op = "attention_backward";
    let int = |what, n| int(op, what, n);
    let Read { dout, out, lse, q, k: keys, v } = read;
    let (t_arg, h_arg, d_arg) =
        (Arg::I32(int("T", t)?), Arg::I32(int("H", h)?), Arg::I32(int("D", d)?));
    let (lanes, wide) = lanes(d, &[dout.device_address(), out.device_address()]);
    let rows = Arg::I64((b * t * h) as i64);
    let lane_args = [Arg::I32(lanes as i32), Arg::I32(wide.into())];
    let args = [&[delta.arg(), dout.arg(), out.arg(), rows, t_arg, h_arg, d_arg][..], &lane_args];
    dev.launch(&DELTA, (b * t * h * lanes).div_ceil(256), &args.concat())?;

    let views = [dout.arg(), lse.arg(), delta.arg(), q.arg(), keys.arg(), v.arg()];
    let of_queries = [&[dq.arg()], &views[..]].concat();
    let of_keys = [&[dk.arg(), dv.arg()], &views[..]].concat();
    let k_arg = Arg::I32(int("K", k)?);
    let scale = scale_log2(at);
    let window = Arg::I32(int("T", at.window.min(t))?);
    let rest = [window, Arg::F32(at.scale as f32), Arg::F32(scale)];
    let aligned = aligned16(&[dq, dk, dv].map(OnDevice::device_address))
        && aligned16(&[dout, q, keys, v].map(OnDevice::device_address));
    if let Some([queries, keys]) = kernels(d).filter(|_| aligned && positive(scale)) {
        let sizes = [&[t_arg, h_arg, k_arg], &rest[..]].concat();
        let blocks = t.div_ceil(TILE);
        dev.launch(queries, b * h * blocks, &[&of_queries[..], &sizes].concat())?;
        return dev.launch(keys, b * k * blocks, &[&of_keys[..], &sizes].concat());
    }
    let parts = d.div_ceil(256).max(1);
    for (kernel, views, rows) in
        [(&QUERIES_PLAIN, of_queries, b * t * h), (&KEYS_PLAIN, of_keys, b * t * k)]
    {
        let sizes = [&[Arg::I64(rows as i64), t_arg, h_arg, k_arg, d_arg], &rest[..]].concat();
        dev.launch(kernel, (rows * parts).div_ceil(4), &[&views[..], &sizes].concat())?;
    }
    Ok(())
}
