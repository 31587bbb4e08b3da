//! Changed at random: pipeline files, records of a store, models and tokenizers. Whatever comes of it, the process ends by itself, says what
//! is wrong, and takes less than a gigabyte. `FARTHING_FUZZ_ROUNDS=100` does a hundred times as much.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use farthing_base::random::Congruential;

use crate::harness::{NANO, Place};
use crate::lying_models::sealed;

/// Pieces that mean something to whoever reads them.
const WORDS: [&str; 36] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "18446744073709551616",
    "1e308",
    "nan",
    "inf",
    "true",
    "null",
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "=",
    ".",
    ",",
    ":",
    "\n",
    "\\u0000",
    "\\",
    "${",
    "${x}",
    "${env:HOME}",
    "[vars]\nx = \"${x}\"\n",
    "matrix = { a = [1, 2] }\n",
    "..",
    "/",
    "\u{1b}[2J",
    "ü",
    "\u{FFFF}",
    "#",
];

struct Random(Congruential);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() >> 33) as usize % n.max(1)
    }

    /// One to four changes.
    fn change(&mut self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for _ in 0..=self.below(4) {
            let (at, n) = (self.below(text.len()), self.below(24));
            let end = (at + n).min(text.len());
            match self.below(6) {
                0 => drop(text.drain(at..end)),
                1 => {
                    let piece = text[at..end].to_vec();
                    let to = self.below(text.len());
                    text.splice(to..to, piece);
                }
                2 if !text.is_empty() => text[at] ^= 1 << self.below(8),
                // A number in place of another.
                3 => {
                    let digits: Vec<usize> =
                        (0..text.len()).filter(|&i| text[i].is_ascii_digit()).collect();
                    let Some(&from) = digits.get(self.below(digits.len())) else { continue };
                    let to = (from..text.len())
                        .find(|&i| !text[i].is_ascii_digit())
                        .unwrap_or(text.len());
                    text.splice(from..to, WORDS[self.below(8)].bytes());
                }
                _ => drop(text.splice(at..at, WORDS[self.below(WORDS.len())].bytes())),
            }
        }
        text
    }
}

/// Runs the pipeline with at most a gigabyte of memory of its own; it ends with one of `codes`.
fn ends(place: &Place, args: &[&str], codes: &[i32], what: &[u8]) {
    let child = Command::new("sh")
        .args([
            "-c",
            "ulimit -d 1048576; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_runner"),
            "p.toml",
        ])
        .args(args)
        .env("RUST_BACKTRACE", "0")
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let fine = output.status.code().is_some_and(|code| codes.contains(&code));
    let what = String::from_utf8_lossy(what);
    assert!(fine && !err.contains("panicked"), "{:?}\n{out}\n{err}\n──── {what}", output.status);
    assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'), "{out}\n{err}\n──── {what}");
}

fn rounds(few: u64) -> u64 {
    few * std::env::var("FARTHING_FUZZ_ROUNDS").map_or(1, |n| n.parse::<u64>().unwrap())
}

#[test]
fn pipeline_files() {
    let place = Place::new();
    let vars = "[vars]\na = 2\nb = \"x${a}\"\nlist = [1, 2]\n";
    let seeds = [
        NANO.to_owned(),
        format!("{NANO}\n{vars}"),
        include_str!("../../../../pipelines/ablations.toml").to_owned(),
        include_str!("../../../../pipelines/gpt2.toml").to_owned(),
        format!(
            "[pipeline]\nname = \"p\"\nformat = 1\n{vars}[stage.f]\nuses = \"fetch-parquet\"\nsource = \"${{b}}/*.parquet\"\nmatrix = {{ c = \"${{list}}\" }}\nshards = {{ count = \"${{c}}\" }}\n"
        ),
    ];
    let mut random = Random(Congruential(1));
    for i in 0..rounds(150) {
        let text = random.change(seeds[i as usize % seeds.len()].as_bytes());
        fs::write(place.path("p.toml"), &text).unwrap();
        ends(&place, &["--plan"], &[0, 2], &text);
    }
}

#[test]
fn records_of_a_store() {
    let place = Place::until("pack");
    let stages = ["fetch", "tokenizer", "pack"];
    let records = stages.map(|stage| place.entry(stage).join("stage.json"));
    let last = stages.map(|stage| place.path(format!("store/last/nano/{stage}.json")));
    let mut random = Random(Congruential(2));
    let all: Vec<_> =
        records.iter().chain(&last).map(|path| (path, fs::read(path).unwrap())).collect();
    for i in 0..rounds(60) {
        let (path, good) = &all[i as usize % all.len()];
        let text = random.change(good);
        fs::write(path, &text).unwrap();
        ends(&place, &["--plan", "--verify"], &[0, 2], &text);
        fs::write(path, good).unwrap();
    }
}

/// The first of an entry's files, which is written and admitted by its record.
fn with_file(place: &Place, stage: &str, port: &str, bytes: &[u8]) {
    let path = place.entry(stage).join("stage.json");
    let mut record = crate::harness::json(&path);
    let file = &mut record["outputs"][port]["files"][0];
    file["bytes"] = bytes.len().into();
    let name = place.entry(stage).join(port).join(file["path"].as_str().unwrap());
    fs::write(path, record.to_string()).unwrap();
    fs::write(name, bytes).unwrap();
}

/// The bytes of an entry's only file.
fn file(place: &Place, stage: &str, name: &str) -> Vec<u8> {
    fs::read(place.entry(stage).join(Path::new(name))).unwrap()
}

#[test]
fn models() {
    let place = Place::until("train");
    let good = file(&place, "train", "checkpoint/model.safetensors");
    let n = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut random = Random(Congruential(3));
    for i in 0..rounds(50) {
        let header = random.change(&good[8..8 + n]);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(&header);
        bytes.extend(&good[8 + n..]);
        // Whole again, so that more than a checksum refuses it; and as it is.
        let bytes = if i % 5 > 0 { sealed(bytes) } else { bytes };
        with_file(&place, "train", "checkpoint", &bytes);
        ends(
            &place,
            &["--only", "sample", "--force", "sample", "--threads", "2"],
            &[0, 1],
            &header,
        );
    }
}

#[test]
fn tokenizers() {
    let place = Place::until("tokenizer");
    let good = file(&place, "tokenizer", "bpe");
    let mut random = Random(Congruential(4));
    let text = "[pipeline]\nname = \"p\"\nformat = 1\n[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"embedded://world\"\nworld = { train_shards = 1, documents_per_shard = 20, val_documents = 20 }\n\
        [stage.t]\nuses = \"use-tokenizer\"\npath = \"tokenizer.json\"\n\
        [stage.pack]\nuses = \"pack-bestfit\"\ninputs = { train = \"fetch.train\", val = \"fetch.val\", bpe = \"t.bpe\" }\nrow_tokens = 64\n";
    place.file(text);
    for _ in 0..rounds(40) {
        let json = random.change(&good);
        fs::write(place.path("tokenizer.json"), &json).unwrap();
        ends(&place, &["--threads", "2"], &[0, 1, 2], &[]);
    }
}
