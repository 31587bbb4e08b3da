//! The `cpu` device at the shapes of two training steps: a tiny model and one like nanochat's depth 12.
//!
//! `cargo bench -p farthing-kernels --bench step [-- FILTER]`. After criterion's own lines, a table gives each operation's
//! median time, its GFLOP/s (GB/s where it is bound by memory), and the ratio to the `gemm` crate at 2048³ in the same run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark, run by hand")]

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::{AdamWHyper, AttentionShape, Coef, DType, Device, Shape, Tensor};

/// What an operation's rate is counted in.
#[derive(Clone, Copy)]
enum Work {
    Flops(f64),
    Bytes(f64),
}

struct Bench {
    criterion: Criterion,
    rows: Vec<(String, Duration, Work)>,
}

impl Bench {
    /// Times `f`, and keeps the median of its samples for the table.
    fn run(&mut self, name: &str, shape: &str, work: Work, mut f: impl FnMut()) {
        let samples = RefCell::new(Vec::new());
        self.criterion.bench_function(&format!("{name} {shape}"), |b| {
            b.iter_custom(|iterations| {
                let start = Instant::now();
                (0..iterations).for_each(|_| f());
                let time = start.elapsed();
                samples.borrow_mut().push(time / iterations as u32);
                time
            });
        });
        let mut samples = samples.into_inner();
        samples.sort_unstable();
        if let Some(&median) = samples.get(samples.len() / 2) {
            self.rows.push((format!("{name} {shape}"), median, work));
        }
    }

    fn table(&self) {
        let rate = |time: Duration, work: f64| work / time.as_secs_f64() / 1e9;
        let mut ceiling = None;
        println!("\n{:<58} {:>10} {:>10} {:>8}", "operation", "time, µs", "rate", "of gemm");
        for (name, time, work) in &self.rows {
            let us = time.as_secs_f64() * 1e6;
            match work {
                Work::Flops(flops) => {
                    let rate = rate(*time, *flops);
                    let ceiling = *ceiling.get_or_insert(rate);
                    println!("{name:<58} {us:>10.1} {rate:>6.1} GF/s {:>7.2}", rate / ceiling);
                }
                Work::Bytes(bytes) => {
                    println!("{name:<58} {us:>10.1} {:>6.1} GB/s", rate(*time, *bytes));
                }
            }
        }
    }
}

/// Tensors with values in [−1, 1).
struct Maker<'a> {
    dev: &'a dyn Device,
    seed: u64,
}

impl Maker<'_> {
    fn floats<const N: usize>(&mut self, dims: [usize; N]) -> Tensor {
        let shape = Shape::from(dims);
        let mut tensor = self.dev.activations(shape).unwrap();
        let values: Vec<f64> = (0..shape.elements())
            .map(|_| {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (self.seed >> 40) as f64 / f64::from(1u32 << 23) - 1.0
            })
            .collect();
        self.dev.write_f64(tensor.view_mut(), &values).unwrap();
        tensor
    }

    fn ids(&self, n: usize, below: usize) -> Tensor {
        let ids: Vec<i32> = (0..n).map(|i| (i * 7919 % below) as i32).collect();
        let mut tensor = self.dev.alloc(DType::I32, [n].into()).unwrap();
        self.dev.write_i32(tensor.view_mut(), &ids).unwrap();
        tensor
    }
}

/// One model's shapes: batch, positions, channels, heads, vocabulary, window.
struct Model {
    name: &'static str,
    b: usize,
    t: usize,
    c: usize,
    h: usize,
    v: usize,
    window: usize,
}

fn ceiling(bench: &mut Bench, threads: usize) {
    let n = 2048;
    let (a, b, mut c) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0f32; n * n]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let s = n as isize;
    let flops = Work::Flops(2.0 * (n as f64).powi(3));
    bench.run("gemm crate", "2048³", flops, || {
        // SAFETY: three column-major n × n matrices.
        pool.install(|| unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                n,
                n,
                n,
                c.as_mut_ptr(),
                s,
                1,
                false,
                a.as_ptr(),
                s,
                1,
                b.as_ptr(),
                s,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm_common::Parallelism::Rayon(threads),
            );
        });
    });
    black_box(&c);
}

