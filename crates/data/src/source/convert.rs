//! Text in other formats than parquet: the documents of a file, one after the other, and the parquet file that is written of them.
//!
//! A document is held in memory as a whole, a file is not. Documents of more than [`MOST_BYTES`] are refused: most often a quote or a
//! separator is missing, and everything after it would be one of them.

use super::formats::{Format, Packed, pointer};
use super::{FetchSettings, FileEntry, Files, entry, share};
use crate::{Error, Progress, Result};
use aho_corasick::AhoCorasick;
use arrow::array::{ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use farthing_base::files;
use farthing_base::files::NewFile;
use farthing_base::names::did_you_mean;
use flate2::bufread::MultiGzDecoder;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a document, at most; a parquet column of strings has room for less than twice as many at a time.
const MOST_BYTES: usize = 1 << 30;

/// Documents that are written at a time, and the bytes after which they are.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 16 << 20;

/// What is read of text without line breaks before a separator is looked for.
const PIECE_BYTES: u64 = 1 << 16;

/// How far a separator is looked for before anything is copied.
const GLANCE_BYTES: usize = 1 << 20;

/// Names of columns or keys that an error lists, and characters of each.
const MOST_NAMES: usize = 20;
const MOST_CHARS: usize = 40;

/// One document after the other; `None` is a null, which parquet has, too.
type Documents = Box<dyn Iterator<Item = Result<Option<String>>>>;

/// The bytes of a file, unpacked.
type Input = BufReader<Box<dyn Read>>;

/// Writes a file's documents as a parquet file of one column.
///
/// # Errors
/// [`Error::Document`], [`Error::MissingColumn`], [`Error::Io`], [`Error::WriteParquet`], [`Error::Stopped`].
pub(super) fn convert(
    from: &Path,
    format: Format,
    settings: &FetchSettings,
    to: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut documents = documents(from, format, settings)?;
    write(&mut documents, settings.text_column(), to, progress, &mut |_, _| {}).map(drop)
}

/// Writes the two parts of a single file: its documents are counted first, and every one of them is read then.
///
/// # Errors
/// Those of [`convert`], and [`Error::Selection`].
pub(super) fn divide(
    from: &Path,
    format: Format,
    settings: &FetchSettings,
    name: &str,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    progress.total(None, "documents");
    let mut rows = 0;
    for document in documents(from, format, settings)? {
        document?;
        rows += 1;
        if rows % BATCH_ROWS as u64 == 0 {
            progress.advance(BATCH_ROWS as u64);
            if progress.stopped() {
                return Err(Error::Stopped);
            }
        }
    }
    let val = share::enough(&settings.source, rows)?;
    progress.total(Some(rows), "documents");
    let mut documents = documents(from, format, settings)?;
    let mut part = |which: &str, n: u64| -> Result<FileEntry> {
        let to = share::part_path(out, name, which);
        let n_documents = usize::try_from(n).unwrap_or(usize::MAX);
        let mut some = documents.by_ref().take(n_documents);
        let advance = &mut |progress: &mut dyn Progress, n| progress.advance(n);
        let written = write(&mut some, settings.text_column(), &to, progress, advance)?;
        if written != n {
            let what = format!("it had {rows} documents a moment ago, and has fewer now");
            return Err(document(from, None, what, "run again when nobody writes it"));
        }
        entry(&to)
    };
    let train = vec![part(share::TRAIN, rows - val)?];
    let val = vec![part(share::HELD_OUT, val)?];
    Ok(Files { train, val, tasks: None })
}

/// Writes documents, and returns how many they were.
fn write(
    documents: &mut dyn Iterator<Item = Result<Option<String>>>,
    column: &str,
    to: &Path,
    progress: &mut dyn Progress,
    advance: &mut dyn FnMut(&mut dyn Progress, u64),
) -> Result<u64> {
    let failed = |e: ParquetError| Error::WriteParquet { path: to.into(), reason: e.to_string() };
    let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Utf8, true)]));
    let mut out = NewFile::create(to)?;
    // Documents are seldom equal: a dictionary of them is work for nothing.
    let properties = share::properties().set_dictionary_enabled(false).build();
    let mut writer =
        ArrowWriter::try_new(&mut out, schema.clone(), Some(properties)).map_err(failed)?;
    let mut done = 0;
    loop {
        if progress.stopped() {
            return Err(Error::Stopped);
        }
        let (mut texts, mut rows, mut bytes) = (StringBuilder::new(), 0, 0);
        while rows < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(document) = documents.next() else { break };
            let document = document?;
            bytes += document.as_ref().map_or(0, String::len);
            texts.append_option(document);
            rows += 1;
        }
        if rows == 0 {
            break;
        }
        let texts: ArrayRef = Arc::new(texts.finish());
        let batch = RecordBatch::try_new(schema.clone(), vec![texts])
            .map_err(|e| failed(ParquetError::from(e)))?;
        writer.write(&batch).map_err(failed)?;
        share::end_group(&mut writer).map_err(failed)?;
        done += rows as u64;
        advance(progress, rows as u64);
    }
    writer.close().map_err(failed)?;
    out.finish()?;
    Ok(done)
}

