//! Text out of parquet: one column, by name, row group by row group, in bounded memory.

use crate::{Error, Result};
use arrow::array::{Array, AsArray, LargeStringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Rows decoded at a time.
const BATCH_ROWS: usize = 256;

/// One text column of one parquet file.
///
/// Utf8, `LargeUtf8`, `Utf8View` and dictionaries of them are text; null texts are skipped and counted.
pub struct TextFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    column: usize,
    leaf: usize,
}

impl std::fmt::Debug for TextFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TextFile {
    /// Reads the footer alone: whether this is parquet at all.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Parquet`].
    pub fn check(path: impl AsRef<Path>) -> Result<()> {
        footer(path.as_ref()).map(drop)
    }

    /// Reads the footer and finds the column.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Parquet`] for a bad footer; [`Error::MissingColumn`] with the columns there are;
    /// [`Error::ColumnType`].
    pub fn open(path: impl AsRef<Path>, column: &str) -> Result<Self> {
        let path = path.as_ref();
        let metadata = footer(path)?;
        let schema = metadata.schema();
        let found: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let Some(index) = found.iter().position(|name| name == column) else {
            let near = found
                .iter()
                .map(|name| (strsim::damerau_levenshtein(name, column), name))
                .min()
                .filter(|(distance, _)| *distance <= 2.max(column.len() / 3));
            let hint = match near {
                Some((_, name)) => format!("did you mean `{name}`?"),
                None => "name the column that holds the text".into(),
            };
            return Err(Error::MissingColumn {
                path: path.into(),
                column: column.into(),
                found,
                hint,
            });
        };
        let kind = schema.field(index).data_type();
        let leaf = is_text(kind)
            .then(|| {
                let description = metadata.parquet_schema();
                (0..description.num_columns())
                    .find(|&leaf| description.get_column_root_idx(leaf) == index)
            })
            .flatten();
        let Some(leaf) = leaf else {
            return Err(Error::ColumnType {
                path: path.into(),
                column: column.into(),
                found: kind.to_string(),
            });
        };
        Ok(Self { path: path.into(), metadata, column: index, leaf })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows, null texts included.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// Row groups.
    pub fn row_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// The column's name.
    pub fn column(&self) -> &str {
        self.metadata.schema().field(self.column).name()
    }

    fn read_group(&self, group: usize) -> Result<ParquetRecordBatchReader> {
        let file = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), [self.leaf]);
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .with_row_groups(vec![group])
            .build()
            .map_err(|e| damaged(&self.path, Some(group), &e))
    }
}

fn footer(path: &Path) -> Result<ArrowReaderMetadata> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| damaged(path, None, &e))
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn damaged(path: &Path, row_group: Option<usize>, reason: &impl ToString) -> Error {
    Error::Parquet { path: path.into(), row_group, reason: reason.to_string() }
}

/// The texts of several parquet files, in order, as an iterator that ends at the first error.
#[derive(Debug)]
pub struct Texts {
    files: std::vec::IntoIter<TextFile>,
    current: Option<(TextFile, usize)>,
    reader: Option<ParquetRecordBatchReader>,
    batch: Option<(LargeStringArray, usize)>,
    rows: u64,
    nulls: u64,
    ended: bool,
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
            files: files.into_iter(),
            current: None,
            reader: None,
            batch: None,
            nulls: 0,
            ended: false,
        })
    }

    /// Rows of all files, null texts included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Null texts skipped so far.
    pub fn nulls(&self) -> u64 {
        self.nulls
    }

    fn advance(&mut self) -> Result<Option<String>> {
        loop {
            if let Some((texts, at)) = &mut self.batch {
                while *at < texts.len() {
                    let i = *at;
                    *at += 1;
                    if texts.is_null(i) {
                        self.nulls += 1;
                    } else {
                        return Ok(Some(texts.value(i).to_string()));
                    }
                }
                self.batch = None;
            }
            if let (Some(reader), Some((file, group))) = (&mut self.reader, &self.current) {
                match reader.next() {
                    Some(Ok(batch)) => {
                        let texts = cast(batch.column(0), &DataType::LargeUtf8)
                            .map_err(|e| damaged(&file.path, Some(*group), &e))?;
                        self.batch = Some((texts.as_string::<i64>().clone(), 0));
                        continue;
                    }
                    Some(Err(e)) => return Err(damaged(&file.path, Some(*group), &e)),
                    None => self.reader = None,
                }
            }
            let next = match self.current.take() {
                Some((file, group)) if group + 1 < file.row_groups() => Some((file, group + 1)),
                _ => self.files.find(|file| file.row_groups() > 0).map(|file| (file, 0)),
            };
            let Some((file, group)) = next else { return Ok(None) };
            self.reader = Some(file.read_group(group)?);
            self.current = Some((file, group));
        }
    }
}

impl Iterator for Texts {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.advance().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}
