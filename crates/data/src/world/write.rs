//! The world as parquet in FineWeb-edu's ten columns. Everything but the text is made up, and says so by its values.

use super::{Split, World, WorldSettings};
use crate::{Error, Progress, Result};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use farthing_base::files::NewFile;
use farthing_base::random::Draws;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const GROUP_ROWS: usize = 1_000;

/// Writes `shard_00000.parquet`, … into `dir`; the last shard is the held-out one. Returns their paths in order.
///
/// # Errors
/// [`Error::Config`] for empty shards, [`Error::Io`], [`Error::WriteParquet`].
pub fn write_parquet(
    dir: &Path,
    settings: &WorldSettings,
    progress: &mut dyn Progress,
) -> Result<Vec<PathBuf>> {
    let WorldSettings { seed, train_shards, documents_per_shard, val_documents } = *settings;
    if train_shards == 0 || documents_per_shard == 0 || val_documents == 0 {
        return Err(Error::Config {
            what: format!(
                "a world of {train_shards} shards of {documents_per_shard} documents with {val_documents} held out is empty"
            ),
            hint: "each number must be at least 1".into(),
        });
    }
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let world = World::new(seed);
    progress.total(Some((train_shards * documents_per_shard + val_documents) as u64), "documents");
    let mut paths = vec![];
    for shard in 0..=train_shards {
        let path = dir.join(format!("shard_{shard:05}.parquet"));
        let (split, first, n) = if shard == train_shards {
            (Split::Val, 0, val_documents)
        } else {
            (Split::Train, shard * documents_per_shard, documents_per_shard)
        };
        write_shard(&path, &world, split, first as u64, n as u64, progress)?;
        paths.push(path);
    }
    Ok(paths)
}

fn write_shard(
    path: &Path,
    world: &World,
    split: Split,
    first: u64,
    n: u64,
    progress: &mut dyn Progress,
) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::WriteParquet {
        path: path.into(),
        reason: e.to_string(),
    };
    let new = NewFile::create(path)?;
    let file = new.file().try_clone().map_err(new.refused("write"))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer =
        ArrowWriter::try_new(file, schema(), Some(properties)).map_err(|e| failed(&e))?;
    let mut at = first;
    while at < first + n {
        let end = (at + GROUP_ROWS as u64).min(first + n);
        let batch = group(world, split, at, end).map_err(|e| failed(&e))?;
        writer.write(&batch).map_err(|e| failed(&e))?;
        progress.advance(end - at);
        at = end;
    }
    writer.close().map_err(|e| failed(&e))?;
    Ok(new.finish()?)
}

const STRINGS: [&str; 6] = ["text", "id", "dump", "url", "file_path", "language"];

fn schema() -> Arc<Schema> {
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let mut fields: Vec<Field> = STRINGS.iter().map(|&s| field(s, DataType::Utf8)).collect();
    fields.push(field("language_score", DataType::Float64));
    fields.push(field("token_count", DataType::Int64));
    fields.push(field("score", DataType::Float64));
    fields.push(field("int_score", DataType::Int64));
    Arc::new(Schema::new(fields))
}

fn group(
    world: &World,
    split: Split,
    from: u64,
    to: u64,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let name = split.name();
    let texts: Vec<String> = (from..to).map(|i| world.document(split, i).text).collect();
    let strings = |f: &dyn Fn(u64) -> String| -> ArrayRef {
        Arc::new((from..to).map(|i| Some(f(i))).collect::<StringArray>())
    };
    // The educational score that FineWeb-edu's classifier would give lies between 3 and 5.
    let scores: Vec<f64> =
        (from..to).map(|i| 3.0 + 2.0 * Draws::new(world.seed, name, i).unit()).collect();
    let id = |i: u64| {
        let mut rng = Draws::new(world.seed, name, i);
        let (high, low) = (rng.next_u64(), rng.next_u64());
        format!(
            "<urn:uuid:{:08x}-{:04x}-{:04x}-{:04x}-{:012x}>",
            high >> 32,
            (high >> 16) & 0xFFFF,
            high & 0xFFFF,
            low >> 48,
            low & 0xFFFF_FFFF_FFFF
        )
    };
    let tokens: Int64Array = texts.iter().map(|text| Some(pieces(text))).collect();
    let ints: Int64Array = scores.iter().map(|s| Some(s.round() as i64)).collect();
    let n = texts.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(texts.into_iter().map(Some).collect::<StringArray>()),
        strings(&id),
        strings(&|_| "EMBEDDED-WORLD".into()),
        strings(&|i| format!("embedded://world/{name}/{i}")),
        strings(&|_| format!("embedded://world/{name}")),
        strings(&|_| "en".into()),
        Arc::new(Float64Array::from(vec![1.0; n])),
        Arc::new(tokens),
        Arc::new(Float64Array::from(scores)),
        Arc::new(ints),
    ];
    RecordBatch::try_new(schema(), columns)
}

/// Words and punctuation marks: about as many as a tokenizer makes of simple English.
fn pieces(text: &str) -> i64 {
    let words = text.split_whitespace().count();
    (words + text.chars().filter(char::is_ascii_punctuation).count()) as i64
}
