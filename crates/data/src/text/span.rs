//! Spans: consecutive rows of one row group, about a page of them, as the file stores them. Reading spans costs little and is done in
//! order, by one thread; what takes time, to unpack and decode the text and to judge its rows, is done by whichever thread has the span.

use super::column::{Column, contained};
use super::file::TextFile;
use super::filter::{Rejected, TextFilter};
use super::memory::Pool;
use super::stored::{Source, Stored, StoredPages};
use super::{Position, Text};
use crate::{Error, Result};
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use std::sync::Arc;

/// A span ends with the page that makes it this large, unpacked.
const SPAN_BYTES: u64 = 1 << 19;

/// Rows decoded at a time, at first and at most, and the bytes after which it is fewer.
const FIRST_ROWS: usize = 64;
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// The spans of several files, in order; one with a fault is the last.
pub(crate) struct Spans {
    files: Vec<Arc<TextFile>>,
    filter: Arc<TextFilter>,
    /// Where the next span begins.
    at: Position,
    group: Option<GroupReader>,
    pool: Pool,
    ended: bool,
}

impl Spans {
    pub(super) fn new(files: Vec<TextFile>) -> Self {
        Self {
            files: files.into_iter().map(Arc::new).collect(),
            filter: Arc::default(),
            at: Position::default(),
            group: None,
            pool: Pool::default(),
            ended: false,
        }
    }

    pub(super) fn files(&self) -> &[Arc<TextFile>] {
        &self.files
    }

    /// Rows are judged by `filter`. Call it before reading.
    pub(super) fn set_filter(&mut self, filter: &TextFilter) -> Result<()> {
        self.files.iter_mut().try_for_each(|file| Arc::make_mut(file).filter(filter))?;
        self.filter = Arc::new(filter.clone());
        Ok(())
    }

    /// The first span begins at `at`. Call it before reading.
    pub(super) fn go_to(&mut self, at: Position) {
        self.at = at;
    }

    /// Where the next span begins: behind all files after the last.
    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// The row group of `file` in which the next row lies; empty ones are passed over.
    fn row_group(&self, file: &Arc<TextFile>) -> Option<Arc<RowGroup>> {
        let mut start = 0;
        (0..file.row_groups()).find_map(|index| {
            let rows = file.group_rows(index);
            if self.at.row >= start + rows {
                start += rows;
                return None;
            }
            Some(Arc::new(RowGroup {
                file: Arc::clone(file),
                file_index: self.at.file,
                filter: Arc::clone(&self.filter),
                index,
                start,
                rows,
                pool: self.pool.clone(),
            }))
        })
    }
}

impl Iterator for Spans {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        while !self.ended {
            let mut span = self.group.as_mut().and_then(GroupReader::span);
            if span.is_none() {
                self.group = None;
                let Some(group) = self.row_group(self.files.get(self.at.file)?) else {
                    self.at = Position { file: self.at.file + 1, row: 0 };
                    continue;
                };
                match GroupReader::open(&group, self.at.row) {
                    Ok(reader) => self.group = Some(reader),
                    Err(fault) => {
                        span =
                            Some(Span { fault: Some(fault), ..Span::new(group, self.at.row, 0) });
                    }
                }
            }
            if let Some(span) = span {
                self.at.row = span.end;
                self.ended = span.fault.is_some();
                return Some(span);
            }
        }
        None
    }
}

/// A row group, and what its rows are judged by.
struct RowGroup {
    file: Arc<TextFile>,
    /// Which of the files that is.
    file_index: usize,
    filter: Arc<TextFilter>,
    index: usize,
    /// Its first row, counted in the file, and how many there are.
    start: u64,
    rows: u64,
    pool: Pool,
}

impl RowGroup {
    /// `row` is counted in the file.
    fn damaged(&self, row: Option<u64>, reason: &impl ToString) -> Error {
        self.file.damaged(self.index, row, reason)
    }
}

