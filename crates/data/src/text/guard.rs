//! Pages, unpacked into memory that is used again, and what they announce, checked before a decoder believes it: a few lying bytes must
//! not make a reader allocate gigabytes. What is inside a page is the decoders' affair.

use super::codec::{Codec, SLACK};
use super::memory::Pool;
use super::stored::{Source, Stored, fault, varint};
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::ColumnChunkMetaData;

/// Pages of a column chunk, each checked against itself and its row group.
pub(super) struct Pages<S> {
    stored: S,
    codec: Option<Codec>,
    rows: u64,
    nullable: bool,
    /// Bytes that a value of a dictionary has at least.
    width: u64,
    pool: Pool,
}

impl<S: Source> Pages<S> {
    /// Those of a column chunk in a row group of `rows` rows.
    ///
    /// # Errors
    /// When its compression is not built in.
    pub(super) fn new(
        stored: S,
        chunk: &ColumnChunkMetaData,
        rows: u64,
        pool: &Pool,
    ) -> Result<Self> {
        let column = chunk.column_descr();
        Ok(Self {
            stored,
            codec: Codec::new(chunk.compression())?,
            rows,
            nullable: column.max_def_level() > 0,
            width: match column.physical_type() {
                Type::INT64 | Type::DOUBLE => 8,
                Type::FIXED_LEN_BYTE_ARRAY => column.type_length().max(0) as u64,
                // The length of a byte array has 4 bytes.
                _ => 4,
            },
            pool: pool.clone(),
        })
    }

    /// The page, with its bytes in place of what is stored of them.
    fn unpack(&mut self, stored: Stored) -> Result<Page> {
        let Stored { mut page, unpacked } = stored;
        let Some(codec) = &mut self.codec else { return Ok(page) };
        let (stored, levels) = match &mut page {
            Page::DataPageV2 { is_compressed: false, .. } => return Ok(page),
            // Levels are not compressed here.
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                (buf, u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len))
            }
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => (buf, 0),
        };
        if levels > unpacked.min(stored.len() as u64) {
            return Err(fault(format!("a page of {unpacked} bytes announces {levels} of levels")));
        }
        let mut whole = self.pool.lend(unpacked as usize, SLACK);
        let (kept, rest) = stored.split_at(levels as usize);
        let (before, values) = whole.as_mut().split_at_mut(levels as usize);
        before.copy_from_slice(kept);
        // A page of nulls alone has no values, and then nothing is stored.
        if values.len() > SLACK {
            codec.unpack(rest, values)?;
        }
        *stored = whole.into();
        Ok(page)
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

impl<S: Source> Iterator for Pages<S> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl<S: Source> PageReader for Pages<S> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(stored) = self.stored.next()? else { return Ok(None) };
        let page = self.unpack(stored)?;
        self.check(&page)?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.stored.peek()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.stored.skip()
    }
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
