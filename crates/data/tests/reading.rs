//! Reading: every encoding alike, filters and their counts, going on at any row.

use crate::common;

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use common::{write_parquet, write_parquet_with};
use farthing_base::Hint;
use farthing_data::{
    BpeSettings, Error, Pack, Position, ReadStats, Silent, TextColumn, TextFilter, Texts, train_bpe,
};
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{WriterProperties, WriterVersion};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn all(mut texts: Texts) -> Result<(Vec<String>, ReadStats), Error> {
    let mut found = vec![];
    while let Some(text) = texts.next_text() {
        found.push(text?);
    }
    Ok((found, *texts.stats()))
}

fn strings(n: usize) -> Vec<Option<String>> {
    (0..n).map(|i| (i % 11 != 3).then(|| format!("text {i} — ü").repeat(1 + i % 5))).collect()
}

#[test]
fn every_encoding_page_version_and_codec_reads_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let texts = strings(1_500);
    let want: Vec<String> = texts.iter().flatten().cloned().collect();
    let column: ArrayRef = Arc::new(StringArray::from(texts));
    let scores: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1_500).map(|i| i % 6)));
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for codec in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(parquet::basic::GzipLevel::default()),
            Compression::BROTLI(parquet::basic::BrotliLevel::default()),
            Compression::LZ4,
            Compression::LZ4_RAW,
            Compression::ZSTD(parquet::basic::ZstdLevel::try_new(3).unwrap()),
        ] {
            for encoding in [
                None,
                Some(Encoding::PLAIN),
                Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
                Some(Encoding::DELTA_BYTE_ARRAY),
            ] {
                let mut properties = WriterProperties::builder()
                    .set_writer_version(version)
                    .set_compression(codec)
                    .set_data_page_row_count_limit(100)
                    .set_write_batch_size(50)
                    .set_max_row_group_row_count(Some(700));
                if let Some(encoding) = encoding {
                    let text = "text".into();
                    properties = properties
                        .set_dictionary_enabled(false)
                        .set_column_encoding(text, encoding);
                }
                let columns = vec![("text", Arc::clone(&column)), ("score", Arc::clone(&scores))];
                write_parquet_with(&path, columns, properties.build());
                let case = format!("{version:?} {codec:?} {encoding:?}");
                let (found, stats) = all(Texts::open(&[&path], "text").unwrap()).unwrap();
                assert_eq!(found, want, "{case}");
                assert_eq!((stats.null_texts, stats.rows()), (136 + 1, 1_500), "{case}");
                let filter = TextFilter { min_score: Some(5.0), ..TextFilter::default() };
                let filtered = Texts::open(&[&path], "text").unwrap().with_filter(&filter).unwrap();
                let (found, stats) = all(filtered).unwrap();
                assert_eq!(
                    (stats.documents, found.len(), stats.rows()),
                    (227, 227, 1_500),
                    "{case}"
                );
                // Skipping decodes no value, and must land on the right one.
                for row in [1, 99, 100, 699, 700, 1_498] {
                    let at = Position { file: 0, row };
                    let next =
                        Texts::open_at(&[&path], "text", at).unwrap().next().unwrap().unwrap();
                    let first = (row as usize..1_500).find(|i| i % 11 != 3).unwrap();
                    assert_eq!(next, format!("text {first} — ü").repeat(1 + first % 5), "{case}");
                }
            }
        }
    }
}

/// Two files of 50 and 31 rows in row groups of 7, with a score, a language and lengths that vary.
fn two_files(dir: &Path, score: &DataType) -> Vec<PathBuf> {
    [("a", 50usize), ("b", 31)]
        .into_iter()
        .map(|(name, n)| {
            let texts =
                (0..n).map(|i| (i % 10 != 9).then(|| format!("{name}{i} {}", "é".repeat(i))));
            let score: ArrayRef = match score {
                DataType::Float64 => Arc::new(
                    (0..n)
                        .map(|i| (i % 7 != 6).then_some(i as f64 / 10.0))
                        .collect::<Float64Array>(),
                ),
                DataType::Float32 => Arc::new(
                    (0..n)
                        .map(|i| (i % 7 != 6).then_some(i as f32 / 10.0))
                        .collect::<Float32Array>(),
                ),
                DataType::Int32 => Arc::new(
                    (0..n as i32).map(|i| (i % 7 != 6).then_some(i)).collect::<Int32Array>(),
                ),
                _ => Arc::new(
                    (0..n as i64).map(|i| (i % 7 != 6).then_some(i)).collect::<Int64Array>(),
                ),
            };
            let languages = (0..n).map(|i| [Some("en"), Some("de"), Some("en"), None][i % 4]);
            let path = dir.join(format!("{name}.parquet"));
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("lang", Arc::new(languages.collect::<StringArray>())),
                ("quality", score),
                ("text", Arc::new(texts.collect::<StringArray>())),
            ];
            write_parquet(&path, columns, 7);
            path
        })
        .collect()
}

