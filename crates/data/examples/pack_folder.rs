//! Packs a folder of parquet into memory-mapped rows, with a tokenizer trained on the same text or one that there is.
//!
//! Run with: `cargo run --release -p farthing-data --example pack_folder -- embedded://world /tmp/packed 1024 256`
//! (source: `embedded://world`, a folder of parquet files, or a glob; then the output folder; entries of the vocabulary, or a
//! `tokenizer.json`; the context)
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use farthing_data::{BpeSettings, FetchSettings, Pack, Silent, Tokenizer, fetch, train_bpe};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, out, vocab, context] = &args[..] else {
        return Err("usage: pack_folder SOURCE OUT (VOCABULARY | TOKENIZER) CONTEXT".into());
    };
    let (out, start) = (PathBuf::from(out), Instant::now());
    let seconds = || start.elapsed().as_secs_f64();

    let text = out.join("text");
    let from = FetchSettings { source: source.clone(), ..FetchSettings::default() };
    let files = fetch(&from, &std::env::current_dir()?, &text, &mut Silent)?;
    println!(
        "{:6.2} s  {} files to train on, {} held out",
        seconds(),
        files.train.len(),
        files.val.len()
    );

    let train = files.train_paths(&text);
    let tokenizer = match vocab.parse() {
        Ok(vocab_size) => {
            let bpe = BpeSettings { vocab_size, ..BpeSettings::default() };
            let (tokenizer, read) = train_bpe(&train, "text", &bpe, &out, &mut Silent)?;
            println!("{:6.2} s  {vocab_size} entries from {} characters", seconds(), read.chars);
            tokenizer
        }
        Err(_) => Tokenizer::load(vocab)?,
    };

    let before = seconds();
    let manifest =
        Pack::files(&train).tokenizer(&tokenizer).row_tokens(context.parse()?).to(&out)?;
    let stats = &manifest.stats;
    println!(
        "{:6.2} s  {} rows of {} from {} documents with {} tokens ({:.3} bytes each); packing: {:.2} million tokens/s",
        seconds(),
        manifest.rows,
        manifest.row_tokens,
        stats.documents,
        stats.tokens_in,
        manifest.read.text_bytes as f64 / (stats.tokens_in - stats.documents) as f64,
        stats.tokens_in as f64 / (seconds() - before) / 1e6,
    );
    println!(
        "          lost {:.4}% (bound without splitting {:.2}%), continuation pieces {:.2}%, utilisation {:.2}%",
        100.0 * stats.lost_share(),
        100.0 * stats.bound_share(),
        100.0 * stats.continuation_share(),
        100.0 * stats.utilisation(manifest.row_tokens),
    );
    Ok(())
}