/// A row group that is being read.
struct GroupReader {
    group: Arc<RowGroup>,
    /// The file's row at which the next span begins.
    at: u64,
    /// Rows of the next page that lie before it.
    skip: u64,
    text: StoredPages,
    dictionary: Option<Stored>,
    beside: Beside,
}

impl GroupReader {
    /// Begins at the file's row `at`; pages that hold earlier rows alone are not read.
    fn open(group: &Arc<RowGroup>, at: u64) -> Result<Self> {
        let mut this = Self {
            group: Arc::clone(group),
            at,
            skip: at - group.start,
            text: group.file.stored(group.index, group.file.text, &group.pool)?,
            dictionary: None,
            beside: Beside::open(group, at)?,
        };
        contained(|| this.pass()).map_err(|e| group.damaged(None, &e))?;
        Ok(this)
    }

    /// Passes over the pages before the first row.
    fn pass(&mut self) -> Result<(), ParquetError> {
        while self.skip > 0 {
            let passed = self.at - self.group.start - self.skip;
            let page = self.text.peek()?.ok_or_else(|| {
                ParquetError::General(format!("the column ends after {passed} rows"))
            })?;
            match page.num_rows.or(page.num_levels) {
                Some(rows) if rows as u64 > self.skip => break,
                Some(rows) => {
                    self.text.skip()?;
                    self.skip -= rows as u64;
                }
                None => self.dictionary = self.text.next()?,
            }
        }
        Ok(())
    }

    /// The next span; `None` at the end of the row group.
    fn span(&mut self) -> Option<Span> {
        if self.at == self.group.start + self.group.rows {
            return None;
        }
        let skip = std::mem::take(&mut self.skip);
        let mut span = Span::new(Arc::clone(&self.group), self.at, skip);
        let rows = self.fill(&mut span);
        match self.beside.judge(&self.group, self.at, rows) {
            (rejected, None) => {
                span.rejected = rejected;
                self.at += rows;
            }
            (rejected, fault) => {
                self.at += rejected.len() as u64;
                (span.rejected, span.fault) = (rejected, fault);
            }
        }
        span.end = self.at;
        Some(span)
    }

    /// Gives `span` its pages, and the fault that comes after them, if there is one; returns how many rows they have.
    fn fill(&mut self, span: &mut Span) -> u64 {
        let group = &self.group;
        let before = span.skip;
        let wanted = before + (group.start + group.rows - self.at);
        let mut values = 0;
        while values < wanted && span.bytes < SPAN_BYTES {
            let row = self.at + values.saturating_sub(before);
            let damaged = |reason: String| Some(group.damaged(Some(row), &reason));
            match contained(|| self.text.next()) {
                Ok(Some(stored)) if stored.is_dictionary() => {
                    if self.dictionary.replace(stored).is_some() {
                        span.fault = damaged("its column has two dictionaries".into());
                        return row - self.at;
                    }
                }
                Ok(Some(stored)) => {
                    // Spans have the dictionary only if they refer to it.
                    if stored.is_coded() && !span.pages.iter().any(Stored::is_dictionary) {
                        span.extend(self.dictionary.clone());
                    }
                    values += u64::from(stored.page.num_values());
                    span.extend([stored]);
                }
                Ok(None) => {
                    let found = row - group.start;
                    let rows = group.rows;
                    span.fault = damaged(format!(
                        "the column ends after {found} of the row group's {rows} rows"
                    ));
                    return row - self.at;
                }
                Err(e) => {
                    span.fault = damaged(e.to_string());
                    return row - self.at;
                }
            }
        }
        if values < wanted {
            return values - before;
        }
        // A column that goes on would be read in part, silently.
        let more = || format!("its footer announces {} rows, its column has more", group.rows);
        span.fault = match contained(|| self.text.next()) {
            Ok(None) if values == wanted => None,
            Ok(_) => Some(group.damaged(None, &more())),
            Err(e) => Some(group.damaged(None, &e)),
        };
        wanted - before
    }
}

