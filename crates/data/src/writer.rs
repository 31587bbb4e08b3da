//! Full shards on their way to the disk: hashed, written and synced on a thread of their own, in order, so that packing goes on
//! meanwhile. After each the resume point that belongs to it; a shard is never without those before it.

use crate::rows::ManifestShard;
use crate::shard::ShardBuffer;
use crate::{Error, PackSettings, PackStats, Result, resume};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Where shards lie, and what each says of all.
#[derive(Debug)]
pub(crate) struct Label {
    pub(crate) out: PathBuf,
    /// The digest of text, tokenizer and settings.
    pub(crate) input: String,
    /// The tokenizer's digest.
    pub(crate) tokenizer: String,
    pub(crate) settings: PackSettings,
}

/// The thread that writes shards.
///
/// # Cost
/// One shard in memory beside the one that is being filled: whoever fills faster than the disk takes, waits.
#[derive(Debug)]
pub(crate) struct ShardWriter {
    /// `None` once no more will come.
    full: Option<SyncSender<Full>>,
    empty: Receiver<ShardBuffer>,
    thread: Option<JoinHandle<Result<Vec<ManifestShard>>>>,
}

/// A shard to write: its rows, the counts up to its end, and where to go on after it.
struct Full {
    buffer: ShardBuffer,
    stats: PackStats,
    point: Option<resume::Snapshot>,
}

impl ShardWriter {
    /// A thread that goes on after `shards`.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(crate) fn start(label: Label, shards: Vec<ManifestShard>) -> Result<Self> {
        // Without room: a shard is handed over when the one before it is written.
        let (full, take_full) = sync_channel(0);
        let (give_empty, empty) = channel();
        let thread = std::thread::Builder::new()
            .name("shards".into())
            .spawn(move || write(&label, shards, &take_full, &give_empty))
            .map_err(|source| Error::Thread { purpose: "writing shards", source })?;
        Ok(Self { full: Some(full), empty, thread: Some(thread) })
    }

    /// Hands `buffer` over as the next shard and puts an empty one in its place. A kill between the shard and its resume point, `point`,
    /// costs the shard, which is written again with the same bytes.
    ///
    /// # Errors
    /// What writing this shard's predecessors has met; then nothing more is written.
    pub(crate) fn write(
        &mut self,
        buffer: &mut ShardBuffer,
        stats: &PackStats,
        point: Option<resume::Snapshot>,
    ) -> Result<()> {
        let fresh = buffer.another();
        let next = Full { buffer: std::mem::replace(buffer, fresh), stats: *stats, point };
        if let Some(full) = &self.full
            && full.send(next).is_ok()
        {
            if let Ok(empty) = self.empty.try_recv() {
                *buffer = empty;
            }
            return Ok(());
        }
        // Nobody takes it: an error, which is told once.
        self.join().and(Err(Error::Stopped))
    }

    /// Waits until everything is written; all shards.
    ///
    /// # Errors
    /// What writing has met.
    pub(crate) fn finish(mut self) -> Result<Vec<ManifestShard>> {
        self.join()
    }

    fn join(&mut self) -> Result<Vec<ManifestShard>> {
        self.full = None;
        let Some(thread) = self.thread.take() else { return Ok(vec![]) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for ShardWriter {
    /// Whoever gives up packing must not find another shard in the folder later.
    fn drop(&mut self) {
        self.full = None;
        if let Some(thread) = self.thread.take() {
            // Its error would come too late, and a panic was told on its thread.
            let _ = thread.join();
        }
    }
}

fn write(
    label: &Label,
    mut shards: Vec<ManifestShard>,
    full: &Receiver<Full>,
    empty: &Sender<ShardBuffer>,
) -> Result<Vec<ManifestShard>> {
    for Full { mut buffer, stats, point } in full {
        let file = format!("rows_{:05}.safetensors", shards.len());
        let path = label.out.join(&file);
        let blake3 = buffer.write(&path, &label.tokenizer, &label.settings, &stats)?;
        shards.push(ManifestShard { file, rows: buffer.rows() as u64, blake3 });
        if let Some(point) = point {
            resume::save(&label.out, &label.input, point, &shards)?;
        }
        buffer.clear();
        // Nobody needs it after the last one.
        let _ = empty.send(buffer);
    }
    Ok(shards)
}
