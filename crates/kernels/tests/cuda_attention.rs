//! Attention's kernels in the emulator, against the f64 reference: sizes off every edge of a tile, each branch of the launch code,
//! and what the kernels read, write and cost. Nothing here has run on a GPU.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod common;

use std::sync::Arc;

use common::{Draw, relative, tensor, values};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, Bf16, Device, Tensor};

/// ‖Δ‖/‖ref‖ of `out`: it and the probabilities are rounded to bf16.
const OUT: f64 = 4e-3;
/// The largest |Δ| of an lse.
const LSE: f64 = 1e-4;

/// One call's sizes.
#[derive(Clone, Copy, Debug)]
struct Call {
    b: usize,
    t: usize,
    s: usize,
    h: usize,
    k: usize,
    d: usize,
    window: usize,
}

const fn call(
    (b, t, s): (usize, usize, usize),
    heads: (usize, usize, usize),
    window: usize,
) -> Call {
    Call { b, t, s, h: heads.0, k: heads.1, d: heads.2, window }
}

/// Inputs that bf16 holds, of standard deviation 1, queries of 2 for an uneven softmax.
struct Inputs {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl Call {
    fn shape(&self) -> AttentionShape {
        AttentionShape { window: self.window, scale: 1.0 / (self.d as f64).sqrt() }
    }

    fn q(&self) -> [usize; 4] {
        [self.b, self.t, self.h, self.d]
    }

    fn kv(&self) -> [usize; 4] {
        [self.b, self.s, self.k, self.d]
    }

    fn lse(&self) -> [usize; 3] {
        [self.b, self.h, self.t]
    }

    fn inputs(&self) -> Inputs {
        let mut draw = Draw::new((self.t * 1000 + self.s + self.d) as u64);
        let mut normal = |dims: [usize; 4], size: f64| -> Vec<f64> {
            let values = draw.normals(dims.iter().product());
            values.iter().map(|x| f64::from(Bf16::from_f64(size * x).to_f32())).collect()
        };
        Inputs { q: normal(self.q(), 2.0), k: normal(self.kv(), 1.0), v: normal(self.kv(), 1.0) }
    }

    fn run(&self, dev: &dyn Device, inputs: &Inputs, at: AttentionShape) -> (Vec<f64>, Vec<f64>) {
        let q = tensor(dev, self.q(), &inputs.q);
        let [k, v] = [&inputs.k, &inputs.v].map(|x| tensor(dev, self.kv(), x));
        let (mut out, mut lse) = (poisoned(dev, self.q()), dev.master(self.lse()).unwrap());
        dev.write_f64(lse.view_mut(), &vec![f64::NAN; self.b * self.h * self.t]).unwrap();
        dev.attention(out.view_mut(), lse.view_mut(), q.view(), k.view(), v.view(), at).unwrap();
        (values(dev, &out), values(dev, &lse))
    }

    /// Holds a result to the reference's.
    fn check(&self, what: &str, inputs: &Inputs, at: AttentionShape, got: &(Vec<f64>, Vec<f64>)) {
        let expected = self.run(&Reference::new(), inputs, at);
        let out = relative(&got.0, &expected.0);
        let lse = got.1.iter().zip(&expected.1).map(|(x, y)| (x - y).abs()).fold(0.0, largest);
        assert!(
            out <= OUT && lse <= LSE,
            "{self:?}, {what}: out is off by {out:e}, lse by {lse:e}"
        );
    }

    /// Positions of keys that are read for each block of 64 queries, summed over blocks and heads.
    fn key_rows(&self) -> usize {
        let block = |first_query: usize| {
            let position = self.s - self.t + first_query;
            let first = position.saturating_sub(self.window.min(position).div_ceil(64) * 64);
            self.s.min(position + 64) - first
        };
        self.b * self.h * (0..self.t).step_by(64).map(block).sum::<usize>()
    }
}

/// The larger, or NaN.
fn largest(x: f64, y: f64) -> f64 {
    if x >= y { x } else { y }
}

fn poisoned(dev: &dyn Device, shape: [usize; 4]) -> Tensor {
    tensor(dev, shape, &vec![f64::NAN; shape.iter().product()])
}

fn emulated() -> (Arc<Emulator>, Box<dyn Device>) {
    let emulator = Arc::new(Emulator::new());
    (emulator.clone(), Box::new(Cuda::on_emulator(emulator).unwrap()))
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
    for call in CALLS {
        let ((emulator, dev), inputs) = (emulated(), call.inputs());
        let got = call.run(&*dev, &inputs, call.shape());
        call.check("tensor cores", &inputs, call.shape(), &got);
        let launches = emulator.take_launches();
        let names: Vec<&str> = launches.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [format!("attention_{}", call.d)], "{call:?}");
        // Bytes are what the docs state, in whole sectors, and no access meets a bank conflict.
        let counters = &launches[0].1;
        let q_bytes = 2 * inputs.q.len();
        let loaded = q_bytes + call.key_rows() * call.d * 4;
        assert_eq!(counters.global_load.bytes, loaded as u64, "{call:?}");
        let written = q_bytes + 4 * call.b * call.h * call.t;
        assert_eq!(counters.global_store.bytes, written as u64, "{call:?}");
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
        let ((emulator, dev), inputs) = (emulated(), call.inputs());
        let got = call.run(&*dev, &inputs, call.shape());
        call.check("plain", &inputs, call.shape(), &got);
        assert_eq!(emulator.take_launches()[0].0, "attention_plain");
    }
}

#[test]
fn a_scale_that_is_not_positive_is_a_scale() {
    for scale in [0.0, -0.125] {
        let call = call((1, 70, 70), (1, 1, 64), 66);
        let ((_, dev), inputs) = (emulated(), call.inputs());
        let at = AttentionShape { scale, ..call.shape() };
        call.check("scale", &inputs, at, &call.run(&*dev, &inputs, at));
    }
}

#[test]
fn scores_far_beyond_exp_are_no_trouble() {
    for d in [64, 128, 24] {
        let call = call((1, 200, 200), (1, 1, d), 150);
        let ((_, dev), mut inputs) = (emulated(), call.inputs());
        // Integers, so that scores are exact.
        for x in inputs.q.iter_mut().chain(&mut inputs.k) {
            *x = x.round();
        }
        let at = AttentionShape { scale: 8.0, ..call.shape() };
        let (out, lse) = call.run(&*dev, &inputs, at);
        let expected = call.run(&Reference::new(), &inputs, at);
        assert!(relative(&out, &expected.0) <= OUT, "{d}");
        assert!(relative(&lse, &expected.1) <= 1e-6, "{d}");
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
        let part = |i: usize, x: &'_ Tensor| off_of(i)..x.shape().elements();
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
        call.check(name, &inputs, call.shape(), &got);
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
    call.check("inside of more", &inputs, call.shape(), &got);
}

#[test]
fn twice_is_the_same_bits() {
    for d in [64, 20] {
        let call = call((2, 130, 130), (2, 1, d), 100);
        let ((_, dev), inputs) = (emulated(), call.inputs());
        let [first, second] = [(); 2].map(|()| call.run(&*dev, &inputs, call.shape()));
        assert_eq!(first, second);
    }
}

#[test]
fn nothing_to_do_is_no_launch() {
    let (emulator, dev) = emulated();
    for (b, t, s) in [(0, 3, 3), (2, 0, 3), (2, 0, 0)] {
        let call = call((b, t, s), (2, 1, 64), 4);
        call.run(&*dev, &call.inputs(), call.shape());
    }
    assert!(emulator.take_launches().is_empty());
}
