//! Row groups, each read from its first row to its last by one thread at a time: the text, and the columns beside it that a filter looks
//! at. Memory follows pages, however large the row group is; a fault is found to the row.

use super::Position;
use super::file::TextFile;
use super::filter::{Rejected, TextFilter};
use super::pages::{Pages, contained, fault};
use crate::{Error, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use farthing_base::files;
use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, RowGroups, RowSelection, RowSelector,
};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};
use parquet::column::page::{PageIterator, PageReader};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows that are decoded at a time, at most.
const BATCH_ROWS: u64 = 256;

/// The row groups of several files, in order. Nothing of them is read yet.
pub(crate) struct Groups {
    files: Vec<Arc<TextFile>>,
    filter: Arc<TextFilter>,
    /// Where the next one begins.
    at: Position,
}

impl Groups {
    pub(super) fn new(files: Vec<TextFile>) -> Self {
        let files = files.into_iter().map(Arc::new).collect();
        Self { files, filter: Arc::default(), at: Position::default() }
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

    /// The first row is that at `at`. Call it before reading.
    pub(super) fn go_to(&mut self, at: Position) {
        self.at = at;
    }

    /// Where the next one begins: behind all files after the last.
    pub(crate) fn position(&self) -> Position {
        self.at
    }
}

impl Iterator for Groups {
    type Item = Group;

    fn next(&mut self) -> Option<Group> {
        loop {
            let file = self.files.get(self.at.file)?;
            let Some((index, start, end)) = file.group_at(self.at.row) else {
                self.at = Position { file: self.at.file + 1, row: 0 };
                continue;
            };
            let at = self.at;
            self.at.row = end;
            return Some(Group {
                file: Arc::clone(file),
                filter: Arc::clone(&self.filter),
                index,
                start,
                at,
                end,
                columns: None,
                batch: vec![].into_iter(),
                careful: false,
                ended: false,
            });
        }
    }
}

/// A row, decoded and judged.
pub(crate) enum Row {
    Text(String),
    Rejected(Rejected),
    /// What comes instead of this row and all that follow.
    Fault(Error),
}

/// A row group, or the rest of one, row by row. Its file is opened when the first row is asked for, and closed after the last.
pub(crate) struct Group {
    file: Arc<TextFile>,
    filter: Arc<TextFilter>,
    index: usize,
    /// The row group's first row and the one after its last, counted in the file.
    start: u64,
    end: u64,
    /// The row that comes next.
    at: Position,
    columns: Option<Box<Columns>>,
    /// Rows that are decoded.
    batch: std::vec::IntoIter<(Option<ByteArray>, Option<Rejected>)>,
    /// Whether a fault is being searched row by row.
    careful: bool,
    ended: bool,
}

impl Group {
    /// Where the row lies that comes next.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// Rows that are left.
    pub(crate) fn rows(&self) -> u64 {
        self.end - self.at.row
    }

    /// Bytes of its texts, as its footer announces them.
    pub(crate) fn bytes(&self) -> u64 {
        let group = self.file.metadata().row_group(self.index);
        group.column(self.file.text).uncompressed_size().max(0) as u64
    }

    /// Decodes the next rows: those of one page, and not many.
    fn decode(&mut self) -> Result<()> {
        let damaged = |e: ParquetError| self.file.damaged(self.index, Some(self.at.row), &e);
        if self.columns.is_none() {
            let file =
                || files::open(self.file.path()).map_err(Error::io("open", self.file.path()));
            let (text, skip) = (file()?, self.at.row - self.start);
            let open = || Columns::open(&self.file, self.index, text, skip);
            self.columns = Some(Box::new(contained(open).map_err(damaged)?));
        }
        let Some(columns) = &mut self.columns else { return Ok(()) };
        let most = if self.careful { 1 } else { BATCH_ROWS.min(columns.at_once()) };
        let n =
            columns.in_page(self.at.row - self.start).clamp(1, most.min(self.end - self.at.row));
        let rows = contained(|| {
            let texts = columns.texts(n as usize)?;
            if (texts.len() as u64) < n {
                return Err(fault(format!(
                    "the column ends after {} of the row group's {} rows",
                    self.at.row + texts.len() as u64 - self.start,
                    self.end - self.start
                )));
            }
            let rejected = columns.rejected(n as usize, &self.filter)?;
            Ok(texts.into_iter().zip(rejected).collect::<Vec<_>>())
        });
        self.batch = rows.map_err(damaged)?.into_iter();
        Ok(())
    }

