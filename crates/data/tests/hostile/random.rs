//! Files of text, changed at random: parquet in every codec and encoding, JSON lines, tables, text, packed or not. What comes of it is texts or
//! an error that names the file; never a panic, never much memory. `FARTHING_FUZZ_ROUNDS=100` does a hundred times as much.

use crate::flips::{file, quietly};
use crate::memory::peak;
use farthing_base::random::Congruential;
use farthing_data::{FetchSettings, Fetcher, HubSettings, Silent, TextFilter, Texts};
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterVersion;
use std::fs;
use std::io::Write;
use std::path::Path;

/// More than any of these files can be worth.
const MOST_BYTES: usize = 64 << 20;

struct Random(Congruential);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() >> 33) as usize % n.max(1)
    }

    /// One to four changes: bits, bytes that mean much to decoders, pieces left out, put twice or moved.
    fn change(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let (at, n) = (self.below(bytes.len()), self.below(12));
            let end = (at + n).min(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at..end].fill([0, 0x7F, 0x80, 0xFF, b'"', b'\n'][self.below(6)]),
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => bytes.truncate(bytes.len() - self.below(bytes.len() / 4)),
            }
        }
        bytes
    }
}

fn rounds(few: u64) -> u64 {
    few * std::env::var("FARTHING_FUZZ_ROUNDS").map_or(1, |n| n.parse::<u64>().unwrap())
}

/// Nothing that is said of a file goes without its name.
fn names_it(error: &farthing_data::Error, path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn parquet_changed_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ];
    let mut seeds = vec![];
    for codec in codecs {
        for encoding in [None, Some(Encoding::PLAIN), Some(Encoding::DELTA_BYTE_ARRAY)] {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                seeds.push(file(&path, version, codec, encoding));
            }
        }
    }
    let filter = TextFilter { min_score: Some(1.0), ..TextFilter::default() };
    let mut random = Random(Congruential(5));
    let (mut errors, mut most) = (0, 0);
    for i in 0..rounds(600) {
        let bytes = random.change(&seeds[i as usize % seeds.len()]);
        fs::write(&path, &bytes).unwrap();
        let filter = if i % 2 == 0 { filter.clone() } else { TextFilter::default() };
        let (read, held) = peak(|| {
            quietly(|| {
                let texts = Texts::open(&[&path], "text").and_then(|t| t.with_filter(&filter))?;
                texts.map(|text| text.map(drop)).collect::<Result<Vec<()>, _>>()
            })
        });
        most = most.max(held);
        assert!(held < MOST_BYTES, "round {i}: {held} bytes for a file of {}", bytes.len());
        if let Err(error) = read {
            errors += 1;
            names_it(&error, &path);
        }
    }
    println!("{} files, {errors} errors, at most {most} bytes", rounds(600));
    assert!(errors > 0);
}

#[test]
fn other_formats_changed_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let line = |i| format!("{{\"id\": {i}, \"text\": \"line {i} ü\\n\"}}\n");
    let row = |i| format!("{i},\"a, \"\"{i}\"\"\nb\"\n");
    let (lines, table): (String, String) =
        ((0..60).map(line).collect(), (0..60).map(row).collect());
    let utf16: Vec<u8> =
        format!("\u{feff}{lines}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let gz = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    let table = format!("id,text\n{table}");
    let seeds = [
        ("x.jsonl", lines.clone().into_bytes()),
        ("x.jsonl.gz", gz(lines.as_bytes())),
        ("x.jsonl.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
        ("u.jsonl", utf16),
        ("x.csv", table.clone().into_bytes()),
        ("x.tsv.gz", gz(table.replace(',', "\t").as_bytes())),
        ("x.txt", lines.into_bytes()),
    ];
    let mut fetcher = Fetcher::new(HubSettings::new("https://h", "c", "d"));
    let mut random = Random(Congruential(6));
    let (mut errors, mut most) = (0, 0);
    for i in 0..rounds(300) {
        let (name, seed) = &seeds[i as usize % seeds.len()];
        let path = dir.path().join(name);
        fs::write(&path, random.change(seed)).unwrap();
        let settings = FetchSettings {
            source: (*name).into(),
            separator: name.contains(".txt").then(|| "\n".into()),
            ..FetchSettings::default()
        };
        let out = dir.path().join("out");
        let (fetched, held) =
            peak(|| quietly(|| fetcher.fetch(&settings, dir.path(), &out, &mut Silent)));
        most = most.max(held);
        // A window of zstd may have 128 MiB.
        assert!(held < 4 * MOST_BYTES, "round {i}, {name}: {held} bytes");
        if let Err(error) = fetched {
            errors += 1;
            names_it(&error, &path);
        }
        fs::remove_file(&path).unwrap();
    }
    println!("{} files, {errors} errors, at most {most} bytes", rounds(300));
    assert!(errors > 0);
}
