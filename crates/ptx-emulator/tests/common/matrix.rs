//! Attention and matrix products: arguments, launch, reference.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use super::{Numbers, relative, wide};
use ptx_emulator::{Arg, Counters, Error, Memory, Module, Options, Swizzle, TensorMap};

/// Causal attention in bf16, with a window of earlier keys if it is not 0.
pub struct Attention {
    pub batch: usize,
    pub time: usize,
    pub heads: usize,
    pub dim: usize,
    pub window: usize,
}

impl Attention {
    pub fn size(&self) -> usize {
        self.batch * self.time * self.heads * self.dim
    }

    fn at(&self, b: usize, t: usize, h: usize) -> usize {
        ((b * self.time + t) * self.heads + h) * self.dim
    }

    /// Output and log-sum-exp.
    pub fn reference(&self, q: &[u16], k: &[u16], v: &[u16]) -> (Vec<f64>, Vec<f64>) {
        let scale = 1.0 / (self.dim as f64).sqrt();
        let mut out = vec![0.0; self.size()];
        let mut lse = Vec::new();
        for b in 0..self.batch {
            for h in 0..self.heads {
                for i in 0..self.time {
                    let first = if self.window > 0 { i.saturating_sub(self.window) } else { 0 };
                    let row = self.at(b, i, h);
                    let scores: Vec<f64> = (first..=i)
                        .map(|j| {
                            let other = self.at(b, j, h);
                            let dot: f64 = (0..self.dim)
                                .map(|d| wide(q[row + d]) as f64 * wide(k[other + d]) as f64)
                                .sum();
                            dot * scale
                        })
                        .collect();
                    let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                    lse.push(sum.ln());
                    for (j, s) in scores.iter().enumerate() {
                        let other = self.at(b, first + j, h);
                        for d in 0..self.dim {
                            out[row + d] += s.exp() / sum * wide(v[other + d]) as f64;
                        }
                    }
                }
            }
        }
        (out, lse)
    }

    pub fn run(
        &self,
        module: &Module,
        q: &[u16],
        k: &[u16],
        v: &[u16],
    ) -> Result<(Vec<u16>, Vec<f32>, Counters), Error> {
        let kernel = module.kernel(&format!("attention_{}", self.dim))?;
        let mut memory = Memory::new();
        let [dq, dk, dv] = [q, k, v].map(|x| memory.upload(x));
        let rows = self.batch * self.heads * self.time;
        let (out, lse) = (memory.alloc(2 * self.size()), memory.alloc(4 * rows));
        let args: [Arg; 9] = [
            out.into(),
            lse.into(),
            dq.into(),
            dk.into(),
            dv.into(),
            (self.time as i32).into(),
            (self.heads as i32).into(),
            (self.window as i32).into(),
            (1.0 / (self.dim as f32).sqrt()).into(),
        ];
        let grid = [self.time.div_ceil(64) as u32, self.heads as u32, self.batch as u32];
        let shared = 3 * 64 * 2 * self.dim as u32;
        let options = Options::default();
        let c = kernel.launch(grid, [128, 1, 1], shared, &args, &mut memory, &options)?;
        Ok((memory.read(out, self.size())?, memory.read(lse, rows)?, c))
    }
}

/// The relative error of a product by `name` of the Hopper module.
pub fn gemm(
    module: &Module,
    name: &str,
    m: usize,
    n: usize,
    k: usize,
) -> Result<(f64, Counters), Error> {
    let mut numbers = Numbers(5);
    let (a, b) = (numbers.bf16(m * k), numbers.bf16(n * k));
    let mut memory = Memory::new();
    let (da, db, dc) = (memory.upload(&a), memory.upload(&b), memory.alloc(2 * m * n));
    let transposed = name == "gemm_registers";
    let map = |base, rows: usize, columns: usize, extent: u32| {
        let shape = [columns as u64, rows as u64];
        let strides = [columns as u64 * 2];
        TensorMap::new(base, 2, &shape, &strides, &[64, extent], Swizzle::Bytes128).unwrap()
    };
    let mb = if transposed { map(db, k, n, 64) } else { map(db, n, k, 128) };
    let args: [Arg; 5] =
        [map(da, m, k, 64).into(), mb.into(), dc.into(), (n as i32).into(), (k as i32).into()];
    let (stages, threads) = if transposed { (1, 128) } else { (3, 160) };
    let counters = module.kernel(name)?.launch(
        [n as u32 / 128, m as u32 / 64, 1],
        [threads, 1, 1],
        stages * (64 + 128) * 64 * 2,
        &args,
        &mut memory,
        &Options::default(),
    )?;
    let got: Vec<u16> = memory.read(dc, m * n)?;
    let mut want = Vec::new();
    for i in 0..m {
        for j in 0..n {
            want.push(
                (0..k)
                    .map(|x| {
                        let b = if transposed { b[x * n + j] } else { b[j * k + x] };
                        wide(a[i * k + x]) as f64 * wide(b) as f64
                    })
                    .sum::<f64>(),
            );
        }
    }
    Ok((relative(got.iter().map(|x| wide(*x) as f64), want), counters))
}
