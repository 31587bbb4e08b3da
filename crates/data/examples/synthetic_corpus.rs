//! Writes parquet with as much invented text as is asked for, in documents as long as FineWeb-edu's: for trying out speed and memory.
//!
//! Run with: `cargo run --release -p farthing-data --example synthetic_corpus -- /tmp/corpus 2.0` (a folder, and gigabytes of text)
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use arrow::array::{RecordBatch, StringArray};
use farthing_base::random::Congruential;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Documents per row group, and bytes of text per file.
const GROUP: usize = 1_000;
const FILE_BYTES: usize = 250_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, gigabytes] = &args[..] else {
        return Err("usage: synthetic_corpus FOLDER GIGABYTES".into());
    };
    let (out, wanted) = (PathBuf::from(out), (gigabytes.parse::<f64>()? * 1e9) as usize);
    std::fs::create_dir_all(&out)?;
    let mut random = Random(Congruential(1));
    let words: Vec<String> = (0..50_000).map(|_| random.word()).collect();
    let (mut written, mut file) = (0, 0);
    while written < wanted {
        let path = out.join(format!("synthetic_{file:05}.parquet"));
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP))
            .set_dictionary_enabled(false)
            .build();
        let mut writer = None;
        let mut bytes = 0;
        while bytes < FILE_BYTES && written + bytes < wanted {
            let texts: Vec<String> = (0..GROUP).map(|_| random.document(&words)).collect();
            bytes += texts.iter().map(String::len).sum::<usize>();
            let column = StringArray::from(texts);
            let batch = RecordBatch::try_from_iter([("text", Arc::new(column) as _)])?;
            if writer.is_none() {
                let (file, properties) = (File::create(&path)?, Some(properties.clone()));
                writer = Some(ArrowWriter::try_new(file, batch.schema(), properties)?);
            }
            if let Some(writer) = &mut writer {
                writer.write(&batch)?;
            }
        }
        if let Some(writer) = writer {
            writer.close()?;
        }
        println!("{}: {bytes} bytes of text", path.display());
        written += bytes;
        file += 1;
    }
    Ok(())
}

struct Random(Congruential);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0.unit()
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    fn word(&mut self) -> String {
        let syllable = |random: &mut Self| {
            let consonant = b"bcdfghklmnprstvw"[random.below(16)];
            let vowel = b"aeiou"[random.below(5)];
            [char::from(consonant), char::from(vowel)]
        };
        (0..=self.below(4)).flat_map(|_| syllable(self)).collect()
    }

    /// Words by Zipf's law, in sentences, as many as a document of FineWeb-edu has.
    fn document(&mut self, words: &[String]) -> String {
        let z = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        let log = match z {
            z if z < 0.0 => 6.4618 + 1.1438 * z,
            z if z < 1.281_55 => 6.4618 + 0.862_47 * z,
            z if z < 2.326_35 => 7.5671 + 1.317_96 * (z - 1.281_55),
            z => 8.9441 + 1.3575 * (z - 2.326_35),
        };
        let bytes = ((4.61 * log.exp()) as usize).clamp(4, 1_000_000);
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            let rank = (words.len() as f64).powf(self.unit()) as usize - 1;
            text.push_str(&words[rank.min(words.len() - 1)]);
            text.push_str(match self.below(60) {
                0..6 => ", ",
                6..10 => ".\n",
                _ => " ",
            });
        }
        text
    }
}