/// The columns beside the text that rows are judged by.
struct Beside {
    score: Option<Column>,
    language: Option<Column>,
}

impl Beside {
    /// From the file's row `at` on.
    fn open(group: &RowGroup, at: u64) -> Result<Self> {
        let RowGroup { file, index, start, pool, .. } = group;
        let read = |leaf| file.read(*index, leaf, at - start, pool);
        Ok(Self {
            score: file.score.map(read).transpose()?.map(|column| column.of(file.number)),
            language: file.language.map(read).transpose()?,
        })
    }

    /// Judges the next `rows` rows, the first of which is the file's row `at`: all, or those before a fault.
    fn judge(
        &mut self,
        group: &RowGroup,
        at: u64,
        rows: u64,
    ) -> (Vec<Option<Rejected>>, Option<Error>) {
        let mut found = vec![];
        if self.score.is_none() && self.language.is_none() {
            return (found, None);
        }
        let mut step = BATCH_ROWS as u64;
        while (found.len() as u64) < rows {
            let row = at + found.len() as u64;
            match self.some(step.min(at + rows - row) as usize, group) {
                Ok(more) => found.extend(more),
                Err(e) if step == 1 => return (found, Some(group.damaged(Some(row), &e))),
                // Which of the rows is it? Once more, row by row, so that those before it are not lost.
                Err(_) => {
                    step = 1;
                    match Self::open(group, row) {
                        Ok(again) => *self = again,
                        Err(error) => return (found, Some(error)),
                    }
                }
            }
        }
        (found, None)
    }

    fn some(&mut self, n: usize, group: &RowGroup) -> Result<Vec<Option<Rejected>>, ParquetError> {
        let whole = |found: usize| {
            if found == n {
                return Ok(());
            }
            Err(ParquetError::General("a column beside the text ends before it".into()))
        };
        let filter = &group.filter;
        let scores = self.score.as_mut().map(|column| column.numbers(n)).transpose()?;
        scores.as_ref().map_or(Ok(()), |scores| whole(scores.len()))?;
        let languages = self.language.as_mut().map(|column| column.bytes(n)).transpose()?;
        languages.as_ref().map_or(Ok(()), |languages| whole(languages.len()))?;
        // Inside `contained`, because a damaged dictionary yields values without data, which panic when they are looked at.
        contained(|| {
            let wanted = filter.language.as_deref().map(str::as_bytes);
            let judge = |i: usize| {
                let low = scores.as_ref().is_some_and(|scores| {
                    scores[i].is_none_or(|s| s.is_nan() || Some(s) < filter.min_score)
                });
                let other = languages
                    .as_ref()
                    .is_some_and(|found| found[i].as_ref().map(ByteArray::data) != wanted);
                match (low, other) {
                    (true, _) => Some(Rejected::Score),
                    (_, true) => Some(Rejected::Language),
                    _ => None,
                }
            };
            Ok((0..n).map(judge).collect())
        })
    }
}

/// A row, decoded and judged.
pub(crate) enum Row {
    Text(Text),
    Rejected(Rejected),
    /// What comes instead of this row and all that follow.
    Fault(Error),
}

/// Consecutive rows of one row group.
pub(crate) struct Span {
    group: Arc<RowGroup>,
    /// The file's rows from the first on, before `end`; `row` is decoded next.
    first: u64,
    row: u64,
    end: u64,
    /// Rows of its pages before the first.
    skip: u64,
    pages: Vec<Stored>,
    bytes: u64,
    /// Which of its rows are rejected because of what stands beside the text, where that is asked.
    rejected: Vec<Option<Rejected>>,
    /// What comes after its rows.
    fault: Option<Error>,
    /// Open once decoding has begun.
    column: Option<Box<Column>>,
    /// Rows to decode next, and whether a fault is being searched row by row.
    step: usize,
    careful: bool,
}

