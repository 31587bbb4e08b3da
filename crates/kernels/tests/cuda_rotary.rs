//! Rotary embedding with QK-norm and value gates in the emulator: which kernel takes which call, what each moves, and both held to the
//! f64 reference where the conformance cases do not reach. Nothing here has run on a GPU.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;

use std::sync::Arc;

use common::{Draw, relative};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::reference::Reference;
use farthing_kernels::{Bf16, DType, Device, Mut, Ref, Result, Shape, Tensor};

/// ‖Δ‖/‖ref‖ of what is rounded to bf16 once, and of what is f32 from bf16 operands.
const ROUNDED: f64 = 4e-3;
const EXACT: f64 = 1e-5;

fn emulated() -> (Arc<Emulator>, Box<dyn Device>) {
    let emulator = Arc::new(Emulator::new());
    (emulator.clone(), Box::new(Cuda::on_emulator(emulator).unwrap()))
}

/// An argument: its values, whether it is of the master dtype, and how many elements its view starts after a 16-byte boundary.
#[derive(Clone)]
struct Operand {
    values: Vec<f64>,
    shape: Vec<usize>,
    master: bool,
    off: usize,
}

impl Operand {
    fn compute(draw: &mut Draw, shape: &[usize]) -> Self {
        let bf16 = |x: f64| f64::from(Bf16::from_f64(x).to_f32());
        let values = draw.normals(shape.iter().product()).into_iter().map(bf16).collect();
        Self { values, shape: shape.to_vec(), master: false, off: 0 }
    }

    fn master(shape: &[usize], value: impl Fn(usize) -> f64) -> Self {
        let values = (0..shape.iter().product()).map(|i| f64::from(value(i) as f32)).collect();
        Self { values, shape: shape.to_vec(), master: true, off: 0 }
    }

    fn shape(&self) -> Shape {
        Shape::from_dims(&self.shape).unwrap()
    }

    fn range(&self) -> std::ops::Range<usize> {
        self.off..self.off + self.values.len()
    }

    fn tensor(&self, dev: &dyn Device) -> Tensor {
        let dtype = if self.master { dev.master_dtype() } else { dev.compute_dtype() };
        let values = [&vec![7.0; self.off], &self.values[..], &[7.0]].concat();
        let mut tensor = dev.alloc(dtype, Shape::from([values.len()])).unwrap();
        dev.write_f64(tensor.view_mut(), &values).unwrap();
        tensor
    }
}

/// What a call makes of its outputs, each a view inside of a larger tensor, whose other elements must be left alone.
fn run<const O: usize, const I: usize>(
    dev: &dyn Device,
    outs: &[Operand; O],
    ins: &[Operand; I],
    call: impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
) -> [Vec<f64>; O] {
    let mut written = outs.clone().map(|out| out.tensor(dev));
    let read = ins.clone().map(|input| input.tensor(dev));
    let mut muts = written.iter_mut().zip(outs).map(|(tensor, out)| {
        tensor.view_mut().rows(out.range()).unwrap().reshape(out.shape()).unwrap()
    });
    let mut refs = read.iter().zip(ins).map(|(tensor, input)| {
        tensor.view().rows(input.range()).unwrap().reshape(input.shape()).unwrap()
    });
    let muts = std::array::from_fn(|_| muts.next().unwrap());
    let refs = std::array::from_fn(|_| refs.next().unwrap());
    call(dev, muts, refs).unwrap();
    std::array::from_fn(|i| {
        let values = dev.read_f64(written[i].view()).unwrap();
        let range = outs[i].range();
        assert!(values[..range.start].iter().chain(&values[range.end..]).all(|&x| x == 7.0));
        values[range].to_vec()
    })
}

