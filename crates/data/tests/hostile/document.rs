//! One enormous document. `FARTHING_HUGE_DOCUMENT_MB=200` makes it that large; a small one stands in for it otherwise.

use crate::common::{packed, write_parquet_with};
use arrow::array::{ArrayRef, StringArray};
use farthing_data::{Pack, PackSettings, Remainder, Rows, Texts};
use parquet::file::properties::WriterProperties;
use std::sync::Arc;

/// The most memory this process has held, in bytes, where the system tells.
fn high_water() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[test]
fn a_huge_document_gives_the_tokens_that_it_gives_alone() {
    let megabytes: usize =
        std::env::var("FARTHING_HUGE_DOCUMENT_MB").map_or(1, |n| n.parse().unwrap());
    let p = packed();
    let files = p.files.train_paths(p.dir.path().join("text"));
    let mut text = String::new();
    for (i, part) in Texts::open(&files, "text").unwrap().cycle_to(megabytes << 20).enumerate() {
        text.push_str(&part);
        // Places where a cut is hard: long runs of one kind, and of spaces before a word.
        text.push_str(
            &[" \n\n  \t x", "   ", "ａｂｃ––––", "12345", "'ll'LL", "\r\n\r\n"][i % 6]
                .repeat(i % 50),
        );
    }
    let path = p.dir.path().join("huge.parquet");
    let column: ArrayRef = Arc::new(StringArray::from(vec!["small", &text, "small"]));
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    write_parquet_with(&path, vec![("text", column)], properties);

    let before = high_water();
    let start = std::time::Instant::now();
    let settings = PackSettings {
        context: 1_023,
        remainder: Remainder::Requeue,
        buffer_documents: 1,
        ..PackSettings::default()
    };
    let out = p.dir.path().join("huge");
    let packing = Pack::files(&[&path]).tokenizer(&p.tokenizer).settings(settings);
    let manifest = packing.to(&out).unwrap();
    println!(
        "{} bytes in {:.1} s; memory before {before:?}, after {:?}",
        text.len(),
        start.elapsed().as_secs_f64(),
        high_water()
    );
    assert_eq!(manifest.stats.documents, 3);
    assert_eq!(manifest.stats.tokens_cropped, 0);

    // Without the BOS tokens, the rows are the documents, one after another, up to the row that was not filled.
    let rows = Rows::open(&out).unwrap();
    let bos = p.tokenizer.bos();
    let packed: Vec<u32> = (0..rows.len())
        .flat_map(|i| rows.row(i).unwrap().to_vec())
        .filter(|&token| token != bos)
        .collect();
    let want: Vec<u32> =
        ["small", &text, "small"].iter().flat_map(|t| p.tokenizer.encode(t).unwrap()).collect();
    assert!(want.len() - packed.len() < 1_024, "{} of {}", packed.len(), want.len());
    let differs = packed.iter().zip(&want).position(|(a, b)| a != b);
    assert_eq!(differs, None, "of {} tokens", want.len());
}

trait CycleTo {
    /// The texts again and again until they add up to `bytes`.
    fn cycle_to(self, bytes: usize) -> impl Iterator<Item = String>;
}

impl CycleTo for Texts {
    fn cycle_to(self, bytes: usize) -> impl Iterator<Item = String> {
        let texts: Vec<String> = self.map(Result::unwrap).collect();
        let mut sum = 0;
        (0..).map(move |i| texts[i % texts.len()].clone()).take_while(move |text| {
            sum += text.len();
            sum <= bytes
        })
    }
}
