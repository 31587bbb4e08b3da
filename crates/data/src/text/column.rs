//! One column of one row group, a few rows at a time: bytes and numbers with their nulls. A decoder that panics on damaged bytes is
//! contained here.

use super::guard::Pages;
use super::memory::Pool;
use super::stored::Source;
use arrow::datatypes::DataType as Kind;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{AsBytes, ByteArray, DataType, FixedLenByteArray};
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

/// What the stored numbers of a column mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Number {
    /// What they are.
    #[default]
    Plain,
    /// Integers without a sign.
    Unsigned,
    /// Integers, or the bytes of one from the highest on, by a power of ten.
    Decimal(i8),
    /// Floats of 16 bits.
    Half,
}

impl Number {
    /// How numbers of this type are stored; `None` if they are none.
    pub(super) fn of(kind: &Kind) -> Option<Self> {
        Some(match kind {
            Kind::Int8
            | Kind::Int16
            | Kind::Int32
            | Kind::Int64
            | Kind::Float32
            | Kind::Float64 => Self::Plain,
            Kind::UInt8 | Kind::UInt16 | Kind::UInt32 | Kind::UInt64 => Self::Unsigned,
            Kind::Float16 => Self::Half,
            Kind::Decimal32(_, scale)
            | Kind::Decimal64(_, scale)
            | Kind::Decimal128(_, scale)
            | Kind::Decimal256(_, scale) => Self::Decimal(*scale),
            _ => return None,
        })
    }

    fn scaled(self, x: f64) -> f64 {
        match self {
            Self::Decimal(scale) => x / 10f64.powi(i32::from(scale)),
            _ => x,
        }
    }

    fn of_i32(self, x: i32) -> f64 {
        if self == Self::Unsigned { f64::from(x as u32) } else { self.scaled(f64::from(x)) }
    }

    fn of_i64(self, x: i64) -> f64 {
        if self == Self::Unsigned { x as u64 as f64 } else { self.scaled(x as f64) }
    }

    fn of_bytes(self, bytes: &[u8]) -> Option<f64> {
        match (self, bytes) {
            (Self::Half, &[low, high]) => Some(half(u16::from_le_bytes([low, high]))),
            // Two's complement: the first byte has the sign.
            (Self::Decimal(_), [first, rest @ ..]) => {
                let first = f64::from(*first as i8);
                let whole = rest.iter().fold(first, |sum, byte| sum * 256.0 + f64::from(*byte));
                Some(self.scaled(whole))
            }
            _ => None,
        }
    }
}

/// The value of an IEEE 754 float of 16 bits.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1F), f64::from(bits & 0x3FF));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

/// A column of one row group.
pub(super) struct Column {
    reader: Reader,
    levels: Vec<i16>,
    nullable: bool,
    number: Number,
}

enum Reader {
    Bytes(ColumnReaderImpl<parquet::data_type::ByteArrayType>),
    Fixed(ColumnReaderImpl<parquet::data_type::FixedLenByteArrayType>),
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
                ColumnReader::FixedLenByteArrayColumnReader(reader) => Reader::Fixed(reader),
                ColumnReader::Int32ColumnReader(reader) => Reader::Int32(reader),
                ColumnReader::Int64ColumnReader(reader) => Reader::Int64(reader),
                ColumnReader::FloatColumnReader(reader) => Reader::Float(reader),
                ColumnReader::DoubleColumnReader(reader) => Reader::Double(reader),
                _ => return Err(ParquetError::General("neither text nor numbers".into())),
            };
            let number = Number::Plain;
            let mut this = Self { reader, levels: vec![], nullable, number };
            if skip > 0 {
                let skip = skip as usize;
                let skipped = match &mut this.reader {
                    Reader::Bytes(reader) => reader.skip_records(skip),
                    Reader::Fixed(reader) => reader.skip_records(skip),
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

    /// The same column, whose numbers are stored so.
    pub(super) fn of(self, number: Number) -> Self {
        Self { number, ..self }
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
        let Self { reader, levels, nullable, number } = self;
        let (n, number) = (*nullable, *number);
        let of_bytes = |found: Vec<Option<Option<f64>>>| {
            let none = || ParquetError::General("it does not hold numbers".into());
            found.into_iter().map(|value| value.map(|v| v.ok_or_else(none)).transpose()).collect()
        };
        contained(|| match reader {
            Reader::Int32(reader) => values(reader, levels, n, rows, |v| number.of_i32(v)),
            Reader::Int64(reader) => values(reader, levels, n, rows, |v| number.of_i64(v)),
            Reader::Float(reader) => values(reader, levels, n, rows, f64::from),
            Reader::Double(reader) => values(reader, levels, n, rows, |v| v),
            Reader::Fixed(reader) => {
                let convert = |v: FixedLenByteArray| number.of_bytes(v.as_bytes());
                of_bytes(values(reader, levels, n, rows, convert)?)
            }
            Reader::Bytes(reader) => {
                let convert = |v: ByteArray| number.of_bytes(v.data());
                of_bytes(values(reader, levels, n, rows, convert)?)
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_mean_what_their_type_says() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x3555, 0.333_251_953_125),
            (0x0001, 2f64.powi(-24)),
            (0x7BFF, 65_504.0),
            (0x7C00, f64::INFINITY),
        ] {
            assert_eq!(half(bits), value, "{bits:04x}");
        }
        assert!(half(0x7E00).is_nan());
        assert_eq!(Number::Unsigned.of_i32(-1), 4_294_967_295.0);
        assert_eq!(Number::Plain.of_i32(-1), -1.0);
        assert_eq!(Number::Unsigned.of_i64(-1), u64::MAX as f64);
        assert_eq!(Number::Decimal(2).of_i32(-250), -2.5);
        assert_eq!(Number::Decimal(2).of_bytes(&[0, 0, 250]), Some(2.5));
        assert_eq!(Number::Decimal(0).of_bytes(&[0xFF, 0xFE]), Some(-2.0));
        assert_eq!(Number::Half.of_bytes(&[0]), None);
        assert_eq!(Number::Plain.of_bytes(&[0]), None);
    }
}
