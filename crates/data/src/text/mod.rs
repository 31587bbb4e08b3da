//! Text out of parquet: one column, by name, in bounded memory and without copying it; documents are filtered by what stands beside
//! them in the row. What cannot be read is named by file, row group and row.

mod codec;
mod column;
mod file;
mod filter;
mod guard;
mod memory;
mod snappy;
mod span;
mod stored;

pub use file::TextFile;
pub use filter::{ReadStats, TextColumn, TextFilter};
pub(crate) use span::{Row, Span, Spans};

use crate::{Error, Result};
use parquet::data_type::ByteArray;
use serde::{Deserialize, Serialize};
use std::ops::Deref;
use std::path::Path;

/// A text as it lies in its decoded page: shared, not copied. As long as it lives, so does the page.
#[derive(Clone)]
pub struct Text(ByteArray);

impl Text {
    /// Checks that the bytes are UTF-8.
    fn new(bytes: ByteArray) -> Result<Self, std::str::Utf8Error> {
        std::str::from_utf8(bytes.data())?;
        Ok(Self(bytes))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        // SAFETY: `new` has found these bytes to be UTF-8, and nothing can change them: the only owner of the `ByteArray` is
        // this `Text`, which never gives out more than a shared reference.
        unsafe { std::str::from_utf8_unchecked(self.0.data()) }
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// Where reading stands: the next row, counted from the start of a file, null and rejected ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Index of the file in the list that was opened; the number of files when all are read.
    pub file: usize,
    /// Row in it.
    pub row: u64,
}

/// The texts of several parquet files, in order, ending at the first error. [`Texts::next_text`] gives them without a copy, the
/// iterator as strings.
///
/// # Cost
/// Memory for about a megabyte of text, or one document if that is larger, and its pages; one thread.
pub struct Texts {
    spans: Spans,
    span: Option<Span>,
    batch: std::vec::IntoIter<Row>,
    at: Position,
    rows: u64,
    stats: ReadStats,
    ended: bool,
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts")
            .field("files", &self.spans.files())
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Texts {
    /// Opens every file, so that a missing column shows before any work is done.
    ///
    /// # Errors
    /// Those of [`TextFile::open`].
    pub fn open<P: AsRef<Path>>(paths: &[P], column: &str) -> Result<Self> {
        let files: Vec<_> =
            paths.iter().map(|path| TextFile::open(path, column)).collect::<Result<_>>()?;
        Ok(Self {
            rows: files.iter().map(TextFile::rows).sum(),
            spans: Spans::new(files),
            span: None,
            batch: vec![].into_iter(),
            at: Position::default(),
            stats: ReadStats::default(),
            ended: false,
        })
    }

    /// [`Texts::open`], to go on at a [`Texts::position`]. The statistics count from there.
    ///
    /// # Cost
    /// Row groups before it are not touched; of its own row group, the pages before it are read but not decoded.
    ///
    /// # Errors
    /// Those of [`TextFile::open`]; [`Error::Config`] for a position beyond the end.
    pub fn open_at<P: AsRef<Path>>(paths: &[P], column: &str, at: Position) -> Result<Self> {
        let mut this = Self::open(paths, column)?;
        this.go_to(at)?;
        Ok(this)
    }

    /// Goes on at `at` instead, in files from which nothing has been read.
    ///
    /// # Errors
    /// [`Error::Config`] for a position beyond the end.
    pub(crate) fn go_to(&mut self, at: Position) -> Result<()> {
        let files = self.spans.files();
        let rows = files.get(at.file).map_or(0, |file| file.rows());
        if at.file > files.len() || at.row > rows {
            return Err(Error::Config {
                what: format!(
                    "reading cannot go on at row {} of file {}: there are {} files, and this one has {rows} rows",
                    at.row,
                    at.file,
                    files.len()
                ),
                hint: "the position belongs to other files".into(),
            });
        }
        self.at = at;
        self.spans.go_to(at);
        Ok(())
    }

    /// Keeps only the documents that pass `filter`. Call it before reading.
    ///
    /// # Errors
    /// Those of [`TextFilter::check`]; [`Error::MissingColumn`] and [`Error::ColumnType`] for the columns that it looks at.
    pub fn with_filter(mut self, filter: &TextFilter) -> Result<Self> {
        filter.check()?;
        self.spans.set_filter(filter)?;
        Ok(self)
    }

    /// Rows of all files, null texts included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// What became of the rows read so far.
    pub fn stats(&self) -> &ReadStats {
        &self.stats
    }

    /// Null texts skipped so far.
    pub fn nulls(&self) -> u64 {
        self.stats.null_texts
    }

    /// What lies before the texts are decoded, from where reading begins.
    pub(crate) fn into_spans(self) -> Spans {
        self.spans
    }

    /// Where to go on after the text that came last: [`Texts::open_at`].
    pub fn position(&self) -> Position {
        self.at
    }

    /// The next text, without a copy; `None` at the end and after an error.
    ///
    /// # Errors
    /// [`Error::Parquet`] for a damaged page and [`Error::InvalidUtf8`], both with row group and row; every text before it
    /// has been given. [`Error::Io`].
    pub fn next_text(&mut self) -> Option<Result<Text>> {
        if self.ended {
            return None;
        }
        let item = self.advance().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }

    fn advance(&mut self) -> Result<Option<Text>> {
        loop {
            if let Some(row) = self.batch.next() {
                match row {
                    Row::Fault(error) => return Err(error),
                    Row::Rejected(rejected) => self.stats.count_rejected(rejected),
                    Row::Text(text) => {
                        self.at.row += 1;
                        self.stats.count_read(&text);
                        return Ok(Some(text));
                    }
                }
                self.at.row += 1;
                continue;
            }
            if let Some(rows) = self.span.as_mut().and_then(Span::read) {
                self.batch = rows.into_iter();
                continue;
            }
            self.span = self.spans.next();
            self.at = self.span.as_ref().map_or(self.spans.position(), Span::position);
            if self.span.is_none() {
                return Ok(None);
            }
        }
    }
}

impl Iterator for Texts {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_text()?.map(|text| text.to_string()))
    }
}