/// Runs a call on the emulator and on the reference, compares, and returns the kernels with what they loaded and stored, in bytes.
fn check<const O: usize, const I: usize>(
    what: &str,
    outs: &[Operand; O],
    ins: &[Operand; I],
    call: impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
) -> Vec<(&'static str, ptx_emulator::Counters)> {
    let (emulator, dev) = emulated();
    assert_eq!((dev.compute_dtype(), dev.master_dtype()), (DType::BF16, DType::F32));
    let got = run(&*dev, outs, ins, &call);
    let launches = emulator.take_launches();
    let again = run(&*dev, outs, ins, &call);
    assert_eq!(got, again, "{what}: twice is the same bits");
    let expected = run(&Reference::new(), outs, ins, &call);
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = if got == expected { 0.0 } else { relative(got, expected) };
        let allowed = if outs[i].master { EXACT } else { ROUNDED };
        assert!(error <= allowed, "{what}: output {i} is off by {error:e}");
    }
    launches
}

/// x, rstd, cos, sin, y, dx at (B, T, H, D).
fn rotary_operands([b, t, h, d]: [usize; 4]) -> [Operand; 5] {
    let mut draw = Draw::new((b * 1000 + t * 100 + h * 10 + d) as u64);
    let angle =
        |i: usize| (i / (d / 2)) as f64 * 1e4f64.powf(-((i % (d / 2)) as f64) * 2.0 / d as f64);
    [
        Operand::compute(&mut draw, &[b, t, h, d]),
        Operand::master(&[b, t, h], |_| f64::NAN),
        Operand::master(&[t, d / 2], |i| angle(i).cos()),
        Operand::master(&[t, d / 2], |i| angle(i).sin()),
        Operand::compute(&mut draw, &[b, t, h, d]),
    ]
}

#[test]
fn rotary_norm_moves_what_it_says_and_takes_any_view() {
    for ([b, t, h, d], off, wide) in [
        ([1, 3, 1, 16], [0; 4], true),
        ([2, 5, 3, 32], [8, 1, 4, 4], true),
        ([1, 9, 6, 64], [0; 4], true),
        ([2, 17, 5, 128], [8, 3, 4, 8], true),
        ([1, 2, 3, 256], [0; 4], true),
        ([1, 2, 1, 512], [0; 4], true),
        ([1, 2, 2, 1024], [0; 4], false),
        ([1, 3, 2, 96], [0; 4], false),
        ([1, 5, 3, 64], [1, 0, 0, 0], false),
        ([1, 5, 3, 64], [0, 0, 1, 0], false),
        ([1, 5, 3, 64], [0, 0, 0, 2], false),
        ([1, 3, 1, 2], [0; 4], false),
    ] {
        let what = format!("B {b}, T {t}, H {h}, D {d}, views off by {off:?}");
        let [mut x, mut rstd, mut cos, mut sin, _] = rotary_operands([b, t, h, d]);
        [x.off, rstd.off, cos.off, sin.off] = off;
        let launches = check(&what, &[x, rstd], &[cos, sin], |dev, [x, rstd], [cos, sin]| {
            dev.rotary_norm(x, rstd, cos, sin, 1.2)
        });
        let name = if wide { "rotary_norm" } else { "rotary_norm_plain" };
        assert_eq!(launches.iter().map(|l| l.0).collect::<Vec<_>>(), [name], "{what}");
        let counters = &launches[0].1;
        let rows = (b * t * h) as u64;
        assert_eq!(counters.global_store.bytes, rows * (2 * d as u64 + 4), "{what}");
        // x once in whole sectors (at D = 16 half a head is half of one); each sector of the angles by two loads, one from cache.
        if wide && d > 16 && off == [0; 4] {
            let sectors = (rows * 2 + (b * t) as u64 * 8) * d as u64 / 32;
            assert_eq!(counters.global_load.sectors, sectors, "{what}");
        }
    }
}

