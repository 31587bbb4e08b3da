//! The matrix products of training steps on the `cpu` device, beside the `gemm` crate and the rate of fused multiply-adds, all in turns.
//!
//! `cargo bench -p farthing-kernels --bench products [-- ROUNDS]`. The fastest of the rounds counts: what disturbs a machine makes a round slower, never faster.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark, run by hand")]
#![allow(
    clippy::inline_always,
    reason = "a loop must be inlined into what is compiled for wide vectors"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use farthing_kernels::cpu::Cpu;
use farthing_kernels::{Device, Tensor};

/// Rows, channels in, channels out of the products of small training steps, the head's among them, and a square.
const SHAPES: [[usize; 3]; 10] = [
    [4096, 256, 256],
    [4096, 256, 1024],
    [4096, 1024, 256],
    [1024, 256, 8192],
    [512, 384, 32768],
    [8192, 384, 384],
    [8192, 384, 1536],
    [8192, 1536, 384],
    [1024, 768, 3072],
    [2048, 2048, 2048],
];

/// What is timed, by its fastest round.
struct Rate {
    name: &'static str,
    flops: f64,
    best: Duration,
}

impl Rate {
    fn new(name: &'static str, flops: f64) -> Self {
        Self { name, flops, best: Duration::MAX }
    }

    fn time(&mut self, f: impl FnOnce()) {
        let start = Instant::now();
        f();
        self.best = self.best.min(start.elapsed());
    }

    fn gflops(&self) -> f64 {
        self.flops / self.best.as_secs_f64() / 1e9
    }
}

fn filled(dev: &dyn Device, shape: [usize; 2]) -> Tensor {
    let mut tensor = dev.activations(shape).unwrap();
    let values: Vec<f64> = (0..shape[0] * shape[1]).map(|i| (i % 13) as f64 / 13.0 - 0.5).collect();
    dev.write_f64(tensor.view_mut(), &values).unwrap();
    tensor
}

/// Chains of fused multiply-adds in registers, on every thread.
fn multiply_adds(threads: usize, steps: usize) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(move || {
                pulp::Arch::new().dispatch(Chains(steps));
            });
        }
    });
}

/// Sums of a register each; more than the latency of an addition times the additions of a cycle.
const CHAINS: usize = 12;

struct Chains(usize);

impl pulp::WithSimd for Chains {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let splat = |x: f32| simd.splat_f32s(black_box(x));
        let (by, plus) = (splat(0.999), splat(0.001));
        let mut sums: [S::f32s; CHAINS] = std::array::from_fn(|i| splat(i as f32));
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, by, plus);
            }
        }
        for sum in sums {
            black_box(simd.reduce_sum_f32s(sum));
        }
    }
}

/// y = x · wᵀ by the crate, on all of its threads.
fn library(threads: usize, y: &mut [f32], x: &[f32], w: &[f32], [n, i, o]: [usize; 3]) {
    assert!(y.len() == n * o && x.len() == n * i && w.len() == o * i);
    // SAFETY: the lengths are those of the matrices.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            o,
            n,
            i,
            y.as_mut_ptr(),
            o as isize,
            1,
            false,
            w.as_ptr(),
            1,
            i as isize,
            x.as_ptr(),
            i as isize,
            1,
            1.0,
            1.0,
            false,
            false,
            false,
            if threads == 1 {
                gemm_common::Parallelism::None
            } else {
                gemm_common::Parallelism::Rayon(threads)
            },
        );
    }
}

fn main() {
    let rounds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(15);
    println!("GFLOP/s, and the share of the rate of fused multiply-adds");
    for threads in [1, 2] {
        let cpu = Cpu::new(threads).unwrap();
        let dev: &dyn Device = &cpu;
        for [n, i, o] in SHAPES {
            let flops = 2.0 * (n * i * o) as f64;
            let (x, w, dy) = (filled(dev, [n, i]), filled(dev, [o, i]), filled(dev, [n, o]));
            let mut y = dev.activations([n, o]).unwrap();
            let (mut dx, mut dw) = (dev.activations([n, i]).unwrap(), dev.master([o, i]).unwrap());
            let mut by_library = vec![0f32; n * o];
            let lanes = if cfg!(target_arch = "x86_64") { 16 } else { 4 };
            let steps = (flops / (2 * CHAINS * lanes * threads) as f64) as usize;
            let mut rates = [
                Rate::new("peak", (steps * 2 * CHAINS * lanes * threads) as f64),
                Rate::new("forward", flops),
                Rate::new("dx", flops),
                Rate::new("dw", flops),
                Rate::new("gemm crate", flops),
            ];
            for _ in 0..rounds {
                let [peak, forward, of_x, of_w, other] = &mut rates;
                peak.time(|| multiply_adds(threads, steps));
                forward.time(|| dev.linear(y.view_mut(), x.view(), w.view(), false).unwrap());
                of_x.time(|| dev.linear_dx(dx.view_mut(), dy.view(), w.view(), false).unwrap());
                of_w.time(|| dev.linear_dw(dw.view_mut(), x.view(), dy.view(), true).unwrap());
                let (x, w) = (x.view().slice::<f32>().unwrap(), w.view().slice::<f32>().unwrap());
                other.time(|| library(threads, &mut by_library, x, w, [n, i, o]));
            }
            let peak = rates[0].gflops();
            print!("{threads} threads, {n} × {i} → {o}: peak {peak:.0}");
            for rate in &rates[1..] {
                print!(", {} {:.0} ({:.2})", rate.name, rate.gflops(), rate.gflops() / peak);
            }
            println!();
        }
    }
}
