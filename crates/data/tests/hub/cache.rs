//! The cache is shared: with what Python left there, with another process, with somebody who cleans it.

use crate::hub::fixture::{Place, names, parquet, shard};
use crate::hub::server::{Act, sha256};
use farthing_base::Hint;
use farthing_data::{Error, Fetcher, Silent};
use std::time::Duration;

/// Puts a shard where Hugging Face's library puts it.
fn left_by_python(place: &Place, i: u64, bytes: &[u8]) {
    let blobs = place.cache().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(sha256(&parquet(i))), bytes).unwrap();
}

#[test]
fn a_file_that_is_there_is_used() {
    let mut place = Place::new();
    left_by_python(&place, 0, &parquet(0));
    left_by_python(&place, 4, &parquet(4));
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);
    let asked = |i| place.hub.downloads(&shard(i)).len();
    assert_eq!([0, 1, 2, 3, 4].map(asked), [0, 1, 1, 1, 0]);
    let snapshot =
        place.cache().join("snapshots").join(place.fetcher.pins[0].commit.as_ref().unwrap());
    assert_eq!(names(&snapshot).len(), 5, "and is part of the snapshot now");
}

#[test]
fn a_damaged_file_is_moved_aside_and_fetched() {
    let mut place = Place::new();
    let mut flipped = parquet(0);
    flipped[1_000] ^= 1;
    left_by_python(&place, 0, &flipped);
    left_by_python(&place, 1, b"cut off");
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);
    let aside = place.cache().join("blobs").join(format!("{}.damaged", sha256(&parquet(0))));
    assert_eq!(std::fs::read(aside).unwrap(), flipped, "nothing a user has is lost");
}

#[test]
fn a_cleaned_cache_takes_nothing_away() {
    let mut place = Place::new();
    let files = place.fetch().unwrap();
    std::fs::remove_dir_all(place.cache().join("blobs")).unwrap();
    place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);
    // The snapshot's links lead nowhere now; fetching mends them.
    place.fetch().unwrap();
    let snapshot =
        place.cache().join("snapshots").join(place.fetcher.pins[0].commit.as_ref().unwrap());
    assert_eq!(std::fs::read(snapshot.join(shard(2))).unwrap(), parquet(2));
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let mut place = Place::new();
    place.fetcher.settings.offline = true;
    let error = place.fetch().unwrap_err().with_hint();
    assert_eq!(
        error,
        "what `hf://datasets/org/name` holds has never been asked, and HF_HUB_OFFLINE is set\n\
         hint: run once where there is a network; its lock file then says what the source holds"
    );
    place.fetcher.settings.offline = false;
    place.settings.shards.count = Some(2);
    place.fetch().unwrap();
    place.hub.heal();
    place.fetcher.settings.offline = true;
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1].map(parquet), &[parquet(4)]);
    place.settings.shards.count = None;
    let error = place.fetch().unwrap_err().to_string();
    assert!(
        error.starts_with(
            "shard_00002.parquet (and 2 of 5 files in all) is not in the cache, and HF_HUB_OFFLINE"
        ),
        "{error}"
    );
    assert_eq!(place.hub.log(), [], "and nobody was asked");
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let place = Place::new();
    let slow: Vec<Act> = (0..3).map(|_| Act::Truncate(1_000)).collect();
    for i in 0..5 {
        place.hub.script(&format!("file={}", shard(i)), slow.clone());
    }
    let fetch = |n: usize| {
        let mut fetcher: Fetcher = place.stranger();
        fetcher.settings.attempts = 10;
        let out = place.dir.path().join(format!("out{n}"));
        fetcher.fetch(&place.settings, place.dir.path(), &out, &mut Silent).unwrap();
        names(&out)
            .into_iter()
            .map(|name| std::fs::read(out.join(name)).unwrap())
            .collect::<Vec<_>>()
    };
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(|| fetch(0)), scope.spawn(|| fetch(1)));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert!(a == b);
    for i in 0..5 {
        let ranges: Vec<_> = place.hub.downloads(&shard(i)).into_iter().map(|r| r.range).collect();
        let after = |n: usize| Some(format!("bytes={n}-"));
        assert_eq!(ranges, [None, after(1_000), after(2_000), after(3_000)], "shard {i}");
    }
}

