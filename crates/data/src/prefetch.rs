//! Batches made ahead of their use, on a thread of their own. The batches and their order are those of [`BatchReader::read`]; only
//! the time at which they are made differs.

use crate::{Batch, BatchReader, Error, Result};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// One batch to make: the step, and which of its rows.
pub type Part = (u64, Range<usize>);

/// A thread that fills batches ahead of the one in use.
///
/// The thread ends with the parts, at the first error, or when this is dropped, whichever comes first; dropping waits for the one
/// batch that is being filled.
///
/// # Cost
/// `ahead` + 1 batches, allocated once and used again and again.
#[derive(Debug)]
pub struct Prefetch {
    /// `None` only while dropping.
    filled: Option<Receiver<Result<Batch>>>,
    empty: Option<SyncSender<Batch>>,
    current: Option<Batch>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Begins to fill copies of `batch` with `parts`, at most `ahead` of them beyond the one in use.
    ///
    /// # Errors
    /// [`Error::Config`] when `ahead` is zero, [`Error::Thread`].
    pub fn new(
        mut reader: BatchReader,
        parts: impl Iterator<Item = Part> + Send + 'static,
        batch: &Batch,
        ahead: usize,
    ) -> Result<Self> {
        if ahead == 0 {
            return Err(Error::Config {
                what: "0 batches ahead is no prefetching".into(),
                hint: "at least 1; 2 hides what a slow batch costs".into(),
            });
        }
        let (give_empty, take_empty) = sync_channel::<Batch>(ahead + 1);
        let (give_filled, take_filled) = sync_channel(ahead);
        for _ in 0..=ahead {
            // Cannot fail: the channel has room for all of them and its receiver lives.
            let _ = give_empty.send(batch.clone());
        }
        let work = move || {
            for (step, range) in parts {
                // Whoever used the batches is gone.
                let Ok(mut batch) = take_empty.recv() else { return };
                let filled = reader.read(step, range, &mut batch).map(|()| batch);
                let failed = filled.is_err();
                if give_filled.send(filled).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("batches".into())
            .spawn(work)
            .map_err(|source| Error::Thread { purpose: "making batches ahead", source })?;
        Ok(Self {
            filled: Some(take_filled),
            empty: Some(give_empty),
            current: None,
            thread: Some(thread),
        })
    }

    /// The next batch, valid until the next call; `None` after the last part and after an error.
    ///
    /// # Errors
    /// Those of [`BatchReader::read`], in the place of the batch that could not be made.
    pub fn next_batch(&mut self) -> Option<Result<&Batch>> {
        if let (Some(used), Some(empty)) = (self.current.take(), &self.empty) {
            // The thread may have ended; then there is no use for the batch.
            let _ = empty.send(used);
        }
        match self.filled.as_ref()?.recv() {
            Ok(Ok(batch)) => Some(Ok(self.current.insert(batch))),
            Ok(Err(error)) => Some(Err(error)),
            Err(_) => {
                self.finish();
                None
            }
        }
    }

    /// Waits for the thread. A panic there, which only a fault of this crate or of the iterator of parts can cause, goes on here: an
    /// early end must not look like the end of the data.
    fn finish(&mut self) {
        (self.filled, self.empty) = (None, None);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        if let Err(payload) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(payload);
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.finish();
    }
}
