//! Makes the batches of a training, in an order that depends on seed and step alone. A thread fills the next ones while one is in
//! use.

use super::MOST_VOCAB;
use crate::{ChatTokens, Error, Order, Result, Row, Rows};
use farthing_base::Batch;
use std::ops::{Deref, Range};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;

/// Which batches to make of rows: begun with [`Rows::batches`], used as an iterator.
///
/// Every epoch has each row once, in its own order ([`Order`]), and a step may cross from one epoch into the next. Without
/// [`Loader::until_step`] there is no end.
#[derive(Debug, Clone)]
pub struct Loader {
    rows: Rows,
    step_rows: usize,
    seed: u64,
    steps: Range<u64>,
    rank: (usize, usize),
    micro_rows: Option<usize>,
    context: usize,
    vocab: usize,
    sorted: bool,
    ahead: usize,
}

impl Rows {
    /// Batches of `step_rows` rows, one for each step: `rows.batches(8).seed(1337).from_step(100)`.
    pub fn batches(&self, step_rows: usize) -> Loader {
        Loader {
            step_rows,
            seed: 0,
            steps: 0..u64::MAX,
            rank: (0, 1),
            micro_rows: None,
            context: self.row_tokens() - 1,
            vocab: self.vocab(),
            sorted: false,
            ahead: 2,
            rows: self.clone(),
        }
    }
}

impl Loader {
    /// Another seed is another order; 0 if it is not said.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The first step to make, counted from 0. A training that goes on asks for the steps it has not done.
    #[must_use]
    pub fn from_step(mut self, step: u64) -> Self {
        self.steps.start = step;
        self
    }

    /// The first step that is not made any more.
    #[must_use]
    pub fn until_step(mut self, step: u64) -> Self {
        self.steps.end = step;
        self
    }

    /// This rank's part of each step alone, of `ranks` that share it: [`Order::share`].
    #[must_use]
    pub fn rank(self, rank: usize, ranks: usize) -> Self {
        Self { rank: (rank, ranks), ..self }
    }

    /// Batches of so many rows, several to a step; all that this rank has of a step if it is not said.
    #[must_use]
    pub fn micro_batches(self, rows: usize) -> Self {
        Self { micro_rows: Some(rows), ..self }
    }

    /// Refuses rows that do not have `context` positions (T): those that a model was built for.
    #[must_use]
    pub fn context(self, context: usize) -> Self {
        Self { context, ..self }
    }

    /// Refuses tokens beyond `vocab` entries; that of the rows if it is not said.
    #[must_use]
    pub fn vocab(self, vocab: usize) -> Self {
        Self { vocab, ..self }
    }

    /// Sorts the positions of each batch by token, for a model that sums the gradient of its embedding in that order ([`Batch::order`]).
    #[must_use]
    pub fn sorted(self) -> Self {
        Self { sorted: true, ..self }
    }

    /// Batches that are made beyond the one in use, at least 1; 2 if it is not said.
    #[must_use]
    pub fn ahead(self, batches: usize) -> Self {
        Self { ahead: batches, ..self }
    }