#[test]
fn many_at_once_are_not_in_each_others_way() {
    let place = Place::new();
    let mut pinned = place.stranger();
    for round in 0..10 {
        std::thread::scope(|scope| {
            for n in 0..6 {
                let (place, mut fetcher) = (&place, pinned.clone());
                scope.spawn(move || {
                    let out = place.dir.path().join(format!("out{n}"));
                    fetcher.fetch(&place.settings, place.dir.path(), &out, &mut Silent).unwrap();
                });
            }
        });
        // From the second round on the files are there, and what points to them is made again: from nothing, then in place
        // of links that lead nowhere.
        pinned.pin(&place.settings, &mut Silent).unwrap();
        let snapshot =
            place.cache().join("snapshots").join(pinned.pins[0].commit.as_ref().unwrap());
        std::fs::remove_dir_all(place.cache().join("refs")).unwrap();
        std::fs::remove_dir_all(&snapshot).unwrap();
        if cfg!(unix) && round % 2 == 1 {
            std::fs::create_dir_all(&snapshot).unwrap();
            #[cfg(unix)]
            std::os::unix::fs::symlink("nowhere", snapshot.join(shard(0))).unwrap();
        }
    }
    let asked: Vec<_> = (0..5).map(|i| place.hub.downloads(&shard(i)).len()).collect();
    assert_eq!(asked, [1; 5]);
    place.stranger().fetch(&place.settings, place.dir.path(), &place.out(), &mut Silent).unwrap();
    assert_eq!(names(&place.cache()), ["blobs", "refs", "snapshots"]);
    assert_eq!(names(&place.cache().join("refs")), ["main"], "and nothing half-written");
}

#[test]
fn two_at_once_mend_a_damaged_file_once() {
    for _ in 0..10 {
        let mut place = Place::new();
        place.settings.shards.count = Some(1);
        let mut flipped = parquet(0);
        flipped[1_000] ^= 1;
        left_by_python(&place, 0, &flipped);
        let fetch = |n: usize| {
            let out = place.dir.path().join(format!("out{n}"));
            let base = place.dir.path();
            place.stranger().fetch(&place.settings, base, &out, &mut Silent).unwrap();
            std::fs::read(out.join("00000-shard_00000.parquet")).unwrap()
        };
        let (a, b) = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(|| fetch(0)), scope.spawn(|| fetch(1)));
            (a.join().unwrap(), b.join().unwrap())
        });
        assert!(a == parquet(0) && b == a);
        assert_eq!(place.hub.downloads(&shard(0)).len(), 1);
        let aside = place.cache().join("blobs").join(format!("{}.damaged", sha256(&parquet(0))));
        assert_eq!(std::fs::read(aside).unwrap(), flipped);
    }
}

/// Wants the work to end after a while.
struct Soon(std::time::Instant);

impl farthing_data::Progress for Soon {
    fn stopped(&self) -> bool {
        self.0.elapsed() > Duration::from_millis(300)
    }
}

#[test]
fn whoever_waits_for_another_process_can_be_stopped() {
    let mut place = Place::new();
    place.settings.shards.count = Some(1);
    place.fetcher.pin(&place.settings, &mut Silent).unwrap();
    let locks = place.dir.path().join("cache/.locks/datasets--org--name");
    std::fs::create_dir_all(&locks).unwrap();
    let held: Vec<_> = [0, 4]
        .map(|i| {
            let file =
                std::fs::File::create(locks.join(format!("{}.lock", sha256(&parquet(i))))).unwrap();
            file.lock().unwrap();
            file
        })
        .into();
    let out = place.out();
    let mut soon = Soon(std::time::Instant::now());
    let error = place.fetcher.fetch(&place.settings, place.dir.path(), &out, &mut soon);
    assert!(matches!(error, Err(Error::Stopped)));
    assert!(place.hub.downloads(&shard(0)).is_empty(), "another process works on it");
    drop(held);
    place.fetch().unwrap();
}
