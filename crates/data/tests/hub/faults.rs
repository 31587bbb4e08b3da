//! What goes wrong: on a shaky network the right bytes still come; otherwise the error says what, where and what to do.

use crate::hub::fixture::{Place, names, parquet, shard};
use crate::hub::server::{Act, Hub};
use farthing_base::Hint;
use farthing_data::{Error, Progress, Silent};
use std::time::{Duration, Instant};

/// The ranges that were asked for of a file.
fn ranges(hub: &Hub, path: &str) -> Vec<Option<String>> {
    hub.downloads(path).into_iter().map(|r| r.range).collect()
}

/// Fetches with these acts at the downloads of shard 1; all must end well.
fn survives(acts: Vec<Act>) -> Vec<Option<String>> {
    let mut place = Place::new();
    place.hub.script("file=shard_00001", acts);
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);
    assert_eq!(place.blobs().len(), 5);
    assert_eq!(names(&place.cache().join("blobs")).len(), 5, "nothing is left under way");
    ranges(&place.hub, &shard(1))
}

fn after(bytes: usize) -> String {
    format!("bytes={bytes}-")
}

#[test]
fn a_body_that_ends_early_is_resumed_in_the_middle() {
    let asked = survives(vec![Act::Truncate(1_000), Act::Truncate(500)]);
    assert_eq!(asked, [None, Some(after(1_000)), Some(after(1_500))]);
}

#[test]
fn a_body_that_hangs_is_resumed_in_the_middle() {
    assert_eq!(survives(vec![Act::Hang(2_000)]), [None, Some(after(2_000))]);
    assert_eq!(survives(vec![Act::Hang(0)]), [None, None]);
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    assert_eq!(survives(vec![Act::Truncate(1_000), Act::IgnoreRange]), [None, Some(after(1_000))]);
}

#[test]
fn a_file_that_changes_between_attempts_is_begun_again() {
    let asked =
        survives(vec![Act::Truncate(1_000), Act::Etag("\"other\""), Act::Etag("\"other\"")]);
    assert_eq!(asked, [None, Some(after(1_000)), None]);
}

#[test]
fn a_flipped_byte_is_fetched_again() {
    assert_eq!(survives(vec![Act::Flip]), [None, None]);
}

#[test]
fn busy_servers_are_waited_for() {
    let asked = survives(vec![
        Act::Status(503, vec![]),
        Act::Status(500, vec![]),
        Act::Status(502, vec![]),
    ]);
    assert_eq!(asked.len(), 4);
    let began = Instant::now();
    let after = vec![("retry-after", "1".to_owned())];
    survives(vec![Act::Status(429, after)]);
    assert!(began.elapsed() >= Duration::from_secs(1), "the server's own wait is respected");
    let began = Instant::now();
    survives(vec![Act::Status(429, vec![("ratelimit", "\"resolvers\";r=0;t=1".to_owned())])]);
    assert!(began.elapsed() >= Duration::from_secs(1), "in either of its forms");
}

#[test]
fn a_busy_listing_is_waited_for() {
    let mut place = Place::new();
    place.hub.script("/tree/", [Act::Status(503, vec![]), Act::Truncate(20), Act::Hang(10)]);
    place.hub.script("/revision/", [Act::Status(429, vec![("retry-after", "0".into())])]);
    place.fetch().unwrap();
    assert_eq!(place.fetcher.pins[0].files.len(), 5);
}

#[test]
fn what_arrived_before_a_failure_is_kept_for_the_next_run() {
    let mut place = Place::new();
    place.settings.shards.count = Some(1);
    place.hub.always("file=shard_00000", Act::Truncate(3_000));
    // Each attempt brings 3,000 bytes more, and four attempts are made.
    let error = place.fetch().unwrap_err();
    assert!(matches!(error, Error::Unreachable { attempts: 4, .. }), "{error}");
    assert!(names(&place.out()).is_empty());
    place.hub.heal();
    let files = place.fetch().unwrap();
    place.holds(&files, &[parquet(0)], &[parquet(4)]);
    assert_eq!(ranges(&place.hub, &shard(0)), [Some(after(12_000))]);
}

#[test]
fn a_partial_file_of_other_bytes_costs_one_more_download() {
    let mut place = Place::new();
    let digest = crate::hub::server::sha256(&parquet(0));
    let blobs = place.cache().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    for left in [vec![7; 5_000], vec![7; parquet(0).len()], vec![7; parquet(0).len() + 1]] {
        std::fs::write(blobs.join(format!("{digest}.incomplete")), &left).unwrap();
        let files = place.fetch().unwrap();
        place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);
        std::fs::remove_file(blobs.join(&digest)).unwrap();
    }
}