    fn start(self) -> Result<LoaderIter> {
        let Self { rows, step_rows, seed, steps, rank, micro_rows, vocab, ahead, .. } = self;
        let wrong = |what: String, hint: &str| Error::Config { what, hint: hint.into() };
        if ahead == 0 {
            return Err(wrong("0 batches cannot be made ahead".into(), "at least 1; 2 are usual"));
        }
        let context = rows.row_tokens() - 1;
        if self.context != context {
            return Err(Error::BatchShape {
                what: format!(
                    "a batch of {} positions was asked for from rows of {} tokens",
                    self.context,
                    context + 1
                ),
                hint: format!(
                    "use a sequence length of {context}, or pack the text into rows of that length"
                ),
            });
        }
        let order = Order::new(rows.len(), step_rows, seed)?;
        let share = order.share(rank.0, rank.1)?;
        let micro = micro_rows.unwrap_or(share.len());
        if micro == 0 || !share.len().is_multiple_of(micro) {
            let what = format!("{} rows cannot be batches of {micro}", share.len());
            return Err(wrong(what, "give a divisor"));
        }
        let batch = Batch::zeroed(micro, context)?;
        let batch = if self.sorted { batch.with_order() } else { batch };
        let (give_used, take_used) = channel();
        let (give_filled, take_filled) = sync_channel(ahead);
        let mut filler = Filler { rows, order, vocab, counted: None, row: vec![] };
        let work = move || {
            let parts = steps.flat_map(|step| {
                share.clone().step_by(micro).map(move |first| (step, first..first + micro))
            });
            for (step, range) in parts {
                let mut next = match take_used.try_recv() {
                    Ok(used) => used,
                    Err(TryRecvError::Empty) => batch.clone(),
                    // Whoever used the batches is gone.
                    Err(TryRecvError::Disconnected) => return,
                };
                let filled = filler.fill(step, range, &mut next).map(|()| next);
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
        Ok(LoaderIter {
            fault: None,
            filled: Some(take_filled),
            used: Some(give_used),
            thread: Some(thread),
        })
    }
}

impl IntoIterator for Loader {
    type Item = Result<LoadedBatch>;
    type IntoIter = LoaderIter;

    /// Starts the thread. What is wrong with the settings comes in place of the first batch.
    fn into_iter(self) -> LoaderIter {
        let failed =
            |fault| LoaderIter { fault: Some(fault), filled: None, used: None, thread: None };
        self.start().unwrap_or_else(failed)
    }
}

/// The batches of a [`Loader`], in their order; an error comes in place of the batch that could not be made, and ends them.
///
/// Dropping it waits for the one batch that is being filled.
///
/// # Cost
/// As many batches as are made ahead and two more, used again and again, and those that the caller keeps.
#[derive(Debug)]
pub struct LoaderIter {
    fault: Option<Error>,
    filled: Option<Receiver<Result<Batch>>>,
    used: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Iterator for LoaderIter {
    type Item = Result<LoadedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(fault) = self.fault.take() {
            return Some(Err(fault));
        }
        let (filled, used) = (self.filled.as_ref()?, self.used.as_ref()?);
        match filled.recv() {
            Ok(batch) => Some(batch.map(|batch| LoadedBatch { batch, home: used.clone() })),
            Err(_) => {
                self.finish();
                None
            }
        }
    }
}

impl LoaderIter {
    /// Waits for the thread. A panic there, which only a fault of this crate can cause, goes on here: an early end must not look like the
    /// end of the data.
    fn finish(&mut self) {
        (self.filled, self.used) = (None, None);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        if let Err(payload) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(payload);
        }
    }
}

impl Drop for LoaderIter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A [`Batch`] whose memory is used for a later one when this is dropped.
#[derive(Debug)]
pub struct LoadedBatch {
    batch: Batch,
    home: Sender<Batch>,
}

impl Deref for LoadedBatch {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl Drop for LoadedBatch {
    fn drop(&mut self) {
        // The thread may have ended; then there is no use for it.
        let _ = self.home.send(std::mem::take(&mut self.batch));
    }
}

/// Fills batches with the rows of a step.
struct Filler {
    rows: Rows,
    order: Order,
    /// Entries of the vocabulary.
    vocab: usize,
    /// A step and its targets that are learned, for the micro-batches that follow.
    counted: Option<(u64, u64)>,
    /// A row, to count in.
    row: Vec<i32>,
}

impl Filler {
    /// Fills `batch` with the rows `range` of step `step`.
    fn fill(&mut self, step: u64, range: Range<usize>, batch: &mut Batch) -> Result<()> {
        let chat = self.rows.chat().copied();
        let learned = chat.map(|chat| self.learned(step, &chat)).transpose()?;
        batch.fill_rows(|b, inputs, targets| -> Result<()> {
            let index = self.order.row(step, range.start + b);
            // The order is over as many rows as there are.
            let Some(row) = self.rows.row(index) else { return Ok(()) };
            lay_out(row, inputs, targets, self.vocab).map_err(|position| {
                let token = row.get(position).unwrap_or_default();
                Error::TokenOutOfRange { row: index, position, token, vocab: self.vocab }
            })?;
            if let Some(chat) = chat {
                chat.mask(targets);
            }
            Ok(())
        })?;
        batch.set_learned_in_step(learned);
        Ok(())
    }

    /// The targets of a step that are learned.
    fn learned(&mut self, step: u64, chat: &ChatTokens) -> Result<u64> {
        if let Some((counted, learned)) = self.counted
            && counted == step
        {
            return Ok(learned);
        }
        self.row.resize(self.rows.row_tokens(), 0);
        let mut learned = 0;
        for index in self.order.batch(step) {
            self.rows.fill(index, &mut self.row)?;
            learned += chat.mask(&mut self.row[1..]);
        }
        self.counted = Some((step, learned));
        Ok(learned)
    }
}

/// `inputs[t]` = `row[t]`, `targets[t]` = `row[t + 1]`; fails with the first position whose token is not one of `vocab`. Loops that the compiler turns
/// into vector instructions: the largest token, then two copies.
fn lay_out(
    row: Row<'_>,
    inputs: &mut [i32],
    targets: &mut [i32],
    vocab: usize,
) -> Result<(), usize> {
    fn copy<T: Copy>(row: &[T], inputs: &mut [i32], targets: &mut [i32], id: impl Fn(T) -> i32) {
        inputs.iter_mut().zip(row).for_each(|(input, &token)| *input = id(token));
        targets.iter_mut().zip(row.iter().skip(1)).for_each(|(target, &token)| *target = id(token));
    }
    let highest = match row {
        Row::U16(row) => row.iter().copied().max().map(u32::from),
        Row::U32(row) => row.iter().copied().max(),
    };
    let token = highest.unwrap_or(0);
    if token as usize >= vocab.min(MOST_VOCAB) {
        return Err((0..row.len()).find(|&i| row.get(i) == Some(token)).unwrap_or(0));
    }
    match row {
        Row::U16(row) => copy(row, inputs, targets, i32::from),
        Row::U32(row) => copy(row, inputs, targets, u32::cast_signed),
    }
    Ok(())
}