fn products(bench: &mut Bench, dev: &dyn Device, model: &Model) {
    let mut make = Maker { dev, seed: 1 };
    let n = model.b * model.t;
    for (o, i) in
        [(model.c, model.c), (4 * model.c, model.c), (model.c, 4 * model.c), (model.v, model.c)]
    {
        let (x, w, dy) = (make.floats([n, i]), make.floats([o, i]), make.floats([n, o]));
        let (mut y, mut dx, mut dw) =
            (make.floats([n, o]), make.floats([n, i]), make.floats([o, i]));
        let shape = format!("{} N{n} I{i} O{o}", model.name);
        let flops = Work::Flops(2.0 * (n * o * i) as f64);
        bench.run("linear", &shape, flops, || {
            dev.linear(y.view_mut(), x.view(), w.view(), false).unwrap();
        });
        bench.run("linear_dx", &shape, flops, || {
            dev.linear_dx(dx.view_mut(), dy.view(), w.view(), false).unwrap();
        });
        bench.run("linear_dw", &shape, flops, || {
            dev.linear_dw(dw.view_mut(), x.view(), dy.view(), true).unwrap();
        });
    }
}

fn attention(bench: &mut Bench, dev: &dyn Device, model: &Model, window: usize) {
    let mut make = Maker { dev, seed: 2 };
    let Model { b, t, h, .. } = *model;
    let d = model.c / h;
    let dims = [b, t, h, d];
    let at = AttentionShape { window, scale: 1.0 / (d as f64).sqrt() };
    let (q, k, v, dout) =
        (make.floats(dims), make.floats(dims), make.floats(dims), make.floats(dims));
    let (mut out, mut lse, mut delta) =
        (make.floats(dims), make.floats([b, h, t]), make.floats([b, h, t]));
    let (mut dq, mut dk, mut dv) = (make.floats(dims), make.floats(dims), make.floats(dims));
    let pairs: usize = (0..t).map(|t| t.min(window) + 1).sum();
    let flops = |per_pair: usize| Work::Flops((per_pair * d * pairs * h * b) as f64);
    let shape = format!("{} B{b} T{t} H{h} D{d} W{window}", model.name);
    bench.run("attention", &shape, flops(4), || {
        dev.attention(out.view_mut(), lse.view_mut(), q.view(), k.view(), v.view(), at).unwrap();
    });
    bench.run("attention_backward", &shape, flops(10), || {
        dev.attention_backward(
            dq.view_mut(),
            dk.view_mut(),
            dv.view_mut(),
            delta.view_mut(),
            dout.view(),
            out.view(),
            lse.view(),
            q.view(),
            k.view(),
            v.view(),
            at,
        )
        .unwrap();
    });
}

