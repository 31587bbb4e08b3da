//! The `cuda` device's kernels other than attention's, emulated, beyond what conformance asks: views that start anywhere, whose neighbours must
//! stay as they were; every branch of every kernel; results that are exact, or equal to another kernel's, to the bit.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;
use crate::placed;

use common::Draw;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::{Arg, Kernel, Module};
use farthing_kernels::{Bf16, Coef, DType, Device, Error, Shape, Tensor};
use placed::bodies::{self, Body, ids, sorted};

fn emulated() -> Box<dyn Device> {
    Box::new(Cuda::emulated().unwrap())
}

fn holds(body: Body) {
    if let Err(failure) = body(&*emulated()) {
        panic!("{failure}");
    }
}

macro_rules! from_anywhere {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            holds(bodies::$name);
        }
    )*};
}
from_anywhere! {
    rms_norm rms_norm_backward mix mix_norm mix_backward relu2 relu2_backward swiglu swiglu_backward adamw embed embed_backward smear smear_backward
    equilibrate_rows renormalize variance_reduce nesterov cautious_update sum sum_squares cross_entropy argmax
}

fn tensor(dev: &dyn Device, dtype: DType, shape: impl Into<Shape>, values: &[f64]) -> Tensor {
    let mut tensor = dev.alloc(dtype, shape.into()).unwrap();
    dev.write_f64(tensor.view_mut(), values).unwrap();
    tensor
}

fn bytes(dev: &dyn Device, tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    dev.read(&mut bytes, tensor.view()).unwrap();
    bytes
}

#[test]
fn mix_norm_is_mix_and_then_rms_norm_to_the_bit() {
    let dev = &*emulated();
    let mut draw = Draw::new(1);
    for (n, c) in [(5, 64), (3, 33), (9, 1024), (2, 4096), (2, 2049), (1, 10_248)] {
        let x = common::tensor(dev, [n, c], &draw.normals(n * c));
        let y = common::tensor(dev, [n, c], &draw.normals(n * c));
        let a = tensor(dev, DType::F32, [1], &draw.normals(1));
        let (a, b) = (Coef::new(a.view(), 1.25), Coef { parameter: None, times: -0.3 });
        let activations = || dev.activations([n, c]).unwrap();
        let (mut out, mut normed) = (activations(), activations());
        let mut rstd = dev.master([n]).unwrap();
        let (v, w) = (normed.view_mut(), rstd.view_mut());
        dev.mix_norm(out.view_mut(), v, w, x.view(), a, y.view(), b).unwrap();
        let (mut out2, mut normed2) = (activations(), activations());
        let mut rstd2 = dev.master([n]).unwrap();
        dev.mix(out2.view_mut(), x.view(), a, y.view(), b).unwrap();
        dev.rms_norm(normed2.view_mut(), rstd2.view_mut(), out2.view()).unwrap();
        assert_eq!(bytes(dev, &out), bytes(dev, &out2), "{n} × {c}");
        assert_eq!(bytes(dev, &rstd), bytes(dev, &rstd2), "{n} × {c}");
        assert_eq!(bytes(dev, &normed), bytes(dev, &normed2), "{n} × {c}");
    }
}

/// More elements than 1024 blocks cover at once, and more partial sums than the second launch has threads.
#[test]
fn the_sums_of_many_blocks_are_added() {
    let dev = &*emulated();
    let n = 1024 * 2048 + 4099;
    // Small integers: every product and sum is exact, whatever the order.
    let x: Vec<f64> = (0..n).map(|i| (i % 5) as f64 - 1.0).collect();
    let d: Vec<f64> = (0..n).map(|i| (i % 3) as f64 - 1.0).collect();
    let expected: f64 = x.iter().zip(&d).map(|(x, d)| x * d).sum();
    let (x, mut dx) = (common::tensor(dev, [n], &x), common::tensor(dev, [n], &d));
    let mut dy = dev.activations([n]).unwrap();
    let (mut da, mut db) =
        (tensor(dev, DType::F32, [1], &[3.0]), tensor(dev, DType::F32, [1], &[-1.0]));
    let half = Coef { parameter: None, times: 0.5 };
    let (sums, y) = ((Some(da.view_mut()), Some(db.view_mut())), x.view());
    let (dx_view, dy_view) = (dx.view_mut(), dy.view_mut());
    dev.mix_backward(dx_view, dy_view, sums.0, sums.1, x.view(), Coef::ONE, y, half).unwrap();
    assert_eq!(common::values(dev, &da), [3.0 + expected]);
    assert_eq!(common::values(dev, &db), [-1.0 + 0.5 * expected]);
    let halves: Vec<f64> = d.iter().map(|d| 0.5 * d).collect();
    assert_eq!(common::values(dev, &dx), d);
    assert_eq!(common::values(dev, &dy), halves);
}

