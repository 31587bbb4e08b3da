//! What a source on this machine comes to: what is text of the user's, what is left out and why, and what is held out.

use crate::common::write_parquet;
use arrow::array::{ArrayRef, StringArray};
use farthing_base::Hint;
use farthing_data::{
    Error, FetchSettings, Fetcher, Files, HubSettings, ShardRange, Silent, Survey, TextFile, Texts,
    fetch,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A working directory with parquet files of a few rows.
struct Place(tempfile::TempDir);

impl Place {
    fn with(files: &[&str]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for file in files {
            place.parquet(file);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn parquet(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let texts: Vec<String> = (0..20).map(|i| format!("{name} {i}")).collect();
        let column: ArrayRef = Arc::new(StringArray::from(texts));
        write_parquet(&path, vec![("text", column)], 10);
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn settings(source: &str) -> FetchSettings {
        FetchSettings { source: source.into(), ..FetchSettings::default() }
    }

    fn survey(&self, source: &str) -> Result<Survey, Error> {
        let fetcher = Fetcher::new(HubSettings::new("https://h", "c", "d"));
        Ok(fetcher.survey(&Self::settings(source), self.0.path())?.unwrap())
    }

    /// The files that are trained on and held out.
    fn taken(&self, source: &str) -> Vec<String> {
        let survey = self.survey(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        survey.train.into_iter().chain(survey.val).collect()
    }

    fn left_out(&self, source: &str) -> String {
        self.survey(source).unwrap().left_out.join("\n")
    }

    fn refused(&self, source: &str) -> String {
        let error = self.survey(source).unwrap_err().with_hint();
        assert!(error.contains("\nhint: "), "{error}");
        error
    }

    fn fetch(&self, source: &str, out: &str) -> Result<Files, Error> {
        fetch(&Self::settings(source), self.0.path(), &self.path(out), &mut Silent)
    }
}

#[cfg(unix)]
fn link(target: impl AsRef<Path>, at: &Path) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(target, at).unwrap();
}

/// A key as a store's entries have it.
const KEY: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_store_is_no_source_wherever_it_is() {
    let place = Place::with(&["a.parquet", "b.parquet"]);
    let entry = format!("work/cache/stages/{KEY}");
    place.parquet(&format!("{entry}/train/00000-a.parquet"));
    place.parquet(&format!("{entry}/val/00001-b.parquet"));
    place.file(&format!("{entry}/stage.json"), r#"{"key": "", "stage": "", "outputs": {}}"#);
    place.parquet(&format!("work/cache/stages/{KEY}.partial/.scratch/c.parquet"));
    fs::create_dir_all(place.path("work/cache/locks")).unwrap();
    fs::create_dir_all(place.path("work/cache/last")).unwrap();
    // An entry that was copied elsewhere, and what an earlier call of `fetch` left.
    place.parquet("backup/entry/val/00001-b.parquet");
    place.file("backup/entry/stage.json", r#"{"key": "", "stage": "", "outputs": {}}"#);
    place.fetch("*.parquet", "fetched").unwrap();
    for source in [".", "**/*.parquet", "**"] {
        assert_eq!(place.taken(source), ["a.parquet", "b.parquet"], "{source}");
        let left_out = place.left_out(source);
        assert!(left_out.contains("work/cache/stages: it belongs to a store"), "{left_out}");
        assert!(left_out.contains("backup/entry: it belongs to a store"), "{left_out}");
    }
    for source in [
        &entry,
        "work/cache/stages",
        "work/cache/stages/*/train/*.parquet",
        "work/*/stages/*/train/*.parquet",
        "work/cache",
        "backup/entry",
        &format!("{entry}/train/00000-a.parquet"),
    ] {
        let error = place.refused(source);
        assert!(error.contains("this program keeps its own copies"), "{source}: {error}");
    }
    // A store's own folder may be a user's, too.
    place.parquet("work/cache/text/a.parquet");
    place.parquet("work/cache/text/b.parquet");
    assert_eq!(place.taken("work/cache/text").len(), 2);
    assert_eq!(place.taken("work/cache").len(), 2);
}

#[cfg(unix)]
#[test]
fn a_store_is_no_source_through_links() {
    let place = Place::with(&["text/a.parquet", "text/b.parquet"]);
    let copy = format!("cache/stages/{KEY}/train/00000-a.parquet");
    place.parquet(&copy);
    fs::create_dir_all(place.path("cache/locks")).unwrap();
    link(place.path(&copy), &place.path("text/c.parquet"));
    link(place.path("cache/stages"), &place.path("text/more"));
    link(place.path("cache"), &place.path("text/all"));
    for source in ["text", "text/**/*.parquet"] {
        assert_eq!(place.taken(source), ["text/a.parquet", "text/b.parquet"], "{source}");
        let left_out = place.left_out(source);
        assert!(left_out.contains("text/c.parquet: it belongs to a store"), "{left_out}");
        assert!(left_out.contains("text/more: it belongs to a store"), "{left_out}");
        assert!(left_out.contains("text/all/stages: it belongs to a store"), "{left_out}");
    }
    assert!(place.refused("text/more").contains("its own copies"));
}

#[test]
fn names_of_splits_are_heeded_and_said() {
    let place = Place::with(&[
        "flat/test-00000-of-00001.parquet",
        "flat/train-00000-of-00002.parquet",
        "flat/train-00001-of-00002.parquet",
        "deep/dev/0.parquet",
        "deep/test/0.parquet",
        "deep/train/0.parquet",
        "none/contest.parquet",
        "none/latest.parquet",
    ]);
    let survey = place.survey("flat").unwrap();
    assert_eq!(survey.val, ["flat/test-00000-of-00001.parquet"]);
    assert_eq!(survey.train.len(), 2);
    assert_eq!(survey.held_out, "flat/test-00000-of-00001.parquet");
    assert_eq!(survey.why, "by name the test split");
    let files = place.fetch("flat", "out").unwrap();
    assert_eq!(files.val[0].file, "00000-test-00000-of-00001.parquet");
    assert_eq!(files.train.len(), 2);
    for source in ["deep", "deep/*/0.parquet", "deep/{train,dev,test}/*.parquet"] {
        let survey = place.survey(source).unwrap();
        assert_eq!(
            (&*survey.train, &*survey.val),
            (&["deep/train/0.parquet".to_owned()][..], &["deep/dev/0.parquet".to_owned()][..],)
        );
        assert_eq!(survey.left_out, ["deep/test/0.parquet: it is by name the test split"]);
    }
    let survey = place.survey("none").unwrap();
    assert_eq!(survey.val, ["none/latest.parquet"]);
    assert_eq!(survey.why, "the last file, since none is named after a split");
    // What `shards` says goes before names, and what that means is said.
    let shards = ShardRange { val: Some(2), ..ShardRange::default() };
    let settings = FetchSettings { shards, ..Place::settings("flat") };
    let fetcher = Fetcher::new(HubSettings::new("https://h", "c", "d"));
    let survey = fetcher.survey(&settings, place.0.path()).unwrap().unwrap();
    assert!(
        survey
            .why
            .contains("flat/test-00000-of-00001.parquet is by name to be held out, and trained on")
    );
}

#[test]
fn one_file_is_divided() {
    let place = Place::with(&["a.parquet"]);
    let settings = Place::settings("a.parquet");
    let files = place.fetch("a.parquet", "out").unwrap();
    let texts = |files: Vec<PathBuf>| -> Vec<String> {
        Texts::open(&files, "text").unwrap().map(Result::unwrap).collect()
    };
    let (train, val) =
        (texts(files.train_paths(place.path("out"))), texts(files.val_paths(place.path("out"))));
    assert_eq!((train.len(), val.len()), (18, 2));
    assert_eq!(val, ["a.parquet 18", "a.parquet 19"]);
    assert_eq!(texts(vec![place.path("a.parquet")]), [train, val].concat());
    assert_eq!(place.survey("a.parquet").unwrap().held_out, "the last rows of a.parquet, 1 in 10");
    let again = place.fetch("a.parquet", "again").unwrap();
    assert_eq!(files, again);
    // Its one name among the sources, and a mark of its own for the key.
    let sources = farthing_data::local_files(&settings, place.0.path()).unwrap();
    assert_eq!(sources, [place.path("a.parquet")]);
    let fetcher = Fetcher::new(HubSettings::new("https://h", "c", "d"));
    assert!(fetcher.mark(&settings, place.0.path()).unwrap().is_some());
    // Other columns come along if they can be read.
    let n: ArrayRef = Arc::new(arrow::array::Int8Array::from_iter_values(0..3));
    let flags: ArrayRef = Arc::new(arrow::array::BooleanArray::from(vec![true; 3]));
    let some: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("y")]));
    write_parquet(&place.path("c.parquet"), vec![("f", flags), ("n", n), ("text", some)], 2);
    let files = place.fetch("c.parquet", "columns").unwrap();
    let val = files.val_paths(place.path("columns"));
    assert_eq!(texts(val), ["y"]);
    assert_eq!(files.train[0].file, "00000-c.train.parquet");
    let error = place.fetch("c.parquet", "columns").and_then(|files| {
        let missing = files.train_paths(place.path("columns"));
        TextFile::open(&missing[0], "f").map(drop)
    });
    assert!(error.unwrap_err().to_string().contains("its columns are n, text"));
    // Nothing to divide.
    let one: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    write_parquet(&place.path("b.parquet"), vec![("text", one)], 10);
    let error = place.fetch("b.parquet", "b").unwrap_err().to_string();
    assert!(error.contains("none is left to train on"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_named() {
    let place = Place::with(&["text/a.parquet", "text/b.parquet"]);
    link("/nowhere/blob", &place.path("text/aa.parquet"));
    for source in ["text", "text/*.parquet", "text/{a,aa,b}.parquet", "text/*", "**/*.parquet"] {
        let error = place.refused(source);
        assert!(error.contains("text/aa.parquet is a link to /nowhere/blob"), "{source}: {error}");
    }
    fs::remove_file(place.path("text/aa.parquet")).unwrap();
    link("loop.parquet", &place.path("text/loop.parquet"));
    let error = place.refused("text");
    assert!(error.contains("text/loop.parquet is a link to loop.parquet, which cannot"), "{error}");
    fs::remove_file(place.path("text/loop.parquet")).unwrap();
    // A link to a folder of text, perhaps; one to something else is nobody's business.
    link("/nowhere/more", &place.path("text/more"));
    assert!(place.left_out("text").contains("text/more: it is a link that leads nowhere"));
    assert_eq!(place.taken("text").len(), 2);
    // The source itself: it is gone.
    link("/nowhere/text", &place.path("gone"));
    for source in ["gone", "gone/*.parquet"] {
        let error = place.survey(source).unwrap_err();
        assert!(error.is_absent(), "{source}: {error}");
        assert!(error.to_string().contains("gone is a link to /nowhere/text"), "{error}");
    }
    assert!(!place.survey("text").is_err_and(|e| e.is_absent()));
}

#[cfg(unix)]
#[test]
fn links_to_folders_are_followed_once_and_files_are_taken_once() {
    let place = Place::with(&["text/a/0.parquet", "text/b/1.parquet", "far/2.parquet"]);
    link(place.path("far"), &place.path("text/far"));
    link(place.path("text"), &place.path("text/a/up"));
    link("b", &place.path("text/latest"));
    link("1.parquet", &place.path("text/b/z.parquet"));
    fs::hard_link(place.path("text/a/0.parquet"), place.path("text/b/y.parquet")).unwrap();
    let taken = ["text/a/0.parquet", "text/b/1.parquet", "text/far/2.parquet"];
    for source in ["text", "text/**/*.parquet"] {
        assert_eq!(place.taken(source), taken, "{source}");
        let left_out = place.left_out(source);
        for other in [
            "text/b/y.parquet: it is text/a/0.parquet by another name",
            "text/b/z.parquet: it is text/b/1.parquet by another name",
        ] {
            assert!(left_out.contains(other), "{other}: {left_out}");
        }
    }
    assert_eq!(place.taken("text/*/*.parquet"), taken);
}

#[test]
fn what_systems_leave_in_folders_is_no_text() {
    let place = Place::with(&["text/a.parquet", "text/b.parquet"]);
    let apple = [b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ".as_slice(), &[0; 40]].concat();
    place.file("text/._b.parquet", &apple);
    place.file("text/__MACOSX/b.parquet", &apple);
    place.parquet("text/.hidden.parquet");
    place.parquet("text/.cache/c.parquet");
    place.parquet("text/_delta_log/00.checkpoint.parquet");
    place.parquet("text/_temporary/0/part.parquet");
    place.file("text/.DS_Store", "x");
    place.file("text/README.md", "a note");
    for source in ["text", "text/*.parquet", "text/**/*.parquet", "text/*", "text/**"] {
        assert_eq!(place.taken(source), ["text/a.parquet", "text/b.parquet"], "{source}");
        let left_out = place.left_out(source);
        assert!(left_out.contains("text/._b.parquet: it is hidden"), "{source}: {left_out}");
    }
    // What is named is meant.
    assert_eq!(place.taken("text/.hidden.parquet"), ["text/.hidden.parquet"]);
    assert_eq!(place.taken("text/.cache"), ["text/.cache/c.parquet"]);
    assert_eq!(place.taken("text/.h*.parquet"), ["text/.hidden.parquet"]);
    assert_eq!(place.taken("text/.cache/*.parquet"), ["text/.cache/c.parquet"]);
}

#[cfg(unix)]
#[test]
fn folders_that_may_not_be_listed_are_passed_over_by_name() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::with(&["text/a.parquet", "text/b.parquet", "text/shut/c.parquet"]);
    fs::create_dir(place.path("text/lost+found")).unwrap();
    let may = |name: &str, mode| {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    may("text/lost+found", 0o000);
    may("text/shut", 0o000);
    if fs::read_dir(place.path("text/shut")).is_ok() {
        println!("skipped: this user may list every folder");
        return;
    }
    assert_eq!(place.taken("text/*.parquet").len(), 2);
    assert_eq!(place.taken("text").len(), 2);
    let left_out = place.left_out("text");
    assert!(left_out.contains("text/shut: it cannot be listed: permission denied"), "{left_out}");
    assert!(!left_out.contains("lost+found"), "{left_out}");
    assert!(place.left_out("text/**/*.parquet").contains("text/shut"));
    // The one that is named is not passed over.
    assert!(place.refused("text/shut").contains("cannot list"));
    may("text/shut", 0o700);
    may("text/lost+found", 0o700);
}

#[test]
fn only_what_the_user_wrote_is_a_glob() {
    for folder in ["runs [v1]", "{a,b}", "what?*", "[", "a]b}c{"] {
        let place = Place::with(&[
            &format!("{folder}/text/a.parquet"),
            &format!("{folder}/text/b.parquet"),
        ]);
        let base = place.path(folder);
        let found = |source: &str| {
            farthing_data::local_files(&Place::settings(source), &base).unwrap().len()
        };
        for source in
            ["text", "text/*.parquet", "*/[ab].parquet", "**/*.parquet", "{text,x}/*.parquet"]
        {
            assert_eq!(found(source), 2, "{folder}: {source}");
        }
        // A path that is there is that path.
        assert_eq!(place.taken(&format!("{folder}/text")).len(), 2);
        assert_eq!(found(base.join("text").to_str().unwrap()), 2);
    }
    let place = Place::with(&["a.parquet", "b.parquet"]);
    let error = place.refused("[a.parquet");
    assert!(error.contains("the glob cannot be read: "), "{error}");
    assert!(place.refused("{a,b.parquet").contains("is not closed"));
    assert!(place.left_out("{a,b,c}.parquet").contains("c.parquet: nothing matches it"));
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_or_very_long_are_files_like_others() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with(&["a.parquet"]);
    let odd = place.0.path().join(std::ffi::OsStr::from_bytes(b"b\xFF\xFE"));
    fs::create_dir(&odd).unwrap();
    let long = format!("{}.parquet", "x".repeat(247));
    for name in [&b"c\xFF.parquet"[..], b"c\xFE.parquet", long.as_bytes()] {
        fs::copy(place.path("a.parquet"), odd.join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    let get = |source: &str, out: &str| {
        fetch(&Place::settings(source), &odd, &place.path(out), &mut Silent).unwrap()
    };
    for (source, out) in [("*.parquet", "one"), (".", "two"), ("./**", "three")] {
        let files = get(source, out);
        assert_eq!((files.train.len(), files.val.len()), (2, 1), "{source}");
        assert!(files.val[0].file.ends_with("xxx.parquet"));
        assert_eq!(Files::load(place.path(out)).unwrap(), files);
    }
    let whole = format!("file://{}/b%FF%FE", place.0.path().display());
    assert_eq!(get(&whole, "url").train.len(), 2);
}

#[test]
fn home_and_urls_mean_what_they_mean_elsewhere() {
    let place = Place::with(&["my text/a.parquet", "my text/b.parquet", "my text/100%.parquet"]);
    let root = place.0.path().display();
    for source in [
        format!("file://{root}/my%20text"),
        format!("file://localhost{root}/my%20text"),
        format!("FILE://{root}/my%20text/*.parquet"),
        format!("file:{root}/my text"),
        "file:my text/*.parquet".into(),
        "my text".into(),
    ] {
        assert_eq!(place.taken(&source).len(), 3, "{source}");
    }
    let one = format!("file://{root}/my%20text/100%25.parquet");
    assert_eq!(place.taken(&one), ["my text/100%.parquet"]);
    assert!(place.refused("file://server/share").contains("stands a machine, `server`"));
    // A folder that is called so comes first; `~` is the home folder of whoever asks.
    place.parquet("~/x/a.parquet");
    assert_eq!(place.taken("~/x"), ["~/x/a.parquet"]);
    for source in ["~nobody/text", "$HOME/text"] {
        assert!(place.refused(source).contains("${env:HOME}"), "{source}");
    }
}

#[test]
fn other_formats_are_named_before_anything_is_copied() {
    let place = Place::with(&["a.parquet", "c.parquet"]);
    for (name, bytes, what) in [
        ("x.md", &b"Once upon a time."[..], "plain text, or CSV"),
        ("x.json", b"{\"text\": \"a\"}\n", "JSON"),
        ("x.table", b"text\nOnce\n", "plain text, or CSV"),
        ("b.parquet", b"<!DOCTYPE html><html>log in</html>", "a web page"),
        ("b.parquet", b"  <html>please log in</html>", "a web page"),
        (
            "b.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git lfs pull",
        ),
        ("b.parquet", b"\x1F\x8B\x08\0\0\0\0\0\0\x03", "gunzip"),
        ("b.parquet", b"\x28\xB5\x2F\xFD\x04\0", "unzstd"),
        ("b.parquet", b"ARROW1\0\0\xFF\xFF\xFF\xFF", "Arrow or Feather"),
        ("b.parquet", b"PK\x03\x04\x14\0\0\0", "an archive"),
        ("b.parquet", b"PARE\x01\x02", "encrypted"),
        ("b.parquet", b"Obj\x01\x04\x14avro.codec", "Avro"),
        ("b.parquet", b"", "it is empty, 0 bytes"),
        ("b.parquet", b"PAR1\x15\0\x15\0PAR1", "damaged"),
        ("b.parquet", b"PAR1\x15\0\x15\0\x15", "damaged"),
    ] {
        place.file(name, bytes);
        let named = format!("{{a.parquet,{name}}}");
        let source = if name == "b.parquet" { "*.parquet" } else { named.as_str() };
        let out = place.path("out");
        let error = place.fetch(source, "out").unwrap_err().with_hint();
        assert!(error.contains(name) && error.contains(what), "{error}");
        assert!(error.contains("\nhint: "), "{error}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "nothing was copied");
        fs::remove_file(place.path(name)).unwrap();
    }
    // What the folder has instead is said.
    place.file("notes/a.md", "x");
    place.file("notes/b.md", "x");
    let error = place.refused("notes");
    assert!(error.contains("has 2 `.md` files") && error.contains("to_parquet"), "{error}");
    // A file by another name that is parquet is read.
    fs::copy(place.path("a.parquet"), place.path("notes/c.pq")).unwrap();
    fs::copy(place.path("a.parquet"), place.path("notes/part-0")).unwrap();
    fs::copy(place.path("a.parquet"), place.path("notes/D.PARQUET")).unwrap();
    assert_eq!(place.taken("notes/*").len(), 3);
    assert_eq!(place.taken("notes"), ["notes/D.PARQUET"]);
}

#[test]
fn empty_files_to_hold_out_are_named_before_anything_is_copied() {
    let place = Place::with(&["text/a.parquet", "text/b.parquet"]);
    let none: ArrayRef = Arc::new(StringArray::from(Vec::<&str>::new()));
    write_parquet(&place.path("text/c.parquet"), vec![("text", none)], 10);
    let error = place.fetch("text", "out").unwrap_err().to_string();
    assert!(error.contains("the files of `text` to hold out have no rows"), "{error}");
    fs::remove_file(place.path("text/a.parquet")).unwrap();
    fs::rename(place.path("text/b.parquet"), place.path("text/d.parquet")).unwrap();
    let error = place.fetch("text", "out").unwrap_err().to_string();
    assert!(error.contains("the files of `text` to train on have no rows"), "{error}");
    // An empty one among others takes nothing from them.
    place.parquet("text/b.parquet");
    assert_eq!(place.fetch("text", "out").unwrap().train.len(), 2);
}
