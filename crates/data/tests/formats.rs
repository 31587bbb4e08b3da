//! Text in other formats than parquet comes to the same documents as the same text in parquet, and what cannot be read is named by
//! file and line.

use crate::common::write_parquet;
use arrow::array::{ArrayRef, StringArray};
use farthing_base::Hint;
use farthing_data::{
    Error, FetchSettings, Fetcher, FileEntry, Files, HubSettings, Pack, PackSettings, Progress,
    Silent, Survey, Texts, fetch,
};
use proptest::prelude::*;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What any format must bring unchanged. None of them is empty or holds an empty line, which text with a separator cannot have.
const DOCUMENTS: [&str; 8] = [
    "Once upon a time.",
    "She said \"yes\", he said \"\"no\"\".",
    "two\nlines, and a\ttab",
    "ends with a line break, and a quote\"",
    "naïve 日本語 🦀 \u{2028} é",
    "a special token stays text: <|bos|> <|endoftext|>",
    "back\\slash \\n is no line break, {\"text\": 1}",
    " blanks around ",
];

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, packed(name, bytes.as_ref())).unwrap();
    }

    fn fetch(&self, settings: &FetchSettings) -> Result<Files, Error> {
        let _ = fs::remove_dir_all(self.path("out"));
        fetch(settings, self.0.path(), &self.path("out"), &mut Silent)
    }

    /// The documents of what was fetched.
    fn read(&self, files: &[FileEntry], column: &str) -> Vec<String> {
        let paths: Vec<_> = files.iter().map(|f| self.path("out").join(&f.file)).collect();
        let texts = Texts::open(&paths, column).unwrap();
        texts.map(Result::unwrap).collect()
    }

    /// All documents of a source, those to train on first.
    fn documents(&self, settings: &FetchSettings) -> Vec<String> {
        let files = self.fetch(settings).unwrap_or_else(|e| panic!("{}: {e}", settings.source));
        let column = settings.text_column.as_deref().unwrap_or("text");
        [self.read(&files.train, column), self.read(&files.val, column)].concat()
    }

    /// The error of the whole, and whether looking alone shows it.
    fn refused(&self, settings: &FetchSettings) -> (String, bool) {
        let error = self.fetch(settings).unwrap_err().with_hint();
        assert!(error.contains("\nhint: "), "{error}");
        let fetcher = Fetcher::new(HubSettings::new("https://h", "c", "d"));
        let early = fetcher.look(settings, self.0.path());
        if let Err(early) = &early {
            assert_eq!(early.with_hint(), error);
        }
        // Other files may be there, whole; the list that says so is not, nor half a file.
        let left = fs::read_dir(self.path("out")).unwrap();
        let mut left = left.map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(left.all(|name| name == "00000-ok.txt.parquet"), "{error}");
        (error, early.is_err())
    }

    fn survey(&self, source: &str) -> Result<Survey, Error> {
        let fetcher = Fetcher::new(HubSettings::new("https://h", "c", "d"));
        Ok(fetcher.survey(&of(source), self.0.path())?.unwrap())
    }

    fn taken(&self, source: &str) -> Vec<String> {
        let survey = self.survey(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        survey.train.into_iter().chain(survey.val).collect()
    }
}

fn of(source: &str) -> FetchSettings {
    FetchSettings { source: source.into(), ..FetchSettings::default() }
}

