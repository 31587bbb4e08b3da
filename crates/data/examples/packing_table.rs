//! What every packing rule loses, at several row lengths: on FineWeb-edu's distribution of document lengths, or on a folder of
//! parquet.
//!
//! Run with: `cargo run --release -p farthing-data --example packing_table` (1,000,000 documents of the generator),
//! `… -- 100000` (as many), or `… -- FOLDER TOKENIZER.json` (a folder or file of parquet, every document in it)
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use farthing_base::random::Congruential;
use farthing_data::{PackRule, PackSettings, PackStats, Packer, Remainder, Texts, Tokenizer};
use rayon::prelude::*;

const CONTEXTS: [usize; 5] = [512, 1024, 2048, 4096, 8192];
const RULES: [(PackRule, &str); 4] = [
    (PackRule::OldestFirst, "oldest-first"),
    (PackRule::BestFitCrop, "best-fit-crop"),
    (PackRule::BestFitCropFirst, "best-fit-crop-first"),
    (PackRule::GreedyCrop, "greedy-crop"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let lengths: Vec<u32> = match &args[..] {
        [] => generated(1_000_000),
        [n] => generated(n.parse()?),
        [source, tokenizer] => measured(source, tokenizer)?,
        _ => return Err("usage: packing_table [DOCUMENTS | FOLDER TOKENIZER.json]".into()),
    };
    let tokens: u64 = lengths.iter().map(|&n| u64::from(n) + 1).sum();
    println!("{} documents, {tokens} tokens, buffer 1,000\n", lengths.len());
    println!(
        "| T | rule | bound | discard: lost | requeue: lost | continuation | BOS added | rows short |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let cases: Vec<_> = CONTEXTS.iter().flat_map(|&t| RULES.map(|rule| (t, rule))).collect();
    let found: Vec<_> = cases
        .par_iter()
        .map(|&(context, (rule, _))| {
            let run = |remainder| {
                let settings = PackSettings { rule, context, remainder, ..PackSettings::default() };
                run(&settings, &lengths)
            };
            (run(Remainder::Discard), run(Remainder::Requeue))
        })
        .collect();
    let mut lengths = None;
    for ((context, (_, name)), (discard, requeue)) in cases.into_iter().zip(found) {
        let (discard, requeue) = (discard?, requeue?);
        // Rows that all the tokens would fill, less those there are.
        let whole = (requeue.tokens_in + requeue.bos_added) / (context as u64 + 1);
        println!(
            "| {context} | {name} | {:.3}% | {:.3}% | {:.5}% | {:.2}% | {:.3}% | {} |",
            100.0 * discard.bound_share(),
            100.0 * discard.lost_share(),
            100.0 * requeue.lost_share(),
            100.0 * requeue.continuation_share(),
            100.0 * requeue.bos_added as f64 / requeue.tokens_kept as f64,
            whole - requeue.rows,
        );
        for stats in [&discard, &requeue] {
            if stats.utilisation(context + 1) < 1.0 && stats.rows > 0 {
                return Err("a row has an empty position".into());
            }
        }
        lengths = Some(discard.lengths);
    }
    if let Some(lengths) = lengths {
        println!("\nDocuments by length:\n\n{lengths}");
    }
    Ok(())
}

fn run(settings: &PackSettings, lengths: &[u32]) -> farthing_data::Result<PackStats> {
    let mut packer = Packer::new(settings, 0u32)?;
    for &length in lengths {
        packer.push(vec![1; length as usize], &mut |_| Ok(()))?;
    }
    packer.finish(&mut |_| Ok(()))
}

/// The lengths in tokens, BOS not counted, of every document of a source.
fn measured(source: &str, tokenizer: &str) -> Result<Vec<u32>, Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::load(tokenizer)?;
    let mut files: Vec<_> = if std::fs::metadata(source)?.is_dir() {
        std::fs::read_dir(source)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?
    } else {
        vec![source.into()]
    };
    files.retain(|file| file.extension().is_some_and(|e| e == "parquet"));
    files.sort();
    let texts = Texts::open(&files, "text")?.collect::<farthing_data::Result<Vec<_>>>()?;
    let documents = tokenizer.encode_batch(&texts)?;
    Ok(documents.iter().map(|tokens| tokens.len() as u32).collect())
}

/// FineWeb-edu's lengths in GPT-2 tokens: a logarithm that is piecewise linear in a normal variable.
fn generated(n: usize) -> Vec<u32> {
    let mut random = Congruential(11);
    let mut unit = || random.unit();
    let mut length = || {
        let z = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
        let log = match z {
            z if z < 0.0 => 6.4618 + 1.1438 * z,
            z if z < 1.281_55 => 6.4618 + 0.862_47 * z,
            z if z < 2.326_35 => 7.5671 + 1.317_96 * (z - 1.281_55),
            z => 8.9441 + 1.3575 * (z - 2.326_35),
        };
        (log.exp().round() as u32).clamp(1, 262_142)
    };
    (0..n).map(|_| length()).collect()
}
