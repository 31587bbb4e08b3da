//! The kernels of attention's backward pass in the emulator, against the f64 reference: sizes off every edge of a tile, each branch of
//! the launch code, and what the kernels load. Nothing here has run on a GPU.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;
use crate::common::attention;

use std::sync::Arc;

use attention::{Call, call};
use common::{tensor, values};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, Device, Tensor};
use ptx_emulator::Counters;

const CALLS: &[Call] = &[
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
    call((2, 150, 150), (6, 2, 64), 62),
    // One key of a tile is outside of the window of one row; tiles of queries are of 32 at D = 128.
    call((1, 192, 192), (2, 2, 64), 126),
    call((1, 192, 192), (1, 1, 128), 94),
    call((1, 192, 192), (1, 1, 128), 30),
    call((2, 133, 133), (2, 1, 16), 64),
    call((1, 97, 97), (4, 2, 32), 33),
];

fn emulated() -> (Arc<Emulator>, Box<dyn Device>) {
    let emulator = Arc::new(Emulator::new());
    (emulator.clone(), Box::new(Cuda::on_emulator(emulator).unwrap()))
}

/// Holds a call to the reference, and returns what was launched.
fn check(call: Call, at: AttentionShape) -> Vec<(&'static str, Counters)> {
    let inputs = call.inputs();
    let saved = call.saved(&inputs, at);
    let expected = call.gradients(&Reference::new(), &inputs, &saved, at).unwrap();
    let (emulator, dev) = emulated();
    let got = call.gradients(&*dev, &inputs, &saved, at).unwrap();
    assert_eq!(call.wrong_gradients(&expected, &got), None, "{at:?}");
    emulator.take_launches()
}

