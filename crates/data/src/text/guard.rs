//! The pages of a column, read and unpacked into memory that is used again, and what they announce, checked before anything believes it:
//! a few lying bytes must not make a reader allocate gigabytes. What is inside a page is the decoders' affair.

use super::codec::{Codec, SLACK};
use super::memory::Pool;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A file, of which one column chunk is read.
struct Chunk {
    file: File,
    bytes: u64,
    /// The most that a byte of a compressed page can become.
    expansion: u64,
    /// Whether the next read begins after a page's header, which has been peeked at and checked.
    past_header: AtomicBool,
    /// Bytes of the page whose header was read last, when it is unpacked.
    announced: AtomicU64,
    pool: Pool,
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Chunk {
    type T = BufReader<File>;

    /// The reader of pages calls this at the header of each page, or behind it if it has peeked.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let mut read = self.file.get_read(start)?;
        if self.past_header.swap(false, Ordering::Relaxed) {
            return Ok(read);
        }
        let (announced, stored) = announced(read.fill_buf()?)
            .ok_or_else(|| fault("a page's header does not begin with its type and sizes"))?;
        // 64: what a codec's frame may cost a page of a few bytes.
        if announced > stored.saturating_mul(self.expansion).saturating_add(64) {
            return Err(fault(format!(
                "a page of {stored} bytes announces {announced} after decompression"
            )));
        }
        self.announced.store(announced, Ordering::Relaxed);
        Ok(read)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.bytes) {
            return Err(fault(format!(
                "{length} bytes at {start} lie outside the file of {} bytes",
                self.bytes
            )));
        }
        let mut stored = self.pool.lend(length, 0);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(stored.as_mut())?;
        Ok(stored.into())
    }
}

/// The pages of a column chunk, each checked against itself and its row group.
pub(super) struct Pages {
    /// Gives pages as they are stored: it is told that they are not compressed.
    inner: SerializedPageReader<Chunk>,
    chunk: Arc<Chunk>,
    codec: Option<Codec>,
    rows: u64,
    nullable: bool,
    kind: Type,
}

impl Pages {
    pub(super) fn new(
        file: File,
        chunk: &ColumnChunkMetaData,
        rows: u64,
        pool: &Pool,
    ) -> Result<Self> {
        let bytes = Length::len(&file);
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let (start, length) = (u64::try_from(start), u64::try_from(chunk.compressed_size()));
        let inside = match (start, length) {
            (Ok(start), Ok(length)) => start.checked_add(length).is_some_and(|end| end <= bytes),
            _ => false,
        };
        if !inside {
            return Err(fault(format!(
                "its column lies at {} with {} bytes, outside the file of {bytes} bytes",
                chunk.data_page_offset(),
                chunk.compressed_size()
            )));
        }
        let codec = Codec::new(chunk.compression())?;
        let reader = Arc::new(Chunk {
            file,
            bytes,
            expansion: codec.as_ref().map_or(1, Codec::expansion),
            past_header: AtomicBool::new(false),
            announced: AtomicU64::new(0),
            pool: pool.clone(),
        });
        let stored =
            chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let inner = SerializedPageReader::new(Arc::clone(&reader), &stored, rows as usize, None)?;
        let column = chunk.column_descr();
        Ok(Self {
            inner,
            chunk: reader,
            codec,
            rows,
            nullable: column.max_def_level() > 0,
            kind: column.physical_type(),
        })
    }

    /// Puts the bytes of a page in place of what is stored of them.
    fn unpack(&mut self, page: &mut Page) -> Result<()> {
        let Some(codec) = &mut self.codec else { return Ok(()) };
        let (stored, levels) = match page {
            Page::DataPageV2 { is_compressed: false, .. } => return Ok(()),
            // Levels are not compressed here.
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                (buf, u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len))
            }
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => (buf, 0),
        };
        let bytes = self.chunk.announced.load(Ordering::Relaxed);
        if levels > bytes.min(stored.len() as u64) {
            return Err(fault(format!("a page of {bytes} bytes announces {levels} of levels")));
        }
        let mut whole = self.chunk.pool.lend(bytes as usize, SLACK);
        let (kept, rest) = stored.split_at(levels as usize);
        let (before, values) = whole.as_mut().split_at_mut(levels as usize);
        before.copy_from_slice(kept);
        // A page of nulls alone has no values, and then nothing is stored.
        if values.len() > SLACK {
            codec.unpack(rest, values)?;
        }
        *stored = whole.into();
        Ok(())
    }

    fn check(&self, page: &Page) -> Result<()> {
        let width = match self.kind {
            Type::INT64 | Type::DOUBLE => 8,
            // The length of a byte array has 4 bytes.
            _ => 4,
        };
        let values = u64::from(page.num_values());
        if let Page::DictionaryPage { buf, .. } = page {
            if values * width > buf.len() as u64 {
                return Err(fault(format!(
                    "a dictionary of {} bytes announces {values} entries",
                    buf.len()
                )));
            }
            return Ok(());
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
        let mut page = self.inner.get_next_page()?;
        if let Some(page) = &mut page {
            self.unpack(page)?;
            self.check(page)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        let page = self.inner.peek_next_page()?;
        self.chunk.past_header.store(page.is_some(), Ordering::Relaxed);
        Ok(page)
    }

    fn skip_next_page(&mut self) -> Result<()> {
        // A header that was peeked at is skipped without another read.
        self.chunk.past_header.store(false, Ordering::Relaxed);
        self.inner.skip_next_page()
    }
}

fn fault(reason: impl Into<String>) -> ParquetError {
    ParquetError::General(reason.into())
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