#[test]
fn rotary_norm_backward_moves_what_it_says_and_takes_any_view() {
    for ([b, t, h, d], off, wide) in [
        ([1, 3, 1, 16], [0; 5], true),
        ([2, 5, 3, 32], [8, 8, 1, 4, 4], true),
        ([1, 9, 6, 64], [0; 5], true),
        ([2, 17, 5, 128], [8, 16, 3, 4, 8], true),
        ([1, 2, 1, 512], [0; 5], true),
        ([1, 3, 2, 96], [0; 5], false),
        ([1, 5, 3, 64], [1, 0, 0, 0, 0], false),
        ([1, 5, 3, 64], [0, 4, 0, 0, 0], false),
        ([1, 5, 3, 64], [0, 0, 0, 3, 0], false),
        ([1, 5, 3, 64], [0, 0, 0, 0, 1], false),
        ([1, 4, 3, 6], [0; 5], false),
    ] {
        let what = format!("B {b}, T {t}, H {h}, D {d}, views off by {off:?}");
        let [x, rstd, mut cos, mut sin, mut dx] = rotary_operands([b, t, h, d]);
        let forward = run(
            &Reference::new(),
            &[x.clone(), rstd.clone()],
            &[cos.clone(), sin.clone()],
            |dev, [x, rstd], [cos, sin]| dev.rotary_norm(x, rstd, cos, sin, 1.2),
        );
        let bf16 = |x: &f64| f64::from(Bf16::from_f64(*x).to_f32());
        let mut y = Operand { values: forward[0].iter().map(bf16).collect(), ..x };
        let single = |x: &f64| f64::from(*x as f32);
        let mut rstd = Operand { values: forward[1].iter().map(single).collect(), ..rstd };
        [dx.off, y.off, rstd.off, cos.off, sin.off] = off;
        let launches =
            check(&what, &[dx], &[y, rstd, cos, sin], |dev, [dx], [y, rstd, cos, sin]| {
                dev.rotary_norm_backward(dx, y, rstd, cos, sin, 1.2)
            });
        let name = if wide { "rotary_norm_backward" } else { "rotary_norm_backward_plain" };
        assert_eq!(launches.iter().map(|l| l.0).collect::<Vec<_>>(), [name], "{what}");
        let rows = (b * t * h) as u64;
        assert_eq!(launches[0].1.global_store.bytes, rows * 2 * d as u64, "{what}");
    }
}

/// v or dv, gate, ve, x, w, dx at N, K, D, C, G.
fn gate_operands([n, k, d, c, g]: [usize; 5]) -> [Operand; 6] {
    let mut draw = Draw::new((n * 1000 + k * 100 + d) as u64);
    let v = Operand::compute(&mut draw, &[n, k, d]);
    let ve = Operand::compute(&mut draw, &[n, k, d]);
    let x = Operand::compute(&mut draw, &[n, c]);
    let w = Operand::compute(&mut draw, &[k, g]);
    let dx = Operand::compute(&mut draw, &[n, c]);
    // Gates strictly between 0 and 3.
    let gate = Operand::master(&[n, k], |i| 0.1 + (i * 37 % 29) as f64 / 10.0);
    [v, gate, ve, x, w, dx]
}

#[test]
fn value_gate_moves_what_it_says_and_takes_any_view() {
    for ([n, k, d, c, g], off, wide) in [
        ([1, 1, 8, 1, 1], 0, true),
        ([7, 3, 64, 40, 12], 8, true),
        ([9, 5, 128, 33, 32], 0, true),
        ([2, 3, 256, 5, 5], 16, true),
        ([3, 2, 96, 12, 12], 0, false),
        ([5, 3, 64, 40, 12], 1, false),
        ([5, 1, 512, 40, 12], 0, false),
        ([4, 2, 33, 7, 0], 0, false),
    ] {
        let what = format!("N {n}, K {k}, D {d}, C {c}, G {g}, v off by {off}");
        let [mut v, gate, ve, mut x, w, _] = gate_operands([n, k, d, c, g]);
        let gate = Operand { values: vec![f64::NAN; n * k], ..gate };
        (v.off, x.off) = (off, 3);
        let launches = check(&what, &[v, gate], &[ve, x, w], |dev, [v, gate], [ve, x, w]| {
            dev.value_gate(v, gate, ve, x, w, 3.0)
        });
        assert_eq!(launches.len(), 1, "{what}");
        let (heads, counters) = ((n * k) as u64, &launches[0].1);
        assert_eq!(counters.global_store.bytes, heads * (2 * d as u64 + 4), "{what}");
        assert_eq!(counters.global_load.bytes, heads * (4 * d + 4 * g) as u64, "{what}");
        // A head in 16-byte accesses is a store of v and one of the gate for each group of lanes.
        let groups = if wide { 32 / (d as u64 / 8).min(32) } else { 1 };
        let stores =
            if wide { 2 * heads.div_ceil(groups) } else { heads * (1 + d.div_ceil(32) as u64) };
        assert_eq!(counters.global_store.requests, stores, "{what}");
    }
}

