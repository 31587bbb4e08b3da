//! Speed of the packer alone, on one core, on FineWeb-edu's distribution of lengths; and of the whole way from parquet to shards.
//!
//! Run with: `cargo bench -p farthing-data --bench pack`
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use farthing_data::{
    BpeSettings, FetchSettings, PackConfig, PackRule, PackSettings, Packer, Remainder, Silent,
    Texts, Tokenizer, fetch, pack, train_bpe,
};
use std::hint::black_box;
use std::path::Path;

/// FineWeb-edu's lengths in tokens: a logarithm piecewise linear in a normal variable.
fn lengths(n: usize) -> Vec<usize> {
    let mut state = 11u64;
    let mut unit = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
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

/// Parquet to shards on all cores, beside encoding the same texts, in memory already, and nothing else. Real text and GPT-2's
/// tokenizer where `FARTHING_SHARED` names a folder that has them, else the embedded world.
fn pipeline(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let shared = std::env::var_os("FARTHING_SHARED").map(|d| Path::new(&d).join("data"));
    let (files, tokenizer) = if let Some(data) = shared.filter(|d| d.is_dir()) {
        let folder = data.join("corpus/sample/10BT");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        (files, Tokenizer::load(data.join("tokenizer/gpt2/tokenizer.json")).unwrap())
    } else {
        let source = "embedded://world".to_string();
        let settings = FetchSettings { source, ..FetchSettings::default() };
        let text = dir.path().join("text");
        let files = fetch(&settings, dir.path(), &text, &mut Silent).unwrap().train_paths(&text);
        let bpe = BpeSettings { vocab_size: 1024, ..BpeSettings::default() };
        let trained = train_bpe(&files, "text", &bpe, dir.path(), &mut Silent).unwrap();
        (files, trained.0)
    };
    // Several times over, so that opening, syncing and the last shard weigh as little as they do in use.
    let files: Vec<_> = std::iter::repeat_n(files, 5).flatten().collect();
    let texts: Vec<String> = Texts::open(&files, "text").unwrap().map(Result::unwrap).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    group.bench_function("encode alone", |b| {
        b.iter(|| tokenizer.encode_batch(black_box(&texts)).unwrap());
    });
    group.bench_function("parquet alone", |b| {
        b.iter(|| Texts::open(&files, "text").unwrap().map(|t| t.unwrap().len()).sum::<usize>());
    });
    let mut n = 0;
    group.bench_function("parquet to rows", |b| {
        b.iter_batched(
            || {
                n += 1;
                dir.path().join(format!("rows-{n}"))
            },
            |out| pack(&files, &tokenizer, &PackConfig::default(), &out, &mut Silent).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, packer, pipeline);
criterion_main!(benches);
