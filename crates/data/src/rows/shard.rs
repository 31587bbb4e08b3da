//! One shard on disk: a safetensors file with the tensor `rows` (N, T+1) and its metadata. The file is mapped into memory, and a row is a
//! view of it.

use crate::Result;
use farthing_base::tensors::{self, DATA_CHECKSUM, Dtype, Mapped, TensorError};
use farthing_base::unique;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The value of the metadata key `format`.
pub const SHARD_FORMAT: &str = "farthing-rows-1";

/// No header of ours comes near this; a longer one is refused before anything is allocated.
pub(crate) const MAX_HEADER_BYTES: u64 = 1 << 20;

/// How a token is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenType {
    /// Two bytes: vocabularies of up to 65,536 entries.
    U16,
    /// Four bytes.
    U32,
}

impl TokenType {
    /// The narrowest type that holds every id of a vocabulary of `vocab` entries.
    pub fn for_vocab(vocab: usize) -> Self {
        if vocab <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Bytes per token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::U16 => Dtype::U16,
            Self::U32 => Dtype::U32,
        }
    }
}

/// A row, as it lies in the mapped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'a> {
    /// Two bytes per token.
    U16(&'a [u16]),
    /// Four bytes per token.
    U32(&'a [u32]),
}

impl Row<'_> {
    /// Tokens in the row, T + 1.
    pub fn len(&self) -> usize {
        match self {
            Self::U16(row) => row.len(),
            Self::U32(row) => row.len(),
        }
    }

    /// Whether the row has no tokens; no shard holds such a row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Token `i` of the row.
    pub fn get(&self, i: usize) -> Option<u32> {
        match self {
            Self::U16(row) => row.get(i).map(|&t| u32::from(t)),
            Self::U32(row) => row.get(i).copied(),
        }
    }

    /// The tokens as a vector of u32, for tests and tools.
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::U16(row) => row.iter().map(|&t| u32::from(t)).collect(),
            Self::U32(row) => row.to_vec(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    rows: Entry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A mapped shard.
///
/// The file must not be changed while it is mapped: shards appear by rename and are never written again.
#[derive(Debug)]
pub struct Shard {
    mapped: Mapped,
    kind: TokenType,
    rows: usize,
    row_tokens: usize,
    metadata: BTreeMap<String, String>,
}

impl Shard {
    /// Maps a shard and checks its header against the file's size. Reads no rows: see [`Shard::verify`].
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Shard`](crate::Error::Shard) when the file is cut short or its header is not a shard's. A header that lies, about its own length
    /// too, costs no allocation.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |reason: String| TensorError::Header { path: path.into(), reason }.into();
        let mapped = Mapped::open(path, MAX_HEADER_BYTES)?;
        unique::check(mapped.header()).map_err(|e| bad(e.to_string()))?;
        let header: Header =
            serde_json::from_slice(mapped.header()).map_err(|e| bad(e.to_string()))?;
        let kind = match header.rows.dtype.as_str() {
            "U16" => TokenType::U16,
            "U32" => TokenType::U32,
            other => return Err(bad(format!("`rows` has dtype {other}, expected U16 or U32"))),
        };
        let [rows, row_tokens] = header.rows.shape[..] else {
            return Err(bad(format!(
                "`rows` has shape {:?}, expected two dimensions",
                header.rows.shape
            )));
        };
        let [start, end] = header.rows.data_offsets;
        let size = rows.checked_mul(row_tokens).and_then(|n| n.checked_mul(kind.bytes() as u64));
        if rows == 0 || row_tokens < 2 || start != 0 || size != Some(end) {
            return Err(bad(format!(
                "`rows` of {:?} with shape [{rows}, {row_tokens}] does not lie in data_offsets [{start}, {end}]",
                kind.dtype()
            )));
        }
        let data_start = mapped.data_start() as u64;
        let (expected, found) = (data_start.saturating_add(end), mapped.bytes());
        if expected != found {
            return Err(TensorError::Size { path: path.into(), expected, found }.into());
        }
        let aligned = match kind {
            TokenType::U16 => bytemuck::try_cast_slice::<u8, u16>(mapped.data()).err(),
            TokenType::U32 => bytemuck::try_cast_slice::<u8, u32>(mapped.data()).err(),
        };
        if let Some(e) = aligned {
            return Err(bad(format!(
                "the data begin at byte {data_start} and cannot be cast to {:?}: {e}",
                kind.dtype()
            )));
        }
        let metadata = header.metadata;
        if metadata.get("format").map(String::as_str) != Some(SHARD_FORMAT) {
            return Err(bad(format!(
                "its format is {:?}, expected {SHARD_FORMAT:?}",
                metadata.get("format").map_or("", String::as_str)
            )));
        }
        let (rows, row_tokens) = (rows as usize, row_tokens as usize);
        Ok(Self { mapped, kind, rows, row_tokens, metadata })
    }

    /// Rows in the shard.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tokens per row, T + 1.
    pub fn row_tokens(&self) -> usize {
        self.row_tokens
    }

    /// How its tokens are stored.
    pub fn token_type(&self) -> TokenType {
        self.kind
    }

    /// The header's metadata: `format`, `rows`, `row_tokens`, `tokenizer` (digest), `data_blake3`,
    /// `settings` and `stats` (both JSON; the statistics count from the start of the corpus to the end of this shard).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.mapped.path()
    }

    /// Row `i`, a view into the mapped file.
    pub fn row(&self, i: usize) -> Option<Row<'_>> {
        if i >= self.rows {
            return None;
        }
        let bytes = self.row_tokens * self.kind.bytes();
        let bytes = &self.mapped.data()[i * bytes..(i + 1) * bytes];
        // The casts cannot fail: `open` has cast the whole tensor.
        match self.kind {
            TokenType::U16 => bytemuck::try_cast_slice(bytes).ok().map(Row::U16),
            TokenType::U32 => bytemuck::try_cast_slice(bytes).ok().map(Row::U32),
        }
    }

    /// Hashes the data and compares with the checksum in the header.
    ///
    /// # Errors
    /// [`Error::Shard`](crate::Error::Shard), which names the shard.
    pub fn verify(&self) -> Result<()> {
        let expected = self.metadata.get(DATA_CHECKSUM).map_or("", String::as_str);
        self.compare("data", expected, self.mapped.data())
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.mapped.bytes()
    }

    /// Hashes the header and compares with `digest` (from a manifest), then the data and compares with the header: every byte of the
    /// file counts.
    ///
    /// # Errors
    /// [`Error::Shard`](crate::Error::Shard), which names the shard.
    pub fn verify_all(&self, digest: &str) -> Result<()> {
        self.compare("header", digest, self.mapped.header())?;
        self.verify()
    }

    fn compare(&self, part: &'static str, expected: &str, bytes: &[u8]) -> Result<()> {
        let found = blake3::hash(bytes).to_hex();
        Ok(tensors::compare(self.path(), part, expected, &found)?)
    }
}
