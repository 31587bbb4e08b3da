//! Times training or encoding once and prints a line of JSON: wall and processor seconds, tokens, the process's peak of memory.
//! `tools/bench/encode.py` runs it in turns with Python's tokenizers.
//!
//! Run with: `cargo run --release -p farthing-data --example tokenizer_speed -- train|encode TEXTS.json|TEXTS.parquet TOKENIZER.json`
//!
//! `train` writes TOKENIZER.json with 32,768 entries, documents uncut; parquet is streamed, JSON (a list of texts) is read first.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use farthing_data::{BpeSettings, Texts, Tokenizer};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, texts, tokenizer] = &arguments[..] else {
        return Err("give train or encode, texts, and a tokenizer's file".into());
    };
    let streamed = texts.ends_with(".parquet");
    let mut list: Vec<String> =
        if streamed { vec![] } else { serde_json::from_slice(&std::fs::read(texts)?)? };
    let (wall, cpu, tokens);
    if what == "train" {
        let settings = BpeSettings { document_chars: 1 << 40, ..BpeSettings::default() };
        let start = (Instant::now(), cpu_seconds());
        let (trained, _) = if streamed {
            Tokenizer::train(Texts::open(&[texts], "text")?, &settings)?
        } else {
            Tokenizer::train(list.into_iter().map(Ok), &settings)?
        };
        (wall, cpu, tokens) = (start.0.elapsed(), since(start.1), None);
        trained.save(tokenizer)?;
    } else {
        if streamed {
            list = Texts::open(&[texts], "text")?.collect::<Result<_, _>>()?;
        }
        let tokenizer = Tokenizer::load(tokenizer)?;
        let start = (Instant::now(), cpu_seconds());
        let ids = tokenizer.encode_batch(&list)?;
        (wall, cpu) = (start.0.elapsed(), since(start.1));
        tokens = Some(ids.iter().map(Vec::len).sum::<usize>());
    }
    println!(
        "{}",
        serde_json::json!({ "wall": wall.as_secs_f64(), "cpu": cpu, "tokens": tokens, "peak_mb": peak_mb() })
    );
    Ok(())
}

fn since(start: Option<f64>) -> Option<f64> {
    Some(cpu_seconds()? - start?)
}

/// What this process has used of processors so far, all threads together; Linux counts in hundredths.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// The most memory that this process has had.
fn peak_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kb| kb / 1024.0)
}
