//! One shard on disk: a safetensors file with the tensor `rows` (N, T+1) and its metadata.
//! It is written row by row and read by mapping and casting it, so that a row is a view.

use crate::files::{finish, temporary};
use crate::rows::ManifestShard;
use crate::token::{Token, TokenType, le_bytes};
use crate::{Error, PackSettings, PackStats, Result};
use memmap2::Mmap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// The value of the metadata key `format`.
pub const SHARD_FORMAT: &str = "farthing-rows-1";

/// Bytes before the data: the header's length and the header, filled up with spaces. A page of memory or two, so that the data begin with a
/// page too; a header whose counts all have as many digits as they can have is shorter.
const HEADER_ROOM: usize = 8192;

/// No header of ours comes near this; a longer one is refused before anything is allocated.
const MAX_HEADER_BYTES: u64 = 1 << 20;

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

/// A shard on its way to the disk: rows are hashed and written as they come, behind room for the header, which is known last.
#[derive(Debug)]
pub(crate) struct NewShard {
    path: PathBuf,
    tmp: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl NewShard {
    /// Begins the shard `path`, which appears under its name when it is finished.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let tmp = temporary(&path);
        let mut file = File::create(&tmp).map_err(Error::io("create", &tmp))?;
        file.write_all(&[b' '; HEADER_ROOM]).map_err(Error::io("write", &tmp))?;
        Ok(Self { path, tmp, file, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    /// Adds whole rows.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn append<T: Token>(&mut self, rows: &[T]) -> Result<()> {
        let bytes = le_bytes(rows);
        self.hasher.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(&bytes).map_err(Error::io("write", &self.tmp))
    }

    /// Writes the header and gives the shard its name. Returns what a manifest says of it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ShardHeader`].
    pub(crate) fn finish(
        mut self,
        tokenizer: &str,
        tokens: TokenType,
        settings: &PackSettings,
        stats: &PackStats,
    ) -> Result<ManifestShard> {
        let row_tokens = settings.row_tokens();
        let rows = self.bytes / (row_tokens * tokens.bytes()) as u64;
        let header = header(&self.hasher.finalize(), rows, tokenizer, tokens, settings, stats)
            .map_err(|reason| Error::ShardHeader { path: self.path.clone(), reason })?;
        let write = |file: &mut File| {
            file.rewind()?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)
        };
        write(&mut self.file).map_err(Error::io("write", &self.tmp))?;
        finish(&self.file, &self.tmp, &self.path)?;
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ManifestShard { file, rows, header_blake3: header_digest(&header) })
    }
}

impl Drop for NewShard {
    /// A shard that is given up takes no room on the disk; one that is finished has another name.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.tmp);
    }
}

/// A shard's header, which fills the room before the data.
fn header(
    data: &blake3::Hash,
    rows: u64,
    tokenizer: &str,
    tokens: TokenType,
    settings: &PackSettings,
    stats: &PackStats,
) -> std::result::Result<Vec<u8>, String> {
    let row_tokens = settings.row_tokens();
    let json = |v: serde_json::Result<String>| v.map_err(|e| e.to_string());
    // BTreeMap: the header's bytes must not depend on a hash order.
    let metadata = BTreeMap::from([
        ("data_blake3", data.to_hex().to_string()),
        ("format", SHARD_FORMAT.to_string()),
        ("row_tokens", row_tokens.to_string()),
        ("rows", rows.to_string()),
        ("settings", json(serde_json::to_string(settings))?),
        ("stats", json(serde_json::to_string(stats))?),
        ("tokenizer", tokenizer.to_string()),
    ]);
    let header = serde_json::json!({
        "__metadata__": metadata,
        "rows": {
            "dtype": tokens.name(),
            "shape": [rows, row_tokens],
            "data_offsets": [0, rows * (row_tokens * tokens.bytes()) as u64],
        },
    });
    let mut header = header.to_string().into_bytes();
    if header.len() > HEADER_ROOM - 8 {
        return Err(format!(
            "it has {} bytes, there is room for {}",
            header.len(),
            HEADER_ROOM - 8
        ));
    }
    header.resize(HEADER_ROOM - 8, b' ');
    Ok(header)
}

fn header_digest(header: &[u8]) -> String {
    blake3::hash(header).to_hex().to_string()
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

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Hashes the header and compares with `digest` (from a manifest), then the data and compares with the header: every byte of the
    /// file counts.
    ///
    /// # Errors
    /// [`Error::ShardChecksum`], which names the shard.
    pub fn verify_all(&self, digest: &str) -> Result<()> {
        let found = header_digest(&self.map[8..self.data_start]);
        self.compare("header", digest.to_string(), found)?;
        self.verify()
    }

    fn compare(&self, part: &'static str, expected: String, found: String) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(Error::ShardChecksum { path: self.path.clone(), part, expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_header_has_room() {
        fn fill(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Number(_) => *value = u64::MAX.into(),
                serde_json::Value::Array(all) => all.iter_mut().for_each(fill),
                serde_json::Value::Object(all) => all.values_mut().for_each(fill),
                _ => {}
            }
        }
        // Every count as large as it can be.
        let mut stats = serde_json::to_value(PackStats::default()).unwrap();
        fill(&mut stats);
        let stats: PackStats = serde_json::from_value(stats).unwrap();
        let hash = blake3::hash(b"");
        let settings = PackSettings {
            context: 1 << 40,
            buffer_documents: usize::MAX,
            rule: crate::PackRule::BestFitCropFirst,
            remainder: crate::Remainder::Discard,
        };
        let header =
            header(&hash, 1 << 21, &hash.to_hex(), TokenType::U32, &settings, &stats).unwrap();
        let spaces = header.iter().rev().take_while(|&&b| b == b' ').count();
        assert!(spaces > HEADER_ROOM / 2, "{spaces}");
    }
}
