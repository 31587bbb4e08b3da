//! What goes well: the files that a source names, their order, and what of them was asked for over the network.

use crate::hub::fixture::{Place, TOKEN, names, parquet, patience, shard};
use crate::hub::server::{Hub, sha256};
use farthing_data::{FetchSettings, Fetcher, PinnedFile, Progress, ShardRange, Silent};

#[test]
fn a_dataset_comes_whole_and_in_order() {
    let mut place = Place::new();
    let files = place.fetch().unwrap();
    let train: Vec<_> = (0..4).map(parquet).collect();
    place.holds(&files, &train, &[parquet(4)]);
    assert_eq!(files.train[1].file, "00001-shard_00001.parquet");

    let log = place.hub.log();
    let pages = log.iter().filter(|r| r.path.contains("/tree/")).count();
    assert_eq!(pages, 3, "six files, two on a page");
    // The token goes to the Hub with every request, and to no other host.
    let bearer = format!("Bearer {TOKEN}");
    for request in &log {
        let expected = (request.host == "hub").then_some(&bearer);
        assert_eq!(request.authorization.as_ref(), expected, "{request:?}");
    }
    assert_eq!(log.iter().filter(|r| r.host == "cdn").count(), 5);
    assert!(log.iter().all(|r| !r.path.contains("README")), "a note is no text to train on");
}

#[test]
fn the_cache_is_hugging_faces() {
    let mut place = Place::new();
    place.fetch().unwrap();
    let pin = place.fetcher.pins[0].clone();
    let commit = pin.commit.unwrap();
    let cache = place.cache();
    assert_eq!(names(&cache), ["blobs", "refs", "snapshots"]);
    assert_eq!(std::fs::read_to_string(cache.join("refs/main")).unwrap(), commit);
    let mut blobs: Vec<_> = (0..5).map(|i| sha256(&parquet(i))).collect();
    blobs.sort();
    assert_eq!(names(&cache.join("blobs")), blobs, "and nothing under way");
    let snapshot = cache.join("snapshots").join(&commit);
    assert_eq!(names(&snapshot), (0..5).map(shard).collect::<Vec<_>>());
    for i in 0..5 {
        let pointer = snapshot.join(shard(i));
        assert_eq!(std::fs::read(&pointer).unwrap(), parquet(i));
        #[cfg(unix)]
        {
            let target = std::fs::read_link(&pointer).unwrap();
            assert_eq!(target.to_str().unwrap(), format!("../../blobs/{}", sha256(&parquet(i))));
            // No byte is on the disk twice: the stage's file is another name of the blob.
            let out = place.out().join(format!("{i:05}-{}", shard(i)));
            let inode = |path: &std::path::Path| {
                std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
            };
            assert_eq!(inode(&out), inode(&pointer));
        }
    }
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let mut place = Place::new();
    place.settings.shards = ShardRange { first: 1, count: Some(1), val: None };
    place.fetch().unwrap();
    assert_eq!(place.blobs().len(), 2);
    place.hub.heal();
    let files = place.fetch().unwrap();
    assert_eq!(place.hub.log(), [], "pinned and cached: nothing is asked");
    place.holds(&files, &[parquet(1)], &[parquet(4)]);
    // More of the same source needs no new listing.
    place.settings.shards = ShardRange { first: 0, count: Some(2), val: None };
    place.fetch().unwrap();
    let asked: Vec<_> = place.hub.log().into_iter().map(|r| r.host).collect();
    assert_eq!(asked, ["hub", "cdn"]);
}

#[test]
fn folders_and_globs_and_revisions() {
    let mut files: Vec<_> = ["a/0.parquet", "a/1.parquet", "a/b/2 x.parquet", "c/3.parquet"]
        .iter()
        .zip(0..)
        .map(|(name, i)| ((*name).to_owned(), parquet(i)))
        .collect();
    files.push(("a/notes.txt".into(), b"no text to train on".to_vec()));
    let mut place = Place::with(files.clone());
    let old = place
        .hub
        .commit([("a/only.parquet".to_owned(), parquet(9)), ("a/z.parquet".into(), parquet(8))]);
    place.hub.commit(files);
    for (rest, found) in [
        ("", &["a/0.parquet", "a/1.parquet", "a/b/2 x.parquet", "c/3.parquet"] as &[&str]),
        ("/a", &["a/0.parquet", "a/1.parquet", "a/b/2 x.parquet"]),
        ("/a/*.parquet", &["a/0.parquet", "a/1.parquet"]),
        ("/**/[23]*.parquet", &["a/b/2 x.parquet", "c/3.parquet"]),
        (&format!("@{old}"), &["a/only.parquet", "a/z.parquet"]),
        ("@refs/convert/parquet/a/*.parquet", &["a/0.parquet", "a/1.parquet"]),
    ] {
        place.settings.source = format!("hf://datasets/org/name{rest}");
        let fetched = place.fetch().unwrap();
        let pinned = place.fetcher.pinned(&place.settings).unwrap().unwrap();
        let names: Vec<_> = pinned.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(names, found, "{rest}");
        assert_eq!(fetched.train.len() + fetched.val.len(), found.len());
    }
}

