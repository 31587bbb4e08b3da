//! Long documents and texts that come again and again: memory follows what is used of them.

use crate::common::write_parquet_with;
use crate::memory::peak;
use arrow::array::{ArrayRef, StringArray};
use farthing_data::{
    BpeSettings, Error, FetchSettings, MANIFEST, PackRule, PackSettings, Packer, Remainder, Rows,
    Silent, Texts, Tokenizer, fetch,
};
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use std::sync::Arc;

/// The most that `work` holds, all of it being done by one thread.
fn held<T: Send>(work: impl FnOnce() -> T + Send) -> (T, usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| peak(work))
}

#[test]
fn training_keeps_nothing_of_a_document_beyond_what_it_uses() {
    let settings = BpeSettings { vocab_size: 266, document_chars: 1_000, ..BpeSettings::default() };
    // Long ones; ones that were once long; and none at all, which take memory too.
    let long = |_| Ok("ab ".repeat(1 << 20));
    let emptied = |_| {
        let mut text = "ab ".repeat(1 << 20);
        text.truncate(300);
        Ok(text)
    };
    for kind in 0..3 {
        let (result, bytes) = held(|| match kind {
            0 => Tokenizer::train((0..200).map(long), &settings),
            1 => Tokenizer::train((0..200).map(emptied), &settings),
            _ => {
                let texts = (0..4_000_000)
                    .map(|i| Ok(if i == 0 { "ab ".repeat(9) } else { String::new() }));
                Tokenizer::train(texts, &settings)
            }
        });
        result.unwrap();
        assert!(bytes < 40 << 20, "{kind}: {bytes} bytes");
    }
}

#[test]
fn the_packer_holds_tokens_and_not_documents() {
    // Two million tokens each, of which a thousand would wait.
    let document: Vec<u16> = (0..2 << 20).map(|i| (i % 250) as u16 + 1).collect();
    for rule in [PackRule::OldestFirst, PackRule::BestFitCrop, PackRule::GreedyCrop] {
        let settings = PackSettings {
            rule,
            remainder: Remainder::Requeue,
            context: 2_047,
            ..PackSettings::default()
        };
        let ((rows, stats), bytes) = held(|| {
            let (mut rows, mut packer) = (0u64, Packer::new(&settings, 0u16).unwrap());
            let mut sink = |row: &[u16]| {
                assert_eq!(row.len(), 2_048);
                rows += 1;
                Ok(())
            };
            for _ in 0..80 {
                packer.push(document.clone(), &mut sink).unwrap();
            }
            let stats = packer.finish(&mut sink).unwrap();
            (rows, stats)
        });
        assert_eq!((rows, stats.documents), (stats.rows, 80));
        assert_eq!(stats.tokens_in, 80 * ((2 << 20) + 1));
        assert_eq!(stats.tokens_in, stats.tokens_kept + stats.tokens_dropped_at_end);
        // All at once they have 336 MB; what may wait has half of that.
        assert!(bytes < 290 << 20, "{rule:?}: {bytes} bytes");
    }
}

#[test]
fn values_that_share_their_beginnings_are_decoded_a_few_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    // A page of a megabyte that stands for 120 texts of a megabyte each.
    let start = "the same again ".repeat(75_000);
    let texts: Vec<String> = (0..120).map(|i| format!("{start}{i}")).collect();
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(&texts));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_column_encoding(ColumnPath::from("text"), Encoding::DELTA_BYTE_ARRAY)
        .set_data_page_size_limit(64 << 20)
        .set_write_batch_size(1_000)
        .build();
    write_parquet_with(&path, vec![("text", column)], properties);
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 8 << 20, "{size} bytes: the texts share nothing");
    let (found, bytes) = peak(|| {
        let all = Texts::open(&[&path], "text").unwrap();
        all.enumerate().filter(|(i, text)| text.as_ref().unwrap() == &texts[*i]).count()
    });
    assert_eq!(found, 120);
    assert!(bytes < 110 << 20, "{bytes} bytes");
}

/// A single file is divided into what is trained on and what is held out, and of long documents never many are in memory.
#[test]
fn a_file_of_long_documents_is_divided_a_few_at_a_time() {
    let texts: Vec<String> =
        (0..60).map(|i| format!("{i} {}", "once upon a time ".repeat(300_000))).collect();
    // Pages of a few documents: a page is in memory as a whole.
    let builder = || {
        WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_write_batch_size(4)
            .set_data_page_row_count_limit(8)
    };
    let short = (0..2_000).map(|i| format!("short {i}"));
    let long = texts.iter().cloned();
    for (name, column, properties) in [
        ("plain", long.clone().collect::<Vec<_>>(), builder()),
        // By its mean a row is short.
        ("skewed", short.chain(long.clone()).collect(), builder()),
        // By its bytes in the file, a row is nothing.
        ("dictionary", texts[..1].iter().cycle().take(60).cloned().collect(), {
            builder().set_dictionary_enabled(true).set_dictionary_page_size_limit(64 << 20)
        }),
        ("beginnings", long.clone().collect(), {
            builder().set_column_encoding(ColumnPath::from("text"), Encoding::DELTA_BYTE_ARRAY)
        }),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let array: ArrayRef = Arc::new(StringArray::from_iter_values(&column));
        write_parquet_with(
            &dir.path().join("a.parquet"),
            vec![("text", array)],
            properties.build(),
        );
        let settings = FetchSettings { source: "a.parquet".into(), ..FetchSettings::default() };
        let (base, out) = (dir.path().to_path_buf(), dir.path().join("out"));
        let (files, bytes) = held(move || fetch(&settings, &base, &out, &mut Silent));
        let files = files.unwrap();
        let parts =
            [&files.train[0], &files.val[0]].map(|file| dir.path().join("out").join(&file.file));
        let read = Texts::open(&parts, "text").unwrap().map(Result::unwrap);
        assert!(read.eq(column), "{name}");
        // All of them at once have 306 MB, in the file, in memory and on the way out.
        assert!(bytes < 260 << 20, "{name}: {bytes} bytes");
    }
}

#[test]
fn a_vocabulary_that_no_file_can_mean_is_refused() {
    let p = crate::common::packed();
    let good = p.dir.path().join("rows");
    let path = good.join(MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap();
    let vocab = format!("\"vocab\": {}", p.manifest.vocab);
    assert!(text.contains(&vocab));
    for (lie, what) in [
        ("\"vocab\": 4611686018427387904", "a vocabulary of 4611686018427387904 entries"),
        ("\"vocab\": 2147483649", "a vocabulary of 2147483649 entries"),
        ("\"vocab\": 0", "a vocabulary of 0 entries"),
        ("\"vocab\": 2", "a vocabulary of 2 entries"),
    ] {
        std::fs::write(&path, text.replace(&vocab, lie)).unwrap();
        let error = Rows::open(&good).unwrap_err();
        assert!(matches!(error, Error::Manifest { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    std::fs::write(&path, text).unwrap();
}
