//! Opens one parquet file: checks its footer and finds its columns by name.

use super::filter::TextFilter;
use super::pages::contained;
use crate::local::{FORMATS, is_web_page, pointer};
use crate::{Error, Result};
use arrow::datatypes::DataType;
use farthing_base::files;
use farthing_base::names::did_you_mean;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use rayon::prelude::*;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One text column of one parquet file.
///
/// Every column that parquet annotates as a string is text, whatever it was in memory when it was written: Utf8, `LargeUtf8`,
/// `Utf8View` and dictionaries of them; so are bytes without an annotation, as some writers leave them, which are found to be UTF-8 or
/// not when they are read. Columns inside of lists or structs are not. Numbers are integers of any size, floats and decimals.
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
    /// [`Error::Io`], [`Error::NotParquet`], [`Error::Parquet`].
    pub fn check(path: impl AsRef<Path>) -> Result<()> {
        footer(path.as_ref()).map(drop)
    }

    /// Reads the footer alone: how many rows there are.
    ///
    /// # Errors
    /// Those of [`TextFile::check`].
    pub(crate) fn count(path: impl AsRef<Path>) -> Result<u64> {
        let metadata = footer(path.as_ref())?;
        // `footer` has found it to be a sum of numbers that are not negative.
        Ok(metadata.metadata().file_metadata().num_rows().max(0) as u64)
    }

    /// Reads the footer alone: what it says, and the leaves that can be read as text or numbers.
    ///
    /// # Errors
    /// Those of [`TextFile::check`].
    pub(crate) fn readable(path: &Path) -> Result<(ArrowReaderMetadata, Vec<usize>)> {
        let this = Self::unread(path)?;
        let fields = this.metadata.schema().fields().clone();
        let found = fields.iter().filter_map(|field| {
            let kinds = [Kind::Text, Kind::Number].into_iter();
            kinds.filter_map(|kind| this.find(field.name(), kind).ok()).map(|(_, leaf)| leaf).next()
        });
        let leaves = found.collect();
        Ok((this.metadata, leaves))
    }

    /// With its footer, and no column found yet.
    fn unread(path: &Path) -> Result<Self> {
        let metadata = footer(path)?;
        Ok(Self { path: path.into(), metadata, column: 0, text: 0, score: None, language: None })
    }

    /// Whether files have the columns for text and filter, from their footers alone, side by side; files that are no parquet, or cannot
    /// be read, are passed over.
    ///
    /// # Errors
    /// [`Error::MissingColumn`], [`Error::ColumnType`] and [`Error::Compression`] of the first file that has one.
    pub fn check_columns<P: AsRef<Path> + Sync>(
        files: &[P],
        column: &str,
        filter: &TextFilter,
    ) -> Result<()> {
        let check = |path: &P| match Self::open(path, column).and_then(|mut f| f.filter(filter)) {
            Err(Error::NotParquet { .. } | Error::Parquet { .. } | Error::Io { .. }) => Ok(()),
            other => other,
        };
        let each: Vec<Result<()>> = files.par_iter().map(check).collect();
        each.into_iter().collect()
    }

    /// Reads the footer and finds the column.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Parquet`] for a bad footer; [`Error::MissingColumn`] with the columns there are;
    /// [`Error::ColumnType`]; [`Error::Compression`].
    pub fn open(path: impl AsRef<Path>, column: &str) -> Result<Self> {
        let mut this = Self::unread(path.as_ref())?;
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

    /// The row group in which a row of the file lies: which it is, its first row and the one after its last.
    pub(super) fn group_at(&self, row: u64) -> Option<(usize, u64, u64)> {
        let mut end = 0;
        (0..self.row_groups()).find_map(|index| {
            let start = end;
            end += self.group_rows(index);
            (row < end).then_some((index, start, end))
        })
    }

    pub(super) fn metadata(&self) -> &ParquetMetaData {
        self.metadata.metadata()
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
            // All others are built in: the features of `parquet` in the workspace table.
            .find(|&compression| compression == Compression::LZO);
        match unknown {
            None => Ok(()),
            Some(found) => Err(Error::Compression {
                path: self.path.clone(),
                column: column.into(),
                found: found.to_string(),
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
            Self::Text => matches!(kind, DataType::Utf8 | DataType::Binary),
            Self::Number => kind.is_numeric(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text (Utf8)",
            Self::Number => "numbers",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Text => "name the column that holds the text",
            Self::Number => "name the column that holds the score",
        }
    }
}

/// Says what a file is that does not begin as parquet does. What begins so, in as many bytes as there are, is parquet, or was.
fn recognise(path: &Path, file: &File) -> Result<()> {
    let mut head = Vec::new();
    let mut start = file;
    start.by_ref().take(512).read_to_end(&mut head).map_err(Error::io("read", path))?;
    if b"PAR1".starts_with(&head[..head.len().min(4)]) {
        return Ok(());
    }
    let text = std::str::from_utf8(&head[..head.len() - head.len().min(4)]);
    let text = text.ok().map(|text| text.trim_start_matches('\u{feff}').trim_start());
    let begins = |magic: &[u8]| head.starts_with(magic);
    let fetch_again = "fetch it again, or leave it out";
    let (found, hint) = if begins(b"PARE") {
        ("its footer is encrypted", "write it without encryption")
    } else if let Some(pointer) = text.and_then(pointer) {
        pointer
    } else if text.is_some_and(is_web_page) {
        ("it is a web page", fetch_again)
    } else if text.is_some_and(|t| t.starts_with("<?xml") || t.starts_with("<Error")) {
        ("it is XML, such as a server's error", fetch_again)
    } else if begins(&[0x1F, 0x8B]) {
        ("it is compressed as a whole with gzip", "unpack it first: `gunzip FILE`")
    } else if begins(&[0x28, 0xB5, 0x2F, 0xFD]) {
        ("it is compressed as a whole with zstd", "unpack it first: `unzstd FILE`")
    } else if begins(b"BZh") || begins(&[0xFD, b'7', b'z', b'X', b'Z']) || begins(b"PK\x03\x04") {
        ("it is an archive, or compressed as a whole", "unpack it first")
    } else if begins(b"ARROW1") || begins(&[0xFF, 0xFF, 0xFF, 0xFF]) {
        ("it is Arrow or Feather", FORMATS)
    } else if begins(b"ORC") || begins(b"Obj\x01") || begins(b"SQLite format 3") {
        ("it is ORC, Avro or a database", FORMATS)
    } else if begins(&[0, 5, 0x16, 7]) || begins(&[0, 5, 0x16, 0]) {
        ("it is what macOS keeps about another file (AppleDouble)", "leave it out")
    } else if text.is_some_and(|t| t.starts_with('{') || t.starts_with('[')) {
        ("it is JSON, or JSON lines", FORMATS)
    } else if text.is_some_and(|t| !t.contains(|c: char| c.is_control() && !c.is_whitespace())) {
        ("it is plain text, or CSV", FORMATS)
    } else {
        return Ok(());
    };
    let name = path.display().to_string();
    Err(Error::NotParquet { name, found: found.into(), hint: hint.into() })
}

fn footer(path: &Path) -> Result<ArrowReaderMetadata> {
    let file = files::open(path).map_err(Error::io("open", path))?;
    let bad = |e: ParquetError| Error::Parquet {
        path: path.into(),
        row_group: None,
        row: None,
        reason: e.to_string(),
    };
    recognise(path, &file)?;
    // What a writer held in memory does not matter here, and is one thing less to be damaged.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let length = file.metadata().map_err(Error::io("read the size of", path))?.len();
    if length == 0 {
        return Err(bad(ParquetError::General("it is empty, 0 bytes".into())));
    }
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
