//! Speed of reading text out of parquet, and of laying out rows from the page cache as batches.
//!
//! Run with: `cargo bench -p farthing-data --bench load`
//!
//! Bytes are those of the text, and those of the rows in their shard (T tokens of two bytes). `row` touches rows in the order of
//! training and sums their tokens; `unsorted` makes inputs and targets of them; `sorted` sorts the positions by token as well;
//! `prefetch` is the time that the user of a sorted batch waits for it when it reads each once.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farthing_data::{
    BpeSettings, FetchSettings, Order, Pack, Row, Rows, Silent, Texts, Tokenizer, fetch,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Text that compresses like text: the embedded world's, repeated to 32 MiB.
fn corpus(dir: &Path) -> Vec<String> {
    let settings = FetchSettings { source: "embedded://world".into(), ..FetchSettings::default() };
    let out = dir.join("world");
    let files = fetch(&settings, dir, &out, &mut Silent).unwrap();
    let world: Vec<String> =
        Texts::open(&files.train_paths(&out), "text").unwrap().map(Result::unwrap).collect();
    let bytes: usize = world.iter().map(String::len).sum();
    world.iter().cycle().take(world.len() * (32 << 20) / bytes).cloned().collect()
}

fn write(path: PathBuf, texts: &[String], compression: Compression) -> PathBuf {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(1_024))
        .build();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

fn text(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let texts = corpus(dir.path());
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut group = c.benchmark_group("text");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    let codecs = [
        ("uncompressed", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd3", Compression::ZSTD(ZstdLevel::try_new(3).unwrap())),
    ];
    for (name, codec) in codecs {
        let path = write(dir.path().join(format!("{name}.parquet")), &texts, codec);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut texts = Texts::open(&[&path], "text").unwrap();
                let mut read = 0;
                while let Some(text) = texts.next_text() {
                    read += text.unwrap().len();
                }
                assert_eq!(read, bytes);
            });
        });
    }
    group.finish();
}

const T: usize = 2_048;
const B: usize = 32;
const STEP: usize = 64;

/// Rows of 32 MiB of text in a vocabulary of 1,024, repeated over enough shards that they do not fit in the processor's caches.
fn rows(dir: &Path) -> Rows {
    let texts = corpus(dir);
    let bpe = BpeSettings { vocab_size: 1_024, max_chars: 4_000_000, ..BpeSettings::default() };
    let (tokenizer, _) = Tokenizer::train(texts.iter().cloned().map(Ok), &bpe).unwrap();
    let path = write(dir.join("x.parquet"), &texts, Compression::SNAPPY);
    let out = dir.join("rows");
    let packing = Pack::files(&[&path, &path, &path, &path]).tokenizer(&tokenizer);
    packing.row_tokens(T).shard_bytes(8 << 20).to(&out).unwrap();
    Rows::open(&out).unwrap()
}

fn load(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(dir.path());
    let order = Order::new(rows.len(), STEP, 1_337).unwrap();
    let steps = (rows.len() / STEP as u64).clamp(1, 100);
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Bytes(steps * (STEP * T * 2) as u64)).sample_size(10);
    group.bench_function("row", |b| {
        b.iter(|| {
            let mut sum = 0u64;
            for row in (0..steps).flat_map(|step| order.batch(step)) {
                if let Some(Row::U16(row)) = rows.row(row) {
                    sum += row.iter().map(|&t| u64::from(t)).sum::<u64>();
                }
            }
            black_box(sum)
        });
    });
    let loader = || rows.batches(STEP).seed(1_337).until_step(steps).micro_batches(B);
    let sides = [
        ("batches", loader()),
        ("sorted", loader().sorted()),
        ("sorted, 32,768 entries", loader().vocab(32_768).sorted()),
    ];
    for (name, loader) in sides {
        group.bench_function(name, |b| {
            b.iter(|| {
                for batch in loader.clone() {
                    black_box(batch.unwrap().inputs().iter().map(|&t| i64::from(t)).sum::<i64>());
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, text, load);
criterion_main!(benches);
