//! Text out of parquet: one column, by name, in bounded memory; documents are filtered by what stands beside them in the row. What
//! cannot be read is named by file, row group and row.

mod file;
mod filter;
mod group;
mod pages;

pub use file::TextFile;
pub use filter::{TextColumn, TextFilter};
pub(crate) use group::{Group, Groups, Row};
#[cfg(feature = "fetch")]
pub(crate) use pages::contained;

use crate::{Error, ReadStats, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where reading stands: the next row, counted from the start of a file, null and rejected ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Index of the file in the list that was opened; the number of files when all are read.
    pub file: usize,
    /// Row in it.
    pub row: u64,
}

/// The texts of several parquet files, in order, ending at the first error.
///
/// # Cost
/// Memory for about a megabyte of text, or one document if that is larger, and its pages; one thread.
pub struct Texts {
    groups: Groups,
    group: Option<Group>,
    at: Position,
    rows: u64,
    stats: ReadStats,
    ended: bool,
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts")
            .field("files", &self.groups.files())
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
            groups: Groups::new(files),
            group: None,
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
        let files = self.groups.files();
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
        self.groups.go_to(at);
        Ok(())
    }

    /// Keeps only the documents that pass `filter`. Call it before reading.
    ///
    /// # Errors
    /// Those of [`TextFilter::check`]; [`Error::MissingColumn`] and [`Error::ColumnType`] for the columns that it looks at.
    pub fn with_filter(mut self, filter: &TextFilter) -> Result<Self> {
        filter.check()?;
        self.groups.set_filter(filter)?;
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

    /// The row groups from where reading begins, of which nothing has been read.
    pub(crate) fn into_groups(self) -> Groups {
        self.groups
    }

    /// Where to go on after the text that came last: [`Texts::open_at`].
    pub fn position(&self) -> Position {
        self.at
    }

    /// The next text; `None` at the end and after an error.
    ///
    /// # Errors
    /// [`Error::Parquet`] for a damaged page and [`Error::InvalidUtf8`], both with row group and row; every text before it
    /// has been given. [`Error::Io`].
    pub fn next_text(&mut self) -> Option<Result<String>> {
        if self.ended {
            return None;
        }
        let item = self.advance().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }

    fn advance(&mut self) -> Result<Option<String>> {
        loop {
            match self.group.as_mut().and_then(Group::next) {
                Some(Row::Fault(error)) => return Err(error),
                Some(Row::Rejected(rejected)) => {
                    self.at.row += 1;
                    self.stats.count_rejected(rejected);
                }
                Some(Row::Text(text)) => {
                    self.at.row += 1;
                    self.stats.count_read(&text);
                    return Ok(Some(text));
                }
                None => {
                    self.group = self.groups.next();
                    self.at = self.group.as_ref().map_or(self.groups.position(), Group::at);
                    if self.group.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

impl Iterator for Texts {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_text()
    }
}
