//! A bundle in a zip: the same as in a folder; and zips that were made to do harm, or that a download damaged.

use crate::common::{Bytes, Pairs};
use farthing_base::Hint;
use farthing_data::Silent;
use farthing_eval::core::{Bundle, CoreSettings, evaluate};
use farthing_eval::{Error, Result};
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use zip::write::{SimpleFileOptions, ZipWriter};

const LIST: &str = r#"[{"label": "t", "uri": "t.jsonl", "task_type": "multiple_choice", "num_fewshot": 1, "random_baseline": 25}]"#;
const YAML: &str = "icl_tasks:\n- label: t\n  dataset_uri: in/t.jsonl\n  num_fewshot: [1]\n  icl_task_type: multiple_choice\n";
const CSV: &str = "Eval Task,Random baseline\nt,25\n";
const ITEMS: &str = r#"{"query": "q", "choices": ["bb", "ab"], "gold": 1}
{"query": "r", "choices": ["a", "b"], "gold": 0}
"#;

type Writer = ZipWriter<Cursor<Vec<u8>>>;

fn options() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated)
}

fn pack(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut zip = Writer::new(Cursor::new(Vec::new()));
    fill(&mut zip);
    zip.finish().unwrap().into_inner()
}

fn add(zip: &mut Writer, name: &str, bytes: &[u8]) {
    zip.start_file(name, options()).unwrap();
    zip.write_all(bytes).unwrap();
}

fn published(zip: &mut Writer) {
    for (name, text) in
        [("core.yaml", YAML), ("eval_meta_data.csv", CSV), ("eval_data/in/t.jsonl", ITEMS)]
    {
        add(zip, &format!("eval_bundle/{name}"), text.as_bytes());
    }
}

fn own(zip: &mut Writer) {
    add(zip, "tasks.json", LIST.as_bytes());
    add(zip, "t.jsonl", ITEMS.as_bytes());
}

/// A folder that nothing but the zip is in, before and after.
struct Place(tempfile::TempDir);

impl Place {
    fn with(bytes: &[u8]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.0.path().join("in")).unwrap();
        fs::write(place.zip(), bytes).unwrap();
        place
    }

    fn zip(&self) -> PathBuf {
        self.0.path().join("in/b.zip")
    }

    fn run(&self) -> Result<usize> {
        let found = run(&self.zip());
        let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
        assert_eq!((names(self.0.path()), names(&self.0.path().join("in"))), (1, 1), "written");
        found
    }
}

/// Evaluates a bundle whose vowels are likely; the number of items that were right.
fn run(path: &Path) -> Result<usize> {
    let bundle = Bundle::open(path)?;
    let mut model = Pairs::new(|_, b| if b == i32::from(b'a') { 1.0 } else { 2.0 }, |_, b| b);
    let settings = CoreSettings::default();
    let report = evaluate(&mut model, &Bytes::default(), &bundle, &settings, &mut Silent)?;
    Ok(report.tasks.iter().map(|task| task.correct).sum())
}

#[test]
fn a_zip_is_read_as_its_folder_is() {
    for fill in [published, own] {
        assert_eq!(Place::with(&pack(fill)).run().unwrap(), 2);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("eval_data/in")).unwrap();
    for (name, text) in
        [("core.yaml", YAML), ("eval_meta_data.csv", CSV), ("eval_data/in/t.jsonl", ITEMS)]
    {
        fs::write(folder.path().join(name), text).unwrap();
    }
    assert_eq!(run(folder.path()).unwrap(), 2);
    let bundle = Bundle::open(folder.path()).unwrap();
    let names = ["core.yaml", "eval_meta_data.csv", "eval_data/in/t.jsonl"];
    assert_eq!(bundle.sources(), names.map(|name| folder.path().join(name)));
    let place = Place::with(&pack(published));
    assert_eq!(Bundle::open(place.zip()).unwrap().sources(), [place.zip()]);
}

/// The message about a zip, without the folder that it is in.
fn refusal(bytes: &[u8]) -> String {
    let place = Place::with(bytes);
    let error = place.run().unwrap_err();
    let text = error.with_hint();
    assert!(text.contains("\nhint: "), "{text}");
    text.replace(&format!("{}/in/", place.0.path().display()), "")
}

/// The published bundle and something more.
fn and(more: impl FnOnce(&mut Writer)) -> String {
    refusal(&pack(|zip| {
        published(zip);
        more(zip);
    }))
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "../outside.txt",
        "eval_bundle/../../outside.txt",
        "eval_bundle/../inside.txt",
        "/tmp/outside.txt",
        "..\\outside.txt",
        "C:\\outside.txt",
        "a//b",
        "./a",
    ] {
        let text = and(|zip| add(zip, name, b"x"));
        assert!(text.starts_with("the bundle b.zip cannot be used: its entry "), "{name}: {text}");
        assert!(text.contains("is no plain path inside of it"), "{name}: {text}");
    }
}

#[test]
fn links_and_devices_are_refused() {
    let link = and(|zip| zip.add_symlink("eval_bundle/x", "/etc/passwd", options()).unwrap());
    assert!(link.contains("\"eval_bundle/x\" is a link or a device"), "{link}");
    // A list that is itself a link to a file elsewhere.
    let list = refusal(&pack(|zip| {
        zip.add_symlink("tasks.json", "/etc/passwd", options()).unwrap();
    }));
    assert!(list.contains("\"tasks.json\" is a link or a device"), "{list}");
}

