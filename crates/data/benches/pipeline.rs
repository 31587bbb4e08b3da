//! Speed of the whole way from parquet to shards, beside encoding the same documents, in memory already, and nothing else: once as a user
//! encodes a corpus, with one call of `encode_batch` whose ids are kept (and freed when the clock has stopped), and once as fast as
//! encoding ever is, in chunks whose ids are thrown away, so that their memory is used again. Packing is timed twice as well: of files alone,
//! which are read once more for their digests, and with the digests known, as in a pipeline, which has them from fetching.
//!
//! Run with: `cargo bench -p farthing-data --bench pipeline -- [TEXT] [TOKENIZER] [--times N] [--rounds N] [--tries N]`
//!
//! TEXT is a parquet file with a column `text`, or a folder of them; TOKENIZER is a `tokenizer.json` or a folder with GPT-2's files.
//! Without them, real text and GPT-2's tokenizer where `FARTHING_SHARED` names a folder that has them, else the embedded world and a
//! tokenizer trained on it. The files are packed `--times` over, as a corpus of many files would be: what happens once, at the end,
//! weighs as little as it does in use. The sides take turns, so that whatever else the machine does falls on both; the ratio is
//! taken within a round. Where Linux tells, a round counts only if other processes used less than a tenth of a processor meanwhile:
//! rounds go on until `--rounds` of them count, or `--tries` are made; if fewer than three count, all do, and the last line says so.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic and prints")]

use farthing_data::{
    BpeSettings, FetchSettings, Pack, Silent, Texts, Tokenizer, digest_file, fetch, train_bpe,
};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Documents of a chunk: about as many as packing encodes at a time.
const CHUNK_DOCUMENTS: usize = 5_000;

/// Processors that others may use during a round that counts.
const QUIET: f64 = 0.1;

fn main() {
    let (mut paths, mut times, mut rounds, mut tries) = (vec![], 20, 5, 10);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--times" => times = arguments.next().unwrap().parse().unwrap(),
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            "--tries" => tries = arguments.next().unwrap().parse().unwrap(),
            "--bench" => {}
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (files, tokenizer) = corpus(dir.path(), &paths);
    let files: Vec<_> = std::iter::repeat_n(files, times).flatten().collect();
    let texts: Vec<String> = Texts::open(&files, "text").unwrap().map(Result::unwrap).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    println!(
        "{} documents, {:.0} MB of text, {} threads; slow because: {:?}",
        texts.len(),
        bytes as f64 / 1e6,
        rayon::current_num_threads(),
        tokenizer.slow_because()
    );

    let digests: Vec<String> = files.iter().map(|file| digest_file(file).unwrap()).collect();
    let out = dir.path().join("rows");
    let mut all: Vec<Round> = vec![];
    // The first round warms up: pages, caches, the tokenizer's tables.
    for round in 0..=tries.max(rounds) {
        let before = Clock::now();
        let (encode, ids) = timed(|| tokenizer.encode_batch(black_box(&texts)).unwrap());
        drop(black_box(ids));
        let (chunks, ()) = timed(|| {
            for chunk in texts.chunks(CHUNK_DOCUMENTS) {
                black_box(tokenizer.encode_batch(black_box(chunk)).unwrap());
            }
        });
        let (read, ()) = timed(|| {
            let mut texts = Texts::open(&files, "text").unwrap();
            let mut bytes = 0;
            while let Some(text) = texts.next_text() {
                bytes += text.unwrap().len();
            }
            black_box(bytes);
        });
        // Only now, so that the system has memory at hand for files: on a virtual machine, memory that its host must supply first
        // makes writing several times dearer, which says nothing about this crate.
        if round > 0 {
            std::fs::remove_dir_all(&out).unwrap();
        }
        let packing = || Pack::files(&files).tokenizer(&tokenizer);
        let (rows, manifest) = timed(|| packing().to(&out).unwrap());
        std::fs::remove_dir_all(&out).unwrap();
        let (known, same) = timed(|| packing().digests(digests.clone()).to(&out).unwrap());
        assert_eq!(manifest.shards, same.shards);
        let others = before.others();
        if round == 0 {
            continue;
        }
        println!(
            "round {round}: encoding alone {:.2} s ({:.2} s of processors), in chunks {:.2} s ({:.2}), reading parquet alone \
             {:.2} s ({:.2}), parquet to rows {:.2} s ({:.2}), with digests known {:.2} s ({:.2}); others used {others:.2} \
             processors",
            encode.0,
            encode.1,
            chunks.0,
            chunks.1,
            read.0,
            read.1,
            rows.0,
            rows.1,
            known.0,
            known.1,
        );
        all.push(Round { encode, chunks, read, rows, known, others });
        if all.iter().filter(|r| r.others < QUIET).count() >= rounds {
            break;
        }
    }
    let quiet = all.iter().filter(|r| r.others < QUIET).count();
    if quiet >= 3 {
        all.retain(|r| r.others < QUIET);
    }
    let mib = bytes as f64 / f64::from(1 << 20);
    let sides: [(&str, Side); 5] = [
        ("encoding alone", |r| r.encode),
        ("encoding in chunks", |r| r.chunks),
        ("reading parquet alone", |r| r.read),
        ("parquet to rows", |r| r.rows),
        ("with digests known", |r| r.known),
    ];
    let mut best = vec![];
    for (name, side) in sides {
        let (mut wall, mut cpu): (Vec<f64>, Vec<f64>) = all.iter().map(side).unzip();
        println!(
            "{name:>22}: median {:6.1} MiB/s, best {:6.1} MiB/s; processors: median {:.2} s, least {:.2} s",
            mib / median(&mut wall),
            mib / wall[0],
            median(&mut cpu),
            cpu[0]
        );
        best.push(wall[0]);
    }
    for (j, (what, packing)) in sides.iter().enumerate().skip(3) {
        for (i, (name, side)) in sides[..2].iter().enumerate() {
            let ratio = |r: &Round| 100.0 * side(r).0 / packing(r).0;
            let mut ratios: Vec<f64> = all.iter().map(ratio).collect();
            let middle = median(&mut ratios);
            println!(
                "{what:>22}: {middle:.1}% of the rate of {name} (median of {} rounds; {:.1}% to {:.1}%), {:.1}% best to best",
                all.len(),
                ratios[0],
                ratios[ratios.len() - 1],
                100.0 * best[i] / best[j]
            );
        }
    }
    println!("{quiet} rounds were quiet");
}

