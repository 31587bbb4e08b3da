//! Text out of parquet: one column, by name, in bounded memory and without copying it; documents are filtered by what stands beside
//! them in the row. What cannot be read is named by file, row group and row.

mod codec;
mod column;
mod file;
mod filter;
mod guard;
mod memory;
mod snappy;

pub use file::TextFile;
pub use filter::{ReadStats, TextColumn, TextFilter};

use crate::{Error, Result};
use column::Column;
use filter::Rejected;
use memory::Pool;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use std::ops::Deref;
use std::path::Path;

/// Rows decoded at a time, at most, and the bytes after which it is fewer.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

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
    files: Vec<TextFile>,
    filter: TextFilter,
    at: Position,
    group: Option<Group>,
    batch: std::vec::IntoIter<Row>,
    rows: u64,
    stats: ReadStats,
    pool: Pool,
    ended: bool,
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts")
            .field("files", &self.files)
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
            files,
            filter: TextFilter::default(),
            at: Position::default(),
            group: None,
            batch: vec![].into_iter(),
            stats: ReadStats::default(),
            pool: Pool::default(),
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
        let rows = self.files.get(at.file).map_or(0, TextFile::rows);
        if at.file > self.files.len() || at.row > rows {
            return Err(Error::Config {
                what: format!(
                    "reading cannot go on at row {} of file {}: there are {} files, and this one has {rows} rows",
                    at.row,
                    at.file,
                    self.files.len()
                ),
                hint: "the position belongs to other files".into(),
            });
        }
        self.at = at;
        Ok(())
    }

    /// Keeps only the documents that pass `filter`. Call it before reading.
    ///
    /// # Errors
    /// Those of [`TextFilter::check`]; [`Error::MissingColumn`] and [`Error::ColumnType`] for the columns that it looks at.
    pub fn with_filter(mut self, filter: &TextFilter) -> Result<Self> {
        filter.check()?;
        self.files.iter_mut().try_for_each(|file| file.filter(filter))?;
        self.filter = filter.clone();
        (self.group, self.batch) = (None, vec![].into_iter());
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
                    Row::Rejected(rejected) => self.stats.count(rejected),
                    Row::Text(text) => {
                        self.at.row += 1;
                        self.stats.documents += 1;
                        self.stats.text_bytes += text.len() as u64;
                        return Ok(Some(text));
                    }
                }
                self.at.row += 1;
                continue;
            }
            let Some(file) = self.files.get(self.at.file) else { return Ok(None) };
            if let Some(group) = &mut self.group {
                if let Some(batch) = group.read(file, &self.filter)? {
                    self.batch = batch.into_iter();
                    continue;
                }
                self.group = None;
            }
            // The row group in which the next row lies; empty ones are passed over.
            let mut start = 0;
            let next = (0..file.row_groups()).find_map(|group| {
                let rows = file.group_rows(group);
                if self.at.row < start + rows {
                    return Some((group, self.at.row - start));
                }
                start += rows;
                None
            });
            match next {
                Some((group, skip)) => {
                    self.group = Some(Group::open(file, group, start, skip, &self.pool)?);
                }
                None => self.at = Position { file: self.at.file + 1, row: 0 },
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

/// A row, decoded and judged.
enum Row {
    Text(Text),
    Rejected(Rejected),
    Fault(Error),
}

/// The columns of a row group that are looked at, in step.
struct Group {
    index: usize,
    /// Its first row, counted in the file.
    start: u64,
    text: Column,
    score: Option<Column>,
    language: Option<Column>,
    /// The next row to decode, and how many there are.
    row: u64,
    rows: u64,
    /// Rows to decode next, and whether a fault is being searched row by row.
    step: usize,
    careful: bool,
    pool: Pool,
}

impl Group {
    fn open(file: &TextFile, index: usize, start: u64, row: u64, pool: &Pool) -> Result<Self> {
        let read = |leaf| file.read(index, leaf, row, pool);
        Ok(Self {
            index,
            start,
            text: read(file.text)?,
            score: file.score.map(read).transpose()?,
            language: file.language.map(read).transpose()?,
            pool: pool.clone(),
            row,
            rows: file.group_rows(index),
            step: 8,
            careful: false,
        })
    }

    /// The next few rows; `None` at the end of the row group.
    fn read(&mut self, file: &TextFile, filter: &TextFilter) -> Result<Option<Vec<Row>>> {
        let n = usize::try_from(self.rows - self.row).unwrap_or(usize::MAX).min(self.step);
        if n == 0 {
            // A column that goes on would be read in part, silently.
            let more = self.text.bytes(1).map(|more| more.len());
            return match more {
                Ok(0) => Ok(None),
                Ok(_) => Err(file.damaged(
                    self.index,
                    None,
                    &format!("its footer announces {} rows, its column has more", self.rows),
                )),
                Err(e) => Err(file.damaged(self.index, None, &e)),
            };
        }
        match self.decode(n, filter, file) {
            Ok(rows) => {
                self.row += n as u64;
                Ok(Some(rows))
            }
            Err(e) if self.careful => {
                Err(file.damaged(self.index, Some(self.start + self.row), &e))
            }
            // Which of the rows is it? Once more, row by row, so that those before it are not lost.
            Err(_) => {
                *self = Self::open(file, self.index, self.start, self.row, &self.pool.clone())?;
                (self.step, self.careful) = (1, true);
                Ok(Some(vec![]))
            }
        }
    }

    fn decode(
        &mut self,
        n: usize,
        filter: &TextFilter,
        file: &TextFile,
    ) -> Result<Vec<Row>, ParquetError> {
        let whole = |found: usize| {
            if found == n {
                return Ok(());
            }
            let row = self.row + found as u64;
            Err(ParquetError::General(format!(
                "the column ends after {row} of the row group's {} rows",
                self.rows
            )))
        };
        let texts = self.text.bytes(n)?;
        whole(texts.len())?;
        let scores = self.score.as_mut().map(|column| column.numbers(n)).transpose()?;
        scores.as_ref().map_or(Ok(()), |scores| whole(scores.len()))?;
        let languages = self.language.as_mut().map(|column| column.bytes(n)).transpose()?;
        languages.as_ref().map_or(Ok(()), |languages| whole(languages.len()))?;

        // Inside `contained`, because a damaged dictionary yields values without data, which panic when they are looked at.
        column::contained(|| {
            let mut rows = Vec::with_capacity(n);
            let mut bytes = 0;
            for (i, text) in texts.into_iter().enumerate() {
                let low = scores.as_ref().is_some_and(|scores| {
                    scores[i].is_none_or(|s| s.is_nan() || Some(s) < filter.min_score)
                });
                let wanted = filter.language.as_deref().map(str::as_bytes);
                let other = languages
                    .as_ref()
                    .is_some_and(|found| found[i].as_ref().map(ByteArray::data) != wanted);
                bytes += text.as_ref().map_or(0, ByteArray::len);
                rows.push(match judge(text, low, other, filter) {
                    Ok(row) => row,
                    Err(reason) => {
                        rows.push(Row::Fault(Error::InvalidUtf8 {
                            path: file.path().into(),
                            row_group: self.index,
                            row: self.start + self.row + i as u64,
                            at: reason.valid_up_to(),
                        }));
                        break;
                    }
                });
            }
            if !self.careful {
                self.step = match bytes {
                    _ if bytes > BATCH_BYTES => (self.step / 4).max(1),
                    _ if bytes < BATCH_BYTES / 2 => (self.step * 2).min(BATCH_ROWS),
                    _ => self.step,
                };
            }
            Ok(rows)
        })
    }
}

/// What becomes of a row, whose score may be too `low` and whose language may be an `other` one.
fn judge(
    text: Option<ByteArray>,
    low: bool,
    other: bool,
    filter: &TextFilter,
) -> Result<Row, std::str::Utf8Error> {
    let Some(text) = text else { return Ok(Row::Rejected(Rejected::Null)) };
    if low {
        return Ok(Row::Rejected(Rejected::Score));
    }
    if other {
        return Ok(Row::Rejected(Rejected::Language));
    }
    let text = Text::new(text)?;
    Ok(filter.length(&text).map_or(Row::Text(text), Row::Rejected))
}