/// What a file's beginning says: how many documents it has, where they are fewer than two. Two stands for any larger number.
///
/// # Errors
/// Those of [`convert`], as far as they show there.
pub(super) fn glance(path: &Path, format: Format, settings: &FetchSettings) -> Result<u64> {
    if format == Format::Text {
        let Some(separator) = settings.separator.as_deref() else {
            // The other end of a text is far away.
            let mut input = open(path)?;
            return Ok(u64::from(!filled(&mut input, path)?.is_empty()));
        };
        let mut text = Text::open(path, Some(separator), GLANCE_BYTES)?;
        for n in 0..2 {
            match text.next_document() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(n),
                Err(_) if text.too_long => break,
                Err(error) => return Err(error),
            }
        }
        return Ok(2);
    }
    let mut n = 0;
    for document in documents(path, format, settings)?.take(2) {
        document?;
        n += 1;
    }
    Ok(n)
}

fn documents(path: &Path, format: Format, settings: &FetchSettings) -> Result<Documents> {
    let column = settings.text_column();
    Ok(match format {
        Format::JsonLines => {
            let mut lines = JsonLines::open(path, column)?;
            Box::new(
                std::iter::from_fn(move || {
                    lines
                        .advance()
                        .and_then(|more| more.then(|| lines.document()).transpose())
                        .transpose()
                })
                .fuse(),
            )
        }
        Format::Csv | Format::Tsv => {
            let mut table = Table::open(path, column, format)?;
            Box::new(
                std::iter::from_fn(move || {
                    table
                        .advance()
                        .and_then(|more| more.then(|| table.document()).transpose())
                        .transpose()
                })
                .fuse(),
            )
        }
        Format::Text | Format::Parquet => {
            let mut text = Text::open(path, settings.separator.as_deref(), MOST_BYTES)?;
            Box::new(
                std::iter::from_fn(move || text.next_document().map(|d| d.map(Some)).transpose())
                    .fuse(),
            )
        }
    })
}

/// A file's bytes, unpacked where they are packed, after a mark of UTF-8.
fn open(path: &Path) -> Result<Input> {
    let file = files::open(path).map_err(Error::io("open", path))?;
    let mut file = BufReader::with_capacity(1 << 17, file);
    let head = file.fill_buf().map_err(Error::io("read", path))?;
    let text = String::from_utf8_lossy(&head[..head.len().min(64)]);
    if let Some((found, hint)) = pointer(&text) {
        return Err(document(path, None, found, hint));
    }
    let packed = Packed::of(head);
    if let Some(named) = Packed::of_name(path).filter(|named| packed != Some(*named)) {
        let what = format!("it is not compressed with {}, as its name says", named.name());
        return Err(document(path, None, what, "fetch it again, or call it what it is"));
    }
    let mut bytes: Box<dyn Read> = match packed {
        None => Box::new(file),
        Some(Packed::Gzip) => Box::new(MultiGzDecoder::new(file)),
        Some(Packed::Zstd) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(file);
            Box::new(decoder.map_err(|e| unread(path, e))?)
        }
    };
    let mut head = Vec::new();
    bytes.by_ref().take(3).read_to_end(&mut head).map_err(|e| unread(path, e))?;
    if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
        let hint = "write it as UTF-8: `iconv -f UTF-16 -t UTF-8 FILE`";
        return Err(document(path, None, "its text is UTF-16, UTF-8 is read", hint));
    }
    if head.contains(&0) {
        let hint = "write it as UTF-8 (`iconv -f UTF-16LE -t UTF-8 FILE`), or leave it out";
        let what = "it is no text: there is a NUL at its beginning, as in UTF-16";
        return Err(document(path, None, what, hint));
    }
    if head == [0xEF, 0xBB, 0xBF] {
        head.clear();
    }
    Ok(BufReader::with_capacity(1 << 16, Box::new(Cursor::new(head).chain(bytes))))
}