    /// Whether the columns end with the row group: one that goes on would be read in part, silently.
    fn check_end(&mut self) -> Result<()> {
        let Some(mut columns) = self.columns.take() else { return Ok(()) };
        match contained(|| columns.texts(1)) {
            Ok(more) if more.is_empty() => Ok(()),
            Ok(_) => {
                let rows = self.end - self.start;
                let reason = format!("its footer announces {rows} rows, its column has more");
                Err(self.file.damaged(self.index, None, &reason))
            }
            Err(e) => Err(self.file.damaged(self.index, None, &e)),
        }
    }

    /// What becomes of a row that the columns beside it have rejected if they have.
    fn judge(&self, text: Option<ByteArray>, beside: Option<Rejected>) -> Result<Row> {
        let Some(text) = text else { return Ok(Row::Rejected(Rejected::Null)) };
        if let Some(rejected) = beside {
            return Ok(Row::Rejected(rejected));
        }
        // A damaged dictionary yields values without data, which panic when they are looked at.
        let bytes = contained(|| Ok(text.data().to_vec()))
            .map_err(|e| self.file.damaged(self.index, Some(self.at.row), &e))?;
        let text = String::from_utf8(bytes).map_err(|e| Error::InvalidUtf8 {
            path: self.file.path().into(),
            row_group: self.index,
            row: self.at.row,
            at: e.utf8_error().valid_up_to(),
        })?;
        Ok(self.filter.length(&text).map_or(Row::Text(text), Row::Rejected))
    }

    fn advance(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some((text, beside)) = self.batch.next() {
                let row = self.judge(text, beside)?;
                self.at.row += 1;
                return Ok(Some(row));
            }
            if self.at.row == self.end {
                return self.check_end().map(|()| None);
            }
            match self.decode() {
                // Which of the rows is it? Once more, row by row, so that those before it are not lost.
                Err(_) if !self.careful => (self.careful, self.columns) = (true, None),
                decoded => decoded?,
            }
        }
    }
}

impl Iterator for Group {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.ended {
            return None;
        }
        let row = self.advance().unwrap_or_else(|error| Some(Row::Fault(error)));
        self.ended = !matches!(row, Some(Row::Text(_) | Row::Rejected(_)));
        if self.ended {
            (self.columns, self.batch) = (None, vec![].into_iter());
        }
        row
    }
}

/// The columns of a row group from one row on.
struct Columns {
    text: ColumnReaderImpl<ByteArrayType>,
    nullable: bool,
    /// Rows of the row group that the pages of the text hold as far as they are read.
    reached: Arc<AtomicU64>,
    /// Rows of the page that is being read that may be decoded at a time.
    at_once: Arc<AtomicU64>,
    /// Score and language, where they are asked.
    beside: Option<ParquetRecordBatchReader>,
    /// What they say of the next rows.
    judged: std::vec::IntoIter<Option<Rejected>>,
}

impl Columns {
    /// Those of row group `index`, but for its first `skip` rows.
    fn open(file: &TextFile, index: usize, text: File, skip: u64) -> ParquetResult<Self> {
        let group = file.metadata().row_group(index);
        let chunk = group.column(file.text);
        let column = chunk.column_descr_ptr();
        let pages = Pages::new(text, chunk, file.group_rows(index))?;
        let (nullable, reached) = (column.max_def_level() > 0, pages.reached());
        let at_once = pages.at_once();
        let ColumnReader::ByteArrayColumnReader(mut text) =
            get_column_reader(column, Box::new(pages))
        else {
            return Err(fault("it does not hold text"));
        };
        let skipped = text.skip_records(skip as usize)?;
        if skipped as u64 != skip {
            return Err(fault(format!("the column ends after {skipped} rows")));
        }
        let leaves: Vec<usize> = file.score.into_iter().chain(file.language).collect();
        let beside = if leaves.is_empty() {
            None
        } else {
            let mask =
                ProjectionMask::leaves(file.metadata().file_metadata().schema_descr(), leaves);
            let schema = file.metadata().file_metadata().schema_descr();
            let levels = parquet_to_arrow_field_levels(schema, mask, None)?;
            let rest = (file.group_rows(index) - skip) as usize;
            let rows = [RowSelector::skip(skip as usize), RowSelector::select(rest)];
            let rows = RowSelection::from(rows.to_vec());
            let batch = BATCH_ROWS as usize;
            let one = OneGroup { file, index };
            Some(ParquetRecordBatchReader::try_new_with_row_groups(
                &levels,
                &one,
                batch,
                Some(rows),
            )?)
        };
        Ok(Self { text, nullable, reached, at_once, beside, judged: vec![].into_iter() })
    }