#[test]
fn filters_reject_and_count_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, scale) in [
        (DataType::Float64, 10.0),
        (DataType::Float32, 10.0),
        (DataType::Int32, 1.0),
        (DataType::Int64, 1.0),
    ] {
        let paths = two_files(dir.path(), &kind);
        let filter = TextFilter {
            min_score: Some(5.0 / scale),
            score_column: Some("quality".into()),
            language: Some("en".into()),
            language_column: Some("lang".into()),
            min_chars: Some(12),
            max_chars: Some(40),
        };
        // The same in plain words, row by row.
        let (mut want, mut stats) = (vec![], ReadStats::default());
        for (name, n) in [("a", 50usize), ("b", 31)] {
            for i in 0..n {
                let text = format!("{name}{i} {}", "é".repeat(i));
                let chars = text.chars().count();
                // 0.5 as f32 and f64 is exact, so is every tenth that decides.
                if i % 10 == 9 {
                    stats.null_texts += 1;
                } else if i % 7 == 6 || i < 5 {
                    stats.low_score += 1;
                } else if i % 2 == 1 {
                    stats.other_language += 1;
                } else if chars < 12 {
                    stats.too_short += 1;
                } else if chars > 40 {
                    stats.too_long += 1;
                } else {
                    stats.documents += 1;
                    stats.text_bytes += text.len() as u64;
                    want.push(text);
                }
            }
        }
        assert!(
            [stats.low_score, stats.other_language, stats.too_short, stats.too_long]
                .iter()
                .all(|&n| n > 0)
        );
        let texts = Texts::open(&paths, "text").unwrap().with_filter(&filter).unwrap();
        assert_eq!(all(texts).unwrap(), (want, stats), "{kind}");
    }
}

#[test]
fn reading_goes_on_at_any_position_with_the_same_counts() {
    let dir = tempfile::tempdir().unwrap();
    let paths = two_files(dir.path(), &DataType::Float64);
    let filters = [
        TextFilter::default(),
        TextFilter {
            min_score: Some(1.0),
            score_column: Some("quality".into()),
            ..TextFilter::default()
        },
    ];
    for filter in filters {
        let open = || Texts::open(&paths, "text").unwrap().with_filter(&filter).unwrap();
        let (whole, stats) = all(open()).unwrap();
        for k in 0..=whole.len() {
            let mut first = open();
            let head: Vec<String> = (0..k).map(|_| first.next_text().unwrap().unwrap()).collect();
            let rest = Texts::open_at(&paths, "text", first.position()).unwrap();
            let (tail, tail_stats) = all(rest.with_filter(&filter).unwrap()).unwrap();
            let joined: Vec<String> = head.into_iter().chain(tail).collect();
            assert_eq!(joined, whole, "after {k}");
            let mut sum = *first.stats();
            sum += tail_stats;
            assert_eq!(sum, stats, "after {k}");
        }
    }
    for at in [(0, 51), (1, 32), (2, 1), (3, 0)] {
        let at = Position { file: at.0, row: at.1 };
        assert!(matches!(Texts::open_at(&paths, "text", at), Err(Error::Config { .. })), "{at:?}");
    }
    // The ends of files are positions too.
    for (at, n) in [((0, 50), 28), ((1, 31), 0), ((2, 0), 0)] {
        let at = Position { file: at.0, row: at.1 };
        assert_eq!(Texts::open_at(&paths, "text", at).unwrap().count(), n, "{at:?}");
    }
}

#[test]
fn a_filter_without_its_column_names_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let paths = two_files(dir.path(), &DataType::Int64);
    let message = |filter: TextFilter| {
        Texts::open(&paths, "text").unwrap().with_filter(&filter).unwrap_err().with_hint()
    };
    let score = TextFilter { min_score: Some(3.0), ..TextFilter::default() };
    let text = message(score.clone());
    assert!(
        text.contains("a.parquet has no column `score`; its columns are lang, quality, text"),
        "{text}"
    );
    let text = message(TextFilter { score_column: Some("qality".into()), ..score.clone() });
    assert!(text.contains("did you mean `quality`?"), "{text}");
    let text = message(TextFilter { score_column: Some("text".into()), ..score });
    assert!(text.contains("holds Utf8, expected numbers"), "{text}");
    let language = TextFilter { language: Some("en".into()), ..TextFilter::default() };
    let text = message(TextFilter { language_column: Some("quality".into()), ..language });
    assert!(text.contains("holds Int64, expected text"), "{text}");
}

