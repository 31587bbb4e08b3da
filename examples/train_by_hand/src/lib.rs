//! Rows to train on, made on the spot: what both programs begin with.

use std::error::Error;
use std::path::Path;

use farthing_data::{
    BpeSettings, FetchSettings, Pack, Rows, Silent, fetch, train_bpe, world::WorldSettings,
};

/// Makes a small world's text in `dir`, trains a tokenizer of 512 entries on it and packs it into rows of 129 tokens.
///
/// # Errors
/// What the data crate says: a folder that cannot be written.
pub fn rows(dir: &Path) -> Result<Rows, Box<dyn Error>> {
    let (text, out) = (dir.join("text"), dir.join("rows"));
    let world =
        WorldSettings { documents_per_shard: 400, train_shards: 1, ..WorldSettings::default() };
    let source =
        FetchSettings { source: "embedded://world".into(), world, ..FetchSettings::default() };
    let train = fetch(&source, dir, &text, &mut Silent)?.train_paths(&text);
    let bpe = BpeSettings { vocab_size: 512, ..BpeSettings::default() };
    let (tokenizer, _) = train_bpe(&train, "text", &bpe, dir, &mut Silent)?;
    Pack::files(&train).tokenizer(&tokenizer).row_tokens(128).to(&out)?;
    Ok(Rows::open(&out)?)
}