/// Bytes as the name of their file says.
fn packed(name: &str, bytes: &[u8]) -> Vec<u8> {
    match Path::new(name).extension().and_then(|e| e.to_str()) {
        Some("gz") => {
            let mut out = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        Some("zst") => zstd::encode_all(bytes, 3).unwrap(),
        _ => bytes.to_vec(),
    }
}

fn json_lines(key: &str, documents: &[&str]) -> String {
    let line = |text: &&str| {
        let object = serde_json::json!({ "id": [1, {"text": 2}], key: text, "z": null });
        format!("{object}\n")
    };
    documents.iter().map(line).collect()
}

fn table(separator: char, names: &str, documents: &[&str]) -> String {
    let mut table = format!("{names}\n");
    for (i, text) in documents.iter().enumerate() {
        let text = text.replace('"', "\"\"");
        writeln!(table, "{i}{separator}\"{text}\"").unwrap();
    }
    table
}

#[test]
fn every_format_comes_to_the_documents_of_parquet() {
    let place = Place::new();
    let column: ArrayRef = Arc::new(StringArray::from(DOCUMENTS.to_vec()));
    write_parquet(&place.path("a.parquet"), vec![("text", column)], 10);
    let settings = |source: &str| FetchSettings {
        separator: source.contains(".txt").then(|| "\n%%\n".into()),
        ..of(source)
    };
    let want = place.documents(&of("a.parquet"));
    assert_eq!(want, DOCUMENTS);
    let windows = |text: String| text.replace('\n', "\r\n");
    let formats = [
        ("jsonl", json_lines("text", &DOCUMENTS)),
        ("NDJSON", windows(json_lines("text", &DOCUMENTS))),
        ("txt", DOCUMENTS.join("\n%%\n") + "\n"),
        ("b.txt", windows(DOCUMENTS.join("\n%%\n")) + "\r\n%%\r\n"),
        ("csv", table(',', "id,text", &DOCUMENTS)),
        ("tsv", table('\t', "id\ttext", &DOCUMENTS)),
    ];
    for (extension, text) in formats {
        for suffix in ["", ".gz", ".zst"] {
            for mark in ["", "\u{feff}"] {
                let name = format!("x.{extension}{suffix}");
                place.file(&name, format!("{mark}{text}"));
                let settings = settings(&name);
                assert_eq!(place.documents(&settings), want, "{name}");
                // One file, so its last rows are held out; the same bytes come again.
                let files = place.fetch(&settings).unwrap();
                assert_eq!(place.read(&files.val, "text"), want[7..], "{name}");
                assert!(files.train[0].file.ends_with(".train.parquet"), "{:?}", files.train);
                assert_eq!(place.fetch(&settings).unwrap(), files, "{name}");
                assert_eq!(Files::load(place.path("out")).unwrap(), files);
                fs::remove_file(place.path(&name)).unwrap();
            }
            // As Windows writes it, in either order of bytes.
            let name = format!("x.{extension}{suffix}");
            let marked = format!("\u{feff}{text}");
            for order in [u16::to_le_bytes, u16::to_be_bytes] {
                let bytes: Vec<u8> = marked.encode_utf16().flat_map(order).collect();
                place.file(&name, bytes);
                assert_eq!(place.documents(&settings(&name)), want, "{name} in UTF-16");
            }
            fs::remove_file(place.path(&name)).unwrap();
        }
    }
}

#[test]
fn files_are_documents_and_rows_are_like_those_of_parquet() {
    let place = Place::new();
    // Without a separator a file is a document, as it is but for its line ends.
    place.file("books/a.txt", "one\r\n\r\n two\r\n");
    place.file("books/b.txt.gz", "three");
    place.file("books/c.txt", "");
    place.file("books/d.txt", "four\n");
    let books = FetchSettings { source: "books".into(), ..FetchSettings::default() };
    assert_eq!(place.documents(&books), ["one\n\n two\n", "three", "four\n"]);
    // Pieces that are empty are none; blank ones are.
    place.file("p.txt", "\n\na\n\n\n\n \n\n\nb\n\nc<|x|>\n");
    let pieces = FetchSettings { separator: Some("\n\n".into()), ..of("p.txt") };
    assert_eq!(place.documents(&pieces), ["a", " ", "\nb", "c<|x|>"]);
    let pieces = FetchSettings { separator: Some("<|x|>".into()), ..of("p.txt") };
    assert_eq!(place.documents(&pieces), ["\n\na\n\n\n\n \n\n\nb\n\nc", "\n"]);
    // A null is a null, an empty text is one; blank lines are none; of equal keys the last holds.
    place.file(
        "l.jsonl",
        "\n{\"text\": \"\"}\n  \n{\"text\": null}\n{\"text\": \"a\", \"text\": \"\\u00fc\"}",
    );
    assert_eq!(place.documents(&of("l.jsonl")), ["", "ü"]);
    let rows = place.fetch(&of("l.jsonl")).unwrap();
    assert_eq!((rows.train.len(), rows.val.len()), (1, 1));
    place.file("t.csv", "text\r\n\"\"\r\n\r\na\r\n\"b\r\nc\"");
    assert_eq!(place.documents(&of("t.csv")), ["", "a", "b\r\nc"]);
    // Another key or column, whose name is kept.
    place.file("k.jsonl", json_lines("content", &DOCUMENTS));
    place.file("k.csv", table(',', "id,content", &DOCUMENTS));
    let both = FetchSettings { text_column: Some("content".into()), ..of("k.{jsonl,csv}") };
    assert_eq!(place.documents(&both).len(), 16);
    assert_eq!(place.survey("k.{jsonl,csv}").unwrap().train, ["k.csv"]);
}

#[test]
fn long_files_come_in_row_groups_and_pieces() {
    let place = Place::new();
    let texts: Vec<String> = (0..20_500).map(|i| format!("{i} ").repeat(i % 40)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    place.file("a.jsonl", json_lines("text", &texts));
    place.file("a.csv.zst", table(',', "id,text", &texts));
    // One line of many pieces: separators stand wherever what is read at a time ends.
    let some: Vec<&str> = texts.iter().copied().filter(|text| !text.is_empty()).collect();
    place.file("a.txt", some.join("<|endoftext|>"));
    assert_eq!(place.documents(&of("a.jsonl")), texts);
    assert_eq!(place.documents(&of("a.csv.zst")), texts);
    let separated = FetchSettings { separator: Some("<|endoftext|>".into()), ..of("a.txt") };
    assert_eq!(place.documents(&separated), some);
    let files = place.fetch(&of("a.jsonl")).unwrap();
    let group = farthing_data::TextFile::open(place.path("out").join(&files.train[0].file), "text");
    assert_eq!(group.unwrap().row_groups(), 2);
}

#[test]
fn what_cannot_be_read_is_named_by_file_and_line() {
    let place = Place::new();
    let good = "{\"text\": \"a\"}\n".repeat(3);
    let line = |bad: &str| format!("{good}\n{bad}\n{good}").into_bytes();
    let rows = |bad: &str| format!("id,text\n0,a\n1,\"b\nc\"\n\n{bad}\n2,d\n").into_bytes();
    let first = |bad: &str| format!("{bad}\n{good}").into_bytes();
    let mut not_utf8 = line("{\"text\": \"??\"}");
    let at = not_utf8.iter().position(|&b| b == b'?').unwrap();
    not_utf8[at] = 0xFC;
    let utf16 = |text: &str| -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    // Half of a pair, and half of a number.
    let mut lonely = utf16(&"{\"text\": \"a\"}\n".repeat(3));
    lonely.extend([0x3C, 0xD8, b'x', 0]);
    let mut odd = utf16("a\nb");
    odd.push(0);
    let no_rows = utf16("id,text\n1,\"a");
    for (name, bytes, what, hint, early) in [
        ("x.jsonl", line("{\"text\": \"a\""), "line 5: it is not JSON: EOF", "json.dumps", false),
        ("x.jsonl.gz", line("text"), "line 5: it is not JSON: expected", "json.dumps", false),
        ("x.jsonl", line("{\"text\": \"a\"} x"), "line 5: it is not JSON: trailing", "", false),
        (
            "x.jsonl",
            line("[\"a\"]"),
            "line 5: it is no JSON object: invalid type: sequence",
            "",
            false,
        ),
        ("x.jsonl", first("[\"a\"]"), "line 1: it is no JSON object", "jq -c", true),
        ("x.jsonl", first("["), "line 1: it is no JSON object", "jq -c", true),
        (
            "x.jsonl.zst",
            line("{\"txet\": \"a\", \"b\": 1}"),
            "line 5: there is no key `text`; its keys are b, txet",
            "did you mean `txet`?",
            false,
        ),
        ("x.jsonl", first("{\"a\": 1}"), "line 1: there is no key `text`", "text_column", true),
        ("x.jsonl", first("{}"), "line 1: there is no key `text`; it has none", "", true),
        ("x.jsonl", line("{\"text\": 7}"), "line 5: the value of `text` is a number", "", false),
        (
            "x.jsonl",
            line("{\"text\": [\"a\"]}"),
            "line 5: the value of `text` is an array",
            "",
            false,
        ),
        ("x.jsonl", not_utf8, "line 5: it is not UTF-8", "iconv", false),
        ("x.csv", rows("7"), "line 6: the row has 1 field, the first one names 2", "quotes", false),
        ("x.csv", rows("7,a,b"), "line 6: the row has 3 fields", "quotes", false),
        ("x.csv.gz", rows("7,\"a"), "line 6: a quote of the row that begins here", "", false),
        (
            "x.csv",
            String::from_utf8(rows("7,a,b")).unwrap().replace('\n', "\r\n").into(),
            "line 6",
            "",
            false,
        ),
        ("x.csv", b"id,text\n1,a\n2,b\n3,\xFC\n".to_vec(), "line 4: it is not UTF-8", "", false),
        (
            "x.csv",
            b"id,txt\n1,a\n".to_vec(),
            "has no column `text`; its columns are id, txt",
            "did you mean `txt`?",
            true,
        ),
        (
            "x.csv",
            b"id;text\n1;a\n".to_vec(),
            "has no column `text`; its columns are id;text",
            "apart by ';'; write it with commas between them",
            true,
        ),
        (
            "x.tsv",
            b"id,text\n1,a\n".to_vec(),
            "has no column `text`; its columns are id,text",
            "apart by ','; write it with tabs between them, or call it a .csv",
            true,
        ),
        ("x.csv", vec![], "it is empty", "first line", true),
        ("x.txt", b"a\nb\n\xFCc\n".to_vec(), "line 3: it is not UTF-8", "iconv", false),
        ("x.jsonl", lonely, "line 4: it is damaged, or cut off: its text is not UTF-16", "", true),
        ("x.txt.gz", odd, "line 2: it is damaged, or cut off: its text is not UTF-16", "", false),
        ("x.txt", b"t\0e\0x\0t\0".to_vec(), "a NUL at its beginning", "iconv", true),
        ("x.csv.zst", no_rows, "line 2: a quote of the row that begins here", "", true),
        (
            "x.txt",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
            "pointer of Git LFS",
            "git lfs pull",
            true,
        ),
    ] {
        place.file("ok.txt", "some text");
        place.file(name, &bytes);
        let (error, shown) = place.refused(&of(&format!("{{ok.txt,{name}}}")));
        assert!(error.contains(name) && error.contains(what), "{name} {what}: {error}");
        assert!(error.split_once("\nhint: ").unwrap().1.contains(hint), "{error}");
        assert_eq!(shown, early, "{error}");
        fs::remove_file(place.path(name)).unwrap();
    }
    // Of text with separators the line counts in the file.
    place.file("x.txt", b"a\nb\n\nc\nd\n\ne\nf\xFC\n");
    let pieces = FetchSettings { separator: Some("\n\n".into()), ..of("x.txt") };
    assert!(place.refused(&pieces).0.contains("x.txt, line 8: it is not UTF-8"));
}

#[test]
fn damage_to_a_compressed_file_is_an_error() {
    let place = Place::new();
    place.file("ok.txt", "some text");
    let texts: Vec<String> = (0..3_000).map(|i| format!("{i} {}", i * 7919 % 1013)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for name in ["x.jsonl.gz", "x.jsonl.zst"] {
        let source = of(&format!("{{ok.txt,{name}}}"));
        let whole = packed(name, json_lines("text", &texts).as_bytes());
        fs::write(place.path(name), &whole[..whole.len() - 9]).unwrap();
        let (error, _) = place.refused(&source);
        assert!(error.contains(name) && error.contains("damaged, or cut off"), "{error}");
        if name.ends_with("gz") {
            // The bytes' checksum is at the end.
            let mut flipped = whole.clone();
            flipped[whole.len() - 6] ^= 1;
            fs::write(place.path(name), flipped).unwrap();
            assert!(place.refused(&source).0.contains("damaged, or cut off"));
        }
        // Several compressed files in a row are one.
        fs::write(place.path(name), [&whole[..], &whole].concat()).unwrap();
        assert_eq!(place.documents(&source).len(), 6_001);
        for other in [&b""[..], b"{\"text\": \"a\"}\n"] {
            fs::write(place.path(name), other).unwrap();
            let (error, early) = place.refused(&source);
            assert!(early && error.contains("as its name says"), "{error}");
        }
    }
    // A name without the ending is no obstacle, nor is one that hides parquet.
    fs::write(place.path("y.jsonl"), packed("y.gz", json_lines("text", &texts).as_bytes()))
        .unwrap();
    let column: ArrayRef = Arc::new(StringArray::from(vec!["p"]));
    write_parquet(&place.path("z.txt"), vec![("text", column)], 10);
    assert_eq!(place.documents(&of("{y.jsonl,z.txt}")).len(), 3_001);
}

#[test]
fn a_folder_means_parquet_else_the_one_format_that_is_there() {
    let place = Place::new();
    for name in ["t/b.jsonl", "t/in/a.ndjson.gz", "t/.hidden.jsonl", "t/notes.md"] {
        place.file(name, json_lines("text", &["a", "b"]));
    }
    for source in ["t", "t/**"] {
        assert_eq!(place.taken(source), ["t/b.jsonl", "t/in/a.ndjson.gz"], "{source}");
    }
    assert_eq!(place.taken("t/*"), ["t/b.jsonl"]);
    let left_out = place.survey("t").unwrap().left_out.join("\n");
    assert!(left_out.contains("t/.hidden.jsonl: it is hidden"), "{left_out}");
    // Two formats: which is meant is asked.
    place.file("t/c.txt", "c");
    for source in ["t", "t/*"] {
        let error = place.survey(source).unwrap_err().with_hint();
        assert!(error.contains(&format!("`{source}` has text in several formats")), "{error}");
        assert!(error.contains("of JSON lines, 1 file of text"), "{error}");
        assert!(error.contains("\nhint: ") && error.contains("`*.jsonl` or `*.txt`"), "{error}");
    }
    assert_eq!(place.taken("t/*.{jsonl,txt}"), ["t/b.jsonl", "t/c.txt"]);
    assert_eq!(place.taken("t/**/*.gz"), ["t/in/a.ndjson.gz"]);
    assert_eq!(place.taken("{t/c.txt,t/b.jsonl}"), ["t/b.jsonl", "t/c.txt"]);
    assert_eq!(place.documents(&of("t/*.{jsonl,txt}")), ["a", "b", "c"]);
    // Beside parquet they are left out, and that is said.
    let column: ArrayRef = Arc::new(StringArray::from(vec!["p", "q"]));
    write_parquet(&place.path("t/p.parquet"), vec![("text", column)], 10);
    for source in ["t", "t/**"] {
        assert_eq!(place.taken(source), ["t/p.parquet"], "{source}");
        let left_out = place.survey(source).unwrap().left_out.join("\n");
        assert!(left_out.contains("t/b.jsonl: it is JSON lines, as are 1 more"), "{left_out}");
        assert!(left_out.contains("t/c.txt: it is text, and beside files"), "{left_out}");
    }
    assert_eq!(place.taken("t/{*.jsonl,*.parquet}"), ["t/b.jsonl", "t/p.parquet"]);
    assert_eq!(place.documents(&of("t/{*.jsonl,*.parquet}")), ["a", "b", "p", "q"]);
}

#[test]
fn splits_are_named_and_single_files_divided_as_parquet_is() {
    let place = Place::new();
    for name in ["s/train.jsonl.gz", "s/test.jsonl", "s/validation-0.jsonl"] {
        place.file(name, json_lines("text", &[name, name]));
    }
    let files = place.fetch(&of("s")).unwrap();
    assert_eq!(place.read(&files.train, "text")[0], "s/train.jsonl.gz");
    assert_eq!(place.read(&files.val, "text")[0], "s/validation-0.jsonl");
    assert_eq!(files.train[0].file, "00001-train.jsonl.gz.parquet");
    let survey = place.survey("s").unwrap();
    assert_eq!((survey.train.len(), survey.val), (1, vec!["s/validation-0.jsonl".to_owned()]));
    // A text is one document without a separator, which cannot be divided.
    place.file("one.txt", "all of it\n\nand more");
    let (error, early) = place.refused(&of("one.txt"));
    assert!(early && error.contains("its rows are 1") && error.contains("separator"), "{error}");
    place.file("one.jsonl", json_lines("text", &["a"]));
    let (error, early) = place.refused(&of("one.jsonl"));
    assert!(early && error.contains("one.jsonl` is one file, and its rows are 1"), "{error}");
    place.file("e/a.txt", "a");
    place.file("e/b.txt", "");
    let (error, early) = place.refused(&of("e"));
    assert!(early && error.contains("to hold out have no rows"), "{error}");
}

#[test]
fn settings_that_nothing_heeds_are_errors_and_unset_ones_leave_no_trace() {
    let place = Place::new();
    place.file("a.txt", "a");
    place.file("b.txt", "a");
    place.file("a.jsonl", json_lines("text", &["a", "b"]));
    let column = |source| FetchSettings { text_column: Some("x".into()), ..of(source) };
    let separator = |s: &str, source| FetchSettings { separator: Some(s.into()), ..of(source) };
    for (settings, what) in [
        (column("*.txt"), "text_column = \"x\""),
        (separator("\n", "a.jsonl"), "separator = \"\\n\""),
        (separator("", "*.txt"), "separator is empty"),
    ] {
        let (error, early) = place.refused(&settings);
        assert!(early && error.contains(what), "{error}");
    }
    // What an existing pipeline's cache keys are made of stays what it was.
    let unset = serde_json::to_value(of("a.parquet")).unwrap();
    let keys: Vec<&String> = unset.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["shards", "source", "world"]);
    assert!(serde_json::from_str::<FetchSettings>("{\"seperator\": \"x\"}").is_err());
    // Other names give other texts of the same bytes.
    let fetcher = Fetcher::new(HubSettings::new("https://h", "c", "d"));
    let mark = |source: &str| fetcher.mark(&of(source), place.0.path()).unwrap();
    let column: ArrayRef = Arc::new(StringArray::from(vec!["p", "q"]));
    for name in ["p/a.parquet", "p/b.parquet"] {
        fs::create_dir_all(place.path("p")).unwrap();
        write_parquet(&place.path(name), vec![("text", Arc::clone(&column))], 10);
    }
    assert_eq!(mark("p"), None, "as before there were others");
    assert_eq!(place.survey("p").unwrap().read_as, None);
    let both = place.survey("{a.txt,a.jsonl}").unwrap();
    assert_eq!(both.read_as.as_deref(), Some("JSON lines and text"));
    assert_eq!(mark("*.txt").unwrap(), "read as text");
    assert_ne!(mark("{a.txt,a.jsonl}"), mark("{a.txt,b.txt}"));
}

#[test]
fn a_stop_ends_a_conversion() {
    struct Stop;
    impl Progress for Stop {
        fn stopped(&self) -> bool {
            true
        }
    }
    let place = Place::new();
    place.file("a.jsonl", json_lines("text", &DOCUMENTS));
    let error = fetch(&of("a.jsonl"), place.0.path(), &place.path("out"), &mut Stop).unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 0);
}

#[test]
fn a_special_token_in_a_document_of_ones_own_stays_text() {
    let p = crate::common::packed();
    let place = Place::new();
    let texts: Vec<String> = (0..40).map(|i| format!("<|bos|> number {i} <|bos|>")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    place.file("a.jsonl", json_lines("text", &texts));
    place.file("b.jsonl", json_lines("text", &texts));
    let files = place.fetch(&of("*.jsonl")).unwrap();
    let settings = PackSettings { context: 16, buffer_documents: 50, ..PackSettings::default() };
    let train = files.train_paths(place.path("out"));
    let packing = Pack::files(&train).tokenizer(&p.tokenizer).settings(settings);
    let manifest = packing.to(place.path("rows")).unwrap();
    assert_eq!(manifest.stats.documents, 40);
    let rows = farthing_data::Rows::open(place.path("rows")).unwrap();
    let mut row = vec![0; rows.row_tokens()];
    let mut begun = 0;
    for i in 0..rows.len() {
        rows.fill(i, &mut row).unwrap();
        begun += row.iter().filter(|&&token| token == manifest.bos as i32).count();
    }
    assert!(begun as u64 <= 40 + rows.len(), "{begun} begin, of 40 documents");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_the_same_through_json_and_tables(
        texts in proptest::collection::vec("[a-c\",\t\r\n\\\\ü🦀]{0,12}", 2..20),
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let place = Place::new();
        place.file("a.jsonl", json_lines("text", &texts));
        place.file("a.csv.gz", table(',', "id,text", &texts));
        place.file("a.tsv", table('\t', "id\ttext", &texts));
        for source in ["a.jsonl", "a.csv.gz", "a.tsv"] {
            prop_assert_eq!(&place.documents(&of(source)), &texts, "{}", source);
        }
    }
}
