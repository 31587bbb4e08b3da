//! Tokens lost by packing at several lengths, on FineWeb-edu's distribution of document lengths.
//!
//! Run with: `cargo run --release -p farthing-data --example packing_table -- 1000000`
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use farthing_data::{PackSettings, Packer, Remainder};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let n: u64 = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    println!("{n} documents, buffer 1,000");
    println!("| T | bound | discard: lost | requeue: lost | continuation | BOS added |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for context in [512, 1024, 2048, 4096, 8192] {
        let run = |remainder| {
            let settings = PackSettings { context, remainder, ..PackSettings::default() };
            let mut packer = Packer::new(&settings, 0)?;
            let mut random = Random(11);
            for _ in 0..n {
                packer.push(vec![1; random.length()], &mut |_| Ok(()))?;
            }
            packer.finish(&mut |_| Ok(()))
        };
        let (discard, requeue) = (run(Remainder::Discard)?, run(Remainder::Requeue)?);
        println!(
            "| {context} | {:.2}% | {:.2}% | {:.5}% | {:.2}% | {:.3}% |",
            100.0 * discard.bound_share(),
            100.0 * discard.lost_share(),
            100.0 * requeue.lost_share(),
            100.0 * requeue.continuation_share(),
            100.0 * requeue.bos_added as f64 / requeue.tokens_kept as f64,
        );
    }
    Ok(())
}

/// A linear congruential generator: enough for lengths.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// FineWeb-edu's lengths in GPT-2 tokens: a logarithm that is piecewise linear in a normal variable.
    fn length(&mut self) -> usize {
        let z = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        let log = match z {
            z if z < 0.0 => 6.4618 + 1.1438 * z,
            z if z < 1.281_55 => 6.4618 + 0.862_47 * z,
            z if z < 2.326_35 => 7.5671 + 1.317_96 * (z - 1.281_55),
            z => 8.9441 + 1.3575 * (z - 2.326_35),
        };
        (log.exp().round() as usize).clamp(1, 262_142)
    }
}