fn pointwise(bench: &mut Bench, dev: &dyn Device, model: &Model) {
    let mut make = Maker { dev, seed: 3 };
    let Model { b, t, c, h, v, .. } = *model;
    let n = b * t;
    let bytes = |floats: usize| Work::Bytes((4 * floats) as f64);
    let shape = format!("{} N{n} C{c}", model.name);
    let (x, y) = (make.floats([n, c]), make.floats([n, c]));
    let (mut out, mut normed, mut rstd) =
        (make.floats([n, c]), make.floats([n, c]), make.floats([n]));
    let factor = make.floats([1]);
    let a = Coef::new(factor.view(), 1.0);
    bench.run("mix_norm", &shape, bytes(4 * n * c), || {
        dev.mix_norm(
            out.view_mut(),
            normed.view_mut(),
            rstd.view_mut(),
            x.view(),
            a,
            y.view(),
            Coef::ONE,
        )
        .unwrap();
    });
    bench.run("rms_norm_backward", &shape, bytes(4 * n * c), || {
        dev.rms_norm_backward(out.view_mut(), y.view(), x.view(), rstd.view(), true).unwrap();
    });
    let (mut da, mut db) = (make.floats([1]), make.floats([1]));
    bench.run("mix_backward", &shape, bytes(6 * n * c), || {
        dev.fill(out.view_mut(), 1e-3).unwrap();
        dev.mix_backward(
            out.view_mut(),
            normed.view_mut(),
            Some(da.view_mut()),
            Some(db.view_mut()),
            x.view(),
            a,
            y.view(),
            Coef::ONE,
        )
        .unwrap();
    });
    let (cos, sin) = (make.floats([t, c / h / 2]), make.floats([t, c / h / 2]));
    let (mut heads, mut head_rstd) = (make.floats([b, t, h, c / h]), make.floats([b, t, h]));
    bench.run("rotary_norm", &shape, bytes(2 * n * c), || {
        let (x, rstd) = (heads.view_mut(), head_rstd.view_mut());
        dev.rotary_norm(x, rstd, cos.view(), sin.view(), 1.0).unwrap();
    });
    let wide = make.floats([n, 4 * c]);
    let mut wide_out = make.floats([n, 4 * c]);
    bench.run("relu2", &shape, bytes(8 * n * c), || {
        dev.relu2(wide_out.view_mut(), wide.view()).unwrap();
    });
    let gate = make.floats([n, 4 * c]);
    bench.run("swiglu", &shape, bytes(12 * n * c), || {
        dev.swiglu(wide_out.view_mut(), gate.view(), wide.view()).unwrap();
    });
    let targets = make.ids(n.min(1024), v);
    let (mut logits, mut losses) = (make.floats([n.min(1024), v]), make.floats([n.min(1024)]));
    let shape = format!("{} N{} V{v}", model.name, n.min(1024));
    bench.run("cross_entropy", &shape, bytes(2 * n.min(1024) * v), || {
        dev.cross_entropy(
            losses.view_mut(),
            logits.view_mut(),
            targets.view(),
            v,
            15.0,
            Some(1e-3),
        )
        .unwrap();
    });
}

fn updates(bench: &mut Bench, dev: &dyn Device, dims: [usize; 3]) {
    let mut make = Maker { dev, seed: 4 };
    let [k, r, s] = dims;
    let shape = format!("({k}, {r}, {s})");
    let mut x = make.floats(dims);
    let len = dev.polar_express_scratch(dims.into());
    let mut scratch = dev.master([len]).unwrap();
    let (m, n) = (r.min(s) as f64, r.max(s) as f64);
    let steps = [
        [8.0, -22.5, 15.9],
        [4.0, -2.9, 0.5],
        [4.0, -2.9, 0.5],
        [3.3, -2.5, 0.5],
        [1.9, -1.3, 0.4],
    ];
    let flops = Work::Flops(5.0 * k as f64 * (4.0 * m * m * n + 2.0 * m * m * m));
    bench.run("polar_express", &shape, flops, || {
        dev.polar_express(x.view_mut(), scratch.view_mut(), 1.02, &steps).unwrap();
    });
    let (mut p, mut m, mut v, g) =
        (make.floats(dims), make.floats(dims), make.floats(dims), make.floats(dims));
    dev.fill(v.view_mut(), 0.1).unwrap();
    let hyper =
        AdamWHyper { lr: 1e-3, beta1: 0.8, beta2: 0.95, eps: 1e-10, weight_decay: 0.0, step: 10 };
    bench.run("adamw", &shape, Work::Bytes((28 * k * r * s) as f64), || {
        dev.adamw(p.view_mut(), m.view_mut(), v.view_mut(), g.view(), hyper).unwrap();
    });
}

fn main() {
    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .without_plots()
        .configure_from_args();
    let mut bench = Bench { criterion, rows: Vec::new() };
    let cpu = Cpu::new(0).unwrap();
    let tiny = Model { name: "tiny", b: 8, t: 256, c: 128, h: 4, v: 1024, window: 128 };
    let d12 = Model { name: "d12", b: 1, t: 1024, c: 768, h: 6, v: 8192, window: 256 };
    ceiling(&mut bench, cpu.threads());
    for model in [&tiny, &d12] {
        products(&mut bench, &cpu, model);
        attention(&mut bench, &cpu, model, model.t);
        attention(&mut bench, &cpu, model, model.window);
        pointwise(&mut bench, &cpu, model);
    }
    updates(&mut bench, &cpu, [16, 128, 128]);
    updates(&mut bench, &cpu, [4, 512, 128]);
    updates(&mut bench, &cpu, [2, 768, 768]);
    bench.table();
}