#[test]
fn what_is_not_finite_goes_through_as_in_f32() {
    let dev = &*emulated();
    let edges = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0, 0.0, 3.3e38, 1e-40, -1e-40, 2.0];
    let run = |f: &dyn Fn(f32) -> f32, op: &dyn Fn(&mut Tensor, &Tensor)| {
        let x = common::tensor(dev, [edges.len()], &edges);
        let mut y = dev.activations([edges.len()]).unwrap();
        op(&mut y, &x);
        let rounded = |x: f64| Bf16::from_f64(x).to_f32();
        let expected = edges.map(|x| Bf16::from_f64(f64::from(f(rounded(x)))).to_f32());
        for (i, (y, e)) in common::values(dev, &y).into_iter().zip(expected).enumerate() {
            assert!(y == f64::from(e) || (y.is_nan() && e.is_nan()), "{}: {y}, not {e}", edges[i]);
        }
    };
    // The larger of NaN and 0 is 0, here as in the reference.
    run(&|x| x.max(0.0) * x.max(0.0), &|y, x| dev.relu2(y.view_mut(), x.view()).unwrap());
    // Multiplied and added at once: twice the largest number is none too large in between.
    run(&|x| 2.0_f32.mul_add(x, -x), &|y, x| {
        let (two, minus) =
            (Coef { parameter: None, times: 2.0 }, Coef { parameter: None, times: -1.0 });
        dev.mix(y.view_mut(), x.view(), two, x.view(), minus).unwrap();
    });
    // Gates from shut to open: exp overflows on one side, underflows on the other.
    let gates = [-3e38, -1e4, -200.0, -89.0, -88.0, 0.0, 88.0, 1e4, 3e38];
    let gate = common::tensor(dev, [gates.len()], &gates);
    let one = common::tensor(dev, [gates.len()], &[1.0; 9]);
    let mut y = dev.activations([gates.len()]).unwrap();
    dev.swiglu(y.view_mut(), gate.view(), one.view()).unwrap();
    for (y, g) in common::values(dev, &y).into_iter().zip(common::values(dev, &gate)) {
        let expected = g / (1.0 + (-g).exp());
        assert!((y - expected).abs() <= 1e-2 * expected.abs() + 1e-36, "{g}: {y}, not {expected}");
    }
}

#[test]
fn embed_clamps_ids_into_the_table() {
    let dev = &*emulated();
    let (v, c, n) = (3, 8, 6);
    let values: Vec<f64> = (0..v * c).map(|i| i as f64).collect();
    let table = common::tensor(dev, [v, c], &values);
    let ids = common::indices(dev, &[0, -1, i32::MIN, 3, i32::MAX, 2]);
    let mut out = dev.activations([n, c]).unwrap();
    dev.embed(out.view_mut(), table.view(), ids.view()).unwrap();
    let rows: Vec<f64> =
        common::values(dev, &out).iter().step_by(c).map(|x| x / c as f64).collect();
    assert_eq!(rows, [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]);

    let dout = common::tensor(dev, [n, c], &vec![1.0; n * c]);
    let sorted = sorted(&[0, -1, i32::MIN, 3, i32::MAX, 2]);
    let order = common::indices(dev, &sorted);
    let mut dtable = dev.master([v, c]).unwrap();
    dev.embed_backward(dtable.view_mut(), dout.view(), ids.view(), order.view()).unwrap();
    let sums: Vec<f64> = common::values(dev, &dtable).iter().step_by(c).copied().collect();
    assert_eq!(sums, [3.0, 0.0, 3.0]);
    // Places outside of the order touch no memory but the tables' either.
    let order = common::indices(dev, &[-5, 0, 1, 2, 99, i32::MAX]);
    dev.embed_backward(dtable.view_mut(), dout.view(), ids.view(), order.view()).unwrap();
}

/// A column of the table's gradient as the kernels add it up: the rows of an id one after another within 32 places of the order; those sums one
/// after another within 256; of the sums that other 256 begin with, every eighth, and then these eight.
fn summed(dtable: &mut [f32], d: &[f32], ids: &[i32], order: &[i32]) {
    let id = |place: usize| ids[order[place] as usize];
    let mut start = 0;
    while start < order.len() {
        let end = (start..order.len()).find(|&p| id(p) != id(start)).unwrap_or(order.len());
        let to = &mut dtable[id(start) as usize];
        let rows = |from: usize, to: usize, first: f32| {
            order[from..to].iter().fold(first, |sum, &row| sum + d[row as usize])
        };
        if start / 32 == (end - 1) / 32 {
            *to = rows(start, end, *to);
        } else {
            let mut pieces = vec![0f32; (end - 1) / 256 - start / 256 + 1];
            let mut from = start;
            while from < end {
                let border = end.min((from / 32 + 1) * 32);
                pieces[from / 256 - start / 256] += rows(from, border, 0.0);
                from = border;
            }
            *to += pieces[0];
            if pieces.len() > 1 {
                let warps = (0..8).map(|w| pieces[1..].iter().skip(w).step_by(8).sum::<f32>());
                *to += warps.fold(0.0, |sum, warp| sum + warp);
            }
        }
        start = end;
    }
}

