//! Rows of tokens and the tokens that follow them: what a loader makes, a model learns from and an evaluation scores.

use std::borrow::Cow;

use crate::Hint;

/// The target of a position at which nothing is to be predicted: its loss is 0.
pub const IGNORE: i32 = -1;

/// Highest ids up to which positions are sorted by counting: no tokenizer comes near, and more is what a file says that lies.
const MOST_COUNTED: usize = 1 << 22;

/// B rows of T tokens, in buffers that can be filled again and again.
///
/// # Shapes
/// `inputs` (B, T) and `targets` (B, T), row-major; `targets[b, t]` is the token after `inputs[b, t]`, or [`IGNORE`].
///
/// # Invariants
/// B·T is at least 1 and fits an i32; no input is negative and no target below −1; the order, where there is one, is that of the inputs. All of it is
/// checked when the batch is made or filled, so that nobody who is handed one checks it again; a vocabulary is compared with one number,
/// [`Batch::check_vocab`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    tokens: usize,
    inputs: Vec<i32>,
    targets: Vec<i32>,
    highest: i32,
    order: Option<Order>,
    learned_in_step: Option<u64>,
}

/// Positions sorted by (id, position), and where each id's begin, which the sort needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Order {
    positions: Vec<i32>,
    starts: Vec<u32>,
}

/// What makes no batch, or one that a model cannot read.
#[derive(thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchError {
    /// Sizes that are no rows.
    #[error("batch: {what}")]
    Shape {
        /// What does not fit, with the figures.
        what: String,
        /// What would.
        hint: &'static str,
    },
    /// An id that is none, or of another vocabulary.
    #[error("batch: {what} {id} at row {row}, position {position}{}", entries(*vocab))]
    Token {
        /// "input", "target", or "token" where a text goes on.
        what: &'static str,
        /// The id.
        id: i64,
        /// The row of the batch, from 0.
        row: usize,
        /// The position in the row, from 0.
        position: usize,
        /// The entries of the vocabulary, where it is known.
        vocab: Option<usize>,
    },
}

fn entries(vocab: Option<usize>) -> String {
    vocab.map_or_else(String::new, |n| format!("; the vocabulary has {n} entries"))
}

crate::debug_with_hint!(BatchError);

impl Hint for BatchError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match self {
            Self::Shape { hint, .. } => hint,
            Self::Token { vocab: Some(_), .. } => "data and model must share one tokenizer",
            Self::Token { vocab: None, .. } => {
                "ids are 0 or more; a target of -1 is one that is not learned"
            }
        }))
    }
}

impl Default for Batch {
    /// The smallest there is: one row of one token 0, with nothing to predict.
    fn default() -> Self {
        let (inputs, targets) = (vec![0], vec![IGNORE]);
        Self { tokens: 1, inputs, targets, highest: 0, order: None, learned_in_step: None }
    }
}

impl Batch {
    /// Rows of `tokens` positions (T), as many as `inputs` has.
    ///
    /// # Errors
    /// [`BatchError::Shape`] unless both have B·T ids, at least one; [`BatchError::Token`].
    pub fn new(
        tokens: usize,
        inputs: impl Into<Vec<i32>>,
        targets: impl Into<Vec<i32>>,
    ) -> Result<Self, BatchError> {
        let (inputs, targets) = (inputs.into(), targets.into());
        let n = inputs.len();
        let shape = |what: String, hint| Err(BatchError::Shape { what, hint });
        if tokens == 0 || n == 0 || !n.is_multiple_of(tokens) || i32::try_from(n).is_err() {
            let hint = "give whole rows, at least one, and fewer than 2^31 positions";
            return shape(format!("{n} inputs in rows of {tokens} tokens"), hint);
        }
        if targets.len() != n {
            let what = format!("{n} inputs and {} targets", targets.len());
            return shape(what, "give one target per input");
        }
        let mut batch =
            Self { tokens, inputs, targets, highest: 0, order: None, learned_in_step: None };
        batch.highest = batch.check()?;
        Ok(batch)
    }

    /// Buffers for `rows` rows (B) of `tokens` positions (T), filled with token 0.
    ///
    /// # Errors
    /// [`BatchError::Shape`] when a size is 0 or B·T does not fit an i32.
    pub fn zeroed(rows: usize, tokens: usize) -> Result<Self, BatchError> {
        let n = rows.checked_mul(tokens).filter(|&n| n > 0 && i32::try_from(n).is_ok());
        let n = n.ok_or_else(|| BatchError::Shape {
            what: format!("{rows} rows of {tokens} tokens"),
            hint: "give at least 1 of each, and fewer than 2^31 positions",
        })?;
        Self::new(tokens, vec![0; n], vec![0; n])
    }

    /// The same with the order of its inputs, now and whenever it is filled.
    #[must_use]
    pub fn with_order(mut self) -> Self {
        self.order.get_or_insert_default().sort(&self.inputs, self.highest);
        self
    }