fn names(launches: &[(&'static str, Counters)]) -> Vec<&'static str> {
    launches.iter().map(|launch| launch.0).collect()
}

#[test]
fn tensor_core_kernels_agree_with_the_reference_at_every_edge() {
    for &call in CALLS {
        let launches = check(call, call.shape());
        let d = call.d;
        let expected = [
            "attention_delta".into(),
            format!("attention_queries_{d}"),
            format!("attention_keys_{d}"),
        ];
        assert_eq!(names(&launches), expected, "{call:?}");
        let [delta, queries, keys] = [0, 1, 2].map(|i| &launches[i].1);
        let rows = (call.b * call.t * call.h) as u64;
        assert_eq!(delta.global_load.bytes, rows * d as u64 * 4, "{call:?}");
        let loaded = (queries.global_load.bytes, keys.global_load.bytes);
        assert_eq!(loaded, call.loaded_backward_bytes(), "{call:?}");
        let heads = (call.b * call.t * d * 2) as u64;
        assert_eq!(queries.global_store.bytes, heads * call.h as u64, "{call:?}");
        assert_eq!(keys.global_store.bytes, 2 * heads * call.k as u64, "{call:?}");
        for counters in [queries, keys] {
            assert_eq!(counters.global_store.efficiency(), 1.0, "{call:?}");
            assert_eq!(counters.bank_conflicts, 0, "{call:?}");
        }
    }
}

#[test]
fn the_plain_kernels_take_any_head_dim() {
    for (b, t, h, k, d, window) in [
        (1, 1, 1, 1, 1, 0),
        (2, 40, 2, 1, 7, 33),
        (1, 65, 4, 2, 24, 31),
        (1, 40, 1, 1, 100, 32),
        (1, 35, 2, 2, 257, usize::MAX),
    ] {
        let call = call((b, t, t), (h, k, d), window);
        let launches = check(call, call.shape());
        let expected = ["attention_delta", "attention_queries_plain", "attention_keys_plain"];
        assert_eq!(names(&launches), expected, "{call:?}");
    }
}

#[test]
fn a_scale_that_is_not_positive_is_a_scale() {
    for scale in [0.0, -0.125] {
        let call = call((1, 70, 70), (1, 1, 64), 66);
        // With a scale of 0 dq and dk are 0 and -0, the same on both sides.
        check(call, AttentionShape { scale, ..call.shape() });
    }
}

#[test]
fn twice_is_the_same_bits() {
    for d in [64, 128, 20] {
        let call = call((2, 100, 100), (2, 1, d), 70);
        let (inputs, at) = (call.inputs(), call.shape());
        let saved = call.saved(&inputs, at);
        let (_, dev) = emulated();
        let [first, second] = [(); 2].map(|()| call.gradients(&*dev, &inputs, &saved, at).unwrap());
        assert_eq!(first, second);
    }
}

#[test]
fn views_that_are_not_16_byte_aligned_go_to_the_plain_kernels() {
    let call = call((1, 70, 70), (2, 1, 64), 65);
    let (inputs, at) = (call.inputs(), call.shape());
    let (out, lse) = call.saved(&inputs, at);
    let saved = (out.clone(), lse.clone());
    let expected = call.gradients(&Reference::new(), &inputs, &saved, at).unwrap();
    let (of_q, of_kv) = (inputs.q.len(), inputs.k.len());
    // Each of dq, dk, dv, dout, out, q, k, v off in turn; out is read by delta's kernel alone.
    for which in 0..=8 {
        let (emulator, dev) = emulated();
        let off = |i: usize| if i == which { 1 + which % 7 } else { 0 };
        let shifted = |i: usize, values: &[f64]| {
            let padded = [&vec![7.0; off(i)], values].concat();
            tensor(&*dev, [padded.len()], &padded)
        };
        let mut written = [(0, of_q), (1, of_kv), (2, of_kv)]
            .map(|(i, n): (usize, usize)| shifted(i, &vec![f64::NAN; n]));
        let read = [&inputs.dout, &out, &inputs.q, &inputs.k, &inputs.v];
        let read: Vec<Tensor> = (3..).zip(read).map(|(i, x)| shifted(i, x)).collect();
        let mut statistics = [dev.master(call.lse()).unwrap(), dev.master(call.lse()).unwrap()];
        let [lse_tensor, delta] = &mut statistics;
        dev.write_f64(lse_tensor.view_mut(), &lse).unwrap();
        let shape = |i: usize| if [0, 3, 4, 5].contains(&i) { call.q() } else { call.kv() };
        let ranges: Vec<_> = written
            .iter()
            .chain(&read)
            .zip(0..)
            .map(|(x, i)| off(i)..x.shape().elements())
            .collect();
        let mut muts = written
            .iter_mut()
            .zip(0..)
            .map(|(x, i)| x.view_mut().rows(ranges[i].clone()).unwrap().reshape(shape(i)).unwrap());
        let mut refs = read
            .iter()
            .zip(3..)
            .map(|(x, i)| x.view().rows(ranges[i].clone()).unwrap().reshape(shape(i)).unwrap());
        let [dq, dk, dv] = std::array::from_fn(|_| muts.next().unwrap());
        let [dout, out, q, k, v] = std::array::from_fn(|_| refs.next().unwrap());
        dev.attention_backward(
            dq,
            dk,
            dv,
            delta.view_mut(),
            dout,
            out,
            lse_tensor.view(),
            q,
            k,
            v,
            at,
        )
        .unwrap();
        drop(muts);
        let launches = emulator.take_launches();
        // At 4: `out`, which those kernels do not read. At 8 nothing is off.
        let name =
            if which == 4 || which == 8 { "attention_keys_64" } else { "attention_keys_plain" };
        assert_eq!(names(&launches)[2], name, "operand {which}");
        let all = written.each_ref().map(|x| values(&*dev, x));
        let got = [0, 1, 2].map(|i| all[i][off(i)..].to_vec());
        assert!((0..3).all(|i| all[i][..off(i)].iter().all(|&x| x == 7.0)), "operand {which}");
        assert_eq!(call.wrong_gradients(&expected, &got), None, "operand {which}");
    }
}

#[test]
fn nothing_to_do_is_no_launch() {
    for (b, t) in [(0, 3), (2, 0)] {
        let call = call((b, t, t), (2, 1, 64), 4);
        let (inputs, saved) = (call.inputs(), (Vec::new(), Vec::new()));
        let (emulator, dev) = emulated();
        call.gradients(&*dev, &inputs, &saved, call.shape()).unwrap();
        assert!(emulator.take_launches().is_empty());
    }
}
