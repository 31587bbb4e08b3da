//! Speed of the packer alone, on one core, on FineWeb-edu's distribution of lengths.
//!
//! Run with: `cargo bench -p farthing-data --bench pack`
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use farthing_base::random::Congruential;
use farthing_data::{PackRule, PackSettings, Packer, Remainder};
use std::hint::black_box;

/// FineWeb-edu's lengths in tokens: a logarithm piecewise linear in a normal variable.
fn lengths(n: usize) -> Vec<usize> {
    let mut random = Congruential(11);
    let mut unit = move || random.unit();
    let mut length = || {
        let z = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
        let log = match z {
            z if z < 0.0 => 6.4618 + 1.1438 * z,
            z if z < 1.281_55 => 6.4618 + 0.862_47 * z,
            z if z < 2.326_35 => 7.5671 + 1.317_96 * (z - 1.281_55),
            z => 8.9441 + 1.3575 * (z - 2.326_35),
        };
        (log.exp().round() as usize).clamp(1, 262_142)
    };
    (0..n).map(|_| length()).collect()
}

fn packer(c: &mut Criterion) {
    let lengths = lengths(20_000);
    let tokens: usize = lengths.iter().map(|n| n + 1).sum();
    let mut group = c.benchmark_group("packer");
    group.throughput(Throughput::Elements(tokens as u64)).sample_size(10);
    let mut bench = |rule, context, remainder| {
        let settings = PackSettings { rule, context, remainder, ..PackSettings::default() };
        group.bench_function(format!("{rule:?}/T{context}/{remainder:?}"), |b| {
            b.iter_batched(
                || lengths.iter().map(|&n| vec![1u32; n]).collect::<Vec<_>>(),
                |documents| {
                    let mut packer = Packer::new(&settings, 0).unwrap();
                    let mut sink = |row: &[u32]| {
                        black_box(row);
                        Ok(())
                    };
                    for document in documents {
                        packer.push(document, &mut sink).unwrap();
                    }
                    packer.finish(&mut sink).unwrap()
                },
                BatchSize::LargeInput,
            );
        });
    };
    for context in [512, 2048, 8192] {
        for remainder in [Remainder::Requeue, Remainder::Discard] {
            bench(PackRule::OldestFirst, context, remainder);
        }
    }
    bench(PackRule::BestFitCrop, 2048, Remainder::Discard);
    bench(PackRule::GreedyCrop, 2048, Remainder::Discard);
    group.finish();
}

criterion_group!(benches, packer);
criterion_main!(benches);
