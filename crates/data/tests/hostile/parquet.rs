use crate::common::write_parquet;
use arrow::array::{
    ArrayRef, DictionaryArray, Int64Array, LargeStringArray, StringArray, StringViewArray,
};
use arrow::datatypes::Int32Type;
use farthing_data::{Error, TextFile, Texts};
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
fn a_missing_column_lists_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    write_parquet(&path, vec![("text", text), ("token_count", n)], 10);
    let error = read(&path, "txt").unwrap_err().to_string();
    assert!(
        error.contains("x.parquet has no column `txt`; its columns are text, token_count"),
        "{error}"
    );
    assert!(error.contains("did you mean `text`?"), "{error}");
    let error = read(&path, "content").unwrap_err().to_string();
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