    /// Rows, B.
    pub fn rows(&self) -> usize {
        self.inputs.len() / self.tokens
    }

    /// Positions per row, T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// (B, T): the tokens that the model reads.
    pub fn inputs(&self) -> &[i32] {
        &self.inputs
    }

    /// (B, T): the tokens that it is to predict.
    pub fn targets(&self) -> &[i32] {
        &self.targets
    }

    /// (B·T): the positions 0..B·T sorted by their input, equal ones in increasing position, so that the gradient of an embedding is one run for each
    /// id and is summed in one fixed order; `None` in a batch that was not asked for it.
    pub fn order(&self) -> Option<&[i32]> {
        self.order.as_ref().map(|order| order.positions.as_slice())
    }

    /// Where not all targets are learned, those that are, of the whole step that this batch is a part of: what a mean over them divides by, whichever
    /// micro-batch or rank has them.
    pub fn learned_in_step(&self) -> Option<u64> {
        self.learned_in_step
    }

    /// Says how many targets of the whole step are learned; filling the batch forgets it.
    pub fn set_learned_in_step(&mut self, targets: Option<u64>) {
        self.learned_in_step = targets;
    }

    /// Takes over tokens of one's own, shaped like the batch.
    ///
    /// # Errors
    /// As [`Batch::new`]; the batch then holds zeros.
    pub fn fill(&mut self, inputs: &[i32], targets: &[i32]) -> Result<(), BatchError> {
        let n = self.inputs.len();
        if inputs.len() != n || targets.len() != n {
            let what = format!(
                "{} inputs and {} targets for {} rows of {} tokens",
                inputs.len(),
                targets.len(),
                self.rows(),
                self.tokens
            );
            return Err(BatchError::Shape { what, hint: "give rows × tokens of each" });
        }
        let tokens = self.tokens;
        self.fill_rows(|b, to_inputs, to_targets| {
            let row = b * tokens..(b + 1) * tokens;
            to_inputs.copy_from_slice(&inputs[row.clone()]);
            to_targets.copy_from_slice(&targets[row]);
            Ok(())
        })
    }

