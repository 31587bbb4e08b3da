//! Text to tokens as a line of three workers: one thread reads parquet, the caller's thread pool encodes, one thread packs and
//! writes. Queues between them are short, so that memory is bounded; the order of documents is that of the files, whatever the number
//! of threads. It knows neither rows nor shards.

use crate::{Error, Position, Progress, ReadStats, Result, Text, Texts, Tokenizer};
use serde::{Deserialize, Serialize};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Documents and bytes of text that travel together: enough work for all cores, little memory.
const CHUNK_TEXTS: usize = 4_096;
const CHUNK_BYTES: usize = 4 << 20;

/// Chunks of text that wait to be encoded, and chunks of tokens that wait to be packed: packing pauses while a shard is
/// synced to the disk, and encoding goes on meanwhile.
const TEXT_QUEUE: usize = 2;
const TOKEN_QUEUE: usize = 12;

/// What was read until after a document, and where to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    /// From the start of the first file.
    pub(crate) read: ReadStats,
}

impl Mark {
    /// Where `texts` stand, which were opened at `from`.
    fn new(from: Self, texts: &Texts) -> Self {
        let mut read = from.read;
        read += *texts.stats();
        Self { position: texts.position(), read }
    }
}

/// A document as tokens, BOS not included.
pub(crate) struct Document {
    pub(crate) tokens: Vec<u32>,
    pub(crate) mark: Mark,
}

type Chunk = Vec<(Text, Mark)>;

/// Reads, encodes and gives to `take`, on a thread of its own, every document of `texts`, which were opened at `from`. Returns where
/// reading ended.
///
/// # Errors
/// That of `take` if it fails, else the first of reading and encoding; [`Error::Stopped`].
pub(crate) fn feed(
    texts: Texts,
    from: Mark,
    tokenizer: &Tokenizer,
    progress: &mut dyn Progress,
    mut take: impl FnMut(Document) -> Result<()> + Send,
) -> Result<Mark> {
    let (to_encode, encode_from) = sync_channel(TEXT_QUEUE);
    let (to_pack, pack_from) = sync_channel::<Vec<Document>>(TOKEN_QUEUE);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read(texts, from, &to_encode));
        let packing = scope.spawn(move || pack_from.into_iter().flatten().try_for_each(&mut take));
        let encoded = encode(&encode_from, from, tokenizer, progress, &to_pack);
        // Whoever waits for a queue sees that its other end is gone, and ends.
        drop((encode_from, to_pack));
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        packed.and(encoded).and(read)
    })
}

/// Reads chunks of text until the end, an error, or until nobody takes them.
fn read(mut texts: Texts, from: Mark, to: &SyncSender<Chunk>) -> Result<Mark> {
    loop {
        let (mut chunk, mut bytes, mut fault) = (Chunk::new(), 0, None);
        while chunk.len() < CHUNK_TEXTS && bytes < CHUNK_BYTES {
            match texts.next_text() {
                Some(Ok(text)) => {
                    bytes += text.len();
                    chunk.push((text, Mark::new(from, &texts)));
                }
                Some(Err(e)) => {
                    fault = Some(e);
                    break;
                }
                None => break,
            }
        }
        let end = chunk.is_empty();
        // What was read before a fault is packed, as it would have been without threads.
        let gone = !end && to.send(chunk).is_err();
        if let Some(fault) = fault {
            return Err(fault);
        }
        if end || gone {
            return Ok(Mark::new(from, &texts));
        }
    }
}

/// Encodes chunk after chunk on the caller's pool.
fn encode(
    from: &Receiver<Chunk>,
    start: Mark,
    tokenizer: &Tokenizer,
    progress: &mut dyn Progress,
    to: &SyncSender<Vec<Document>>,
) -> Result<()> {
    let mut seen = start.read.rows();
    for chunk in from {
        if progress.stopped() {
            return Err(Error::Stopped);
        }
        let (texts, marks): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
        let tokens = tokenizer.encode_batch(&texts)?;
        drop(texts);
        let rows = marks.last().map_or(seen, |mark| mark.read.rows());
        let documents = tokens.into_iter().zip(marks);
        let documents = documents.map(|(tokens, mark)| Document { tokens, mark }).collect();
        if to.send(documents).is_err() {
            // Packing has failed, and says why.
            return Ok(());
        }
        progress.advance(rows - seen);
        seen = rows;
    }
    Ok(())
}
