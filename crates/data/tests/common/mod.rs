//! What several test files need: a small packed corpus in a temporary folder, and parquet files with given columns.
#![allow(dead_code, reason = "no test file uses all of it")]

use arrow::array::{ArrayRef, RecordBatch};
use farthing_data::world::WorldSettings;
use farthing_data::{
    BpeSettings, FetchSettings, Files, Manifest, Pack, PackSettings, Silent, Tokenizer, fetch,
    train_bpe,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) fn world() -> WorldSettings {
    WorldSettings { seed: 1, train_shards: 2, documents_per_shard: 250, val_documents: 60 }
}

pub(crate) struct Packed {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) files: Files,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) settings: PackSettings,
    pub(crate) manifest: Manifest,
}

/// The embedded world, a tokenizer of 400 entries, rows of 65 tokens, several shards.
pub(crate) fn packed() -> Packed {
    let dir = tempfile::tempdir().unwrap();
    let source = "embedded://world".to_string();
    let settings = FetchSettings { source, world: world(), ..FetchSettings::default() };
    let text = dir.path().join("text");
    let files = fetch(&settings, dir.path(), &text, &mut Silent).unwrap();
    let bpe = BpeSettings { vocab_size: 400, ..BpeSettings::default() };
    let train = files.train_paths(&text);
    let (tokenizer, _) = train_bpe(&train, "text", &bpe, dir.path(), &mut Silent).unwrap();
    let settings = PackSettings { context: 64, buffer_documents: 50, ..PackSettings::default() };
    let manifest = packing(&tokenizer, &settings, &train).to(dir.path().join("rows")).unwrap();
    Packed { dir, files, tokenizer, settings, manifest }
}

fn packing<'a, P: AsRef<Path>>(
    tokenizer: &'a Tokenizer,
    settings: &PackSettings,
    files: &[P],
) -> Pack<'a> {
    Pack::files(files).tokenizer(tokenizer).settings(settings.clone()).shard_bytes(60_000)
}

impl Packed {
    /// The files to train on.
    pub(crate) fn train(&self) -> Vec<PathBuf> {
        self.files.train_paths(self.dir.path().join("text"))
    }

    /// Packs files as the corpus was packed.
    pub(crate) fn pack<P: AsRef<Path>>(&self, files: &[P]) -> Pack<'_> {
        packing(&self.tokenizer, &self.settings, files)
    }
}

pub(crate) fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>, group_rows: usize) {
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    write_parquet_with(path, columns, properties);
}

pub(crate) fn write_parquet_with(
    path: &Path,
    columns: Vec<(&str, ArrayRef)>,
    properties: WriterProperties,
) {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