    /// Fills the batch row by row: `fill` is given the number of the row, its inputs (T) and its targets (T), which hold whatever they held before.
    ///
    /// # Errors
    /// The first that `fill` returns; [`BatchError::Token`]. The batch then holds zeros.
    ///
    /// # Cost
    /// One pass over the ids to check them and, with an order, a counting sort. Once its buffers have seen the highest id, nothing is allocated.
    pub fn fill_rows<E: From<BatchError>>(
        &mut self,
        mut fill: impl FnMut(usize, &mut [i32], &mut [i32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.learned_in_step = None;
        let inputs = self.inputs.chunks_exact_mut(self.tokens);
        let mut rows = inputs.zip(self.targets.chunks_exact_mut(self.tokens)).enumerate();
        let filled = rows.try_for_each(|(b, (inputs, targets))| fill(b, inputs, targets));
        let checked = filled.and_then(|()| Ok(self.check()?));
        if checked.is_err() {
            self.inputs.fill(0);
            self.targets.fill(0);
        }
        self.highest = *checked.as_ref().unwrap_or(&0);
        if let Some(order) = &mut self.order {
            order.sort(&self.inputs, self.highest);
        }
        checked.map(|_| ())
    }

    /// Refuses ids that a vocabulary of `vocab` entries has not.
    ///
    /// # Errors
    /// [`BatchError::Token`], the first of them.
    ///
    /// # Cost
    /// One comparison where all is well.
    pub fn check_vocab(&self, vocab: usize) -> Result<(), BatchError> {
        if (self.highest as usize) < vocab {
            return Ok(());
        }
        Err(self.token(Some(vocab), |id| id >= 0 && id as usize >= vocab))
    }

    /// The highest id, if all are ids.
    fn check(&self) -> Result<i32, BatchError> {
        // Without branches, for vector instructions.
        let span = |ids: &[i32]| {
            ids.iter().fold((i32::MAX, i32::MIN), |(low, high), &id| (low.min(id), high.max(id)))
        };
        let (inputs, targets) = (span(&self.inputs), span(&self.targets));
        if inputs.0 < 0 || targets.0 < IGNORE {
            return Err(self.token(None, |id| id < 0));
        }
        Ok(inputs.1.max(targets.1))
    }

    /// The first id that is `wrong`, where a target may be [`IGNORE`].
    fn token(&self, vocab: Option<usize>, wrong: impl Fn(i32) -> bool) -> BatchError {
        let inputs = self.inputs.iter().position(|&id| wrong(id)).map(|at| ("input", at));
        let target = |&id: &i32| id != IGNORE && wrong(id);
        let (what, at) = inputs.unwrap_or_else(|| {
            ("target", self.targets.iter().position(target).unwrap_or_default())
        });
        let ids = if inputs.is_some() { &self.inputs } else { &self.targets };
        let (row, position) = (at / self.tokens, at % self.tokens);
        BatchError::Token { what, id: ids[at].into(), row, position, vocab }
    }
}

impl Order {
    /// Sorts the positions of `ids`, none of them negative or above `highest`.
    fn sort(&mut self, ids: &[i32], highest: i32) {
        let Self { positions, starts } = self;
        positions.resize(ids.len(), 0);
        let entries = highest as usize + 1;
        if entries > MOST_COUNTED {
            positions.iter_mut().enumerate().for_each(|(n, place)| *place = n as i32);
            positions.sort_unstable_by_key(|&n| (ids[n as usize], n));
            return;
        }
        starts.clear();
        starts.resize(entries, 0);
        for &id in ids {
            starts[id as usize] += 1;
        }
        // The sum is carried in a register: through the table, each step would wait for the store before it.
        let mut sum = 0;
        for start in starts.iter_mut() {
            sum += std::mem::replace(start, sum);
        }
        for (position, &id) in ids.iter().enumerate() {
            let slot = &mut starts[id as usize];
            positions[*slot as usize] = position as i32;
            *slot += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(batch: Result<Batch, BatchError>) -> String {
        batch.unwrap_err().with_hint()
    }

    #[test]
    fn what_makes_no_batch_is_refused_with_the_figures() {
        for (tokens, inputs, targets, part) in [
            (0, 4, 4, "4 inputs in rows of 0 tokens"),
            (3, 4, 4, "4 inputs in rows of 3 tokens"),
            (4, 0, 0, "0 inputs in rows of 4 tokens"),
            (2, 4, 3, "4 inputs and 3 targets"),
        ] {
            let text = refused(Batch::new(tokens, vec![1; inputs], vec![1; targets]));
            assert!(text.contains(part) && text.contains("\nhint: "), "{text}");
        }
        assert!(refused(Batch::zeroed(usize::MAX, 2)).contains("rows of 2 tokens"));
        assert!(refused(Batch::zeroed(1 << 16, 1 << 15)).contains("65536 rows of 32768"));
        assert!(Batch::zeroed(0, 2).is_err() && Batch::zeroed(2, 0).is_err());
    }

    #[test]
    fn ids_are_checked_when_they_come_in() {
        let text = refused(Batch::new(2, vec![1, 2, 3, -1], vec![0; 4]));
        assert!(text.starts_with("batch: input -1 at row 1, position 1\nhint: "), "{text}");
        let text = refused(Batch::new(2, vec![0; 4], vec![1, -1, -2, 0]));
        assert!(text.starts_with("batch: target -2 at row 1, position 0"), "{text}");
        let batch = Batch::new(2, vec![5, 2, 3, 4], vec![1, -1, 9, 0]).unwrap();
        assert_eq!(batch.check_vocab(10), Ok(()));
        for (vocab, what) in [(9, "target 9 at row 1, position 0"), (5, "input 5 at row 0")] {
            let text = batch.check_vocab(vocab).unwrap_err().to_string();
            assert!(
                text.contains(what) && text.contains(&format!("has {vocab} entries")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_could_not_be_filled_holds_zeros() {
        let mut batch = Batch::new(2, vec![7; 4], vec![7; 4]).unwrap().with_order();
        assert!(batch.fill(&[1; 4], &[1; 3]).is_err());
        assert_eq!(batch.inputs(), [7; 4]);
        assert!(batch.fill(&[1, 1, 1, -7], &[1; 4]).is_err());
        assert_eq!((batch.inputs(), batch.order()), (&[0; 4][..], Some(&[0, 1, 2, 3][..])));
        let half: Result<(), BatchError> = batch.fill_rows(|b, inputs, _| {
            inputs.fill(3);
            if b == 0 { Ok(()) } else { Batch::zeroed(0, 0).map(|_| ()) }
        });
        assert!(half.is_err());
        assert_eq!((batch.inputs(), batch.check_vocab(1)), (&[0; 4][..], Ok(())));
    }

    #[test]
    fn positions_are_sorted_by_id_with_and_without_counting() {
        for high in [9, i32::MAX] {
            let inputs = vec![4, high, 4, 0, high, 0];
            let batch = Batch::new(3, inputs, vec![IGNORE; 6]).unwrap();
            assert_eq!(batch.order(), None);
            let mut batch = batch.with_order();
            assert_eq!(batch.order(), Some(&[3, 5, 0, 2, 1, 4][..]));
            let bytes = batch.order.as_ref().map(|o| o.starts.capacity() * 4);
            assert!(bytes < Some(1 << 20), "a table for 2^31 ids");
            batch.set_learned_in_step(Some(3));
            batch.fill(&[2, 1, 0, 2, 1, 0], &[0; 6]).unwrap();
            assert_eq!(
                (batch.order(), batch.learned_in_step()),
                (Some(&[2, 5, 1, 4, 0, 3][..]), None)
            );
        }
    }
}
