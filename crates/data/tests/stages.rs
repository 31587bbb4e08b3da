//! From a source to batches: determinism, reuse, recovery, and what the files say.

use crate::common;

use common::{packed, world, write_parquet};
use farthing_base::tensors::TensorError;
use farthing_data::world::{Split, World};
use farthing_data::{
    Error, FetchSettings, Files, Loader, Order, Pack, PackSettings, Remainder, Rows, Shard,
    ShardRange, Silent, Tokenizer, digest_file, fetch,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn digests(dir: &Path) -> BTreeMap<String, String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().unwrap().is_file())
        .map(|e| (e.file_name().into_string().unwrap(), digest_file(e.path()).unwrap()))
        .collect()
}

fn on_threads<T: Send>(n: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

#[test]
fn every_byte_is_the_same_on_one_thread_and_on_two() {
    let (one, two) = (on_threads(1, packed), on_threads(2, packed));
    for folder in ["text", "text/tasks", "rows", ""] {
        let a = digests(&one.dir.path().join(folder));
        assert!(!a.is_empty());
        assert_eq!(a, digests(&two.dir.path().join(folder)), "{folder:?}");
    }
    assert!(one.manifest.shards.len() > 2, "{} shards", one.manifest.shards.len());
}

#[test]
fn known_digests_change_nothing_but_that_files_are_read_once() {
    let p = packed();
    let train = p.train();
    let known: Vec<String> = p.files.train.iter().map(|file| file.blake3.clone()).collect();
    let out = p.dir.path().join("again");
    let again = |digests: &[String]| p.pack(&train).digests(digests.to_vec()).to(&out);
    assert_eq!(again(&known).unwrap(), p.manifest);
    assert_eq!(digests(&out), digests(&p.dir.path().join("rows")));
    // They are what tells one text from another.
    let other: Vec<String> = known.iter().rev().cloned().collect();
    assert!(matches!(again(&other), Err(Error::Manifest { .. })));
    let error = again(&known[1..]).unwrap_err().to_string();
    assert!(error.contains("2 files come with 1 digests"), "{error}");
}

#[test]
fn text_is_found_by_a_pattern() {
    let p = packed();
    let dir = p.dir.path();
    let text = dir.join("text");
    let held_out = p.files.val_paths(&text);
    for path in held_out {
        fs::remove_file(path).unwrap();
    }
    for pattern in ["text/*.parquet", "text"] {
        let pattern = dir.join(pattern).to_str().unwrap().to_owned();
        let packing = Pack::text(&pattern).tokenizer(&p.tokenizer).settings(p.settings.clone());
        let out = dir.join("again");
        assert_eq!(packing.shard_bytes(60_000).to(&out).unwrap().shards, p.manifest.shards);
        fs::remove_dir_all(out).unwrap();
    }
    let of = |pattern: &str| Pack::text(dir.join(pattern).to_str().unwrap());
    let error = of("text/*.parquet").to(dir.join("x")).unwrap_err().to_string();
    assert!(error.contains("without a tokenizer"), "{error}");
    let error = of("nowhere/*.parquet").tokenizer(&p.tokenizer).to(dir.join("x")).unwrap_err();
    assert!(matches!(error, Error::NoFiles { .. }), "{error}");
    fs::write(dir.join("notes.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    let error = of("notes.jsonl").tokenizer(&p.tokenizer).to(dir.join("x")).unwrap_err();
    assert!(matches!(error, Error::NotParquet { .. }), "{error}");
}

#[test]
fn rows_hold_the_documents_and_nothing_is_lost() {
    let p = packed();
    let rows = Rows::open(p.dir.path().join("rows")).unwrap();
    rows.verify().unwrap();
    let stats = p.manifest.stats;
    assert_eq!(rows.len(), stats.rows);
    assert_eq!(stats.documents, 500);
    assert!(stats.tokens_dropped_at_end < 65);
    // A row read back as text consists of pieces of documents.
    let all: Vec<String> = World::new(1).documents(Split::Train, 500).map(|d| d.text).collect();
    for i in (0..rows.len()).step_by(37) {
        let row = rows.row(i).unwrap().to_vec();
        assert_eq!(row.len(), 65);
        assert_eq!(row[0], p.tokenizer.bos());
        for piece in row.split(|&t| t == p.tokenizer.bos()) {
            let text = p.tokenizer.decode(piece);
            assert!(all.iter().any(|document| document.contains(&text)), "{text:?}");
        }
    }
    assert!(rows.row(rows.len()).is_none());
    let shard = &rows.shards()[0];
    assert_eq!(shard.metadata()["tokenizer"], p.tokenizer.digest());
    let until: farthing_data::PackStats = serde_json::from_str(&shard.metadata()["stats"]).unwrap();
    assert_eq!(until.rows, shard.rows() as u64);
    // Other readers of safetensors understand the file.
    let bytes = fs::read(shard.path()).unwrap();
    let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = other.tensor("rows").unwrap();
    assert_eq!(tensor.shape(), [shard.rows(), 65]);
    assert_eq!(tensor.dtype(), safetensors::Dtype::U16);
}

#[test]
fn finished_packing_is_reused_and_an_interrupted_one_completed() {
    let p = packed();
    let (text, out) = (p.dir.path().join("text"), p.dir.path().join("rows"));
    let train = p.files.train_paths(&text);
    let again = || p.pack(&train).to(&out);
    let before = digests(&out);
    let modified = |file: &str| fs::metadata(out.join(file)).unwrap().modified().unwrap();
    let time = modified("rows_00000.safetensors");
    assert_eq!(again().unwrap(), p.manifest);
    assert_eq!(modified("rows_00000.safetensors"), time, "a finished shard was written again");

    // Killed: no manifest, one shard half written under its temporary name, one damaged.
    fs::remove_file(out.join("manifest.json")).unwrap();
    fs::rename(out.join("rows_00002.safetensors"), out.join("rows_00002.safetensors.tmp")).unwrap();
    fs::write(out.join("rows_00001.safetensors"), b"rubbish").unwrap();
    fs::write(out.join("rows_99999.safetensors"), b"of a longer run").unwrap();
    fs::write(out.join("notes.txt"), b"not ours").unwrap();
    assert_eq!(again().unwrap(), p.manifest);
    fs::remove_file(out.join("notes.txt")).unwrap();
    assert_eq!(digests(&out), before);

    // Another packing is not overwritten.
    let other = PackSettings { remainder: Remainder::Discard, ..p.settings.clone() };
    let error = p.pack(&train).settings(other).to(&out).unwrap_err();
    assert!(error.to_string().contains("belongs to another packing"), "{error}");
    assert_eq!(digests(&out), before);

    // Nor is a damaged one passed off as finished.
    let path = out.join("rows_00001.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = again().unwrap_err();
    assert!(matches!(error, Error::Shard(TensorError::Checksum { .. })), "{error}");
    assert!(error.to_string().contains("rows_00001"), "{error}");
}

/// Makes about thirty shards.
const SMALL_SHARDS: usize = 6_000;

/// A process of its own, which the test below starts and kills.
#[test]
#[ignore = "started by the test that kills it"]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os("FARTHING_TEST_KILLED") else { return };
    let dir = Path::new(&dir);
    let text = dir.join("text");
    let files = Files::load(&text).unwrap().train_paths(&text);
    let tokenizer = Tokenizer::load(dir.join("tokenizer.json")).unwrap();
    let settings = fs::read(dir.join("settings.json")).unwrap();
    let settings: PackSettings = serde_json::from_slice(&settings).unwrap();
    let packing = Pack::files(&files).tokenizer(&tokenizer).settings(settings);
    packing.shard_bytes(SMALL_SHARDS).to(dir.join("killed")).unwrap();
}

#[test]
fn a_killed_process_loses_no_shard_that_was_finished() {
    let p = packed();
    let dir = p.dir.path();
    let train = p.train();
    fs::write(dir.join("settings.json"), serde_json::to_vec(&p.settings).unwrap()).unwrap();
    let whole = dir.join("whole");
    let packing = || p.pack(&train).shard_bytes(SMALL_SHARDS);
    let manifest = packing().to(&whole).unwrap();
    assert!(manifest.shards.len() > 20, "{} shards", manifest.shards.len());

    let killed = dir.join("killed");
    let modified = |name: &str| fs::metadata(killed.join(name)).unwrap().modified().unwrap();
    let mut kept: BTreeMap<String, SystemTime> = BTreeMap::new();
    let mut cut_off = 0;
    for stop in [0, 1, 2, 5, 9, 14] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stages::child_that_is_killed", "--ignored"])
            .env("FARTHING_TEST_KILLED", dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let shard = killed.join(format!("rows_{stop:05}.safetensors"));
        while !shard.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        // SIGKILL: nothing in the process runs after it.
        child.kill().unwrap();
        child.wait().unwrap();
        cut_off += usize::from(!killed.join("manifest.json").exists());
        for (name, time) in &kept {
            assert_eq!(modified(name), *time, "{name} was written again");
        }
        let mut shards: Vec<String> = digests(&killed).into_keys().collect();
        shards.retain(|name| name.starts_with("rows_") && name.ends_with(".safetensors"));
        // The last one may have been written without its resume point.
        shards.pop();
        kept = shards.into_iter().map(|name| (name.clone(), modified(&name))).collect();
    }
    assert!(cut_off > 0, "every child was done before it could be killed");
    assert_eq!(packing().to(&killed).unwrap(), manifest);
    for (name, time) in &kept {
        assert_eq!(modified(name), *time, "{name} was written again");
    }
    assert_eq!(digests(&killed), digests(&whole));
}

/// Notes what is counted, and asks to stop while one thing is.
#[derive(Default)]
struct Watcher {
    stop_while: Option<&'static str>,
    counted: Vec<(&'static str, Option<u64>, u64)>,
}

impl farthing_data::Progress for Watcher {
    fn total(&mut self, total: Option<u64>, unit: &'static str) {
        self.counted.push((unit, total, 0));
    }

    fn advance(&mut self, n: u64) {
        self.counted.last_mut().unwrap().2 += n;
    }

    fn stopped(&self) -> bool {
        self.counted.last().is_some_and(|&(unit, ..)| Some(unit) == self.stop_while)
    }
}

#[test]
fn a_request_to_stop_ends_packing_and_a_second_call_finishes_it() {
    let p = packed();
    let train = p.train();
    let out = p.dir.path().join("stopped");
    // In the digests, and in packing itself.
    for unit in ["bytes", "documents"] {
        let mut watcher = Watcher { stop_while: Some(unit), ..Watcher::default() };
        let error = p.pack(&train).progress(&mut watcher).to(&out).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
        assert_eq!(watcher.counted.last().unwrap().0, unit);
        assert!(!out.join("manifest.json").exists());
    }
    assert_eq!(p.pack(&train).to(&out).unwrap(), p.manifest);
    assert_eq!(digests(&out), digests(&p.dir.path().join("rows")));
}

#[test]
fn digests_and_verification_are_counted_in_bytes() {
    let p = packed();
    let train = p.train();
    let out = p.dir.path().join("watched");
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    let read: u64 = train.iter().map(|path| size(path)).sum();
    let mut watcher = Watcher::default();
    let manifest = p.pack(&train).progress(&mut watcher).to(&out).unwrap();
    let documents = manifest.read.rows();
    let whole = |unit, n| (unit, Some(n), n);
    assert_eq!(watcher.counted, [whole("bytes", read), whole("documents", documents)]);

    let rows: u64 = manifest.shards.iter().map(|shard| size(&out.join(&shard.file))).sum();
    let mut watcher = Watcher::default();
    p.pack(&train).progress(&mut watcher).to(&out).unwrap();
    assert_eq!(watcher.counted, [whole("bytes", read), whole("bytes", rows)]);

    let mut watcher = Watcher { stop_while: Some("bytes"), ..Watcher::default() };
    let stopped = Rows::open(&out).unwrap().verify_watched(&mut watcher);
    assert!(matches!(stopped, Err(Error::Stopped)));
}

#[test]
fn batches_follow_the_order_and_positions_are_sorted() {
    let p = packed();
    let rows = Rows::open(p.dir.path().join("rows")).unwrap();
    let n = rows.len();
    let order = Order::new(n, 8, 5).unwrap();
    let loader = || rows.batches(8).seed(5).micro_batches(4).sorted();
    for step in [0, 1, n / 8, n] {
        let mut batches = loader().from_step(step).until_step(step + 1).into_iter();
        for micro in [0..4, 4..8] {
            let batch = batches.next().unwrap().unwrap();
            for (b, j) in micro.enumerate() {
                let row = rows.row(order.row(step, j)).unwrap().to_vec();
                let row: Vec<i32> = row.into_iter().map(|t| t as i32).collect();
                assert_eq!(batch.inputs()[b * 64..][..64], row[..64]);
                assert_eq!(batch.targets()[b * 64..][..64], row[1..]);
                let mut copy = vec![0; 65];
                rows.fill(order.row(step, j), &mut copy).unwrap();
                assert_eq!(copy, row);
            }
            let mut sorted: Vec<i32> = (0..4 * 64).collect();
            sorted.sort_by_key(|&at| batch.inputs()[at as usize]);
            assert_eq!(batch.order(), Some(&sorted[..]));
        }
        assert!(batches.next().is_none());
    }
    // Shapes that do not fit, and a vocabulary that is too small.
    let refused = |loader: Loader| {
        let mut batches = loader.into_iter();
        let error = batches.next().unwrap().unwrap_err();
        assert!(batches.next().is_none(), "{error}");
        error
    };
    let longer = refused(loader().context(128)).to_string();
    assert!(longer.contains("128 positions was asked for from rows of 65"), "{longer}");
    let narrow = refused(loader().vocab(100));
    assert!(matches!(narrow, Error::TokenOutOfRange { .. }), "{narrow}");
    for loader in [
        loader().micro_batches(3),
        loader().micro_batches(0),
        loader().ahead(0),
        loader().rank(1, 1),
        loader().rank(0, 9),
        rows.batches(0),
    ] {
        assert!(matches!(refused(loader), Error::Config { .. }));
    }
}

#[test]
fn local_files_directories_and_globs_are_found_and_split() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("corpus");
    fs::create_dir_all(corpus.join("more")).unwrap();
    for name in ["b.parquet", "a.parquet", "more/c.parquet"] {
        let text = arrow::array::StringArray::from(vec![name]);
        write_parquet(&corpus.join(name), vec![("text", Arc::new(text))], 10);
    }
    // A row more, which can be held out where the file is the only one.
    let two = arrow::array::StringArray::from(vec!["one", "two"]);
    write_parquet(&dir.path().join("alone.parquet"), vec![("text", Arc::new(two))], 10);
    fs::write(corpus.join("README.md"), "not parquet").unwrap();
    let get = |source: &str, shards: ShardRange| {
        let out = tempfile::tempdir().unwrap();
        let source = source.to_string();
        let settings = FetchSettings { source, shards, world: world(), ..Default::default() };
        let files = fetch(&settings, dir.path(), out.path(), &mut Silent)?;
        assert_eq!(Files::load(out.path())?, files);
        let names = |entries: &[farthing_data::FileEntry]| -> Vec<String> {
            entries.iter().map(|e| e.file.clone()).collect()
        };
        Ok::<_, Error>((names(&files.train), names(&files.val)))
    };
    let all = ShardRange::default();
    let two = (vec!["00000-a.parquet".to_string()], vec!["00001-b.parquet".to_string()]);
    assert_eq!(get("corpus/*.parquet", all).unwrap(), two);
    assert_eq!(get("file:corpus", all).unwrap().1, ["00002-c.parquet"]);
    assert_eq!(get("corpus/**/*.parquet", all).unwrap().0.len(), 2);
    let first = ShardRange { val: Some(0), ..all };
    assert_eq!(
        get("corpus", first).unwrap(),
        (vec!["00001-b.parquet".into(), "00002-c.parquet".into()], vec!["00000-a.parquet".into()],)
    );
    let message = |source: &str, shards| get(source, shards).unwrap_err().to_string();
    assert!(
        message("corpus/a.parquet", all).contains("none is left to train on"),
        "it has one row"
    );
    let alone =
        (vec!["00000-alone.train.parquet".into()], vec!["00000-alone.held-out.parquet".into()]);
    assert_eq!(get("alone.parquet", all).unwrap(), alone);
    assert!(message("corpus", ShardRange { val: Some(3), ..all }).contains("numbered from 0"));
    assert!(message("corpus", ShardRange { count: Some(9), ..all }).contains("it has 3 files"));
    assert!(message("nowhere", all).contains("no file of text matches `nowhere`"));
    assert!(message("corpus/*.csv", all).contains("no file of text matches"));
    assert!(message("s3://bucket/x", all).contains("not one this version reads"));
    assert!(
        message("corpus/README.md", ShardRange { val: Some(0), ..all }).contains("none is left")
    );
}

#[test]
fn the_held_out_split_packs_too_and_short_text_is_an_error() {
    let p = packed();
    let text = p.dir.path().join("text");
    let val = p.files.val_paths(&text);
    let out = p.dir.path().join("val");
    let manifest = p.pack(&val).to(&out).unwrap();
    assert_eq!(manifest.stats.documents, 60);

    let short = p.dir.path().join("short.parquet");
    let column = arrow::array::StringArray::from(vec![Some("A few words."), None]);
    write_parquet(&short, vec![("text", Arc::new(column))], 10);
    let out = p.dir.path().join("none");
    let error = p.pack(&[short]).to(&out).unwrap_err();
    assert!(matches!(error, Error::NoRows { documents: 1, .. }), "{error}");
}

#[test]
fn a_large_vocabulary_is_stored_in_four_bytes() {
    assert_eq!(farthing_data::TokenType::for_vocab(65_536).bytes(), 2);
    assert_eq!(farthing_data::TokenType::for_vocab(65_537).bytes(), 4);
}

#[test]
fn shards_and_tokenizer_open_alone() {
    let p = packed();
    let shard = Shard::open(p.dir.path().join("rows/rows_00000.safetensors")).unwrap();
    shard.verify().unwrap();
    let loaded = Tokenizer::load(p.dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(loaded.digest(), p.tokenizer.digest());
}
