//! Attention's kernels in the emulator, against the f64 reference: sizes off every edge of a tile, each branch of the launch code,
//! and what the kernels read, write and cost. Nothing here has run on a GPU.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;
use crate::common::attention;

use std::sync::Arc;

use attention::{Call, call};
use common::{tensor, values};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::{AttentionShape, Device, Tensor};

fn emulated() -> (Arc<Emulator>, Box<dyn Device>) {
    let emulator = Arc::new(Emulator::new());
    (emulator.clone(), Box::new(Cuda::on_emulator(emulator).unwrap()))
}

fn check(call: Call, dev: &dyn Device) {
    let inputs = call.inputs();
    let got = call.run(dev, &inputs, call.shape()).unwrap();
    assert_eq!(call.wrong(&inputs, call.shape(), &got), None);
}

const CALLS: &[Call] = &[
    // A position alone, windows of nothing, tiles that end where they may.
    call((1, 1, 1), (1, 1, 64), 0),
    call((2, 3, 3), (2, 1, 128), 5),
    call((1, 64, 64), (1, 1, 128), 63),
    call((1, 65, 65), (2, 2, 64), 64),
    call((1, 63, 63), (1, 1, 64), usize::MAX),
    call((1, 128, 128), (1, 1, 64), 65),
    call((2, 129, 129), (3, 1, 64), 1),
    call((1, 130, 130), (2, 1, 128), 0),
    call((1, 191, 191), (2, 2, 64), 127),
    call((1, 200, 200), (4, 2, 128), 1000),
    // One key of a tile is outside of the window of one row.
    call((1, 192, 192), (2, 2, 64), 126),
    call((2, 150, 150), (6, 2, 64), 63),
    call((1, 257, 257), (1, 1, 128), 128),
    // The last T of S positions.
    call((3, 1, 1), (2, 2, 128), 7),
    call((2, 1, 100), (4, 1, 64), usize::MAX),
    call((1, 1, 321), (2, 2, 128), 64),
    call((1, 64, 191), (1, 1, 64), 65),
    call((2, 65, 66), (2, 1, 128), 63),
    call((1, 100, 333), (3, 3, 64), 0),
    call((1, 70, 300), (2, 1, 128), 150),
    // Heads of tiny models.
    call((2, 133, 133), (2, 1, 16), 64),
    call((1, 70, 201), (3, 3, 16), usize::MAX),
    call((2, 97, 97), (4, 2, 32), 33),
    call((1, 66, 130), (2, 2, 32), 64),
];

#[test]
fn tensor_core_kernels_agree_with_the_reference_at_every_edge() {
    for &call in CALLS {
        let (emulator, dev) = emulated();
        check(call, &*dev);
        let launches = emulator.take_launches();
        let names: Vec<&str> = launches.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [format!("attention_{}", call.d)], "{call:?}");
        // Bytes are what the docs state, in whole sectors, and no access meets a bank conflict.
        let counters = &launches[0].1;
        assert_eq!(counters.global_load.bytes, call.loaded_bytes(), "{call:?}");
        let (out, lse) = call.stored_bytes();
        assert_eq!(counters.global_store.bytes, out + lse, "{call:?}");
        // Eight rows of lse at a time are in two sectors at most.
        assert!(counters.global_store.sectors <= out / 32 + lse / 16 + 32, "{call:?}");
        assert_eq!(counters.global_load.efficiency(), 1.0, "{call:?}");
        assert_eq!(counters.bank_conflicts, 0, "{call:?}");
    }
}

#[test]
fn the_plain_kernel_takes_any_head_dim() {
    for (t, s, h, k, d, window) in [
        (1, 1, 1, 1, 1, 0),
        (3, 40, 2, 1, 7, 33),
        (33, 65, 4, 2, 24, 31),
        (40, 40, 1, 1, 100, 32),
        (5, 70, 2, 2, 257, usize::MAX),
        (2, 3, 1, 1, 600, 1),
    ] {
        let call = call((2, t, s), (h, k, d), window);
        let (emulator, dev) = emulated();
        check(call, &*dev);
        assert_eq!(emulator.take_launches()[0].0, "attention_plain");
    }
}

#[test]
fn a_scale_that_is_not_positive_is_a_scale() {
    for scale in [0.0, -0.125] {
        let call = call((1, 70, 70), (1, 1, 64), 66);
        let ((_, dev), inputs) = (emulated(), call.inputs());
        let at = AttentionShape { scale, ..call.shape() };
        let got = call.run(&*dev, &inputs, at).unwrap();
        assert_eq!(call.wrong(&inputs, at, &got), None);
    }
}

