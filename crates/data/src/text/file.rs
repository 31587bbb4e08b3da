//! One parquet file: its footer, checked, and its columns by name. It decodes no page.

use super::codec::Codec;
use super::column::{Column, contained};
use super::filter::TextFilter;
use super::memory::Pool;
use super::stored::{Source, StoredPages};
use crate::{Error, Result};
use arrow::datatypes::DataType;
use farthing_base::names::did_you_mean;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One text column of one parquet file.
///
/// Every column that parquet annotates as a string is text, whatever it was in memory when it was written: Utf8, `LargeUtf8`,
/// `Utf8View` and dictionaries of them. Columns inside of lists or structs are not.
#[derive(Clone)]
pub struct TextFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    column: usize,
    pub(super) text: usize,
    pub(super) score: Option<usize>,
    pub(super) language: Option<usize>,
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
    /// [`Error::ColumnType`]; [`Error::Compression`].
    pub fn open(path: impl AsRef<Path>, column: &str) -> Result<Self> {
        let path = path.as_ref();
        let metadata = footer(path)?;
        let mut this =
            Self { path: path.into(), metadata, column: 0, text: 0, score: None, language: None };
        (this.column, this.text) = this.find(column, Kind::Text)?;
        Ok(this)
    }

    /// Finds the columns that a filter looks at.
    pub(super) fn filter(&mut self, filter: &TextFilter) -> Result<()> {
        let find = |name: Option<&str>, kind| {
            name.map(|name| self.find(name, kind).map(|(_, leaf)| leaf)).transpose()
        };
        (self.score, self.language) =
            (find(filter.score(), Kind::Number)?, find(filter.language(), Kind::Text)?);
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows, null texts included.
    pub fn rows(&self) -> u64 {
        (0..self.row_groups()).map(|group| self.group_rows(group)).sum()
    }

    /// Row groups.
    pub fn row_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// Rows of a row group.
    pub(super) fn group_rows(&self, group: usize) -> u64 {
        self.metadata.metadata().row_group(group).num_rows().max(0) as u64
    }

    /// The column's name.
    pub fn column(&self) -> &str {
        self.metadata.schema().field(self.column).name()
    }

    /// The pages of a column of a row group.
    pub(super) fn stored(&self, group: usize, leaf: usize, pool: &Pool) -> Result<StoredPages> {
        let file = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        let chunk = self.metadata.metadata().row_group(group).column(leaf);
        StoredPages::new(file, chunk, self.group_rows(group), pool)
            .map_err(|e| self.damaged(group, None, &e))
    }

    /// A column of a row group after `skip` rows of it.
    pub(super) fn read(&self, group: usize, leaf: usize, skip: u64, pool: &Pool) -> Result<Column> {
        let pages = self.stored(group, leaf, pool)?;
        self.decode(group, leaf, pages, skip, pool).map_err(|e| self.damaged(group, None, &e))
    }

    /// What `pages` of a column of a row group hold, after `skip` rows of them.
    pub(super) fn decode(
        &self,
        group: usize,
        leaf: usize,
        pages: impl Source + 'static,
        skip: u64,
        pool: &Pool,
    ) -> Result<Column, ParquetError> {
        Column::open(pages, self.metadata.metadata().row_group(group), leaf, skip, pool)
    }

    pub(super) fn damaged(&self, group: usize, row: Option<u64>, reason: &impl ToString) -> Error {
        Error::Parquet {
            path: self.path.clone(),
            row_group: Some(group),
            row,
            reason: reason.to_string(),
        }
    }

    fn check_compression(&self, leaf: usize, column: &str) -> Result<()> {
        let groups = self.metadata.metadata().row_groups();
        let unknown = groups
            .iter()
            .filter_map(|group| group.columns().get(leaf))
            .map(ColumnChunkMetaData::compression)
            .find(|&compression| !Codec::is_built_in(compression));
        match unknown {
            None => Ok(()),
            Some(found) => Err(Error::Compression {
                path: self.path.clone(),
                column: column.into(),
                // Without its level.
                found: found.to_string().split('(').next().unwrap_or_default().into(),
            }),
        }
    }

    /// The index of a top-level column, and that of its one leaf.
    fn find(&self, column: &str, wanted: Kind) -> Result<(usize, usize)> {
        let schema = self.metadata.schema();
        let found: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let Some(index) = found.iter().position(|name| name == column) else {
            let meant = did_you_mean(column, found.iter().map(String::as_str));
            let hint = meant.unwrap_or_else(|| wanted.hint().into());
            let (path, column) = (self.path.clone(), column.into());
            return Err(Error::MissingColumn { path, column, found, hint });
        };
        let kind = schema.field(index).data_type();
        let description = self.metadata.parquet_schema();
        let leaf = (0..description.num_columns())
            .find(|&leaf| description.get_column_root_idx(leaf) == index)
            .filter(|_| wanted.accepts(kind));
        match leaf {
            Some(leaf) => {
                self.check_compression(leaf, column)?;
                Ok((index, leaf))
            }
            None => Err(Error::ColumnType {
                path: self.path.clone(),
                column: column.into(),
                found: kind.to_string(),
                expected: wanted.name(),
            }),
        }
    }
}

/// What a column must hold.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
}

impl Kind {
    fn accepts(self, kind: &DataType) -> bool {
        match self {
            Self::Text => matches!(kind, DataType::Utf8),
            Self::Number => matches!(
                kind,
                DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64
            ),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text (Utf8)",
            Self::Number => "numbers (32 or 64 bits)",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Text => "name the column that holds the text",
            Self::Number => "name the column that holds the score",
        }
    }
}

fn footer(path: &Path) -> Result<ArrowReaderMetadata> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let bad = |e: ParquetError| Error::Parquet {
        path: path.into(),
        row_group: None,
        row: None,
        reason: e.to_string(),
    };
    // What a writer held in memory does not matter here, and is one thing less to be damaged.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = contained(|| ArrowReaderMetadata::load(&file, options)).map_err(bad)?;
    let groups = metadata.metadata().row_groups();
    let rows = groups.iter().try_fold(0i64, |sum, group| {
        if group.num_rows() < 0 { None } else { sum.checked_add(group.num_rows()) }
    });
    let announced = metadata.metadata().file_metadata().num_rows();
    if rows != Some(announced) {
        return Err(bad(ParquetError::General(format!(
            "its footer announces {announced} rows, its {} row groups do not add up to that",
            groups.len()
        ))));
    }
    Ok(metadata)
}
