//! Speed of encoding, beside the `tokenizers` crate in the same run, and of training.
//!
//! Run with: `cargo bench -p farthing-data --bench encode -- [TEXT] [TOKENIZER] [--threads N] [--rounds N] [--train]`
//!
//! TEXT is a parquet file with a column `text`, or a folder of them; without it the embedded world is made. TOKENIZER is a
//! `tokenizer.json` or a folder with GPT-2's files; without it one of 32,768 entries (4,096 for the world) is trained. The two
//! sides take turns, so that whatever else the machine does falls on both; medians are shown.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic and prints")]

use farthing_data::world::{Split, World};
use farthing_data::{BpeSettings, Texts, Tokenizer};
use rayon::prelude::*;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() {
    let (mut paths, mut threads, mut rounds, mut train) = (vec![], vec![1, 2], 5, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => threads = vec![arguments.next().unwrap().parse().unwrap()],
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            "--train" => train = true,
            "--bench" => {}
            _ => paths.push(argument),
        }
    }
    let texts: Vec<String> = match paths.first() {
        None => World::new(1).documents(Split::Train, 20_000).map(|d| d.text).collect(),
        Some(path) => Texts::open(&parquet_files(Path::new(path)), "text")
            .unwrap()
            .map(Result::unwrap)
            .collect(),
    };
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{} documents, {:.1} MB", texts.len(), bytes as f64 / 1e6);

    let vocab_size = if paths.is_empty() { 4_096 } else { 32_768 };
    let settings = BpeSettings { vocab_size, ..BpeSettings::default() };
    let trained = || Tokenizer::train(texts.iter().cloned().map(Ok), &settings).unwrap().0;
    if train {
        let mut seconds: Vec<f64> =
            (0..rounds).map(|_| timed(|| drop(black_box(trained())))).collect();
        println!("training {vocab_size} entries: {:.2} s", median(&mut seconds));
    }
    let tokenizer = paths.get(1).map_or_else(trained, |path| Tokenizer::load(path).unwrap());
    println!("{} entries, slow because: {:?}", tokenizer.vocab_size(), tokenizer.slow_because());
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path().join("t.json")).unwrap();
    let mut theirs = tokenizers::Tokenizer::from_file(dir.path().join("t.json")).unwrap();
    theirs.set_encode_special_tokens(true);
    // Their rate needs less text to be known.
    let some = &texts[..texts.len().div_ceil(10)];
    let some_bytes: usize = some.iter().map(String::len).sum();

    for n in threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let (mut ours_s, mut theirs_s) = (vec![], vec![]);
        for _ in 0..rounds {
            ours_s.push(timed(|| {
                pool.install(|| drop(black_box(tokenizer.encode_batch(&texts).unwrap())));
            }));
            theirs_s.push(timed(|| {
                pool.install(|| {
                    some.par_iter().for_each(|text| {
                        black_box(theirs.encode_fast(text.as_str(), false).unwrap());
                    });
                });
            }));
        }
        let (ours, theirs) = (
            bytes as f64 / median(&mut ours_s) / 1e6,
            some_bytes as f64 / median(&mut theirs_s) / 1e6,
        );
        println!(
            "{n} threads: {ours:.1} MB/s, the tokenizers crate {theirs:.2} MB/s, ratio {:.1}",
            ours / theirs
        );
    }
}

fn parquet_files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.into()];
    }
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect();
    files.sort();
    files
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