/// Fetches with this act at every request whose path holds `at`; it must fail and leave nothing that looks whole. Returns
/// the error with the servers' addresses replaced.
fn fails(at: &str, act: Act) -> String {
    let mut place = Place::new();
    place.settings.shards.count = Some(1);
    place.settings.shards.val = Some(0);
    place.settings.shards.first = 1;
    place.hub.always(at, act);
    text(&mut place)
}

fn text(place: &mut Place) -> String {
    let error = place.fetch().unwrap_err().with_hint();
    place.holds_nothing();
    let error = error.replace(&place.hub.endpoint, "HUB").replace(&place.hub.cdn, "CDN");
    error.replace(&place.dir.path().to_string_lossy().into_owned(), "DIR")
}

fn refused(status: u16, code: &str) -> Act {
    Act::Status(status, vec![("x-error-code", code.into())])
}

#[test]
fn wrong_bytes_never_become_a_file() {
    let error = fails("file=", Act::Flip);
    assert!(error.contains(" is not what it should be: found sha256:"), "{error}");
    assert!(error.contains(", expected sha256:") && error.contains("\nhint: "), "{error}");
    let error = fails("file=", Act::Body(b"<html>log in to this network</html>".to_vec()));
    assert!(error.contains("found 35 bytes, expected "), "{error}");
    let error = fails("file=", Act::Status(200, vec![("content-encoding", "gzip".into())]));
    assert!(error.contains("encoded as gzip"), "{error}");
}

