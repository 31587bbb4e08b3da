//! The pages of a column as they are stored, read from the file into memory that is used again. A page's header is checked before
//! anything believes it; what is inside the page is looked at later, perhaps on another thread.

use super::codec::Codec;
use super::memory::Pool;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A page as it is stored.
#[derive(Clone)]
pub(super) struct Stored {
    /// What its header says, and its bytes, compressed or not.
    pub(super) page: Page,
    /// How many bytes it has when it is unpacked.
    pub(super) unpacked: u64,
}

impl Stored {
    /// Bytes of memory that it takes, when it is unpacked or as it is.
    pub(super) fn bytes(&self) -> u64 {
        self.unpacked.max(self.page.buffer().len() as u64)
    }

    pub(super) fn is_dictionary(&self) -> bool {
        matches!(self.page, Page::DictionaryPage { .. })
    }

    /// Whether its values are places in a dictionary.
    pub(super) fn is_coded(&self) -> bool {
        let coded = [Encoding::PLAIN_DICTIONARY, Encoding::RLE_DICTIONARY];
        !self.is_dictionary() && coded.contains(&self.page.encoding())
    }
}

/// Where pages come from, one after another.
pub(super) trait Source: Send {
    /// The next page.
    fn next(&mut self) -> Result<Option<Stored>>;

    /// What the next page is.
    fn peek(&mut self) -> Result<Option<PageMetadata>>;

    /// Passes over the next page.
    fn skip(&mut self) -> Result<()>;
}

/// Pages in memory.
impl Source for std::vec::IntoIter<Stored> {
    fn next(&mut self) -> Result<Option<Stored>> {
        Ok(Iterator::next(self))
    }

    fn peek(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.as_slice().first().map(|stored| {
            let is_dict = stored.is_dictionary();
            // Nothing is repeated in our columns: a row is a value.
            let rows = (!is_dict).then(|| stored.page.num_values() as usize);
            PageMetadata { num_rows: rows, num_levels: rows, is_dict }
        }))
    }

    fn skip(&mut self) -> Result<()> {
        Iterator::next(self);
        Ok(())
    }
}

/// The pages of a column chunk in its file.
pub(super) struct StoredPages {
    /// Gives pages as they are stored: it is told that they are not compressed.
    inner: SerializedPageReader<Chunk>,
    chunk: Arc<Chunk>,
}

impl StoredPages {
    /// Those of a column chunk in a row group of `rows` rows.
    ///
    /// # Errors
    /// When the chunk lies outside the file, or its compression is not built in.
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
        let reader = Arc::new(Chunk {
            file,
            bytes,
            expansion: Codec::new(chunk.compression())?.as_ref().map_or(1, Codec::expansion),
            past_header: AtomicBool::new(false),
            announced: AtomicU64::new(0),
            pool: pool.clone(),
        });
        let stored =
            chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let inner = SerializedPageReader::new(Arc::clone(&reader), &stored, rows as usize, None)?;
        Ok(Self { inner, chunk: reader })
    }
}

impl Source for StoredPages {
    fn next(&mut self) -> Result<Option<Stored>> {
        let Some(page) = self.inner.get_next_page()? else { return Ok(None) };
        if let Page::DataPageV2 { num_values, num_rows, .. } = page
            && num_values != num_rows
        {
            return Err(fault(format!("a page of {num_rows} rows announces {num_values} values")));
        }
        Ok(Some(Stored { page, unpacked: self.chunk.announced.load(Ordering::Relaxed) }))
    }

    fn peek(&mut self) -> Result<Option<PageMetadata>> {
        let page = self.inner.peek_next_page()?;
        self.chunk.past_header.store(page.is_some(), Ordering::Relaxed);
        Ok(page)
    }

    fn skip(&mut self) -> Result<()> {
        // A header that was peeked at is skipped without another read.
        self.chunk.past_header.store(false, Ordering::Relaxed);
        self.inner.skip_next_page()
    }
}

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

pub(super) fn fault(reason: impl Into<String>) -> ParquetError {
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

/// Takes a varint from the front.
pub(super) fn varint(data: &mut &[u8]) -> Option<u64> {
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
}
