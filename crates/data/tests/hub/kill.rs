//! `kill -9` in the middle of a download: the next process asks for the rest of the file and ends with the right bytes.

use crate::hub::fixture::{Place, names, parquet, shard};
use crate::hub::server::Act;
use farthing_data::{FetchSettings, Fetcher, HubSettings, Silent};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the child finds the server, and its folder; set in no other process.
const ENDPOINT: &str = "FARTHING_TEST_KILL_ENDPOINT";
const FOLDER: &str = "FARTHING_TEST_KILL_FOLDER";

/// This test again, in a process of its own, where it is the fetcher.
fn child(place: &Place) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hub::kill::a_killed_download_goes_on_where_it_was", "--nocapture"])
        .env(ENDPOINT, &place.hub.endpoint)
        .env(FOLDER, place.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn fetcher(endpoint: &str, dir: &Path) {
    // More patience than the test has: whoever hangs hangs until he is killed.
    let settings = HubSettings::new(endpoint, dir.join("cache"), dir.join("downloads"));
    let source = FetchSettings { source: "hf://datasets/org/name".into(), ..Default::default() };
    Fetcher::new(settings).fetch(&source, dir, &dir.join("out"), &mut Silent).unwrap();
}

/// Waits until so many bytes of shard 1 are on the disk, and the other four files whole.
fn wait_for(place: &Place, child: &mut Child, bytes: u64) {
    let sha = crate::hub::server::sha256(&parquet(1));
    let partial = place.cache().join("blobs").join(format!("{sha}.incomplete"));
    let began = Instant::now();
    loop {
        let arrived = std::fs::metadata(&partial).map_or(0, |meta| meta.len());
        if arrived == bytes && place.blobs().len() == 4 {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "the child ended before it was killed");
        assert!(began.elapsed() < Duration::from_mins(1), "{arrived} of {bytes} bytes");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    if let (Ok(endpoint), Some(dir)) = (std::env::var(ENDPOINT), std::env::var_os(FOLDER)) {
        fetcher(&endpoint, Path::new(&dir));
        return;
    }
    let mut place = Place::new();
    place.hub.script("file=shard_00001", [Act::Hang(5_000), Act::Hang(3_000)]);
    for bytes in [5_000, 8_000] {
        let mut child = child(&place);
        wait_for(&place, &mut child, bytes);
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(names(&place.out()).is_empty(), "nothing looks whole that is not");
    }
    let status = child(&place).wait().unwrap();
    assert!(status.success());
    let log = place.hub.downloads(&shard(1));
    let ranges: Vec<_> = log.iter().map(|request| request.range.as_deref()).collect();
    assert_eq!(ranges, [None, Some("bytes=5000-"), Some("bytes=8000-")]);
    for i in [0, 2, 3, 4] {
        assert_eq!(place.hub.downloads(&shard(i)).len(), 1, "shard {i} came once");
    }
    assert_eq!(names(&place.cache().join("blobs")).len(), 5, "and nothing is left under way");

    // Nothing more is asked of the second host by the process that looks at the result.
    place.hub.heal();
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);
    assert!(place.hub.log().iter().all(|request| request.host == "hub"));
}
