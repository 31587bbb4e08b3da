//! Valid parquet files in which bytes are changed, one place after another: an error that names the file, or texts; never a panic, never
//! a large allocation, never an endless loop.

use crate::common::write_parquet_with;
use crate::memory::peak;
use arrow::array::{ArrayRef, Float64Array, StringArray};
use farthing_data::{TextFilter, Texts};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};

const ROWS: usize = 40;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Panics that the reader contains are counted, not printed; those of other tests are printed as ever.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANICS.set(PANICS.get() + 1);
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = work();
    QUIET.set(false);
    result
}

pub(crate) fn file(
    path: &Path,
    version: WriterVersion,
    codec: Compression,
    encoding: Option<Encoding>,
) -> Vec<u8> {
    let text = (0..ROWS).map(|i| (i % 9 != 4).then(|| format!("text {} ü", i / 3)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(text.collect::<StringArray>())),
        ("score", Arc::new((0..ROWS).map(|i| Some((i % 5) as f64)).collect::<Float64Array>())),
    ];
    let mut properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_compression(codec)
        .set_max_row_group_row_count(Some(ROWS / 2 + 1));
    if let Some(encoding) = encoding {
        properties =
            properties.set_dictionary_enabled(false).set_column_encoding("text".into(), encoding);
    }
    write_parquet_with(path, columns, properties.build());
    fs::read(path).unwrap()
}

fn sweep(version: WriterVersion, codec: Compression, encoding: Option<Encoding>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.parquet");
    let good = file(&path, version, codec, encoding);
    let filter = TextFilter { min_score: Some(1.0), ..TextFilter::default() };
    let read = |filter: &TextFilter| -> farthing_data::Result<usize> {
        let mut texts = Texts::open(&[&path], "text")?.with_filter(filter)?;
        let mut n = 0;
        while let Some(text) = texts.next_text() {
            assert!(std::str::from_utf8(text?.as_bytes()).is_ok());
            n += 1;
        }
        Ok(n)
    };
    assert!(read(&filter).unwrap() > 20);
    let (mut wrong, mut right) = (0, 0);
    for at in 0..good.len() {
        // Bits; the largest varint, as Thrift writes sizes and counts; the largest length.
        for change in [0, 1 + at % 2, 3, 4] {
            let mut bad = good.clone();
            match change {
                0 => bad[at] ^= 0xFF,
                1 => bad[at] ^= 0x01,
                2 => bad[at] ^= 0x40,
                3 => bad[at..]
                    .iter_mut()
                    .zip([0xFE, 0xFF, 0xFF, 0xFF, 0x0F])
                    .for_each(|(b, v)| *b = v),
                _ => bad[at..].iter_mut().zip([0xFF, 0xFF, 0xFF, 0x7F]).for_each(|(b, v)| *b = v),
            }
            fs::write(&path, &bad).unwrap();
            let filter = if at % 2 == 0 { &filter } else { &TextFilter::default() };
            let work = || catch_unwind(AssertUnwindSafe(|| read(filter)));
            let (result, bytes) = peak(|| quietly(work));
            let place = format!("{version:?} {codec:?} {encoding:?}: byte {at}, change {change}");
            assert!(bytes < 32 << 20, "{place}: {bytes} bytes");
            let Ok(result) = result else { panic!("{place}: a panic") };
            match result {
                Err(e) => {
                    wrong += 1;
                    assert!(e.to_string().contains("flipped.parquet"), "{place}: {e}");
                }
                Ok(n) => {
                    right += 1;
                    assert!(n <= ROWS, "{place}: {n} texts");
                }
            }
        }
    }
    let panics = PANICS.take();
    println!(
        "{version:?} {codec:?} {encoding:?}: {wrong} errors, of them {panics} panics contained, {right} readings"
    );
    assert!(wrong > 100 && right > 100);
}

#[test]
fn flips_in_dictionaries_and_snappy() {
    sweep(WriterVersion::PARQUET_1_0, Compression::SNAPPY, None);
}

#[test]
fn flips_in_plain_pages() {
    sweep(WriterVersion::PARQUET_2_0, Compression::UNCOMPRESSED, Some(Encoding::PLAIN));
}

#[test]
fn flips_in_delta_lengths() {
    let encoding = Some(Encoding::DELTA_LENGTH_BYTE_ARRAY);
    sweep(WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED, encoding);
}

#[test]
fn flips_in_deltas_and_zstd() {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
    sweep(WriterVersion::PARQUET_2_0, zstd, Some(Encoding::DELTA_BYTE_ARRAY));
}
