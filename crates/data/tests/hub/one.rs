//! One file of the web that is no text: pinned, checked before that, kept, and refused where it changed.

use crate::hub::fixture::{Place, names};
use crate::hub::server::{Act, sha256};
use farthing_base::Hint;
use farthing_data::{Error, Silent};
use std::path::Path;

const NAME: &str = "bundle.zip";

fn bytes() -> Vec<u8> {
    (0..20_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn place() -> (Place, String) {
    let place = Place::with(vec![(NAME.to_owned(), bytes())]);
    let url = format!("{}/web/{NAME}", place.hub.cdn);
    (place, url)
}

#[expect(clippy::unnecessary_wraps, reason = "a check that refuses nothing")]
fn any(_: &Path) -> Result<(), String> {
    Ok(())
}

#[test]
fn a_file_is_pinned_once_and_kept() {
    let (mut place, url) = place();
    assert_eq!(place.fetcher.pinned_file(&url).unwrap(), None);
    assert!(!place.fetcher.has_file(&url).unwrap());
    let path = place.fetcher.fetch_file(&url, &any, &mut Silent).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes());
    let pinned = place.fetcher.pinned_file(&url).unwrap().unwrap();
    assert_eq!(pinned.digest, format!("sha256:{}", sha256(&bytes())));
    assert!(place.fetcher.has_file(&url).unwrap());
    assert!(place.hub.log().iter().all(|r| r.authorization.is_none()), "no token for strangers");

    // Again, and offline: from the cache, without asking anybody.
    place.hub.heal();
    place.fetcher.settings.offline = true;
    assert_eq!(place.fetcher.fetch_file(&url, &any, &mut Silent).unwrap(), path);
    assert_eq!(place.hub.log(), []);
    // A stranger knows no pin, and has to ask.
    let error = place.stranger().fetch_file(&url, &any, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::Offline { .. }), "{error}");

    // What became damaged in the cache comes anew.
    place.fetcher.settings.offline = false;
    std::fs::write(&path, vec![0; bytes().len()]).unwrap();
    assert_eq!(place.fetcher.fetch_file(&url, &any, &mut Silent).unwrap(), path);
    assert_eq!(std::fs::read(&path).unwrap(), bytes());
}

#[test]
fn what_the_check_refuses_is_not_pinned_and_not_kept() {
    let (mut place, url) = place();
    place.hub.tamper(NAME, b"<html>please log in</html>".to_vec());
    let check = |path: &Path| match std::fs::read(path).unwrap() {
        page if page.starts_with(b"<") => Err("a web page".to_owned()),
        _ => Ok(()),
    };
    let error = place.fetcher.fetch_file(&url, &check, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::OtherFile { .. }), "{error}");
    let text = error.with_hint();
    assert!(text.contains("is not what was to be fetched: a web page\nhint: look at"), "{text}");
    assert!(place.fetcher.pins.is_empty());
    let kept = names(&place.dir.path().join("downloads"));
    assert!(kept.iter().all(|name| name.contains(".lock")), "{kept:?}");
    place.hub.tamper(NAME, bytes());
    place.fetcher.fetch_file(&url, &check, &mut Silent).unwrap();
}

#[test]
fn a_file_that_changed_is_refused() {
    let (mut place, url) = place();
    let path = place.fetcher.fetch_file(&url, &any, &mut Silent).unwrap();
    std::fs::remove_file(path).unwrap();
    let mut other = bytes();
    other[7] ^= 1;
    place.hub.tamper(NAME, other);
    let pins = place.fetcher.pins.clone();
    let error = place.fetcher.fetch_file(&url, &any, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::WrongBytes { .. }), "{error}");
    assert!(error.with_hint().contains("remove its pin from the lock file"), "{error}");
    assert_eq!(place.fetcher.pins, pins);
}

#[test]
fn a_download_that_broke_off_goes_on() {
    let (mut place, url) = place();
    place.hub.script(NAME, [Act::Truncate(30_000)]);
    let path = place.fetcher.fetch_file(&url, &any, &mut Silent).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes());
    let ranges: Vec<_> = place.hub.downloads(NAME).into_iter().map(|r| r.range).collect();
    assert_eq!(ranges, [None, Some("bytes=30000-".to_owned())]);
}

#[test]
fn what_is_not_one_url_is_refused() {
    let (mut place, _) = place();
    for url in ["https://h/{1..2}.zip", "a/b.zip", "hf://datasets/a/b", "embedded://world"] {
        let error = place.fetcher.fetch_file(url, &any, &mut Silent).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{url}: {error}");
    }
}