/// What is in the buffer, or comes next; nothing at the end.
fn filled<'a>(input: &'a mut Input, path: &Path) -> Result<&'a [u8]> {
    input.fill_buf().map_err(|e| unread(path, e))
}

/// The error of bytes that cannot be read, or not be unpacked.
fn unread(path: &Path, error: std::io::Error) -> Error {
    // The system's own errors have numbers.
    if error.raw_os_error().is_some() {
        return Error::io("read", path)(error);
    }
    let what = format!("it is damaged, or cut off: {error}");
    document(path, None, what, "fetch it again, or leave it out")
}

fn document(
    path: &Path,
    line: Option<u64>,
    what: impl Into<String>,
    hint: impl Into<String>,
) -> Error {
    Error::Document { path: path.into(), line, what: what.into(), hint: hint.into() }
}

fn too_long(path: &Path, line: u64, hint: &str) -> Error {
    let what = format!("the document that begins here has more than {MOST_BYTES} bytes");
    document(path, Some(line), what, hint)
}

/// A text that is UTF-8; `line` is the one that it begins in.
fn utf8(path: &Path, line: u64, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = line + newlines(&error.as_bytes()[..valid]);
        let hint = "write the file as UTF-8 (`iconv -f LATIN1 -t UTF-8 FILE`), or leave it out";
        document(path, Some(line), "it is not UTF-8", hint)
    })
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.split(|&b| b == b'\n').count() as u64 - 1
}

/// Names for an error.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names = names.map(|name| {
        let short: String = name.chars().take(MOST_CHARS).collect();
        if short.len() < name.len() { format!("{short}…") } else { short }
    });
    let mut shown: Vec<String> = names.by_ref().take(MOST_NAMES).collect();
    if names.next().is_some() {
        shown.push("…".into());
    }
    shown
}

const OTHER_KEY: &str =
    "name the one that holds the text: `text_column`, here and where it is read after this";

/// The lines of a file, each an object.
struct JsonLines {
    path: PathBuf,
    input: Input,
    key: String,
    /// Lines that were read.
    line: u64,
    buffer: Vec<u8>,
}

impl JsonLines {
    fn open(path: &Path, key: &str) -> Result<Self> {
        let input = open(path)?;
        Ok(Self { path: path.into(), input, key: key.into(), line: 0, buffer: vec![] })
    }

    /// Reads the next line that is not blank; none at the end.
    fn advance(&mut self) -> Result<bool> {
        loop {
            self.buffer.clear();
            let mut some = self.input.by_ref().take(MOST_BYTES as u64 + 1);
            let read = some.read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| unread(&self.path, e))? == 0 {
                return Ok(false);
            }
            self.line += 1;
            if self.buffer.len() > MOST_BYTES {
                return Err(too_long(&self.path, self.line, "write each object in a line"));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn document(&self) -> Result<Option<String>> {
        let Ok(line) = std::str::from_utf8(&self.buffer) else {
            return utf8(&self.path, self.line, self.buffer.clone()).map(Some);
        };
        let mut json = serde_json::Deserializer::from_str(line);
        let found = Key(&self.key).deserialize(&mut json).and_then(|found| {
            json.end()?;
            Ok(found)
        });
        let wrong =
            |what: String, hint: String| Err(document(&self.path, Some(self.line), what, hint));
        let found = match found {
            Ok(found) => found,
            Err(error) if line.trim_start().starts_with('[') && self.line == 1 => {
                let hint =
                    "write each element of the array in a line of its own: `jq -c '.[]' FILE`";
                return wrong(format!("it is no JSON object: {}", words(&error)), hint.into());
            }
            Err(error) if error.is_data() => {
                let hint = format!("write an object in each line: {{\"{}\": \"…\"}}", self.key);
                return wrong(format!("it is no JSON object: {}", words(&error)), hint);
            }
            Err(error) => {
                let hint = "write an object in each line, as `json.dumps` does, or leave it out";
                return wrong(format!("it is not JSON: {}", words(&error)), hint.into());
            }
        };
        match found {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null(())) => Ok(None),
            Some(Value::Other(_)) => {
                let what =
                    format!("the value of `{}` is {}, not a string", self.key, self.kind(line));
                wrong(what, OTHER_KEY.into())
            }
            None => {
                let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                let keys = value.as_object().into_iter().flat_map(|object| object.keys());
                let keys = || keys.clone().map(String::as_str);
                let hint = did_you_mean(&self.key, keys()).unwrap_or_else(|| OTHER_KEY.into());
                let found = match listed(keys()) {
                    none if none.is_empty() => "it has none".into(),
                    found => format!("its keys are {}", found.join(", ")),
                };
                wrong(format!("there is no key `{}`; {found}", self.key), hint)
            }
        }
    }

    fn kind(&self, line: &str) -> &'static str {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        match value.get(&self.key) {
            Some(serde_json::Value::Array(_)) => "an array",
            Some(serde_json::Value::Object(_)) => "an object",
            Some(serde_json::Value::Bool(_)) => "true or false",
            _ => "a number",
        }
    }
}

