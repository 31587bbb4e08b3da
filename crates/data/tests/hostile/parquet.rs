use crate::common::{write_parquet, write_parquet_with};
use crate::memory::peak;
use arrow::array::{
    ArrayRef, DictionaryArray, Int64Array, LargeStringArray, StringArray, StringViewArray,
};
use arrow::datatypes::Int32Type;
use farthing_base::Hint;
use farthing_data::{Error, TextFile, Texts};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn read(path: &Path, column: &str) -> Result<(Vec<String>, u64), Error> {
    let mut texts = Texts::open(&[path], column)?;
    let mut all = vec![];
    for text in &mut texts {
        all.push(text?);
    }
    Ok((all, texts.nulls()))
}

fn strings(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("text {i} — ü")).collect()
}

#[test]
fn every_kind_of_text_column_reads_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let want = strings(2_500);
    let values = || want.iter().map(String::as_str);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(values())),
        Arc::new(LargeStringArray::from_iter_values(values())),
        Arc::new(StringViewArray::from_iter_values(values())),
        Arc::new(values().collect::<DictionaryArray<Int32Type>>()),
    ];
    for column in columns {
        let kind = column.data_type().to_string();
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..2_500));
        write_parquet(&path, vec![("n", numbers), ("text", column)], 1_000);
        assert_eq!(TextFile::open(&path, "text").unwrap().row_groups(), 3);
        assert_eq!(read(&path, "text").unwrap(), (want.clone(), 0), "{kind}");
    }
}

#[test]
fn a_compression_that_is_not_built_in_is_named_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    write_parquet(&path, vec![("text", text)], 10);
    // In the footer, after a column's path comes its codec: none is 0, LZO 3 (doubled, as Thrift writes it).
    let mut bytes = fs::read(&path).unwrap();
    let codec = b"\x04text\x15\x00";
    let at = bytes.windows(codec.len()).rposition(|w| w == codec).unwrap();
    bytes[at + codec.len() - 1] = 6;
    fs::write(&path, bytes).unwrap();
    let error = Texts::open(&[&path], "text").unwrap_err();
    assert!(matches!(error, Error::Compression { .. }), "{error}");
    let error = error.with_hint();
    assert!(error.contains("column `text` of") && error.contains("is compressed with LZO\nhint: "));
}

#[test]
fn a_missing_column_lists_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    write_parquet(&path, vec![("text", text), ("token_count", n)], 10);
    let error = read(&path, "txt").unwrap_err().with_hint();
    assert!(
        error.contains("x.parquet has no column `txt`; its columns are text, token_count"),
        "{error}"
    );
    assert!(error.contains("did you mean `text`?"), "{error}");
    let error = read(&path, "content").unwrap_err().with_hint();
    assert!(error.contains("name the column that holds the text"), "{error}");
    let error = read(&path, "token_count").unwrap_err().to_string();
    assert!(error.contains("holds Int64, expected text"), "{error}");
}

#[test]
fn nulls_are_skipped_and_counted_and_empty_files_are_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let column: ArrayRef = Arc::new(StringArray::from(vec![None, Some("a"), None, Some("")]));
    write_parquet(&path, vec![("text", column)], 2);
    assert_eq!(read(&path, "text").unwrap(), (vec!["a".into(), String::new()], 2));
    let column: ArrayRef = Arc::new(StringArray::from(Vec::<&str>::new()));
    write_parquet(&path, vec![("text", column)], 2);
    assert_eq!(read(&path, "text").unwrap(), (vec![], 0));
}

#[test]
fn damaged_files_are_named_with_their_row_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.parquet");
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(strings(3_000)));
    write_parquet(&path, vec![("text", column)], 1_000);
    let good = fs::read(&path).unwrap();

    // Footers: cut off, overwritten, lying about their length, missing.
    let end = good.len();
    let mut magic = good.clone();
    magic[end - 4..].copy_from_slice(b"RAP1");
    let mut length = good.clone();
    length[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut footer = good.clone();
    footer[end - 200..end - 8].fill(0xFF);
    for bad in [&good[..end - 20], &good[..3], &[], &magic, &length, &footer] {
        fs::write(&path, bad).unwrap();
        let error = read(&path, "text").unwrap_err();
        assert!(matches!(error, Error::Parquet { row_group: None, .. }), "{error}");
        assert!(error.to_string().contains("damaged.parquet"), "{error}");
    }
    // Pages: the page header of the second row group is overwritten.
    let at = TextFile::open(
        {
            fs::write(&path, &good).unwrap();
            &path
        },
        "text",
    )
    .map(|file| file.row_groups())
    .unwrap();
    assert_eq!(at, 3);
    let mut pages = good.clone();
    let middle = end / 2 - end / 12;
    pages[middle..middle + end / 6].fill(0xFF);
    fs::write(&path, &pages).unwrap();
    let error = read(&path, "text").unwrap_err();
    assert!(matches!(error, Error::Parquet { row_group: Some(1), .. }), "{error}");
    assert!(error.to_string().contains("damaged.parquet, row group 1, row 1"), "{error}");
    // The iterator ends there.
    let mut texts = Texts::open(&[&path], "text").unwrap();
    assert!(texts.by_ref().any(|text| text.is_err()));
    assert!(texts.next().is_none());
}

