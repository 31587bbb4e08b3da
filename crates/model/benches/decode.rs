//! Tokens per second of decoding on the processor beside what memory allows: bandwidth, measured in the same run, over the bytes of the weights.
//!
//! `cargo bench -p farthing-model --bench decode [-- ROUNDS]`: 336 million weights, so that in int8, too, they are larger than most last-level caches. 3.5 GB of memory. The
//! fastest of the rounds counts: what disturbs a machine makes a round slower, never faster.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark, run by hand")]

use std::hint::black_box;
use std::time::Instant;

use farthing_kernels::cpu::{Compact, CompactCpu, Cpu};
use farthing_kernels::{Device, Memory, Params};
use farthing_model::{Gpt, ModelConfig, Preset, compact};
use rayon::prelude::*;

/// Tokens in a round.
const TOKENS: usize = 4;
/// Bytes that are read to measure bandwidth.
const READ: usize = 1 << 30;

/// Gigabytes per second that all threads read, each from four places at once: from one place alone a core asks for less than memory can give.
fn bandwidth(from: &[u64]) -> f64 {
    let began = Instant::now();
    let sums: u64 = from
        .par_chunks_exact(1 << 18)
        .map(|part| {
            let (front, back) = part.split_at(part.len() / 2);
            let halves = [front, back].map(|half| half.split_at(half.len() / 2));
            let [(a, b), (c, d)] = halves.map(|(x, y)| (x.chunks_exact(8), y.chunks_exact(8)));
            let mut lanes = [0u64; 8];
            for ((a, b), (c, d)) in a.zip(b).zip(c.zip(d)) {
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = lane.wrapping_add(a[i] ^ b[i]).wrapping_add(c[i] ^ d[i]);
                }
            }
            lanes.into_iter().fold(0, u64::wrapping_add)
        })
        .reduce(|| 0, u64::wrapping_add);
    black_box(sums);
    READ as f64 / began.elapsed().as_secs_f64() / 1e9
}

/// Seconds of a token for `texts` texts beside each other.
fn round(gpt: &Gpt, dev: &dyn Device, params: &Params, texts: usize) -> f64 {
    let mut made = gpt.texts(dev, params.weights(), texts, TOKENS + 1).unwrap();
    let (all, ids): (Vec<usize>, Vec<u32>) = (0..texts).map(|text| (text, 1)).unzip();
    made.step(&all, &ids).unwrap();
    let began = Instant::now();
    for _ in 0..TOKENS {
        made.step(&all, &ids).unwrap();
    }
    began.elapsed().as_secs_f64() / TOKENS as f64
}

fn main() {
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(5);
    let keys =
        ModelConfig { aspect_ratio: Some(342), ..ModelConfig::new(Preset::Nanochat202607, 6) };
    let gpt = Gpt::new(keys.resolve(8_192, 512).unwrap()).unwrap();
    let plain = Cpu::new(0).unwrap();
    let mut params = Params::new(&plain, gpt.single_group()).unwrap();
    let mut weights = 0;
    for spec in gpt.params() {
        let n = spec.shape.elements();
        if spec.name == "lm_head.weight" || spec.name.contains(".c_") {
            weights += n;
        }
        let bytes: Vec<u8> =
            (0..n).flat_map(|i| ((i % 251) as f32 * 1e-4 - 0.0125).to_le_bytes()).collect();
        plain.write(params.master_mut(spec.id).unwrap(), &bytes).unwrap();
    }
    params.refresh_compute(&plain).unwrap();
    let mut devices: Vec<(&str, usize, Box<dyn Device>)> = vec![("f32", 4, Box::new(plain))];
    for (name, bytes, kind) in [("bf16", 2, Compact::Bf16), ("int8", 1, Compact::Int8)] {
        let mut dev = CompactCpu::new(Cpu::new(0).unwrap());
        compact(&gpt, params.weights(), &mut dev, kind).unwrap();
        devices.push((name, bytes, Box::new(dev)));
    }
    let from: Vec<u64> = (0..READ / 8).map(|i| i as u64).collect();
    let (mut most, mut best) = (0.0f64, vec![[f64::INFINITY; 2]; devices.len()]);
    for _ in 0..rounds {
        most = most.max(bandwidth(&from));
        for ((_, _, dev), best) in devices.iter().zip(&mut best) {
            for (best, texts) in best.iter_mut().zip([1, 8]) {
                *best = best.min(round(&gpt, dev.as_ref(), &params, texts));
            }
        }
    }
    println!("{:.0}M weights in products; memory is read at {most:.1} GB/s", weights as f64 / 1e6);
    println!("weights  tokens/s  of bandwidth / bytes   batch 8, tokens/s in all");
    for ((name, bytes, _), [alone, eight]) in devices.iter().zip(&best) {
        let share = (weights * bytes) as f64 / alone / 1e9 / most;
        println!(
            "{name:<8} {:>8.2}  {:>20.0}%   {:>24.2}",
            1.0 / alone,
            100.0 * share,
            8.0 / eight
        );
    }
}