/// One side of a round.
type Side = fn(&Round) -> (f64, f64);

/// Each side's seconds by the clock and of processors, and processors that others used.
struct Round {
    encode: (f64, f64),
    chunks: (f64, f64),
    read: (f64, f64),
    rows: (f64, f64),
    known: (f64, f64),
    others: f64,
}

/// A moment: the time, seconds of processors of the whole machine, and of this process.
struct Clock(Instant, f64, f64);

impl Clock {
    fn now() -> Self {
        Self(Instant::now(), machine(), processors())
    }

    /// Processors that others have used since, on average.
    fn others(&self) -> f64 {
        let others = (machine() - self.1) - (processors() - self.2);
        others.max(0.0) / self.0.elapsed().as_secs_f64()
    }
}

/// The parquet files, and a tokenizer.
fn corpus(dir: &Path, paths: &[PathBuf]) -> (Vec<PathBuf>, Tokenizer) {
    let shared = std::env::var_os("FARTHING_SHARED").map(|d| Path::new(&d).join("data"));
    let shared = shared.filter(|d| d.is_dir());
    let in_shared = |name: &str| shared.as_ref().map(|d| d.join(name));
    let text = paths.first().cloned().or_else(|| in_shared("corpus/sample/10BT"));
    let tokenizer = paths.get(1).cloned().or_else(|| in_shared("tokenizer/gpt2/tokenizer.json"));
    let files = text.map_or_else(
        || {
            let source = "embedded://world".to_string();
            let settings = FetchSettings { source, ..FetchSettings::default() };
            let text = dir.join("text");
            fetch(&settings, dir, &text, &mut Silent).unwrap().train_paths(&text)
        },
        |text| parquet_files(&text),
    );
    let tokenizer = tokenizer.map_or_else(
        || {
            let bpe = BpeSettings { vocab_size: 1024, ..BpeSettings::default() };
            train_bpe(&files, "text", &bpe, dir, &mut Silent).unwrap().0
        },
        |path| Tokenizer::load(path).unwrap(),
    );
    (files, tokenizer)
}

fn parquet_files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.into()];
    }
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect();
    files.sort();
    files
}

/// Seconds by the clock and of this process's processors, and what came of it.
fn timed<T>(work: impl FnOnce() -> T) -> ((f64, f64), T) {
    let (clock, start) = (processors(), Instant::now());
    let result = work();
    ((start.elapsed().as_secs_f64(), processors() - clock), result)
}

/// Seconds of processor time of this process, where Linux tells (in hundredths), else 0.
fn processors() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the process, in parentheses, may hold spaces; user and system time are the 12th and 13th field after it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Seconds of processor time of the whole machine, what its host took included, where Linux tells, else 0.
fn machine() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split(' ').filter_map(|f| f.parse().ok()).collect();
    // User, nice, system, idle, waiting, interrupts (2), stolen.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&i: &usize| fields.get(i)).sum::<f64>();
    busy / 100.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
