//! Rows on their way to the disk: hashed and written where they are packed, while they are in that core's cache. What takes a disk's time,
//! syncing a whole shard and giving it its name, is done by a thread of its own, in order, so that packing goes on meanwhile. After each
//! shard comes the resume point that belongs to it; a shard is never without those before it.

use crate::rows::ManifestShard;
use crate::shard::NewShard;
use crate::token::{Token, TokenType};
use crate::{Error, PackSettings, PackStats, Result, resume};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

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

/// The shard that is open, and the thread that finishes shards.
///
/// # Cost
/// Whoever fills shards faster than the disk takes them, waits when one is synced and the next is whole.
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