/// The words of an error in a line of its own.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((words, column)) => format!("{words} at column {column}"),
        None => text,
    }
}

/// What a key holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Null(()),
    Other(IgnoredAny),
}

/// Reads the value of one key of an object, the last where there are several, and passes over the others.
struct Key<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is) = map.next_key_seed(Is(self.0))? {
            if is {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is this one.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// A text, or the pieces of one between separators. `\r\n` is read as `\n`.
struct Text {
    path: PathBuf,
    input: Input,
    /// What finds the separator, and its length.
    separator: Option<(AhoCorasick, usize)>,
    /// Whether the separator ends with a line break: then the last one of the file is no part of a document.
    ends_lines: bool,
    most: usize,
    /// The line that `buffer` begins in.
    line: u64,
    /// What was read and not returned, and how much of it was searched.
    buffer: Vec<u8>,
    searched: usize,
    too_long: bool,
}

impl Text {
    fn open(path: &Path, separator: Option<&str>, most: usize) -> Result<Self> {
        let separator = separator.map(|s| s.replace("\r\n", "\n"));
        let find = |s: &String| {
            let find = AhoCorasick::new([s]).map_err(|e| Error::Config {
                what: format!("separator {s:?} cannot be looked for: {e}"),
                hint: "give a shorter one".into(),
            })?;
            Ok::<_, Error>((find, s.len()))
        };
        Ok(Self {
            path: path.into(),
            input: open(path)?,
            ends_lines: separator.as_ref().is_some_and(|s| s.ends_with('\n')),
            separator: separator.as_ref().map(find).transpose()?,
            most,
            line: 1,
            buffer: vec![],
            searched: 0,
            too_long: false,
        })
    }

    fn next_document(&mut self) -> Result<Option<String>> {
        loop {
            if let Some((piece, lines)) = self.cut() {
                let line = self.line;
                self.line += lines;
                // Between two separators in a row there is nothing.
                if !piece.is_empty() {
                    return utf8(&self.path, line, piece).map(Some);
                }
                continue;
            }
            if self.buffer.len() > self.most {
                self.too_long = true;
                let hint = "say what stands between documents (separator)";
                return Err(too_long(&self.path, self.line, hint));
            }
            let before = self.buffer.len();
            let mut some = self.input.by_ref().take(PIECE_BYTES);
            let read = some.read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| unread(&self.path, e))? == 0 {
                let mut rest = std::mem::take(&mut self.buffer);
                self.searched = 0;
                if self.ends_lines && rest.last() == Some(&b'\n') {
                    rest.pop();
                }
                let rest = Some(rest).filter(|rest| !rest.is_empty());
                return rest.map(|rest| utf8(&self.path, self.line, rest)).transpose();
            }
            // What was read ends after its first line break.
            if self.buffer.len() > before && self.buffer.ends_with(b"\r\n") {
                self.buffer.truncate(self.buffer.len() - 2);
                self.buffer.push(b'\n');
            }
        }
    }

    /// Takes what is before the first separator, if there is one, with the line breaks up to where the next piece begins.
    fn cut(&mut self) -> Option<(Vec<u8>, u64)> {
        let (find, length) = self.separator.as_ref()?;
        let Some(at) = find.find(&self.buffer[self.searched..]) else {
            // A carriage return may yet become a line break, and a separator may begin in what is here.
            self.searched = self.buffer.len().saturating_sub(*length).max(self.searched);
            return None;
        };
        let at = self.searched + at.start();
        let rest = self.buffer.split_off(at + length);
        let mut piece = std::mem::replace(&mut self.buffer, rest);
        let lines = newlines(&piece);
        piece.truncate(at);
        self.searched = 0;
        Some((piece, lines))
    }
}

/// The rows of a table whose first row names its columns.
struct Table {
    path: PathBuf,
    rows: csv::Reader<Fenced>,
    columns: usize,
    column: usize,
    record: csv::ByteRecord,
}

/// What a table's bytes are followed by: a row that no table has. Where a quote is not closed, it is part of a field instead.
const FENCE: &[u8] = b"\n\0\x01the end of the table\x01\0\n";

/// The bytes of a table and the fence; at most `left` of them at a time, so that a quote that is not closed does not fill the memory.
struct Fenced {
    bytes: std::io::Chain<Input, Cursor<&'static [u8]>>,
    left: usize,
}

impl Read for Fenced {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let room = out.len().min(self.left);
        let read = self.bytes.read(&mut out[..room])?;
        self.left -= read;
        Ok(read)
    }
}

