//! Writes rows to shards. The thread that packs also hashes and writes the rows, while they are in its cache. Another thread syncs
//! each whole shard and gives it its name, in order, and after each shard saves the resume point that belongs to it.

use super::resume;
use super::tokens::{Token, le_bytes};
use crate::{Error, ManifestShard, PackSettings, PackStats, Result, SHARD_FORMAT, TokenType};
use farthing_base::tensors::{GrowingWriter, TensorError, TensorInfo};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes before the data: the header's length and the header, filled up with spaces. A page of memory or two, so that the data begin with a
/// page too; a header whose counts all have as many digits as they can have is shorter.
const HEADER_ROOM: usize = 8192;

/// Where shards lie, and what each says of all.
#[derive(Debug)]
pub(crate) struct Label {
    pub(crate) out: PathBuf,
    /// The digest of text, tokenizer and settings.
    pub(crate) input: String,
    /// The tokenizer's digest.
    pub(crate) tokenizer: String,
    pub(crate) tokens: TokenType,
    pub(crate) settings: PackSettings,
}

/// A shard on its way to the disk: rows are hashed and written as they come, behind room for the header, which is known last.
#[derive(Debug)]
struct NewShard {
    path: PathBuf,
    file: GrowingWriter,
}

impl NewShard {
    /// Begins the shard `path`, which appears under its name when it is finished.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    fn create(path: PathBuf) -> Result<Self> {
        let file = GrowingWriter::create(&path, HEADER_ROOM)?;
        Ok(Self { path, file })
    }

    /// Adds whole rows.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    fn append<T: Token>(&mut self, rows: &[T]) -> Result<()> {
        Ok(self.file.write(&le_bytes(rows))?)
    }

    /// Writes the header and gives the shard its name. Returns what a manifest says of it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Shard`](crate::Error::Shard).
    fn finish(
        self,
        tokenizer: &str,
        tokens: TokenType,
        settings: &PackSettings,
        stats: &PackStats,
    ) -> Result<ManifestShard> {
        let Self { path, file } = self;
        let row_tokens = settings.row_tokens();
        let rows = file.bytes() / (row_tokens * tokens.bytes()) as u64;
        let json = |v: serde_json::Result<String>| {
            v.map_err(|e| TensorError::Header { path: path.clone(), reason: e.to_string() })
        };
        let metadata = BTreeMap::from([
            ("format", SHARD_FORMAT.to_string()),
            ("row_tokens", row_tokens.to_string()),
            ("rows", rows.to_string()),
            ("settings", json(serde_json::to_string(settings))?),
            ("stats", json(serde_json::to_string(stats))?),
            ("tokenizer", tokenizer.to_string()),
        ]);
        let (name, shape) = ("rows".to_string(), vec![rows as usize, row_tokens]);
        let rows_info = TensorInfo { name, dtype: tokens.dtype(), shape };
        let header_blake3 = file.finish(rows_info, &metadata)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ManifestShard { file, rows, header_blake3 })
    }
}

/// The shard that is open, and the thread that finishes shards.
///
/// # Cost
/// At most one whole shard waits while another is synced; then packing waits, too.
#[derive(Debug)]
pub(crate) struct ShardWriter {
    out: PathBuf,
    /// Shards begun so far.
    begun: usize,
    open: Option<NewShard>,
    /// `None` once no more will come.
    whole: Option<SyncSender<Whole>>,
    thread: Option<JoinHandle<Result<Vec<ManifestShard>>>>,
}

/// A shard whose rows are written: the counts up to its end, and where to go on after it.
struct Whole {
    shard: NewShard,
    stats: PackStats,
    point: Option<resume::Snapshot>,
}

impl ShardWriter {
    /// Goes on after `shards`.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(crate) fn start(label: Label, shards: Vec<ManifestShard>) -> Result<Self> {
        let (out, begun) = (label.out.clone(), shards.len());
        // Without room: a shard is handed over when the one before it is finished.
        let (whole, take_whole) = sync_channel(0);
        let thread = std::thread::Builder::new()
            .name("shards".into())
            .spawn(move || finish(&label, shards, &take_whole))
            .map_err(|source| Error::Thread { purpose: "writing shards", source })?;
        let (whole, thread) = (Some(whole), Some(thread));
        Ok(Self { out, begun, open: None, whole, thread })
    }

    /// Adds whole rows to the shard that is open, or to a new one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn rows<T: Token>(&mut self, rows: &[T]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let shard = match &mut self.open {
            Some(shard) => shard,
            none => {
                let name = format!("rows_{:05}.safetensors", self.begun);
                self.begun += 1;
                none.insert(NewShard::create(self.out.join(name))?)
            }
        };
        shard.append(rows)
    }

    /// Ends the shard that is open. A kill between the shard and its resume point, `point`, costs the shard, which is written again
    /// with the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; what finishing its predecessors has met: then nothing more is written.
    pub(crate) fn end_shard(
        &mut self,
        stats: &PackStats,
        point: Option<resume::Snapshot>,
    ) -> Result<()> {
        let Some(shard) = self.open.take() else { return Ok(()) };
        let whole = Whole { shard, stats: *stats, point };
        if self.whole.as_ref().is_some_and(|thread| thread.send(whole).is_ok()) {
            return Ok(());
        }
        // Nobody takes it: an error, which is told once.
        self.join().and(Err(Error::Stopped))
    }

    /// Waits until everything is written; all shards.
    ///
    /// # Errors
    /// What finishing them has met.
    pub(crate) fn finish(mut self) -> Result<Vec<ManifestShard>> {
        self.join()
    }

    fn join(&mut self) -> Result<Vec<ManifestShard>> {
        self.whole = None;
        let Some(thread) = self.thread.take() else { return Ok(vec![]) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for ShardWriter {
    /// Whoever gives up packing must not find another shard in the folder later.
    fn drop(&mut self) {
        self.whole = None;
        if let Some(thread) = self.thread.take() {
            // Its error would come too late, and a panic was told on its thread.
            let _ = thread.join();
        }
    }
}

fn finish(
    label: &Label,
    mut shards: Vec<ManifestShard>,
    whole: &Receiver<Whole>,
) -> Result<Vec<ManifestShard>> {
    for Whole { shard, stats, point } in whole {
        shards.push(shard.finish(&label.tokenizer, label.tokens, &label.settings, &stats)?);
        if let Some(point) = point {
            resume::save(&label.out, &label.input, point, &shards)?;
        }
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::MAX_HEADER_BYTES;
    use farthing_base::tensors::Mapped;

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
        let hash = blake3::hash(b"").to_hex();
        let settings = PackSettings {
            context: 1 << 40,
            buffer_documents: usize::MAX,
            rule: crate::PackRule::BestFitCropFirst,
            remainder: crate::Remainder::Discard,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard");
        let shard = NewShard::create(path.clone()).unwrap();
        shard.finish(&hash, TokenType::U32, &settings, &stats).unwrap();
        let mapped = Mapped::open(&path, MAX_HEADER_BYTES).unwrap();
        assert_eq!(mapped.data_start(), HEADER_ROOM);
        let spaces = mapped.header().iter().rev().take_while(|&&b| b == b' ').count();
        // A shard without rows: three numbers have one digit each here, and at most twenty.
        assert!(spaces > HEADER_ROOM / 2 + 60, "{spaces}");
    }
}
