//! Files that are not on the Hub: pinned by what they are when they are first fetched.

use crate::hub::fixture::{Place, names, parquet, shard};
use crate::hub::server::{Act, sha256};
use farthing_base::Hint;
use farthing_data::{Error, Silent};

fn place() -> Place {
    let mut place = Place::new();
    place.settings.source = format!("{}/web/shard_{{00000..00004}}.parquet", place.hub.cdn);
    place
}

#[test]
fn a_range_of_urls_is_fetched_and_pinned() {
    let mut place = place();
    place.settings.shards.count = Some(2);
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1].map(parquet), &[parquet(4)]);
    let pinned = &place.fetcher.pins[0].files;
    assert_eq!(pinned.len(), 3, "what was not asked for was not fetched");
    assert_eq!(pinned[1].digest, format!("sha256:{}", sha256(&parquet(1))));
    assert_eq!(pinned[1].path, format!("{}/web/{}", place.hub.cdn, shard(1)));
    assert!(place.hub.log().iter().all(|r| r.authorization.is_none()), "no token for strangers");
    let mut kept: Vec<_> = [0, 1, 4].map(|i| sha256(&parquet(i))).into();
    kept.sort();
    let mut there = names(&place.dir.path().join("downloads"));
    there.retain(|name| !name.contains('.'));
    assert_eq!(there, kept);

    // Three files more: the pins grow.
    place.hub.heal();
    place.settings.shards.count = None;
    place.fetch().unwrap();
    assert_eq!(place.fetcher.pins[0].files.len(), 5);
    assert_eq!(place.hub.log().len(), 2);
}

#[test]
fn it_resumes_where_the_server_says_it_is_the_same_file() {
    let mut place = place();
    place.settings.shards.count = Some(1);
    place.hub.always("shard_00000", Act::Truncate(3_000));
    assert!(matches!(place.fetch(), Err(Error::Unreachable { .. })));
    let before = place.hub.downloads(&shard(0)).len();
    assert_eq!(before, 4);
    place.hub.heal();
    let files = place.fetch().unwrap();
    place.holds(&files, &[parquet(0)], &[parquet(4)]);
    assert_eq!(place.hub.downloads(&shard(0))[0].range.as_deref(), Some("bytes=12000-"));
}

#[test]
fn it_begins_again_where_the_file_changed_between_two_runs() {
    let mut place = place();
    place.settings.shards.count = Some(1);
    place.hub.always("shard_00000", Act::Truncate(3_000));
    assert!(place.fetch().is_err());
    place.hub.heal();
    place.hub.tamper(&shard(0), parquet(50));
    let files = place.fetch().unwrap();
    place.holds(&files, &[parquet(50)], &[parquet(4)]);
    let ranges: Vec<_> = place.hub.downloads(&shard(0)).into_iter().map(|r| r.range).collect();
    assert_eq!(ranges, [Some("bytes=12000-".to_owned()), None]);
}

#[test]
fn what_is_no_parquet_is_not_pinned() {
    let mut cut = parquet(1);
    cut.truncate(5_000);
    for (bytes, what) in [
        (b"<html>please log in</html>".to_vec(), "a web page"),
        (b"{\"error\": \"rate limit\"}".to_vec(), "JSON"),
        (b"<?xml version=\"1.0\"?><Error>".to_vec(), "XML"),
        (cut, "Corrupt footer"),
        (b"PAR1".to_vec(), "4"),
    ] {
        let mut place = place();
        place.settings.shards.count = Some(2);
        place.hub.tamper(&shard(1), bytes.clone());
        let error = place.fetch().unwrap_err();
        assert!(matches!(error, Error::NotParquet { .. }), "{error}");
        let text = error.with_hint();
        assert!(text.contains(&shard(1)) && text.contains(what), "{text}");
        assert!(text.contains("\nhint: look at the URL in a browser"), "{text}");
        assert!(place.fetcher.pins.is_empty());
        let downloads = place.dir.path().join("downloads");
        for name in names(&downloads) {
            let kept = std::fs::read(downloads.join(&name)).unwrap();
            assert!(kept.is_empty() || kept != bytes, "{name} was kept");
        }
        // The server is well again.
        place.hub.tamper(&shard(1), parquet(1));
        let files = place.fetch().unwrap();
        place.holds(&files, &[0, 1].map(parquet), &[parquet(4)]);
    }
}

#[test]
fn a_page_that_was_pinned_once_names_the_lock_file() {
    let mut place = place();
    place.settings.shards.count = Some(1);
    place.fetch().unwrap();
    let page = b"<html>please log in</html>".to_vec();
    let pin = place.fetcher.pins[0].files.iter_mut().find(|f| f.path.contains(&shard(0))).unwrap();
    (pin.bytes, pin.digest) = (page.len() as u64, format!("sha256:{}", sha256(&page)));
    place.hub.tamper(&shard(0), page);
    let error = place.fetch().unwrap_err().with_hint();
    assert!(error.contains("a web page") && error.contains("remove its pin from the lock file"));
    assert!(error.contains(&shard(0)), "{error}");
}

#[test]
fn one_file_far_away_is_divided() {
    let mut place = place();
    place.settings.source = format!("{}/web/{}", place.hub.cdn, shard(0));
    let files = place.fetch().unwrap();
    assert_eq!((files.train.len(), files.val.len()), (1, 1));
    let rows = |paths: Vec<std::path::PathBuf>| {
        farthing_data::Texts::open(&paths, "text").unwrap().count()
    };
    let out = place.out();
    assert_eq!((rows(files.train_paths(&out)), rows(files.val_paths(&out))), (270, 30));
    let (fetcher, base) = (&place.fetcher, place.dir.path());
    assert!(fetcher.mark(&place.settings, base).unwrap().is_some());
    assert_eq!(fetcher.pinned(&place.settings).unwrap().unwrap().len(), 1);
}

#[test]
fn a_file_that_changed_after_it_was_pinned_is_refused() {
    let mut place = place();
    place.fetch().unwrap();
    let pins = place.fetcher.pins.clone();
    place.hub.tamper(&shard(1), parquet(51));
    std::fs::remove_dir_all(place.dir.path().join("downloads")).unwrap();
    let error = place.fetch().unwrap_err();
    assert!(matches!(&error, Error::WrongBytes { name, .. } if *name == shard(1)), "{error}");
    assert!(error.with_hint().contains("remove its pin from the lock file"), "{error}");
    assert_eq!(place.fetcher.pins, pins);
    place.fetcher.pins.clear();
    let out = place.out();
    place.fetcher.fetch(&place.settings, place.dir.path(), &out, &mut Silent).unwrap();
}

#[test]
fn refusals_name_the_file() {
    let mut place = place();
    place.settings.source = format!("{}/web/{{0..1}}.parquet", place.hub.cdn);
    let error = place.fetch().unwrap_err().with_hint().replace(&place.hub.cdn, "CDN");
    assert!(error.starts_with("the file is not there: CDN/web/"), "{error}");
    assert!(error.ends_with("answered 404\nhint: check the URL"), "{error}");
    place.settings.source = "http://example.org/a.parquet".into();
    let error = place.fetch().unwrap_err().with_hint();
    assert!(error.contains("`http://` is read from this machine alone"), "{error}");
}
