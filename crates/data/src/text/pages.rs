//! Reads the pages of one column of one row group through the `parquet` crate. What a page announces is checked before a decoder
//! reserves memory for it: a few lying bytes must not make a reader allocate gigabytes.

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Runs `decode`; a panic inside it becomes an error.
///
/// The `parquet` crate's decoders index into the bytes they are given and `expect` what a well-formed file has; on damaged
/// pages some of that panics. Whatever `decode` touches must not be used again after an error.
pub(crate) fn contained<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        Err(fault(format!("the parquet reader gave up: {text}")))
    })
}

pub(super) fn fault(reason: impl Into<String>) -> ParquetError {
    ParquetError::General(reason.into())
}

/// Pages of a column chunk, each checked against itself and its row group.
pub(super) struct Pages {
    inner: SerializedPageReader<Chunk>,
    chunk: Arc<Chunk>,
    /// Rows of the row group.
    rows: u64,
    nullable: bool,
    /// Bytes that a value of a dictionary has at least.
    width: u64,
    /// Rows of the page that was looked at last.
    peeked: u64,
    /// Rows of the pages that were given or passed over.
    reached: Arc<AtomicU64>,
    /// Rows of the last page that may be decoded at a time.
    at_once: Arc<AtomicU64>,
}

/// Bytes that the values of a few rows may have which a page holds once, each beginning as the one before it does.
const SHARED_BYTES: u64 = 64 << 20;

impl Pages {
    /// Those of a column chunk in a row group of `rows` rows. Nothing else may read from `file` meanwhile.
    ///
    /// # Errors
    /// When the chunk lies outside the file, or its compression is not built in.
    pub(super) fn new(file: File, meta: &ColumnChunkMetaData, rows: u64) -> Result<Self> {
        let bytes = Length::len(&file);
        let start = meta.dictionary_page_offset().unwrap_or(meta.data_page_offset());
        let (start, length) = (u64::try_from(start), u64::try_from(meta.compressed_size()));
        let inside = match (start, length) {
            (Ok(start), Ok(length)) => start.checked_add(length).is_some_and(|end| end <= bytes),
            _ => false,
        };
        if !inside {
            return Err(fault(format!(
                "its column lies at {} with {} bytes, outside the file of {bytes} bytes",
                meta.data_page_offset(),
                meta.compressed_size()
            )));
        }
        let expansion = expansion(meta.compression());
        let chunk = Arc::new(Chunk { file, expansion, past_header: AtomicBool::new(false) });
        let column = meta.column_descr();
        Ok(Self {
            inner: SerializedPageReader::new(Arc::clone(&chunk), meta, rows as usize, None)?,
            chunk,
            rows,
            nullable: column.max_def_level() > 0,
            width: match column.physical_type() {
                Type::INT64 | Type::DOUBLE => 8,
                Type::FIXED_LEN_BYTE_ARRAY => column.type_length().max(0) as u64,
                // The length of a byte array has 4 bytes.
                _ => 4,
            },
            peeked: 0,
            reached: Arc::default(),
            at_once: Arc::new(AtomicU64::new(1)),
        })
    }

    /// How many rows of the page that was given last may be decoded at a time, one at least: with prefixes that values share, a page of a
    /// megabyte can hold many values of a megabyte each.
    pub(super) fn at_once(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.at_once)
    }

    /// How many rows of the row group the pages hold that were given or passed over: it grows as they are.
    pub(super) fn reached(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.reached)
    }

    fn check(&self, page: &Page) -> Result<()> {
        let values = u64::from(page.num_values());
        if let Page::DictionaryPage { buf, .. } = page {
            if values * self.width > buf.len() as u64 {
                return Err(fault(format!(
                    "a dictionary of {} bytes announces {values} entries",
                    buf.len()
                )));
            }
            return Ok(());
        }
        if let Page::DataPageV2 { num_values, num_rows, .. } = page
            && num_values != num_rows
        {
            return Err(fault(format!("a page of {num_rows} rows announces {num_values} values")));
        }
        if values > self.rows {
            return Err(fault(format!(
                "a page announces {values} values, its row group has {} rows",
                self.rows
            )));
        }
        let blocks = match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
            Encoding::DELTA_BYTE_ARRAY => 2,
            _ => return Ok(()),
        };
        let lengths = || {
            let mut data = page.buffer().get(self.levels(page)?..)?;
            (0..blocks).try_for_each(|_| {
                data = after_lengths(data, values)?;
                Some(())
            })
        };
        lengths()
            .ok_or_else(|| fault(format!("the lengths of a page's {values} values contradict it")))
    }

    /// Bytes before the values of a data page.
    fn levels(&self, page: &Page) -> Option<usize> {
        match page {
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                usize::try_from(def_levels_byte_len.checked_add(*rep_levels_byte_len)?).ok()
            }
            _ if !self.nullable => Some(0),
            Page::DataPage { buf, def_level_encoding: Encoding::RLE, .. } => {
                Some(4 + u32::from_le_bytes(*buf.first_chunk()?) as usize)
            }
            _ => None,
        }
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.inner.get_next_page()? else { return Ok(None) };
        self.check(&page)?;
        if page.is_data_page() {
            self.reached.fetch_add(u64::from(page.num_values()), Ordering::Relaxed);
            let shares = page.encoding() == Encoding::DELTA_BYTE_ARRAY;
            let bytes = page.buffer().len().max(1) as u64;
            let rows = if shares { (SHARED_BYTES / bytes).max(1) } else { u64::MAX };
            self.at_once.store(rows, Ordering::Relaxed);
        }
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        let page = self.inner.peek_next_page()?;
        self.chunk.past_header.store(page.is_some(), Ordering::Relaxed);
        let rows = page.as_ref().and_then(|page| page.num_rows.or(page.num_levels));
        self.peeked = rows.unwrap_or(0) as u64;
        Ok(page)
    }

    fn skip_next_page(&mut self) -> Result<()> {
        // A header that was peeked at is skipped without another read.
        self.chunk.past_header.store(false, Ordering::Relaxed);
        self.reached.fetch_add(self.peeked, Ordering::Relaxed);
        self.inner.skip_next_page()
    }
}