#[test]
fn value_gate_backward_sums_in_blocks_and_takes_any_view() {
    for ([n, k, d, c, g], off, blocks) in [
        ([1, 1, 8, 1, 1], 0, 1),
        ([70, 3, 64, 40, 12], 8, 3),
        ([33, 5, 128, 33, 32], 0, 2),
        ([3, 2, 96, 12, 12], 0, 1),
        ([65, 3, 64, 40, 12], 1, 3),
        ([4, 2, 33, 7, 0], 0, 1),
        // Fewer rows at a time than there are, and blocks that take several turns.
        ([7, 2000, 2, 9, 9], 0, 4),
        ([70, 100, 2, 2000, 1300], 0, 2),
    ] {
        let what = format!("N {n}, K {k}, D {d}, C {c}, G {g}, dv off by {off}");
        let [mut dv, gate, ve, x, w, dx] = gate_operands([n, k, d, c, g]);
        dv.off = off;
        let dve = Operand { values: vec![f64::NAN; n * k * d], ..ve.clone() };
        let dw = Operand::master(&[k, g], |i| (i % 7) as f64);
        let launches = check(
            &what,
            &[dve, dw, dx],
            &[dv, ve, gate, x, w],
            |dev, [dve, dw, dx], [dv, ve, gate, x, w]| {
                dev.value_gate_backward(dve, dw, dx, dv, ve, gate, x, w, 3.0)
            },
        );
        let names: Vec<_> = launches.iter().map(|launch| launch.0).collect();
        if g > 0 {
            assert_eq!(names, ["value_gate_backward", "value_gate_weights"], "{what}");
            let loaded = launches[1].1.global_load.bytes;
            assert_eq!(loaded, (4 * k * g * (blocks + 1)) as u64, "{what}: a sum from each block");
        } else {
            assert_eq!(names, ["value_gate_backward"], "{what}");
        }
    }
}

#[test]
fn more_gates_than_there_is_room_for_are_refused_with_the_figures() {
    let [dv, gate, ve, x, w, dx] = gate_operands([1, 2, 2, 140_000, 140_000]);
    let (_, dev) = emulated();
    let mut outs =
        [ve.clone(), Operand::master(&[2, 140_000], |_| 0.0), dx].map(|o| o.tensor(&*dev));
    let ins = [dv, ve, gate, x, w].map(|o| (o.tensor(&*dev), o.shape()));
    let shapes = [Shape::from([1, 2, 2]), Shape::from([2, 140_000]), Shape::from([1, 140_000])];
    let mut muts = outs.iter_mut().zip(shapes).map(|(tensor, shape)| {
        tensor.view_mut().rows(0..shape.elements()).unwrap().reshape(shape).unwrap()
    });
    let [dve, dw, dx] = std::array::from_fn(|_| muts.next().unwrap());
    let [dv, ve, gate, x, w] = std::array::from_fn(|i| {
        let (tensor, shape) = &ins[i];
        tensor.view().rows(0..shape.elements()).unwrap().reshape(*shape).unwrap()
    });
    let refused = dev.value_gate_backward(dve, dw, dx, dv, ve, gate, x, w, 3.0);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "value_gate_backward: 2 heads with 140000 gate channels; kernels have room for 4096 heads and 262144 weights"
    );
}