#[test]
fn a_missing_file_is_named() {
    let error = read(Path::new("/nowhere/x.parquet"), "text").unwrap_err().to_string();
    assert!(error.contains("cannot open /nowhere/x.parquet"), "{error}");
}

/// A file whose texts lie in it as they are, so that they can be damaged where they lie.
fn plain(path: &Path, texts: &[String], group_rows: usize) -> Vec<u8> {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(Some(group_rows))
        .build();
    write_parquet_with(path, vec![("text", column)], properties);
    fs::read(path).unwrap()
}

fn find(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

#[test]
fn invalid_utf8_is_named_by_file_row_group_row_and_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("latin.parquet");
    let texts: Vec<String> = (0..2_500).map(|i| format!("<{i}> a text")).collect();
    let mut bytes = plain(&path, &texts, 1_000);
    for row in [0, 999, 1_000, 1_733, 2_499] {
        let at = find(&bytes, &format!("<{row}>"));
        let was = std::mem::replace(&mut bytes[at + 1], 0xE9);
        fs::write(&path, &bytes).unwrap();
        let mut read = Texts::open(&[&path], "text").unwrap();
        let before: Vec<String> = read.by_ref().map_while(Result::ok).collect();
        assert_eq!(before, texts[..row], "every text before row {row}");
        let error = Texts::open(&[&path], "text").unwrap().find_map(Result::err).unwrap();
        let group = row / 1_000;
        let want =
            format!("latin.parquet, row group {group}, row {row} is not UTF-8 from its byte 1 on");
        assert!(
            error.to_string().starts_with(&format!("{}{want}", dir.path().join("").display())),
            "{error}"
        );
        assert!(read.next().is_none());
        bytes[at + 1] = was;
    }
}

#[test]
fn a_damaged_page_is_named_by_its_row_and_costs_no_text_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.parquet");
    let texts: Vec<String> = (0..2_500).map(|i| format!("<{i}> a text")).collect();
    let mut bytes = plain(&path, &texts, 1_000);
    // The length of the text of row 1,733 announces more than there is.
    let at = find(&bytes, "<1733>");
    bytes[at - 1] = 0x7F;
    fs::write(&path, &bytes).unwrap();
    let mut read = Texts::open(&[&path], "text").unwrap();
    let before: Vec<String> = read.by_ref().map_while(Result::ok).collect();
    assert_eq!(before.len(), 1_733);
    let error = Texts::open(&[&path], "text").unwrap().find_map(Result::err).unwrap();
    assert!(
        matches!(error, Error::Parquet { row_group: Some(1), row: Some(1_733), .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("cut.parquet, row group 1, row 1733, cannot be read"),
        "{error}"
    );
}

#[test]
fn files_without_row_groups_are_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let column: ArrayRef = Arc::new(StringArray::from(Vec::<&str>::new()));
    let schema = arrow::array::RecordBatch::try_from_iter([("text", column)]).unwrap().schema();
    let file = fs::File::create(&path).unwrap();
    parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap().close().unwrap();
    assert_eq!(TextFile::open(&path, "text").unwrap().row_groups(), 0);
    assert_eq!(read(&path, "text").unwrap(), (vec![], 0));
}

#[test]
fn a_row_group_of_any_size_is_read_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.parquet");
    let text = "a sentence of some words, neither long nor short. ".repeat(160);
    let mut texts = vec![text.clone(); 8_000];
    plain(&path, &texts, 1 << 20);
    let measure = || {
        peak(|| {
            let mut read = Texts::open(&[&path], "text").unwrap();
            let mut bytes = 0;
            while let Some(text) = read.next_text() {
                bytes += text.unwrap().len();
            }
            bytes
        })
    };
    let (bytes, held) = measure();
    assert_eq!(bytes, 64_000_000);
    assert!(held < 8 << 20, "{held} bytes for {bytes} of text");
    // One document of 16 MB among them: it is held once, and its page beside it while that is unpacked.
    texts[4_000] = text.repeat(2_000);
    plain(&path, &texts, 1 << 20);
    let (bytes, held) = measure();
    assert_eq!(bytes, 64_000_000 + 8_000 * 1_999);
    assert!(held < 48 << 20, "{held} bytes for {bytes} of text");
}
