//! Text to tokens, beat by beat: while one chunk of documents is packed, the next is encoded and the one after that is read, all on the
//! caller's thread pool, so that no thread waits for another while there is work. Memory is bounded by three chunks; the order of
//! documents is that of the files, whatever the number of threads. It knows neither rows nor shards.

use crate::token::{Token, Tokens};
use crate::{Error, Position, Progress, ReadStats, Result, Text, Texts, Tokenizer};
use serde::{Deserialize, Serialize};

/// Documents and bytes of text that travel together: little memory, and enough work that what a core must fetch again when it turns from
/// one kind of work to another does not show.
const CHUNK_TEXTS: usize = 1 << 15;
const CHUNK_BYTES: usize = 24 << 20;

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
pub(crate) struct Document<T> {
    pub(crate) tokens: Tokens<T>,
    pub(crate) mark: Mark,
}

/// Reads, encodes and gives to `take`, in their order, all documents of `texts`, which were opened at `from`. Returns where reading
/// ended.
///
/// # Errors
/// That of `take` if it fails, else the first of reading and encoding; what was read before it is packed, as it would have been
/// document by document. [`Error::Stopped`].
pub(crate) fn feed<T: Token>(
    texts: Texts,
    from: Mark,
    tokenizer: &Tokenizer,
    progress: &mut dyn Progress,
    mut take: impl FnMut(Document<T>) -> Result<()> + Send,
) -> Result<Mark> {
    let mut reader = Reader { texts, from, end: None };
    let beats = || {
        let mut documents: Vec<Document<T>> = vec![];
        let (mut texts, mut marks) = reader.chunk();
        let mut seen = from.read.rows();
        loop {
            if documents.is_empty()
                && texts.is_empty()
                && let Some(end) = reader.end.take()
            {
                return end;
            }
            if progress.stopped() {
                return Err(Error::Stopped);
            }
            let ready = std::mem::take(&mut documents);
            let pack = || ready.into_iter().try_for_each(&mut take);
            // The first is done here, the others by whichever threads have nothing to do.
            let ((packed, next), tokens) = rayon::join(
                || rayon::join(pack, || reader.chunk()),
                || tokenizer.encode_shared(&texts),
            );
            packed?;
            let rows = marks.last().map_or(seen, |mark| mark.read.rows());
            progress.advance(rows - seen);
            seen = rows;
            documents = tokens?
                .into_iter()
                .zip(marks)
                .map(|(tokens, mark)| Document { tokens, mark })
                .collect();
            (texts, marks) = next;
        }
    };
    // Inside the pool from the first beat to the last, so that it is entered once.
    rayon::join(beats, || ()).0
}

/// Reads chunks of text until the end or an error.
struct Reader {
    texts: Texts,
    from: Mark,
    /// Where reading ended, or by what.
    end: Option<Result<Mark>>,
}

impl Reader {
    /// The next texts, and where reading stood after each; none once reading has ended.
    fn chunk(&mut self) -> (Vec<Text>, Vec<Mark>) {
        let (mut texts, mut marks, mut bytes) = (vec![], vec![], 0);
        while self.end.is_none() && texts.len() < CHUNK_TEXTS && bytes < CHUNK_BYTES {
            match self.texts.next_text() {
                Some(Ok(text)) => {
                    bytes += text.len();
                    texts.push(text);
                    marks.push(Mark::new(self.from, &self.texts));
                }
                Some(Err(fault)) => self.end = Some(Err(fault)),
                None => self.end = Some(Ok(Mark::new(self.from, &self.texts))),
            }
        }
        (texts, marks)
    }
}
