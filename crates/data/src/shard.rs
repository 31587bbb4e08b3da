//! One shard on disk: a safetensors file with the tensor `rows` (N, T+1) and its metadata.
//! It is built in memory and written once; reading maps it and casts, so that a row is a view.

use crate::files::write_atomic;
use crate::{Error, PackSettings, PackStats, Result};
use memmap2::Mmap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The value of the metadata key `format`.
pub const SHARD_FORMAT: &str = "farthing-rows-1";

/// No header of ours comes near this; a longer one is refused before anything is allocated.
const MAX_HEADER_BYTES: u64 = 1 << 20;

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

    fn name(self) -> &'static str {
        match self {
            Self::U16 => "U16",
            Self::U32 => "U32",
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

/// Rows on their way into a shard, little-endian.
#[derive(Debug)]
pub(crate) struct ShardBuffer {
    tokens: Stored,
    row_tokens: usize,
    rows: usize,
}

#[derive(Debug)]
enum Stored {
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl ShardBuffer {
    pub(crate) fn new(kind: TokenType, row_tokens: usize) -> Self {
        let tokens = match kind {
            TokenType::U16 => Stored::U16(vec![]),
            TokenType::U32 => Stored::U32(vec![]),
        };
        Self { tokens, row_tokens, rows: 0 }
    }

    /// An empty one for the same rows.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.kind(), self.row_tokens)
    }

    fn kind(&self) -> TokenType {
        match self.tokens {
            Stored::U16(_) => TokenType::U16,
            Stored::U32(_) => TokenType::U32,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.tokens {
            Stored::U16(tokens) => bytemuck::cast_slice(tokens),
            Stored::U32(tokens) => bytemuck::cast_slice(tokens),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn push(&mut self, row: &[u32]) {
        debug_assert_eq!(row.len(), self.row_tokens);
        match &mut self.tokens {
            Stored::U16(tokens) => tokens.extend(row.iter().map(|&t| (t as u16).to_le())),
            Stored::U32(tokens) => tokens.extend(row.iter().map(|t| t.to_le())),
        }
        self.rows += 1;
    }

    /// Forgets the rows and keeps their memory.
    pub(crate) fn clear(&mut self) {
        match &mut self.tokens {
            Stored::U16(tokens) => tokens.clear(),
            Stored::U32(tokens) => tokens.clear(),
        }
        self.rows = 0;
    }

    /// Writes the rows as the shard `path` and returns the digest of the whole file.
    pub(crate) fn write(
        &self,
        path: &Path,
        tokenizer: &str,
        settings: &PackSettings,
        stats: &PackStats,
    ) -> Result<String> {
        let json = |v: serde_json::Result<String>| {
            v.map_err(|e| Error::ShardHeader { path: path.into(), reason: e.to_string() })
        };
        let bytes = self.bytes();
        // BTreeMap: the header's bytes must not depend on a hash order.
        let metadata = BTreeMap::from([
            ("data_blake3", blake3::hash(bytes).to_hex().to_string()),
            ("format", SHARD_FORMAT.to_string()),
            ("row_tokens", self.row_tokens.to_string()),
            ("rows", self.rows.to_string()),
            ("settings", json(serde_json::to_string(settings))?),
            ("stats", json(serde_json::to_string(stats))?),
            ("tokenizer", tokenizer.to_string()),
        ]);
        let header = serde_json::json!({
            "__metadata__": metadata,
            "rows": {
                "dtype": self.kind().name(),
                "shape": [self.rows, self.row_tokens],
                "data_offsets": [0, bytes.len()],
            },
        });
        let mut header = header.to_string().into_bytes();
        // Padded so that the data begin at a multiple of 8, as the casts below need.
        header.resize(header.len().next_multiple_of(8), b' ');
        let length = (header.len() as u64).to_le_bytes();
        write_atomic(path, &[&length, &header, bytes])?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&length).update(&header).update(bytes);
        Ok(hasher.finalize().to_hex().to_string())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    rows: TensorInfo,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A mapped shard.
///
/// The file must not be changed while it is mapped: shards appear by rename and are never written again.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    kind: TokenType,
    data_start: usize,
    rows: usize,
    row_tokens: usize,
    metadata: BTreeMap<String, String>,
}

impl Shard {
    /// Maps a shard and checks its header against the file's size. Reads no rows: see [`Shard::verify`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ShardSize`] when the file is cut short, [`Error::ShardHeader`]. A header that
    /// lies, about its own length too, costs no allocation.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |reason: String| Error::ShardHeader { path: path.into(), reason };
        let file = File::open(path).map_err(Error::io("open", path))?;
        let found = file.metadata().map_err(Error::io("read the size of", path))?.len();
        if found < 8 {
            return Err(bad(format!("the file has {found} bytes, a header has at least 8")));
        }
        // SAFETY: the mapping is read-only, and a shard is never modified once it has its name
        // (`write_atomic`); a process that breaks this rule from outside is beyond our reach.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let mut length = [0; 8];
        length.copy_from_slice(&map[..8]);
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(bad(format!(
                "it announces {length} bytes, at most {MAX_HEADER_BYTES} are allowed"
            )));
        }
        if length + 8 > found {
            return Err(Error::ShardSize { path: path.into(), expected: length + 8, found });
        }
        let data_start = (length + 8) as usize;
        let header: Header =
            serde_json::from_slice(&map[8..data_start]).map_err(|e| bad(e.to_string()))?;
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
                "`rows` of {} with shape [{rows}, {row_tokens}] does not lie in data_offsets [{start}, {end}]",
                kind.name()
            )));
        }
        let expected = (data_start as u64).saturating_add(end);
        if expected != found {
            return Err(Error::ShardSize { path: path.into(), expected, found });
        }
        let aligned = match kind {
            TokenType::U16 => bytemuck::try_cast_slice::<u8, u16>(&map[data_start..]).err(),
            TokenType::U32 => bytemuck::try_cast_slice::<u8, u32>(&map[data_start..]).err(),
        };
        if let Some(e) = aligned {
            return Err(bad(format!(
                "the data begin at byte {data_start} and cannot be cast to {}: {e}",
                kind.name()
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
        Ok(Self { path: path.into(), map, kind, data_start, rows, row_tokens, metadata })
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
        &self.path
    }

    /// Row `i`, a view into the mapped file.
    pub fn row(&self, i: usize) -> Option<Row<'_>> {
        if i >= self.rows {
            return None;
        }
        let bytes = self.row_tokens * self.kind.bytes();
        let start = self.data_start + i * bytes;
        let bytes = &self.map[start..start + bytes];
        // The casts cannot fail: `open` has cast the whole tensor.
        match self.kind {
            TokenType::U16 => bytemuck::try_cast_slice(bytes).ok().map(Row::U16),
            TokenType::U32 => bytemuck::try_cast_slice(bytes).ok().map(Row::U32),
        }
    }

    /// Hashes the data and compares with the checksum in the header.
    ///
    /// # Errors
    /// [`Error::ShardChecksum`], which names the shard.
    pub fn verify(&self) -> Result<()> {
        let expected = self.metadata.get("data_blake3").cloned().unwrap_or_default();
        let found = blake3::hash(&self.map[self.data_start..]).to_hex().to_string();
        self.compare("data", expected, found)
    }

    /// Hashes the whole file, header included, and compares with `digest` (from a manifest).
    ///
    /// # Errors
    /// [`Error::ShardChecksum`], which names the shard.
    pub fn verify_file(&self, digest: &str) -> Result<()> {
        let found = blake3::hash(&self.map).to_hex().to_string();
        self.compare("file", digest.to_string(), found)
    }

    fn compare(&self, part: &'static str, expected: String, found: String) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(Error::ShardChecksum { path: self.path.clone(), part, expected, found })
    }
}
