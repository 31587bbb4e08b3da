//! Opens a folder of shards as one collection of rows, by the manifest that lists them.

mod chat;
mod loader;
mod order;
mod settings;
mod shard;
mod stats;

pub use chat::ChatTokens;
pub use farthing_base::Batch;
pub use loader::{LoadedBatch, Loader, LoaderIter};
pub use order::Order;
pub use settings::{PackRule, PackSettings, Remainder};
#[cfg(all(test, feature = "text"))]
pub(crate) use shard::MAX_HEADER_BYTES;
pub use shard::{Row, SHARD_FORMAT, Shard, TokenType};
pub use stats::{LengthCount, Lengths, PackStats, ReadStats};

use crate::side_by_side::{AsOne, Part, side_by_side};
use crate::{Error, Progress, Result, Silent};
use farthing_base::files;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The manifest's name in a directory of shards.
pub const MANIFEST: &str = "manifest.json";

/// The value of the manifest's key `format`.
pub const MANIFEST_FORMAT: &str = "farthing-manifest-2";

/// Entries that a vocabulary can have: ids are 32-bit numbers that are not negative.
const MOST_VOCAB: usize = 1 << 31;

/// `manifest.json`: the shards of one packed corpus, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: String,
    /// BLAKE3 of everything that the rows depend on: text, tokenizer, settings.
    pub input: String,
    /// BLAKE3 of the canonical tokenizer file that encoded the text.
    pub tokenizer: String,
    /// Entries of that tokenizer's vocabulary.
    pub vocab: usize,
    /// The id that begins every row and every document.
    pub bos: u32,
    /// Tokens per row, T + 1.
    pub row_tokens: usize,
    /// Rows over all shards.
    pub rows: u64,
    /// How the text was packed.
    pub settings: PackSettings,
    /// What became of the corpus.
    pub stats: PackStats,
    /// What was read of the text and what was not: nulls, and what the filter rejected.
    pub read: ReadStats,
    /// Of conversations, the special tokens that tell who says what; then only what the assistant says is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatTokens>,
    /// The shards, in order.
    pub shards: Vec<ManifestShard>,
}

/// One shard of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestShard {
    /// File name beside the manifest.
    pub file: String,
    /// Rows in it.
    pub rows: u64,
    /// BLAKE3 of its header (the bytes between the header's length and the data), in which stands that of its data.
    pub header_blake3: String,
}

impl Manifest {
    /// Reads and checks `dir/manifest.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Manifest`].
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join(MANIFEST);
        let bytes = files::read(&path).map_err(Error::io("read", &path))?;
        let bad = |reason: String| Error::Manifest { path: path.clone(), reason };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if manifest.format != MANIFEST_FORMAT {
            return Err(bad(format!(
                "its format is {:?}, expected {MANIFEST_FORMAT:?}",
                manifest.format
            )));
        }
        let sum = manifest.shards.iter().try_fold(0u64, |sum, s| sum.checked_add(s.rows));
        if sum != Some(manifest.rows) || manifest.rows == 0 {
            return Err(bad(format!(
                "it announces {} rows, its {} shards add up to {}",
                manifest.rows,
                manifest.shards.len(),
                sum.map_or_else(|| "more than 2^64".into(), |s| s.to_string())
            )));
        }
        if manifest.vocab == 0
            || manifest.vocab > MOST_VOCAB
            || manifest.bos as usize >= manifest.vocab
        {
            return Err(bad(format!(
                "it announces a vocabulary of {} entries that begins documents with {}; a vocabulary has at most 2^31 entries, and that one is among them",
                manifest.vocab, manifest.bos
            )));
        }
        for shard in &manifest.shards {
            // A manifest names its neighbours and nothing else.
            if shard.file.is_empty() || shard.file.contains(['/', '\\']) || shard.file == ".." {
                return Err(bad(format!(
                    "shard name {:?} is not the name of a file beside it",
                    shard.file
                )));
            }
        }
        Ok(manifest)
    }

    #[cfg(feature = "text")]
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MANIFEST);
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Manifest { path: path.clone(), reason: e.to_string() })?;
        text.push('\n');
        Ok(farthing_base::files::write(&path, &[text.as_bytes()])?)
    }
}

/// Every row of a packed corpus, by index. Cheap to clone: the mapped shards are shared.
#[derive(Debug, Clone)]
pub struct Rows {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
    /// `starts[s]` is the index of the first row of shard `s`; one more at the end.
    starts: Vec<u64>,
}

/// A shard, and what the manifest says of it.
struct Listed<'a> {
    shard: &'a Shard,
    entry: &'a ManifestShard,
}

impl Part for Listed<'_> {
    fn name(&self) -> &str {
        &self.entry.file
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.shard.bytes())
    }
}