#[test]
fn items_outside_of_the_bundle_are_refused() {
    for uri in ["../t.jsonl", "/etc/passwd", "in/../../../t.jsonl"] {
        let text = refusal(&pack(|zip| {
            published(zip);
            add(zip, "tasks.json", LIST.replace("t.jsonl", uri).as_bytes());
        }));
        assert!(text.contains("are not inside of the bundle"), "{uri}: {text}");
    }
    let text = refusal(&pack(|zip| {
        add(zip, "core.yaml", YAML.replace("in/t", "../../t").as_bytes());
        add(zip, "eval_meta_data.csv", CSV.as_bytes());
    }));
    assert!(text.contains("are not inside of the bundle"), "{text}");
}

#[test]
fn bombs_are_refused_before_they_are_unpacked() {
    let text = and(|zip| add(zip, "eval_bundle/zeros", &vec![0; 20 << 20]));
    assert!(text.contains("to 20971520 bytes, more than 100 times its size"), "{text}");
    // One that says it is small: found when it is read, and no more of it is.
    let mut bytes = pack(|zip| {
        add(zip, "tasks.json", LIST.as_bytes());
        add(zip, "t.jsonl", &vec![b'\n'; 20 << 20]);
    });
    let size = (20_u32 << 20).to_le_bytes();
    while let Some(at) = bytes.windows(4).rposition(|four| four == size) {
        bytes[at..at + 4].copy_from_slice(&1000_u32.to_le_bytes());
    }
    let text = refusal(&bytes);
    assert!(text.contains("`t.jsonl` in it cannot be unpacked: File is larger"), "{text}");
    // Entries that all are the same bytes: each small, together endless.
    let bytes = pack(|zip| {
        published(zip);
        zip.shallow_copy_file("eval_bundle/eval_data/in/t.jsonl", "eval_bundle/again").unwrap();
    });
    assert!(refusal(&bytes).contains("two of its entries share bytes"));
    let text = and(|zip| {
        for i in 0..10_000 {
            zip.add_directory(i.to_string(), options()).unwrap();
        }
    });
    assert!(text.contains("it has 10003 entries, at most 10000 are read"), "{text}");
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let mut bytes = pack(|zip| {
        own(zip);
        add(zip, "tasks.jsoo", b"[]");
    });
    while let Some(at) = bytes.windows(10).position(|name| name == b"tasks.jsoo") {
        bytes[at + 9] = b'n';
    }
    let text = refusal(&bytes);
    assert!(text.contains("two of its entries have the same name"), "{text}");
}

/// The records at the end of a zip of more than 65,535 entries (APPNOTE.TXT, sections 4.3.14 to 4.3.16), saying that there are so many.
fn claim(entries: u64) -> Vec<u8> {
    let mut bytes = pack(own);
    // Size and place of the list of entries, in the last 22 bytes.
    let end = bytes.split_off(bytes.len() - 22);
    let field = |at: usize| u64::from(u32::from_le_bytes(end[at..at + 4].try_into().unwrap()));
    let place = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend(44_u64.to_le_bytes());
    bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [entries, entries, field(12), field(16)] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend(place.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([0xFF; 12]);
    bytes.extend([0, 0]);
    bytes
}

#[test]
fn a_list_that_claims_more_entries_than_it_has_is_refused() {
    assert_eq!(Place::with(&claim(2)).run().unwrap(), 2, "the records are as they should be");
    for entries in [3, 1 << 20, 1 << 40, u64::MAX] {
        let text = refusal(&claim(entries));
        assert!(text.contains("its list of entries cannot be read"), "{entries}: {text}");
    }
}

#[test]
fn what_is_no_zip_says_what_it_is() {
    for (bytes, what) in [
        (&b""[..], "it is empty"),
        (b"<html>please log in</html>", "it begins with \"<html>please log in</html>\""),
        (b"PK\x03\x04", "its list of entries cannot be read"),
    ] {
        let text = refusal(bytes);
        assert!(text.contains(what), "{text}");
    }
    let text = refusal(&pack(|zip| add(zip, "a/b/core.yaml", YAML.as_bytes())));
    assert!(text.contains("there is no tasks.json and no core.yaml in it"), "{text}");
}

#[test]
fn a_zip_cut_anywhere_is_refused() {
    let whole = pack(published);
    for length in 0..whole.len() {
        let place = Place::with(&whole[..length]);
        assert!(place.run().is_err(), "cut to {length} of {} bytes", whole.len());
    }
}

#[test]
fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let whole = pack(published);
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        match Place::with(&bytes).run() {
            Ok(right) => assert_eq!(right, 2, "byte {at}"),
            Err(error) => {
                refused += 1;
                assert!(
                    matches!(
                        error,
                        Error::Archive { .. } | Error::Tasks { .. } | Error::Read { .. }
                    ),
                    "byte {at}: {error}"
                );
            }
        }
    }
    assert!(refused * 2 > whole.len(), "{refused} of {} were noticed", whole.len());
}
