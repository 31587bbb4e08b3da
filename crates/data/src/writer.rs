//! Rows on their way to the disk: hashed, written and synced on a thread of their own, in order, so that packing goes on meanwhile.
//! After each shard the resume point that belongs to it; a shard is never without those before it.

use crate::rows::ManifestShard;
use crate::shard::NewShard;
use crate::token::Token;
use crate::{Error, PackSettings, PackStats, Result, resume};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Bytes of rows that are handed over together: few enough to stay in a core's cache from the packer to the file.
const BLOCK_BYTES: usize = 1 << 19;

/// Blocks that may wait for the disk, so that packing goes on while a shard is synced.
const WAITING: usize = 128;

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

/// The thread that writes shards, and the rows that go to it next.
///
/// # Cost
/// One block of rows, and where the disk is slower than packing, up to 64 MiB of them: then packing waits.
#[derive(Debug)]
pub(crate) struct ShardWriter<T> {
    block: Vec<T>,
    /// `None` once no more will come.
    steps: Option<SyncSender<Step<T>>>,
    empty: Receiver<Vec<T>>,
    thread: Option<JoinHandle<Result<Vec<ManifestShard>>>>,
}

enum Step<T> {
    /// Rows of the shard that is open, or of a new one.
    Rows(Vec<T>),
    /// The shard is whole: the counts up to its end, and where to go on after it.
    End(PackStats, Option<resume::Snapshot>),
}

impl<T: Token> ShardWriter<T> {
    /// A thread that goes on after `shards`.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(crate) fn start(label: Label, shards: Vec<ManifestShard>) -> Result<Self> {
        let (steps, take_steps) = sync_channel(WAITING);
        let (give_empty, empty) = channel();
        let thread = std::thread::Builder::new()
            .name("shards".into())
            .spawn(move || write(&label, shards, &take_steps, &give_empty))
            .map_err(|source| Error::Thread { purpose: "writing shards", source })?;
        Ok(Self { block: vec![], steps: Some(steps), empty, thread: Some(thread) })
    }

    /// Writes one more row of the shard that is open.
    ///
    /// # Errors
    /// What writing the rows before it has met; then nothing more is written.
    pub(crate) fn row(&mut self, row: &[T]) -> Result<()> {
        self.block.extend_from_slice(row);
        if self.block.len() < BLOCK_BYTES / size_of::<T>() {
            return Ok(());
        }
        self.hand_over()
    }

    /// Ends the shard that is open. A kill between the shard and its resume point, `point`, costs the shard, which is written again
    /// with the same bytes.
    ///
    /// # Errors
    /// As [`ShardWriter::row`].
    pub(crate) fn end_shard(
        &mut self,
        stats: &PackStats,
        point: Option<resume::Snapshot>,
    ) -> Result<()> {
        self.hand_over()?;
        self.send(Step::End(*stats, point))
    }

    /// Waits until everything is written; all shards.
    ///
    /// # Errors
    /// What writing has met.
    pub(crate) fn finish(mut self) -> Result<Vec<ManifestShard>> {
        self.join()
    }

    /// Gives the block away and begins another.
    fn hand_over(&mut self) -> Result<()> {
        let fresh = self.empty.try_recv().unwrap_or_default();
        let block = std::mem::replace(&mut self.block, fresh);
        self.send(Step::Rows(block))
    }

    fn send(&mut self, step: Step<T>) -> Result<()> {
        if self.steps.as_ref().is_some_and(|steps| steps.send(step).is_ok()) {
            return Ok(());
        }
        // Nobody takes it: an error, which is told once.
        self.join().and(Err(Error::Stopped))
    }

    fn join(&mut self) -> Result<Vec<ManifestShard>> {
        self.steps = None;
        let Some(thread) = self.thread.take() else { return Ok(vec![]) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<T> Drop for ShardWriter<T> {
    /// Whoever gives up packing must not find another shard in the folder later.
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            // Its error would come too late, and a panic was told on its thread.
            let _ = thread.join();
        }
    }
}

fn write<T: Token>(
    label: &Label,
    mut shards: Vec<ManifestShard>,
    steps: &Receiver<Step<T>>,
    empty: &Sender<Vec<T>>,
) -> Result<Vec<ManifestShard>> {
    let mut open: Option<(String, NewShard)> = None;
    for step in steps {
        match step {
            Step::Rows(mut rows) => {
                if open.is_none() {
                    let name = format!("rows_{:05}.safetensors", shards.len());
                    let shard = NewShard::create(label.out.join(&name))?;
                    open = Some((name, shard));
                }
                if let Some((_, shard)) = &mut open {
                    shard.append(&rows)?;
                }
                rows.clear();
                // Nobody needs it after the last one.
                let _ = empty.send(rows);
            }
            Step::End(stats, point) => {
                let Some((file, shard)) = open.take() else { continue };
                let (rows, header_blake3) =
                    shard.finish::<T>(&label.tokenizer, &label.settings, &stats)?;
                shards.push(ManifestShard { file, rows, header_blake3 });
                if let Some(point) = point {
                    resume::save(&label.out, &label.input, point, &shards)?;
                }
            }
        }
    }
    Ok(shards)
}