const QUOTES: &str =
    "a field with a comma, a tab or a line break stands in quotes, and a quote in it is doubled";

impl Table {
    fn open(path: &Path, column: &str, format: Format) -> Result<Self> {
        let bytes = open(path)?.chain(Cursor::new(FENCE));
        let rows = csv::ReaderBuilder::new()
            .delimiter(if format == Format::Tsv { b'\t' } else { b',' })
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(1 << 16)
            .from_reader(Fenced { bytes, left: 0 });
        let record = csv::ByteRecord::new();
        let mut this = Self { path: path.into(), rows, columns: 0, column: 0, record };
        if !this.advance()? {
            let hint = format!("its first line names its columns, and one of them is `{column}`");
            return Err(document(path, None, "it is empty", hint));
        }
        let names = this.record.iter().map(|name| utf8(path, 1, name.to_vec()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        let Some(at) = names.iter().position(|name| name == column) else {
            let other = "name the one that holds the text: `text_column`, here and where it is read after this; the first line has the names";
            let meant = did_you_mean(column, names.iter().map(String::as_str));
            return Err(Error::MissingColumn {
                path: path.into(),
                column: column.into(),
                found: listed(names.iter().map(String::as_str)),
                hint: meant.unwrap_or_else(|| other.into()),
            });
        };
        (this.columns, this.column) = (names.len(), at);
        Ok(this)
    }

    /// Reads a row; none at the end.
    fn advance(&mut self) -> Result<bool> {
        let start = self.rows.position().byte();
        self.rows.get_mut().left = MOST_BYTES;
        match self.rows.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => {
                let hint = QUOTES;
                return Err(document(&self.path, None, "a quote is not closed", hint));
            }
            Err(error) => {
                let csv::ErrorKind::Io(error) = error.into_kind() else {
                    return Err(document(&self.path, None, "it is no table", QUOTES));
                };
                if error.kind() == std::io::ErrorKind::FileTooLarge {
                    return Err(too_long(&self.path, self.line_at(start)?, QUOTES));
                }
                return Err(unread(&self.path, error));
            }
        }
        let fence = FENCE.trim_ascii();
        if self.record.len() == 1 && &self.record[0] == fence {
            return Ok(false);
        }
        if self.record.iter().next_back().is_some_and(|last| last.ends_with(FENCE)) {
            let line = self.line_at(start)?;
            let what = "a quote of the row that begins here is not closed";
            return Err(document(&self.path, Some(line), what, QUOTES));
        }
        Ok(true)
    }

    fn document(&self) -> Result<Option<String>> {
        let start = self.record.position().map_or(0, csv::Position::byte);
        let (found, columns) = (self.record.len(), self.columns);
        if found != columns {
            let s = if found == 1 { "" } else { "s" };
            let what = format!("the row has {found} field{s}, the first one names {columns}");
            return Err(document(&self.path, Some(self.line_at(start)?), what, QUOTES));
        }
        let field = &self.record[self.column];
        match std::str::from_utf8(field) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => utf8(&self.path, self.line_at(start)?, field.to_vec()).map(Some),
        }
    }

    /// The line of the row that begins at a byte, or after the line breaks there. It is counted when an error asks for it.
    fn line_at(&self, start: u64) -> Result<u64> {
        let mut input = open(&self.path)?;
        let (mut line, mut left) = (1, start);
        loop {
            let bytes = filled(&mut input, &self.path)?;
            let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if n == 0 {
                break;
            }
            line += newlines(&bytes[..n]);
            input.consume(n);
            left -= n as u64;
        }
        for byte in input.bytes() {
            match byte.map_err(|e| unread(&self.path, e))? {
                b'\n' => line += 1,
                b'\r' => {}
                _ => break,
            }
        }
        Ok(line)
    }
}