#[test]
fn servers_that_never_deliver_are_given_up() {
    let hang = fails("file=", Act::Hang(0));
    assert!(hang.contains("nothing came for too long"), "{hang}");
    assert!(
        hang.contains("gave up after 4 attempts in a row\nhint: check the network and rerun"),
        "{hang}"
    );
    let busy = fails("file=", Act::Status(503, vec![]));
    assert!(busy.contains("the server answered 503 Service Unavailable"), "{busy}");
    let limit = fails("/revision/", Act::Status(429, vec![("retry-after", "3600".into())]));
    assert!(limit.contains("429 Too Many Requests and asks to come back in 3600 s"), "{limit}");
    let listing = fails("/tree/", Act::Hang(5));
    assert!(listing.contains("nothing came for too long"), "{listing}");

    let mut place = Place::new();
    place.fetcher.settings.endpoint = "http://127.0.0.1:1".into();
    let error = place.fetch().unwrap_err().with_hint();
    assert!(
        error.starts_with(
            "http://127.0.0.1:1/api/datasets/org/name/revision/main cannot be fetched"
        ),
        "{error}"
    );
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn refusals_say_what_to_do() {
    let cases = [
        (
            "/revision/",
            refused(401, "RepoNotFound"),
            "the token was refused for dataset org/name: HUB/api/datasets/org/name/revision/main answered 401\n\
             hint: check the dataset's name, and that HF_TOKEN holds a token that is still valid",
        ),
        (
            "/revision/",
            refused(403, "GatedRepo"),
            "dataset org/name is gated, and your account has no access: HUB/api/datasets/org/name/revision/main answered 403\n\
             hint: accept its terms on its page (datasets/org/name) with the account of your HF_TOKEN",
        ),
        (
            "/resolve/",
            refused(403, ""),
            "access to dataset org/name is forbidden: HUB/datasets/org/name/resolve/COMMIT/shard_00001.parquet answered 403\n\
             hint: set HF_TOKEN to a token that may read this dataset",
        ),
        (
            "/resolve/",
            refused(404, "EntryNotFound"),
            "dataset org/name has no such file: HUB/datasets/org/name/resolve/COMMIT/shard_00001.parquet answered 404\n\
             hint: if the dataset's history was rewritten, remove its pin from the lock file",
        ),
        (
            "/revision/",
            refused(404, "RepoNotFound"),
            "dataset org/name is not there: HUB/api/datasets/org/name/revision/main answered 404\n\
             hint: check owner and name",
        ),
        (
            "/resolve/",
            Act::Status(302, vec![("location", "ftp://elsewhere/again".into())]),
            "the answer of HUB/datasets/org/name/resolve/COMMIT/shard_00001.parquet cannot be used: its redirect to `ftp://elsewhere/again` cannot be read\n\
             hint: check HF_ENDPOINT and any proxy between here and there",
        ),
        (
            "/revision/",
            Act::Body(b"<html>".to_vec()),
            "the answer of HUB/api/datasets/org/name/revision/main cannot be used: it is no JSON: expected value at line 1 column 1\n\
             hint: check HF_ENDPOINT and any proxy between here and there",
        ),
        (
            "/revision/",
            Act::Body(b"{\"sha\": \"../../etc\"}".to_vec()),
            "the answer of HUB/api/datasets/org/name/revision/main cannot be used: its `sha` is `../../etc`, expected a commit\n\
             hint: check HF_ENDPOINT and any proxy between here and there",
        ),
    ];
    for (at, act, expected) in cases {
        let error = fails(at, act).replace("0000000000000000000000000000000000c0ffee", "COMMIT");
        let error = error.replace("shard_00000", "shard_00001");
        assert_eq!(error, expected);
    }
    let up = fails(
        "/tree/",
        Act::Body(br#"[{"type": "file", "path": "../up", "size": 1, "oid": "x"}]"#.to_vec()),
    );
    assert!(up.contains("an entry of the listing cannot be read"), "{up}");
    let circle = fails(
        "/resolve/",
        Act::Status(302, vec![("location", "/datasets/org/name/resolve/x".into())]),
    );
    assert!(circle.contains("more than 10 redirects in a row"), "{circle}");
}

#[test]
fn without_a_token_the_hint_names_it() {
    let mut place = Place::new();
    place.fetcher.settings.token = None;
    place.hub.always("/revision/", refused(401, "RepoNotFound"));
    assert_eq!(
        text(&mut place),
        "dataset org/name is not there, or not for everyone, and no token was sent: \
         HUB/api/datasets/org/name/revision/main answered 401\n\
         hint: check the name; for a private or gated dataset set HF_TOKEN to a token of yours"
    );
    place.hub.always("/revision/", refused(401, "GatedRepo"));
    let error = text(&mut place);
    assert!(
        error.contains("hint: accept its terms on its page (datasets/org/name), then set HF_TOKEN"),
        "{error}"
    );
}

#[test]
fn names_that_are_nearly_right() {
    for (source, expected) in [
        (
            "hf://datasets/org/name@mian",
            "dataset org/name has no revision `mian`: HUB/api/datasets/org/name/revision/mian answered 404\n\
             hint: did you mean `@main`?",
        ),
        (
            "hf://datasets/org/name@2024-06-01",
            "dataset org/name has no revision `2024-06-01`: HUB/api/datasets/org/name/revision/2024-06-01 answered 404\n\
             hint: it has main, v1.0",
        ),
        (
            "hf://datasets/org/name/shard_0001.parquet",
            "no parquet file of the commit COMMIT matches `hf://datasets/org/name/shard_0001.parquet`\n\
             hint: did you mean `shard_00001.parquet`?",
        ),
        (
            "hf://datasets/org/name/sample/10BT/*.parquet",
            "no parquet file of the commit COMMIT matches `hf://datasets/org/name/sample/10BT/*.parquet`\n\
             hint: it has 5 parquet files, the first one is `shard_00000.parquet`",
        ),
    ] {
        let mut place = Place::new();
        place.settings.source = source.into();
        let error = text(&mut place).replace("0000000000000000000000000000000000c0ffee", "COMMIT");
        assert_eq!(error, expected);
    }
    let mut place = Place::new();
    place.settings.shards.val = Some(5);
    let error = text(&mut place);
    assert!(error.contains("has 5 files, numbered from 0"), "{error}");
}

#[test]
fn a_tampered_commit_is_refused() {
    let mut place = Place::new();
    place.fetcher.pin(&place.settings, &mut Silent).unwrap();
    let mut other = parquet(1);
    other[100] ^= 1;
    place.hub.tamper(&shard(1), other);
    let error = place.fetch().unwrap_err();
    assert!(matches!(&error, Error::WrongBytes { name, .. } if *name == shard(1)), "{error}");
    assert!(names(&place.out()).is_empty());
}

/// Wants the work to end once some bytes have come.
struct Impatient(u64);

impl Progress for Impatient {
    fn advance(&mut self, n: u64) {
        self.0 += n;
    }

    fn stopped(&self) -> bool {
        self.0 > 0
    }
}

#[test]
fn a_stop_leaves_what_a_rerun_goes_on_from() {
    let mut place = Place::new();
    // Slow enough that the first bytes are told before the last ones come.
    place.fetcher.settings.stall_timeout = Duration::from_secs(5);
    place.fetcher.connections = 1;
    place.hub.script("file=shard_00001", [Act::Hang(10_000)]);
    let out = place.out();
    let began = Instant::now();
    let error = place
        .fetcher
        .fetch(&place.settings, place.dir.path(), &out, &mut Impatient(0))
        .unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(names(&out).is_empty());
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);

    // Already wanted before anything: nothing is asked.
    let mut place = Place::new();
    let error = place.fetcher.fetch(&place.settings, place.dir.path(), &out, &mut Impatient(1));
    assert!(matches!(error, Err(Error::Stopped)));
}