#[test]
fn scores_far_beyond_exp_are_no_trouble() {
    for (d, window) in [(64, 150), (64, 0), (128, 150), (24, 150), (24, 0)] {
        let call = call((1, 200, 200), (1, 1, d), window);
        let ((_, dev), inputs) = (emulated(), call.inputs().rounded());
        let at = AttentionShape { scale: 8.0, ..call.shape() };
        let got = call.run(&*dev, &inputs, at).unwrap();
        assert_eq!(call.wrong(&inputs, at, &got), None);
    }
}

#[test]
fn views_that_are_not_16_byte_aligned_go_to_the_plain_kernel() {
    let call = call((2, 70, 81), (2, 1, 64), 65);
    let inputs = call.inputs();
    // Each of out, q, k, v one element off in turn; at 8, all are aligned again.
    for (which, off) in [(0, 1), (1, 3), (2, 4), (3, 7), (4, 0), (3, 8)] {
        let (emulator, dev) = emulated();
        let off_of = |i: usize| if i == which { off } else { 0 };
        let shifted = |i: usize, values: &[f64]| {
            let padded = [&vec![7.0; off_of(i)], values].concat();
            tensor(&*dev, [padded.len()], &padded)
        };
        let nan = vec![f64::NAN; inputs.q.len()];
        let mut out = shifted(0, &nan);
        let [q, k, v] =
            [(1, &inputs.q), (2, &inputs.k), (3, &inputs.v)].map(|(i, x)| shifted(i, x));
        let mut lse = dev.master(call.lse()).unwrap();
        let end = out.shape().elements();
        let out_view = out.view_mut().rows(off_of(0)..end).unwrap().reshape(call.q()).unwrap();
        let part = |i: usize, x: &Tensor| off_of(i)..x.shape().elements();
        dev.attention(
            out_view,
            lse.view_mut(),
            q.view().rows(part(1, &q)).unwrap().reshape(call.q()).unwrap(),
            k.view().rows(part(2, &k)).unwrap().reshape(call.kv()).unwrap(),
            v.view().rows(part(3, &v)).unwrap().reshape(call.kv()).unwrap(),
            call.shape(),
        )
        .unwrap();
        let name = if off % 8 == 0 { "attention_64" } else { "attention_plain" };
        assert_eq!(emulator.take_launches()[0].0, name, "operand {which} off by {off}");
        let all = values(&*dev, &out);
        assert!(all[..off_of(0)].iter().all(|&x| x == 7.0), "what is before out is left alone");
        let got = (all[off_of(0)..].to_vec(), values(&*dev, &lse));
        assert_eq!(call.wrong(&inputs, call.shape(), &got), None, "{name}");
    }
}

#[test]
fn nothing_around_the_results_is_written() {
    let call = call((1, 65, 65), (1, 1, 128), 64);
    let ((_, dev), inputs) = (emulated(), call.inputs());
    let (rows, around) = (call.t, 3);
    let mut out = tensor(&*dev, [rows + 2 * around, 1, 128], &vec![5.0; (rows + 2 * around) * 128]);
    let mut lse = dev.master([rows + 2 * around]).unwrap();
    dev.write_f64(lse.view_mut(), &vec![5.0; rows + 2 * around]).unwrap();
    let q = tensor(&*dev, call.q(), &inputs.q);
    let [k, v] = [&inputs.k, &inputs.v].map(|x| tensor(&*dev, call.kv(), x));
    let inside = around..around + rows;
    let out_view = out.view_mut().rows(inside.clone()).unwrap().reshape(call.q()).unwrap();
    let lse_view = lse.view_mut().rows(inside.clone()).unwrap().reshape(call.lse()).unwrap();
    dev.attention(out_view, lse_view, q.view(), k.view(), v.view(), call.shape()).unwrap();
    let (out, lse) = (values(&*dev, &out), values(&*dev, &lse));
    for outside in [0..around, around + rows..rows + 2 * around] {
        assert!(lse[outside.clone()].iter().all(|&x| x == 5.0));
        assert!(out[outside.start * 128..outside.end * 128].iter().all(|&x| x == 5.0));
    }
    let got = (out[around * 128..(around + rows) * 128].to_vec(), lse[inside].to_vec());
    assert_eq!(call.wrong(&inputs, call.shape(), &got), None);
}

#[test]
fn twice_is_the_same_bits() {
    for d in [64, 20] {
        let call = call((2, 130, 130), (2, 1, d), 100);
        let ((_, dev), inputs) = (emulated(), call.inputs());
        let [first, second] = [(); 2].map(|()| call.run(&*dev, &inputs, call.shape()).unwrap());
        assert_eq!(first, second);
    }
}

#[test]
fn nothing_to_do_is_no_launch() {
    let (emulator, dev) = emulated();
    for (b, t, s) in [(0, 3, 3), (2, 0, 3), (2, 0, 0)] {
        let call = call((b, t, s), (2, 1, 64), 4);
        call.run(&*dev, &call.inputs(), call.shape()).unwrap();
    }
    assert!(emulator.take_launches().is_empty());
}