    /// Rows after the first `row` of the row group in the page that is being read.
    fn in_page(&self, row: u64) -> u64 {
        self.reached.load(Ordering::Relaxed).saturating_sub(row)
    }

    /// Rows of the page that is being read that may be decoded at a time.
    fn at_once(&self) -> u64 {
        self.at_once.load(Ordering::Relaxed)
    }

    /// The next `n` texts, views into their pages; fewer only at the end of the column.
    fn texts(&mut self, n: usize) -> ParquetResult<Vec<Option<ByteArray>>> {
        let (mut levels, mut found) = (vec![], Vec::with_capacity(n));
        self.text.read_records(n, self.nullable.then_some(&mut levels), None, &mut found)?;
        let mut found = found.into_iter();
        if !self.nullable {
            return Ok(found.map(Some).collect());
        }
        Ok(levels.iter().map(|&level| if level > 0 { found.next() } else { None }).collect())
    }

    /// Why each of the next `n` rows is rejected for what stands beside its text, if it is.
    fn rejected(&mut self, n: usize, filter: &TextFilter) -> ParquetResult<Vec<Option<Rejected>>> {
        let Some(beside) = &mut self.beside else { return Ok(vec![None; n]) };
        let mut found: Vec<_> = self.judged.by_ref().take(n).collect();
        while found.len() < n {
            let batch =
                beside.next().ok_or_else(|| fault("a column beside the text ends before it"))??;
            self.judged = judge(&batch, filter)?.into_iter();
            found.extend(self.judged.by_ref().take(n - found.len()));
        }
        Ok(found)
    }
}

/// What a filter says of rows that have these scores and languages.
fn judge(batch: &RecordBatch, filter: &TextFilter) -> ParquetResult<Vec<Option<Rejected>>> {
    let column = |name: Option<&str>, kind| {
        let column = name.and_then(|name| batch.column_by_name(name));
        column.map(|column| cast(column, kind)).transpose()
    };
    let scores = column(filter.score(), &DataType::Float64)?;
    let scores = scores.as_ref().map(AsArray::as_primitive::<Float64Type>);
    let languages = column(filter.language(), &DataType::Binary)?;
    let languages = languages.as_ref().map(AsArray::as_binary::<i32>);
    let judge = |i: usize| {
        let low = scores.is_some_and(|scores| {
            let score = scores.is_valid(i).then(|| scores.value(i));
            score.is_none_or(|score| score.is_nan() || Some(score) < filter.min_score)
        });
        let wanted = filter.language.as_deref().map(str::as_bytes);
        let other =
            languages.is_some_and(|found| found.is_null(i) || Some(found.value(i)) != wanted);
        match (low, other) {
            (true, _) => Some(Rejected::Score),
            (_, true) => Some(Rejected::Language),
            _ => None,
        }
    };
    Ok((0..batch.num_rows()).map(judge).collect())
}

/// One row group of a file, whose pages are checked.
struct OneGroup<'a> {
    file: &'a TextFile,
    index: usize,
}

impl RowGroups for OneGroup<'_> {
    fn num_rows(&self) -> usize {
        self.file.group_rows(self.index) as usize
    }

    fn column_chunks(&self, leaf: usize) -> ParquetResult<Box<dyn PageIterator>> {
        let group = self.file.metadata().row_group(self.index);
        let file = files::open(self.file.path())?;
        let pages = Pages::new(file, group.column(leaf), self.file.group_rows(self.index))?;
        Ok(Box::new(OneChunk(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.file.metadata().row_group(self.index)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.file.metadata()
    }
}

/// The pages of one column chunk.
struct OneChunk(Option<Box<dyn PageReader>>);

impl Iterator for OneChunk {
    type Item = ParquetResult<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneChunk {}