/// A file, of which one column chunk is read.
struct Chunk {
    file: File,
    /// The most that a byte of a page can become.
    expansion: u64,
    /// Whether the next read begins after a page's header, which has been peeked at and checked.
    past_header: AtomicBool,
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        Length::len(&self.file)
    }
}

impl ChunkReader for Chunk {
    type T = BufReader<File>;

    /// The reader of pages calls this at the header of each page, or behind it if it has peeked.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        /// What a page may become whatever it is compressed to.
        const USUAL_BYTES: u64 = 1 << 20;
        let mut read = self.file.get_read(start)?;
        if self.past_header.swap(false, Ordering::Relaxed) {
            return Ok(read);
        }
        let (announced, stored) = announced(read.fill_buf()?)
            .ok_or_else(|| fault("a page's header does not begin with its type and sizes"))?;
        if announced > stored.saturating_mul(self.expansion).max(USUAL_BYTES) {
            return Err(fault(format!(
                "a page of {stored} bytes announces {announced} after decompression"
            )));
        }
        Ok(read)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.file.get_bytes(start, length)
    }
}

/// The most that a byte of a page can become.
fn expansion(compression: Compression) -> u64 {
    match compression {
        Compression::UNCOMPRESSED => 1,
        // A copy of 64 bytes takes 3.
        Compression::SNAPPY => 22,
        Compression::LZ4 | Compression::LZ4_RAW => 255,
        // A copy of 258 bytes takes 2 bits.
        Compression::GZIP(_) => 1032,
        // A block of up to 128 KiB that repeats one byte takes 4.
        _ => 1 << 15,
    }
}

/// Sizes after and before decompression, from the first bytes of a page's header: in Thrift's compact protocol the fields
/// 1 (type), 2 and 3, each an i32 (0x15), in the order in which every writer puts them.
fn announced(mut header: &[u8]) -> Option<(u64, u64)> {
    let mut field = || {
        let (&0x15, rest) = header.split_first()? else { return None };
        header = rest;
        let zigzag = varint(&mut header)?;
        (zigzag & 1 == 0).then_some(zigzag >> 1)
    };
    let (_, announced, stored) = (field()?, field()?, field()?);
    Some((announced, stored))
}

/// Takes a varint from the front.
fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// What follows a block of delta-encoded lengths, if it announces at most `most` of them.
fn after_lengths(mut data: &[u8], most: u64) -> Option<&[u8]> {
    let (block, minis, count) = (varint(&mut data)?, varint(&mut data)?, varint(&mut data)?);
    if count > most || minis == 0 {
        return None;
    }
    varint(&mut data)?;
    let per_mini = block / minis;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        varint(&mut data)?;
        let widths = data.get(..usize::try_from(minis).ok()?)?;
        data = &data[widths.len()..];
        for &width in widths {
            if left == 0 {
                break;
            }
            let bytes = usize::try_from(per_mini.checked_mul(u64::from(width))? / 8).ok()?;
            data = data.get(bytes..)?;
            left = left.saturating_sub(per_mini);
        }
    }
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_a_page_header() {
        // type 0, 300 bytes after decompression, 20 before: zigzag 600 = 0xD8 0x04, 40.
        assert_eq!(announced(&[0x15, 0, 0x15, 0xD8, 0x04, 0x15, 40, 0x2C]), Some((300, 20)));
        assert_eq!(announced(&[0x15, 0, 0x15, 1, 0x15, 40]), None, "a negative size");
        assert_eq!(announced(&[0x15, 0, 0x25, 2, 0x15, 40]), None, "a field is left out");
        assert_eq!(announced(&[0x15, 0, 0x15]), None);
        assert_eq!(announced(&[0x15, 0, 0x15, 0xFF, 0xFF, 0xFF]), None);
    }

    #[test]
    fn lengths_are_counted() {
        // Blocks of 128 in 4 miniblocks; 3 lengths; first value 1; one block: min delta 0, widths 0.
        let block = [0x80, 1, 4, 3, 2, 0, 0, 0, 0, 0, 9];
        assert_eq!(after_lengths(&block, 3), Some(&[9u8][..]));
        assert_eq!(after_lengths(&block, 2), None);
        assert_eq!(after_lengths(&[0x80, 1, 0, 3, 2], 9), None, "no miniblocks");
        let huge = [0x80, 1, 4, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2];
        assert_eq!(after_lengths(&huge, 1 << 40), None);
        assert_eq!(after_lengths(&[0x80, 1, 4, 3, 2, 0, 8, 0], 3), None, "cut off");
    }
}