#[test]
fn packing_and_training_read_through_the_filter() {
    let dir = tempfile::tempdir().unwrap();
    let paths = two_files(dir.path(), &DataType::Int64);
    let json = r#"{ "min_score": 20, "score_column": "quality" }"#;
    let filter: TextFilter = serde_json::from_str(json).unwrap();
    let (want, stats) =
        all(Texts::open(&paths, "text").unwrap().with_filter(&filter).unwrap()).unwrap();
    let bpe = BpeSettings { vocab_size: 270, ..BpeSettings::default() };
    let column = TextColumn { name: "text", filter: &filter };
    let (tokenizer, read) = train_bpe(&paths, column, &bpe, dir.path(), &mut Silent).unwrap();
    assert_eq!(read.documents, want.len() as u64);
    let out = dir.path().join("rows");
    let pack =
        |filter| Pack::files(&paths).tokenizer(&tokenizer).filter(filter).row_tokens(16).to(&out);
    let manifest = pack(filter).unwrap();
    assert_eq!((manifest.read, manifest.stats.documents), (stats, want.len() as u64));
    // Another filter is another packing.
    assert!(pack(TextFilter::default()).is_err());
}

/// Files as writers make them by default: dictionaries that give way to plain pages, several pages in a row group.
#[test]
fn reading_goes_on_anywhere_in_files_with_dictionaries() {
    let dir = tempfile::tempdir().unwrap();
    let world = farthing_data::world::WorldSettings {
        train_shards: 1,
        documents_per_shard: 700,
        ..Default::default()
    };
    let paths = farthing_data::world::write_parquet(dir.path(), &world, &mut Silent).unwrap();
    let (whole, _) = all(Texts::open(&paths, "text").unwrap()).unwrap();
    let rows = Texts::open(&paths[..1], "text").unwrap().rows();
    for row in (0..rows).step_by(7).chain([rows - 1]) {
        let at = Position { file: 0, row };
        let (tail, _) = all(Texts::open_at(&paths, "text", at).unwrap()).unwrap();
        assert_eq!(tail, whole[row as usize..], "from row {row}");
    }
}

#[test]
fn every_number_is_a_score_and_every_string_a_text() {
    use arrow::array::{
        ArrayRef, BinaryArray, Decimal128Array, Float16Array, Int8Array, Int16Array,
        LargeStringArray, StringArray, StringViewArray, UInt8Array, UInt32Array, UInt64Array,
    };
    use arrow::datatypes::Float16Type;
    let half =
        |bits| <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native::from_bits(bits);
    let decimal = |precision| -> ArrayRef {
        let values = Decimal128Array::from(vec![150, 300, -525]);
        Arc::new(values.with_precision_and_scale(precision, 2).unwrap())
    };
    // In each the second is the only one of 2 and more, and below 4.
    let scores: Vec<ArrayRef> = vec![
        Arc::new(Int8Array::from(vec![1, 3, -128])),
        Arc::new(Int16Array::from(vec![1, 3, -128])),
        Arc::new(UInt8Array::from(vec![1, 3, 0])),
        Arc::new(UInt32Array::from(vec![1, 3, 0])),
        Arc::new(UInt64Array::from(vec![1, 3, 0])),
        Arc::new(Float16Array::from(vec![half(0x3C00), half(0x4200), half(0x7E00)])),
        decimal(9),
        decimal(18),
        decimal(38),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scores.parquet");
    let high = TextFilter { min_score: Some(2.0), ..TextFilter::default() };
    let read = |filter: &TextFilter| -> Vec<String> {
        let texts = Texts::open(&[&path], "text").unwrap().with_filter(filter).unwrap();
        texts.map(Result::unwrap).collect()
    };
    for score in scores {
        let kind = score.data_type().clone();
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        write_parquet(&path, vec![("text", text), ("score", score)], 10);
        assert_eq!(read(&high), ["b"], "{kind}");
    }
    // The largest numbers without a sign are no negative ones.
    let large: ArrayRef = Arc::new(UInt32Array::from(vec![1, u32::MAX, 0]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    write_parquet(&path, vec![("text", text), ("score", large)], 10);
    assert_eq!(read(&high), ["b"]);
    let texts: Vec<ArrayRef> = vec![
        Arc::new(LargeStringArray::from(vec!["a", "b", "c"])),
        Arc::new(StringViewArray::from(vec!["a", "b", "c"])),
        Arc::new(BinaryArray::from_vec(vec![b"a", b"b", b"c"])),
    ];
    for text in texts {
        write_parquet(&path, vec![("text", text)], 10);
        assert_eq!(read(&TextFilter::default()), ["a", "b", "c"]);
    }
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"a", b"\xFF"]));
    write_parquet(&path, vec![("text", bytes)], 10);
    let error = Texts::open(&[&path], "text").unwrap().find_map(Result::err).unwrap();
    assert!(matches!(error, Error::InvalidUtf8 { row: 1, .. }), "{error}");
}
