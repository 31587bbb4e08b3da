//! Text far away that is not parquet: the documents are those of the same files here, and what is wrong is named by file and line.

use crate::hub::fixture::{Place, parquet};
use crate::hub::server::REPO;
use farthing_base::Hint;
use farthing_data::{Error, FetchSettings, Silent, Texts, fetch};
use std::fs;
use std::io::Write;

fn gz(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn lines(first: u32) -> String {
    let line = |i| format!("{{\"text\": \"document {i}\"}}\n");
    (first..first + 30).map(line).collect()
}

/// JSON lines and a table, plain and compressed, and what is not text to train on.
fn files() -> Vec<(String, Vec<u8>)> {
    let table = "id,text\n0,\"a, b\"\n1,c\n".to_owned();
    let files = [
        ("a/0.jsonl", lines(0).into_bytes()),
        ("a/1.jsonl.gz", gz(&lines(30))),
        ("a/2.jsonl.zst", zstd::encode_all(lines(60).as_bytes(), 3).unwrap()),
        ("b/0.csv", table.clone().into_bytes()),
        ("b/1.csv.gz", gz(&table)),
        ("c/0.txt", b"one\n\ntwo\n\nthree".to_vec()),
        ("README.md", b"a note".to_vec()),
    ];
    files.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

fn texts(place: &Place, fetched: &farthing_data::Files) -> Vec<String> {
    let out = place.out();
    let paths = [fetched.train_paths(&out), fetched.val_paths(&out)].concat();
    Texts::open(&paths, "text").unwrap().map(Result::unwrap).collect()
}

/// What the same settings bring of the same files on this machine.
fn here(settings: &FetchSettings, pattern: &str) -> (Vec<String>, farthing_data::Files) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files() {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let settings = FetchSettings { source: pattern.into(), ..settings.clone() };
    let out = dir.path().join("out");
    let files = fetch(&settings, dir.path(), &out, &mut Silent).unwrap();
    let paths = [files.train_paths(&out), files.val_paths(&out)].concat();
    (Texts::open(&paths, "text").unwrap().map(Result::unwrap).collect(), files)
}

#[test]
fn the_documents_are_those_of_the_same_files_here() {
    let separator = || Some("\n\n".to_owned());
    for (pattern, separator, read_as) in [
        ("a", None, "JSON lines"),
        ("a/*.jsonl.gz", None, "JSON lines"),
        ("b/*.{csv,gz}", None, "CSV"),
        ("c/0.txt", separator(), "text"),
        ("{b/*.csv,c/*.txt}", separator(), "text and CSV"),
    ] {
        let mut place = Place::with(files());
        place.settings = FetchSettings {
            source: format!("hf://datasets/{REPO}/{pattern}"),
            separator,
            ..FetchSettings::default()
        };
        let (want, files) = here(&place.settings, pattern);
        let fetched = place.fetch().unwrap_or_else(|e| panic!("{pattern}: {e}"));
        assert_eq!(texts(&place, &fetched), want, "{pattern}");
        let digests = |files: &farthing_data::Files| -> Vec<String> {
            files.train.iter().chain(&files.val).map(|file| file.blake3.clone()).collect()
        };
        assert_eq!(digests(&fetched), digests(&files), "{pattern}");
        let base = place.dir.path();
        let survey = place.fetcher.survey(&place.settings, base).unwrap().unwrap();
        assert_eq!(survey.read_as.as_deref(), Some(read_as), "{pattern}");
        // Read as something else it would be another result.
        assert!(place.fetcher.mark(&place.settings, base).unwrap().unwrap().contains("read as"));
        // Again from the cache.
        assert_eq!(place.fetch().unwrap(), fetched, "{pattern}");
    }
}

#[test]
fn urls_bring_lines_and_tables_too() {
    let mut place = Place::with(files());
    let cdn = place.hub.cdn.clone();
    for (path, documents) in [
        ("a/0.jsonl?signature=secret", 30),
        ("a/1.jsonl.gz", 30),
        ("a/2.jsonl.zst", 30),
        ("b/1.csv.gz", 2),
    ] {
        place.settings.source = format!("{cdn}/web/{path}");
        let fetched = place.fetch().unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(texts(&place, &fetched).len(), documents, "{path}");
        // One file, whose last documents are held out.
        assert_eq!((fetched.train.len(), fetched.val.len()), (1, 1));
        assert!(fetched.train[0].file.ends_with(".train.parquet"), "{fetched:?}");
    }
}

#[test]
fn parquet_goes_before_other_text_and_several_formats_are_asked_about() {
    let mut all = files();
    let mut place = Place::with(all.clone());
    place.settings.source = format!("hf://datasets/{REPO}");
    let error = place.fetch().unwrap_err().with_hint();
    assert!(error.contains("text in several formats: 3 files of JSON lines"), "{error}");
    assert!(error.contains("say which with a glob: `*.jsonl` or `*.txt` or `*.csv`"), "{error}");
    all.extend([("d/0.parquet".into(), parquet(0)), ("d/1.parquet".into(), parquet(1))]);
    place.hub.commit(all);
    let fetched = place.fetch().unwrap();
    place.holds(&fetched, &[parquet(0)], &[parquet(1)]);
}

#[test]
fn what_is_wrong_is_named_by_file_and_line() {
    let bad = format!("{}{{\"text\": 7}}\n", lines(0));
    for (name, bytes, what) in [
        ("x.jsonl", bad.clone().into_bytes(), "x.jsonl, line 31: the value of `text` is a number"),
        ("x.jsonl.gz", gz(&bad), "x.jsonl.gz, line 31: the value of `text` is a number"),
        ("x.csv", b"id,text\n1,a\n2\n".to_vec(), "x.csv, line 3: the row has 1 field"),
    ] {
        let mut place = Place::with(vec![(name.into(), bytes), ("y.jsonl".into(), b"x".to_vec())]);
        place.settings.source = format!("hf://datasets/{REPO}/{name}");
        let error = place.fetch().unwrap_err();
        assert!(matches!(error, Error::Document { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn what_is_not_what_its_url_says_is_not_pinned() {
    let page = "<!doctype html><p>please log in</p>";
    for (name, bytes, what) in [
        ("x.jsonl", page.as_bytes().to_vec(), "it is a web page"),
        ("x.txt", page.as_bytes().to_vec(), "it is a web page"),
        ("x.csv", b"error\n".to_vec(), "has no column `text`"),
        ("x.jsonl", b"rate limit".to_vec(), "line 1: it is not JSON"),
    ] {
        let mut place = Place::with(vec![(name.into(), bytes)]);
        place.settings.source = format!("{}/web/{name}", place.hub.cdn);
        let error = place.fetch().unwrap_err().with_hint();
        assert!(error.contains(name) && error.contains(what), "{error}");
        assert!(place.fetcher.pins.is_empty());
        // The server is well again.
        let good = if name.ends_with("csv") { "text\na\nb\n".into() } else { lines(0) };
        place.hub.tamper(name, good.into_bytes());
        place.settings.separator = name.ends_with("txt").then(|| "\n".into());
        place.fetch().unwrap();
    }
}

#[test]
fn settings_that_no_file_heeds_are_refused_before_anything_comes() {
    let mut place = Place::with(files());
    place.settings.source = format!("{}/web/a/0.jsonl", place.hub.cdn);
    place.settings.separator = Some("\n".into());
    let error = place.fetch().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(place.hub.downloads("a/0.jsonl").is_empty());
    let mut place = Place::new();
    place.settings.text_column = Some("content".into());
    let error = place.fetch().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(place.blobs().is_empty());
}
