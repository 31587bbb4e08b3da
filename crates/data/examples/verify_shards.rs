//! Checks every shard of a packed folder against the manifest's digests, and names those that are damaged.
//!
//! Run with: `cargo run --release -p farthing-data --example verify_shards -- /tmp/packed`
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use farthing_base::Hint;
use farthing_data::{Manifest, Rows, Shard};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: verify_shards FOLDER")?);
    let manifest = Manifest::load(&dir)?;
    let mut damaged = 0;
    for entry in &manifest.shards {
        let found =
            Shard::open(dir.join(&entry.file)).and_then(|s| s.verify_all(&entry.header_blake3));
        match found {
            Ok(()) => println!("{}: {} rows, as they were written", entry.file, entry.rows),
            Err(error) => {
                println!("{}", error.with_hint());
                damaged += 1;
            }
        }
    }
    if damaged > 0 {
        return Err(format!("{damaged} of {} shards are damaged", manifest.shards.len()).into());
    }
    // Whether they belong together.
    let rows = Rows::open(&dir)?;
    println!("{} rows of {} tokens", rows.len(), rows.row_tokens());
    Ok(())
}
