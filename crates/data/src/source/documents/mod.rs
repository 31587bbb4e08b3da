//! Text in other formats than parquet: the documents of a file, one after the other.
//!
//! A document is held in memory as a whole, a file is not. Documents of more than [`MOST_BYTES`] are refused: most often a quote or a
//! separator is missing, and everything after it would be one of them.

mod json_lines;
mod table;
mod text;
mod utf16;

use super::FetchSettings;
use crate::local::{Format, Packed, pointer};
use crate::{Error, Result};
use farthing_base::files;
use flate2::bufread::MultiGzDecoder;
use json_lines::JsonLines;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use table::Table;
use text::Text;
use utf16::{Malformed, Utf16};

/// Bytes of a document, at most; a parquet column of strings has room for less than twice as many at a time.
const MOST_BYTES: usize = 1 << 30;

/// How far a separator is looked for before anything is copied.
const GLANCE_BYTES: usize = 1 << 20;

/// Names of columns or keys that an error lists, and characters of each.
const MOST_NAMES: usize = 20;
const MOST_CHARS: usize = 40;

const OTHER_KEY: &str =
    "name the one that holds the text: `text_column`, here and where it is read after this";

/// The bytes of a file, unpacked, as UTF-8.
type Input = BufReader<Box<dyn Read>>;

/// Where a file of text is, and what errors call it: of a file that was downloaded, its name in the dataset or its URL.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    pub(crate) name: PathBuf,
}

/// Gives one document after the other.
trait Reader {
    /// The next document; within, `None` is a null, which parquet has, too.
    #[allow(
        clippy::option_option,
        reason = "a null is a document, too; after the last there is none"
    )]
    fn next_document(&mut self) -> Result<Option<Option<String>>>;
}

/// The documents of a file, up to the first that cannot be read.
///
/// # Errors
/// [`Error::Document`], [`Error::MissingColumn`], [`Error::Io`], [`Error::Config`].
pub(crate) fn documents(
    file: &Named,
    format: Format,
    settings: &FetchSettings,
) -> Result<impl Iterator<Item = Result<Option<String>>> + use<>> {
    let column = settings.text_column();
    let mut reader: Box<dyn Reader> = match format {
        Format::JsonLines => Box::new(JsonLines::open(file, column)?),
        Format::Csv | Format::Tsv => Box::new(Table::open(file, column, format)?),
        Format::Text | Format::Parquet => {
            Box::new(Text::open(file, settings.separator.as_deref(), MOST_BYTES)?)
        }
    };
    Ok(std::iter::from_fn(move || reader.next_document().transpose()).fuse())
}

/// What a file's beginning says: how many documents it has, where they are fewer than two. Two stands for any larger number.
///
/// # Errors
/// Those of [`documents`], as far as they show there.
pub(crate) fn glance(file: &Named, format: Format, settings: &FetchSettings) -> Result<u64> {
    if format == Format::Text {
        let Some(separator) = settings.separator.as_deref() else {
            // The other end of a text is far away.
            return Ok(u64::from(!file.filled(&mut file.open()?)?.is_empty()));
        };
        let mut text = Text::open(file, Some(separator), GLANCE_BYTES)?;
        for n in 0..2 {
            match text.next_document() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(n),
                Err(_) if text.is_too_long() => break,
                Err(error) => return Err(error),
            }
        }
        return Ok(2);
    }
    let mut n = 0;
    for document in documents(file, format, settings)?.take(2) {
        document?;
        n += 1;
    }
    Ok(n)
}

impl Named {
    /// A file on this machine, by its path.
    pub(crate) fn local(path: &Path) -> Self {
        Self { path: path.into(), name: path.into() }
    }

    /// A file's bytes, unpacked where they are packed, as UTF-8 without a mark of it.
    fn open(&self) -> Result<Input> {
        let file = files::open(&self.path).map_err(Error::io("open", &self.path))?;
        let mut file = BufReader::with_capacity(1 << 17, file);
        let head = file.fill_buf().map_err(Error::io("read", &self.path))?;
        let text = String::from_utf8_lossy(&head[..head.len().min(64)]);
        if let Some((found, hint)) = pointer(&text) {
            return Err(self.wrong(None, found, hint));
        }
        let packed = Packed::of(head);
        if let Some(named) = Packed::of_name(&self.name).filter(|named| packed != Some(*named)) {
            let what = format!("it is not compressed with {}, as its name says", named.name());
            return Err(self.wrong(None, what, "fetch it again, or call it what it is"));
        }
        let mut bytes: Box<dyn Read> = match packed {
            None => Box::new(file),
            Some(Packed::Gzip) => Box::new(MultiGzDecoder::new(file)),
            Some(Packed::Zstd) => {
                let decoder = zstd::stream::read::Decoder::with_buffer(file);
                Box::new(decoder.map_err(|e| self.unread(e))?)
            }
        };
        let mut head = Vec::new();
        bytes.by_ref().take(3).read_to_end(&mut head).map_err(|e| self.unread(e))?;
        let utf16 = Utf16::marked(&head);
        if utf16.is_none() && head.contains(&0) {
            let hint = "write it as UTF-8 (`iconv -f UTF-16LE -t UTF-8 FILE`), or leave it out";
            let what =
                "it is no text: there is a NUL at its beginning, as in UTF-16 without a mark";
            return Err(self.wrong(None, what, hint));
        }
        let mark = match utf16 {
            Some(_) => 2,
            None if head == [0xEF, 0xBB, 0xBF] => 3,
            None => 0,
        };
        let rest = Cursor::new(head.split_off(mark)).chain(bytes);
        let text: Box<dyn Read> = match utf16 {
            Some(encoding) => Box::new(Utf16::new(encoding, rest)),
            None => Box::new(rest),
        };
        Ok(BufReader::with_capacity(1 << 16, text))
    }

    /// What is in the buffer, or comes next; nothing at the end.
    fn filled<'a>(&self, input: &'a mut Input) -> Result<&'a [u8]> {
        input.fill_buf().map_err(|e| self.unread(e))
    }

    /// The error of bytes that cannot be read, or not be unpacked.
    fn unread(&self, error: std::io::Error) -> Error {
        // The system's own errors have numbers.
        if error.raw_os_error().is_some() {
            return Error::io("read", &self.path)(error);
        }
        let malformed = error.get_ref().and_then(|e| e.downcast_ref::<Malformed>());
        let line = malformed.map(|malformed| malformed.line);
        let what = format!("it is damaged, or cut off: {error}");
        self.wrong(line, what, "fetch it again, or leave it out")
    }

    pub(crate) fn wrong(
        &self,
        line: Option<u64>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Error {
        Error::Document { path: self.name.clone(), line, what: what.into(), hint: hint.into() }
    }

    fn too_long(&self, line: u64, hint: &str) -> Error {
        let what = format!("the document that begins here has more than {MOST_BYTES} bytes");
        self.wrong(Some(line), what, hint)
    }

    /// A text that is UTF-8; `line` is the one that it begins in.
    fn utf8(&self, line: u64, bytes: Vec<u8>) -> Result<String> {
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = line + newlines(&error.as_bytes()[..valid]);
            let hint = "write the file as UTF-8 (`iconv -f LATIN1 -t UTF-8 FILE`), or leave it out";
            self.wrong(Some(line), "it is not UTF-8", hint)
        })
    }
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