#[test]
fn embed_backward_adds_in_an_order_that_the_ids_give() {
    let dev = &*emulated();
    let mut draw = Draw::new(2);
    for (n, v, c) in [(130, 5, 33), (300, 7, 136), (1100, 5, 33), (2900, 3, 4), (9000, 2, 4)] {
        for ids in ids(n, v, &mut draw) {
            let (table, dout) = (draw.normals(v * c), draw.normals(n * c));
            let mut dtable = tensor(dev, DType::F32, [v, c], &table);
            let dout = common::tensor(dev, [n, c], &dout);
            let sorted = sorted(&ids);
            let (indices, order) = (common::indices(dev, &ids), common::indices(dev, &sorted));
            let d = common::values(dev, &dout);
            let column = |x: &[f64], j: usize| -> Vec<f32> {
                x.iter().skip(j).step_by(c).map(|&x| x as f32).collect()
            };
            dev.embed_backward(dtable.view_mut(), dout.view(), indices.view(), order.view())
                .unwrap();
            let got = common::values(dev, &dtable);
            for j in 0..c {
                let mut expected = column(&table, j);
                summed(&mut expected, &column(&d, j), &ids, &sorted);
                assert_eq!(column(&got, j), expected, "N {n}, V {v}, C {c}, column {j}");
            }
        }
    }
}

/// Of many columns a launch takes as many slices as there is room for: the slices of two launches are those of one.
#[test]
fn embed_backward_may_be_launched_slice_by_slice() {
    static EMBEDDING: Module =
        Module { name: "embedding", ptx: include_str!("../ptx/sm80/embedding.ptx") };
    const fn kernel(name: &'static str) -> Kernel {
        Kernel { module: &EMBEDDING, name, threads: 256, shared_bytes: 0 }
    }
    static KERNELS: [Kernel; 2] = [kernel("embed_backward"), kernel("embed_backward_heads")];
    let cuda = Cuda::emulated().unwrap();
    let dev: &dyn Device = &cuda;
    let mut draw = Draw::new(4);
    let (n, v, c) = (1100, 9, 300);
    for ids in ids(n, v, &mut draw) {
        let dout = common::tensor(dev, [n, c], &draw.normals(n * c));
        let (indices, order) = (common::indices(dev, &ids), common::indices(dev, &sorted(&ids)));
        let [mut whole, parts] = [(); 2].map(|()| dev.master([v, c]).unwrap());
        dev.embed_backward(whole.view_mut(), dout.view(), indices.view(), order.view()).unwrap();
        let heads = dev.master([5 * 2 * 128]).unwrap();
        let address = |tensor: &Tensor| Arg::Address(tensor.view().address() as u64);
        let [n, v, c] = [n, v, c].map(|size| Arg::I32(size as i32));
        for (first, slots) in [(0, 2), (2, 1)] {
            let views = [&parts, &heads, &dout, &indices, &order].map(address);
            let sizes = [n, n, v, c, Arg::I32(first), Arg::I32(slots)];
            let args = [&views[..], &sizes].concat();
            for (kernel, pieces) in KERNELS.iter().zip([5, 4]) {
                cuda.driver().launch(kernel, [pieces * slots as u32, 1, 1], &args).unwrap();
            }
        }
        assert_eq!(common::values(dev, &parts), common::values(dev, &whole));
    }
}

#[test]
fn nothing_is_launched_for_nothing() {
    let dev = &*emulated();
    let (x, mut y) = (dev.activations([0, 8]).unwrap(), dev.activations([0, 8]).unwrap());
    let mut rstd = dev.master([0]).unwrap();
    dev.relu2(y.view_mut(), x.view()).unwrap();
    dev.rms_norm(y.view_mut(), rstd.view_mut(), x.view()).unwrap();
    let (mut dy, mut da) = (dev.activations([0, 8]).unwrap(), tensor(dev, DType::F32, [1], &[2.0]));
    let (dx, dy) = (y.view_mut(), dy.view_mut());
    let da_view = Some(da.view_mut());
    dev.mix_backward(dx, dy, da_view, None, x.view(), Coef::ONE, x.view(), Coef::ONE).unwrap();
    assert_eq!(common::values(dev, &da), [2.0]);
    let (table, ids) = (dev.activations([4, 8]).unwrap(), common::indices(dev, &[]));
    let order = common::indices(dev, &[]);
    dev.embed(y.view_mut(), table.view(), ids.view()).unwrap();
    let mut dtable = dev.master([4, 8]).unwrap();
    dev.embed_backward(dtable.view_mut(), x.view(), ids.view(), order.view()).unwrap();
    // Of a table without rows there is nothing to look up.
    let (table, ids) = (dev.activations([0, 8]).unwrap(), common::indices(dev, &[0]));
    let mut out = dev.activations([1, 8]).unwrap();
    let refused = dev.embed(out.view_mut(), table.view(), ids.view()).unwrap_err();
    assert!(matches!(refused, Error::Argument { op: "embed", .. }), "{refused}");
}
