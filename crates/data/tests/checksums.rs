//! Pages whose writer left a checksum: a changed bit is an error, though the text would read well.

use farthing_data::{Error, TextFilter, Texts};
use std::path::PathBuf;

const FILES: [&[u8]; 2] = [
    include_bytes!("fixtures/checksums-v1.parquet"),
    include_bytes!("fixtures/checksums-v2.parquet"),
];

fn read(bytes: &[u8], filter: &TextFilter) -> (usize, Option<Error>) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("mine.parquet");
    std::fs::write(&path, bytes).unwrap();
    let mut texts = Texts::open(&[&path], "text").unwrap().with_filter(filter).unwrap();
    let (mut n, mut error) = (0, None);
    while let Some(text) = texts.next_text() {
        match text {
            Ok(_) => n += 1,
            Err(e) => error = Some(e),
        }
    }
    (n, error)
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

fn place(bytes: &[u8], text: &[u8]) -> usize {
    bytes.windows(text.len()).position(|w| w == text).unwrap()
}

#[test]
fn a_changed_bit_is_an_error_with_file_and_row_group() {
    let all = TextFilter::default();
    for good in FILES {
        assert_eq!(read(good, &all).0, 40);
        assert!(read(good, &all).1.is_none());
        // In the text of the second row group; those before it are given.
        let (n, error) = read(&flipped(good, place(good, b"MARK031")), &all);
        let error = error.unwrap().to_string();
        assert_eq!(n, 20, "{error}");
        assert!(error.contains("mine.parquet, row group 1,"), "{error}");
        assert!(error.to_lowercase().contains("crc"), "{error}");
    }
}

#[test]
fn dictionaries_and_columns_beside_the_text_are_checked_too() {
    let english = TextFilter { language: Some("en".into()), ..TextFilter::default() };
    let high = TextFilter { min_score: Some(2.0), ..TextFilter::default() };
    for good in FILES {
        assert_eq!(read(good, &english).0, 20);
        assert_eq!(read(good, &high).0, 24, "small integers are numbers");
        // The dictionary of the languages: `fr`, length first.
        let dictionary = place(good, b"\x02\0\0\0fr") + 5;
        let error = read(&flipped(good, dictionary), &english).1.unwrap();
        assert!(matches!(error, Error::Parquet { row_group: Some(0), .. }), "{error}");
        assert!(read(&flipped(good, dictionary), &TextFilter::default()).1.is_none(), "unread");
        // The scores of the first row group: 0 1 2 3 4, as integers of 32 bits.
        let scores = place(good, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]);
        let error = read(&flipped(good, scores), &high).1.unwrap();
        assert!(matches!(error, Error::Parquet { row_group: Some(0), .. }), "{error}");
    }
}
