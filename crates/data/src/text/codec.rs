//! What a compressed page holds.

use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};

/// A way of compression that is built in, with what its decoder needs.
pub(super) enum Codec {
    Snappy(snap::raw::Decoder),
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Codec {
    /// That of a column; `None` if it is not compressed.
    pub(super) fn new(compression: Compression) -> Result<Option<Self>> {
        Ok(match compression {
            Compression::UNCOMPRESSED => None,
            Compression::SNAPPY => Some(Self::Snappy(snap::raw::Decoder::new())),
            Compression::ZSTD(_) => Some(Self::Zstd(zstd::bulk::Decompressor::new()?)),
            other => {
                return Err(ParquetError::NYI(format!(
                    "its column is compressed with {other}; snappy, zstd and none are built in"
                )));
            }
        })
    }

    /// The most that a byte can become.
    pub(super) fn expansion(&self) -> u64 {
        match self {
            // A copy of 64 bytes takes 3.
            Self::Snappy(_) => 22,
            // A block of up to 128 KiB that repeats one byte takes 4.
            Self::Zstd(_) => 1 << 15,
        }
    }

    /// Fills `page` with what `stored` holds.
    ///
    /// # Errors
    /// When `stored` is damaged or holds less or more.
    pub(super) fn unpack(&mut self, stored: &[u8], page: &mut [u8]) -> Result<()> {
        let expected = page.len();
        let found = match self {
            Self::Snappy(decoder) => {
                let announced = snap::raw::decompress_len(stored).map_err(fault)?;
                if announced < expected {
                    announced
                } else {
                    decoder.decompress(stored, page).map_err(fault)?
                }
            }
            Self::Zstd(decoder) => decoder.decompress_to_buffer(stored, page)?,
        };
        if found != expected {
            return Err(fault(format!(
                "a page of {expected} bytes is one of {found} when it is unpacked"
            )));
        }
        Ok(())
    }
}

fn fault(reason: impl ToString) -> ParquetError {
    ParquetError::General(reason.to_string())
}
