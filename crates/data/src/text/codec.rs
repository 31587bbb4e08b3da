//! What a compressed page holds.

use super::snappy;
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};

/// A way of compression that is built in, with what its decoder needs.
pub(super) enum Codec {
    Snappy,
    Zstd(zstd::bulk::Decompressor<'static>),
}

/// Bytes that a page must have room for beyond its own.
pub(super) const SLACK: usize = snappy::SLACK;

impl Codec {
    /// Whether [`Codec::new`] has a way for it.
    pub(super) fn is_built_in(compression: Compression) -> bool {
        matches!(
            compression,
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)
        )
    }

    /// That of a column; `None` if it is not compressed.
    pub(super) fn new(compression: Compression) -> Result<Option<Self>> {
        Ok(match compression {
            Compression::UNCOMPRESSED => None,
            Compression::SNAPPY => Some(Self::Snappy),
            Compression::ZSTD(_) => Some(Self::Zstd(zstd::bulk::Decompressor::new()?)),
            other => {
                return Err(ParquetError::General(format!("{other} is not built in")));
            }
        })
    }

    /// The most that a byte can become.
    pub(super) fn expansion(&self) -> u64 {
        match self {
            Self::Snappy => snappy::EXPANSION,
            // A block of up to 128 KiB that repeats one byte takes 4.
            Self::Zstd(_) => 1 << 15,
        }
    }

    /// Fills `page` with what `stored` holds, but for its last [`SLACK`] bytes, which are arbitrary afterwards.
    ///
    /// # Errors
    /// When `stored` is damaged or holds less or more.
    pub(super) fn unpack(&mut self, stored: &[u8], page: &mut [u8]) -> Result<()> {
        let expected = page.len() - SLACK;
        match self {
            Self::Snappy => snappy::decompress(stored, page, expected)
                .map_err(|damage| ParquetError::General(damage.to_string())),
            Self::Zstd(decoder) => {
                let found = decoder.decompress_to_buffer(stored, &mut page[..expected])?;
                if found == expected {
                    return Ok(());
                }
                Err(ParquetError::General(format!(
                    "a page of {expected} bytes is one of {found} when it is unpacked"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_opens_and_nothing_else() {
        let (none, other) = (Compression::UNCOMPRESSED, Compression::LZ4_RAW);
        assert!(Codec::is_built_in(none) && Codec::new(none).unwrap().is_none());
        assert!(!Codec::is_built_in(other) && Codec::new(other).is_err());
    }

    #[test]
    fn a_page_is_filled_or_an_error() {
        let text = b"a page of text, and the same page of text".repeat(100);
        let snappy = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        let zstd = zstd::bulk::compress(&text, 3).unwrap();
        for (kind, stored) in [
            (Compression::SNAPPY, snappy),
            (Compression::ZSTD(parquet::basic::ZstdLevel::default()), zstd),
        ] {
            let mut codec = Codec::new(kind).unwrap().unwrap();
            let mut unpack = |stored: &[u8], bytes: usize| {
                let mut page = vec![1; bytes + SLACK];
                codec.unpack(stored, &mut page).map(|()| page[..bytes].to_vec())
            };
            assert_eq!(unpack(&stored, text.len()).unwrap(), text);
            for bytes in [0, 1, text.len() - 1, text.len() + 1, 3 * text.len()] {
                assert!(unpack(&stored, bytes).is_err(), "{bytes}");
            }
            assert!(unpack(&stored[..stored.len() / 2], text.len()).is_err());
            assert!(unpack(&[], text.len()).is_err());
        }
    }
}