impl Extend<Stored> for Span {
    fn extend<I: IntoIterator<Item = Stored>>(&mut self, pages: I) {
        for page in pages {
            self.bytes += page.bytes();
            self.pages.push(page);
        }
    }
}

impl Span {
    /// One without rows, which begins at the file's row `at`, `skip` rows after its first page.
    fn new(group: Arc<RowGroup>, at: u64, skip: u64) -> Self {
        Self {
            group,
            first: at,
            row: at,
            end: at,
            skip,
            pages: vec![],
            bytes: 0,
            rejected: vec![],
            fault: None,
            column: None,
            step: FIRST_ROWS,
            careful: false,
        }
    }

    /// Bytes of its pages, unpacked.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Rows that are left.
    pub(crate) fn rows(&self) -> u64 {
        self.end - self.row
    }

    /// Whether [`Span::read`] has nothing more to give.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows() == 0 && self.fault.is_none()
    }

    /// Where the row lies that [`Span::read`] gives next.
    pub(crate) fn position(&self) -> Position {
        Position { file: self.group.file_index, row: self.row }
    }

    /// The next few rows, about a megabyte; `None` at the end.
    pub(crate) fn read(&mut self) -> Option<Vec<Row>> {
        loop {
            let n = usize::try_from(self.end - self.row).unwrap_or(usize::MAX).min(self.step);
            if n == 0 {
                (self.pages, self.column) = (vec![], None);
                return self.fault.take().map(|fault| vec![Row::Fault(fault)]);
            }
            match self.decode(n) {
                Ok(rows) => {
                    self.row += n as u64;
                    return Some(rows);
                }
                Err(e) if self.careful => {
                    self.fault = Some(self.group.damaged(Some(self.row), &e));
                    self.end = self.row;
                }
                // Which of the rows is it? Once more, row by row, so that those before it are not lost.
                Err(_) => {
                    self.column = None;
                    (self.step, self.careful) = (1, true);
                }
            }
        }
    }

    fn decode(&mut self, n: usize) -> Result<Vec<Row>, ParquetError> {
        let group = &self.group;
        let column = match &mut self.column {
            Some(column) => column,
            none => {
                let skip = self.skip + (self.row - self.first);
                let pages = self.pages.clone().into_iter();
                let RowGroup { file, index, pool, .. } = &**group;
                none.insert(Box::new(file.decode(*index, file.text, pages, skip, pool)?))
            }
        };
        let texts = column.bytes(n)?;
        if texts.len() < n {
            return Err(ParquetError::General(format!(
                "the column ends after {} of the row group's {} rows",
                self.row + texts.len() as u64 - group.start,
                group.rows
            )));
        }
        let first = (self.row - self.first) as usize;
        // Inside `contained`, because a damaged dictionary yields values without data, which panic when they are looked at.
        contained(|| {
            let mut rows = Vec::with_capacity(n);
            let mut bytes = 0;
            for (i, text) in texts.into_iter().enumerate() {
                bytes += text.as_ref().map_or(0, ByteArray::len);
                let beside = self.rejected.get(first + i).copied().flatten();
                rows.push(match judge(text, beside, &group.filter) {
                    Ok(row) => row,
                    Err(reason) => {
                        rows.push(Row::Fault(Error::InvalidUtf8 {
                            path: group.file.path().into(),
                            row_group: group.index,
                            row: self.row + i as u64,
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

/// What becomes of a row that `beside` has not accepted if it is something.
fn judge(
    text: Option<ByteArray>,
    beside: Option<Rejected>,
    filter: &TextFilter,
) -> Result<Row, std::str::Utf8Error> {
    let Some(text) = text else { return Ok(Row::Rejected(Rejected::Null)) };
    if let Some(rejected) = beside {
        return Ok(Row::Rejected(rejected));
    }
    let text = Text::new(text)?;
    Ok(filter.length(&text).map_or(Row::Text(text), Row::Rejected))
}