#[test]
fn a_pin_holds_when_the_dataset_moves() {
    let mut place = Place::new();
    place.settings.shards.count = Some(1);
    place.fetch().unwrap();
    let pins = place.fetcher.pins.clone();
    // Shard 0 changes, and one is added at the end.
    let moved = (0..6).map(|i| (shard(i), parquet(i + 100)));
    let newest = place.hub.commit(moved);

    // A year later, on another machine: the pins are all there is.
    let again = Place { dir: tempfile::tempdir().unwrap(), ..place };
    let mut fetcher = Fetcher::new(patience(&again.hub, again.dir.path()));
    fetcher.pins.clone_from(&pins);
    let files =
        fetcher.fetch(&again.settings, again.dir.path(), &again.out(), &mut Silent).unwrap();
    again.holds(&files, &[parquet(0)], &[parquet(4)]);
    assert_eq!(fetcher.pins, pins);

    // Without them it is the newest.
    let mut fetcher = again.stranger();
    let files =
        fetcher.fetch(&again.settings, again.dir.path(), &again.out(), &mut Silent).unwrap();
    again.holds(&files, &[parquet(100)], &[parquet(105)]);
    assert_eq!(fetcher.pins[0].commit.as_ref(), Some(&newest));
    let first: &PinnedFile = &fetcher.pins[0].files[0];
    assert_eq!(first.digest, format!("sha256:{}", sha256(&parquet(100))));
}

#[test]
fn splits_of_a_dataset_are_heeded_by_their_names() {
    let files = ["data/test-0", "data/train-0", "data/train-1", "data/validation-0"];
    let files = files.iter().zip(0..).map(|(name, i)| (format!("{name}.parquet"), parquet(i)));
    let mut place = Place::with(files.collect());
    let fetched = place.fetch().unwrap();
    place.holds(&fetched, &[1, 2].map(parquet), &[parquet(3)]);
    let survey = place.fetcher.survey(&place.settings, place.dir.path()).unwrap().unwrap();
    assert_eq!(survey.held_out, "data/validation-0.parquet");
    assert_eq!(survey.left_out, ["data/test-0.parquet: it is by name the test split"]);
    assert!(place.hub.downloads("test-0").is_empty(), "what is not used is not fetched");
    // Numbers count the files to train on.
    place.settings.shards.count = Some(1);
    let fetched = place.fetch().unwrap();
    place.holds(&fetched, &[parquet(1)], &[parquet(3)]);
    // A name that is given goes before names that are read.
    place.settings.shards = farthing_data::ShardRange { first: 1, count: Some(1), val: Some(0) };
    let fetched = place.fetch().unwrap();
    place.holds(&fetched, &[parquet(1)], &[parquet(0)]);
}

#[test]
fn small_files_are_checked_by_gits_digest() {
    // As small as they come, so not parquet: the digest is right, the file is not what it should be.
    let hub =
        Hub::start([("a.parquet".to_owned(), b"tiny".to_vec()), ("b.parquet".into(), parquet(1))]);
    let dir = tempfile::tempdir().unwrap();
    let mut fetcher = Fetcher::new(patience(&hub, dir.path()));
    let settings = FetchSettings { source: "hf://datasets/org/name".into(), ..Default::default() };
    let error =
        fetcher.fetch(&settings, dir.path(), &dir.path().join("out"), &mut Silent).unwrap_err();
    assert!(matches!(error, farthing_data::Error::NotParquet { .. }), "{error}");
    let blobs = names(&dir.path().join("cache/datasets--org--name/blobs"));
    let digest = fetcher.pins[0].files[0].digest.strip_prefix("git-sha1:").unwrap();
    assert!(blobs.iter().any(|b| b == digest), "{blobs:?}");
}

/// Notes what a watcher would see.
#[derive(Default)]
struct Notes {
    total: Option<u64>,
    done: u64,
    finished: Vec<String>,
}

impl Progress for Notes {
    fn total(&mut self, total: Option<u64>, unit: &'static str) {
        assert_eq!(unit, "bytes");
        self.total = total;
    }

    fn advance(&mut self, n: u64) {
        self.done += n;
    }

    fn part(&mut self, name: &str, done: u64, total: Option<u64>) {
        if Some(done) == total {
            self.finished.push(name.to_owned());
        }
    }
}

#[test]
fn every_file_and_the_total_are_watched() {
    let mut place = Place::new();
    let (mut notes, out) = (Notes::default(), place.out());
    place.fetcher.fetch(&place.settings, place.dir.path(), &out, &mut notes).unwrap();
    let bytes: u64 = (0..5).map(|i| parquet(i).len() as u64).sum();
    assert_eq!((notes.total, notes.done), (Some(bytes), bytes));
    notes.finished.sort();
    assert_eq!(notes.finished, (0..5).map(shard).collect::<Vec<_>>());
}