impl Rows {
    /// Maps every shard of `dir/manifest.json` and checks that they belong together. Sizes and headers are
    /// checked, contents are not: see [`Rows::verify`].
    ///
    /// # Errors
    /// Those of [`Manifest::load`] and [`Shard::open`]; [`Error::Manifest`] when a shard has other rows than the manifest says.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let manifest = Manifest::load(dir)?;
        let mut shards = Vec::with_capacity(manifest.shards.len().min(1 << 16));
        let mut starts = vec![0];
        let mut end = 0;
        for entry in &manifest.shards {
            let shard = Shard::open(dir.join(&entry.file))?;
            let tokenizer = shard.metadata().get("tokenizer").map_or("", String::as_str);
            let kind = TokenType::for_vocab(manifest.vocab);
            if shard.rows() as u64 != entry.rows
                || shard.row_tokens() != manifest.row_tokens
                || shard.token_type() != kind
                || tokenizer != manifest.tokenizer
            {
                return Err(Error::Manifest {
                    path: dir.join(MANIFEST),
                    reason: format!(
                        "it lists {} with {} rows of {} tokens ({kind:?}, tokenizer {}), the shard has {} rows of {} ({:?}, tokenizer {tokenizer})",
                        entry.file,
                        entry.rows,
                        manifest.row_tokens,
                        manifest.tokenizer,
                        shard.rows(),
                        shard.row_tokens(),
                        shard.token_type(),
                    ),
                });
            }
            end += entry.rows;
            starts.push(end);
            shards.push(shard);
        }
        let dir = dir.into();
        Ok(Self { inner: Arc::new(Inner { dir, manifest, shards, starts }) })
    }

    /// Rows in all.
    pub fn len(&self) -> u64 {
        self.inner.manifest.rows
    }

    /// Whether there are none; [`Rows::open`] refuses such a corpus.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens per row, T + 1.
    pub fn row_tokens(&self) -> usize {
        self.inner.manifest.row_tokens
    }

    /// Entries of the vocabulary the rows were packed with.
    pub fn vocab(&self) -> usize {
        self.inner.manifest.vocab
    }

    /// Of conversations, the special tokens by which it is known what of a row is learned; `None` where all of it is.
    pub fn chat(&self) -> Option<&ChatTokens> {
        self.inner.manifest.chat.as_ref()
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The shards, in order.
    pub fn shards(&self) -> &[Shard] {
        &self.inner.shards
    }

    /// Row `i`, a view into its shard.
    pub fn row(&self, i: u64) -> Option<Row<'_>> {
        if i >= self.len() {
            return None;
        }
        let starts = &self.inner.starts;
        let shard = starts.partition_point(|&start| start <= i) - 1;
        self.inner.shards[shard].row((i - starts[shard]) as usize)
    }

    /// Copies row `i` into `out`, T + 1 tokens long.
    ///
    /// # Errors
    /// [`Error::BatchShape`] when the row does not exist or `out` has another length.
    pub fn fill(&self, i: u64, out: &mut [i32]) -> Result<()> {
        match self.row(i) {
            Some(Row::U16(row)) if row.len() == out.len() => {
                out.iter_mut().zip(row).for_each(|(o, &t)| *o = i32::from(t));
            }
            Some(Row::U32(row)) if row.len() == out.len() => {
                out.iter_mut().zip(row).for_each(|(o, &t)| *o = t as i32);
            }
            _ => {
                return Err(Error::BatchShape {
                    what: format!(
                        "row {i} was asked for with {} tokens; there are {} rows of {} tokens",
                        out.len(),
                        self.len(),
                        self.row_tokens()
                    ),
                    hint: "the sequence length must be the row length minus one".into(),
                });
            }
        }
        Ok(())
    }

    /// Hashes every shard, header and data, and compares with the manifest.
    ///
    /// # Cost
    /// Reads every byte once, on as many threads as the caller's pool has; BLAKE3 on one core takes gigabytes per second.
    ///
    /// # Errors
    /// [`Error::Shard`], which names the damaged shard.
    pub fn verify(&self) -> Result<()> {
        self.verify_watched(&mut Silent)
    }

    /// [`Rows::verify`], telling `progress` how many bytes are verified.
    ///
    /// # Errors
    /// Those of [`Rows::verify`]; [`Error::Stopped`] soon after `progress` asks for it.
    pub fn verify_watched(&self, progress: &mut dyn Progress) -> Result<()> {
        let shards = self.inner.shards.iter().zip(&self.inner.manifest.shards);
        let parts: Vec<Listed<'_>> = shards.map(|(shard, entry)| Listed { shard, entry }).collect();
        let threads = rayon::current_num_threads();
        let mut progress = AsOne { what: "verifying rows", progress };
        side_by_side(&parts, threads, &mut progress, |part, _, _| {
            part.shard.verify_all(&part.entry.header_blake3)
        })?;
        Ok(())
    }
}
