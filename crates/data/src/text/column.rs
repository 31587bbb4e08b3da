//! One column of one row group, a few rows at a time: bytes and numbers with their nulls. A decoder that panics on damaged bytes is
//! contained here.

use super::guard::Pages;
use super::memory::Pool;
use super::stored::Source;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::RowGroupMetaData;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `decode`; a panic inside it becomes an error.
///
/// The `parquet` crate's decoders index into the bytes they are given and `expect` what a well-formed file has; on damaged
/// pages some of that panics. Whatever `decode` touches must not be used again after an error.
pub(super) fn contained<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        Err(ParquetError::General(format!("the parquet reader gave up: {text}")))
    })
}

/// A column of one row group.
pub(super) struct Column {
    reader: Reader,
    levels: Vec<i16>,
    nullable: bool,
}

enum Reader {
    Bytes(ColumnReaderImpl<parquet::data_type::ByteArrayType>),
    Int32(ColumnReaderImpl<parquet::data_type::Int32Type>),
    Int64(ColumnReaderImpl<parquet::data_type::Int64Type>),
    Float(ColumnReaderImpl<parquet::data_type::FloatType>),
    Double(ColumnReaderImpl<parquet::data_type::DoubleType>),
}

impl Column {
    /// Decodes `pages` of column `leaf` of a row group, but for their first `skip` rows.
    pub(super) fn open(
        pages: impl Source + 'static,
        group: &RowGroupMetaData,
        leaf: usize,
        skip: u64,
        pool: &Pool,
    ) -> Result<Self> {
        contained(|| {
            let rows = group.num_rows().max(0) as u64;
            let chunk = group.column(leaf);
            let descr = chunk.column_descr_ptr();
            let nullable = descr.max_def_level() > 0;
            let pages = Box::new(Pages::new(pages, chunk, rows, pool)?);
            let reader = match get_column_reader(descr, pages) {
                ColumnReader::ByteArrayColumnReader(reader) => Reader::Bytes(reader),
                ColumnReader::Int32ColumnReader(reader) => Reader::Int32(reader),
                ColumnReader::Int64ColumnReader(reader) => Reader::Int64(reader),
                ColumnReader::FloatColumnReader(reader) => Reader::Float(reader),
                ColumnReader::DoubleColumnReader(reader) => Reader::Double(reader),
                _ => return Err(ParquetError::General("neither text nor numbers".into())),
            };
            let mut this = Self { reader, levels: vec![], nullable };
            if skip > 0 {
                let skip = skip as usize;
                let skipped = match &mut this.reader {
                    Reader::Bytes(reader) => reader.skip_records(skip),
                    Reader::Int32(reader) => reader.skip_records(skip),
                    Reader::Int64(reader) => reader.skip_records(skip),
                    Reader::Float(reader) => reader.skip_records(skip),
                    Reader::Double(reader) => reader.skip_records(skip),
                }?;
                if skipped != skip {
                    return Err(ParquetError::General(format!(
                        "the column ends after {skipped} rows"
                    )));
                }
            }
            Ok(this)
        })
    }

    /// The next `rows` values as bytes, views into their pages; fewer only at the end of the column.
    pub(super) fn bytes(&mut self, rows: usize) -> Result<Vec<Option<ByteArray>>> {
        contained(|| match &mut self.reader {
            Reader::Bytes(reader) => values(reader, &mut self.levels, self.nullable, rows, |v| v),
            _ => Err(ParquetError::General("it does not hold text".into())),
        })
    }

    /// The next `rows` values as numbers; fewer only at the end of the column.
    pub(super) fn numbers(&mut self, rows: usize) -> Result<Vec<Option<f64>>> {
        let Self { reader, levels, nullable } = self;
        let n = *nullable;
        contained(|| match reader {
            Reader::Int32(reader) => values(reader, levels, n, rows, f64::from),
            Reader::Int64(reader) => values(reader, levels, n, rows, |v| v as f64),
            Reader::Float(reader) => values(reader, levels, n, rows, f64::from),
            Reader::Double(reader) => values(reader, levels, n, rows, |v| v),
            Reader::Bytes(_) => Err(ParquetError::General("it does not hold numbers".into())),
        })
    }
}

fn values<T: DataType, V>(
    reader: &mut ColumnReaderImpl<T>,
    levels: &mut Vec<i16>,
    nullable: bool,
    rows: usize,
    convert: impl Fn(T::T) -> V,
) -> Result<Vec<Option<V>>> {
    levels.clear();
    let mut found = Vec::with_capacity(rows);
    reader.read_records(rows, nullable.then_some(&mut *levels), None, &mut found)?;
    let mut found = found.into_iter().map(convert);
    if !nullable {
        return Ok(found.map(Some).collect());
    }
    Ok(levels.iter().map(|&level| if level > 0 { found.next() } else { None }).collect())
}
