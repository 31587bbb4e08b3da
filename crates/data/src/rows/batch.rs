//! A batch on the host: inputs, targets, and positions sorted by token.

use crate::{ChatTokens, Error, Result, Row};

/// The tokens of B rows, in buffers that are allocated once.
///
/// # Shapes
/// `inputs` (B, T) and `targets` (B, T), row-major, `targets[b, t]` is the token after `inputs[b, t]`.
/// `sorted` (B·T): the positions 0..B·T ordered by the token in `inputs`, equal tokens in increasing position, so
/// that the gradient of an embedding can be summed in one fixed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    inputs: Vec<i32>,
    targets: Vec<i32>,
    /// Empty in a batch without it.
    sorted: Vec<i32>,
    /// Empty where the vocabulary is too large to have a number for each entry.
    starts: Vec<u32>,
    vocab: usize,
    rows: usize,
    tokens: usize,
    learned_in_step: Option<u64>,
}

/// Entries of a vocabulary that get a number each: no tokenizer comes near, and more is what a file says that lies.
const MOST_COUNTED: usize = 1 << 22;

impl Batch {
    /// Buffers for `rows` rows (B) of `tokens` positions (T) over a vocabulary of `vocab` entries.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is zero or B·T exceeds the range of an i32.
    pub fn new(rows: usize, tokens: usize, vocab: usize) -> Result<Self> {
        let n = rows.checked_mul(tokens).filter(|&n| n > 0 && i32::try_from(n).is_ok());
        let Some(n) = n.filter(|_| vocab > 0 && vocab <= 1 << 31) else {
            return Err(Error::Config {
                what: format!(
                    "a batch of {rows} rows of {tokens} tokens over {vocab} entries cannot be made"
                ),
                hint: "each must be at least 1, rows × tokens below 2^31, and entries at most 2^31"
                    .into(),
            });
        };
        Ok(Self {
            inputs: vec![0; n],
            targets: vec![0; n],
            sorted: vec![0; n],
            starts: vec![0; if vocab <= MOST_COUNTED { vocab } else { 0 }],
            vocab,
            rows,
            tokens,
            learned_in_step: None,
        })
    }

    /// The same without `sorted`.
    pub(super) fn without_sorting(self) -> Self {
        Self { sorted: vec![], starts: vec![], ..self }
    }

    /// Nothing, in no memory.
    pub(super) fn empty() -> Self {
        let (inputs, targets, sorted, starts) = (vec![], vec![], vec![], vec![]);
        Self {
            inputs,
            targets,
            sorted,
            starts,
            vocab: 0,
            rows: 0,
            tokens: 0,
            learned_in_step: None,
        }
    }

    /// Rows, B.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Positions per row, T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// (B, T): the tokens that the model reads.
    pub fn inputs(&self) -> &[i32] {
        &self.inputs
    }

    /// (B, T): the tokens that the model is to predict.
    pub fn targets(&self) -> &[i32] {
        &self.targets
    }

    /// Where not all targets are learned, those that are, of the whole step that this batch is a part of: what a mean over them divides by, whichever
    /// micro-batch or rank has them.
    pub fn learned_in_step(&self) -> Option<u64> {
        self.learned_in_step
    }

    /// (B·T): positions in `inputs`, sorted stably by token; empty where a [`Loader`](crate::Loader) was not asked to sort.
    pub fn sorted(&self) -> &[i32] {
        &self.sorted
    }

    /// Takes over tokens of one's own.
    ///
    /// # Shapes
    /// `inputs` and `targets` (B, T), row-major; a target of −1 is not learned.
    ///
    /// # Errors
    /// [`Error::BatchShape`] unless both have B·T tokens; [`Error::TokenOutOfRange`] when a token is not in the vocabulary. The batch holds what it held.
    pub fn fill(&mut self, inputs: &[i32], targets: &[i32]) -> Result<()> {
        let n = self.rows * self.tokens;
        if inputs.len() != n || targets.len() != n {
            return Err(Error::BatchShape {
                what: format!(
                    "{} inputs and {} targets were given to a batch of {} rows of {} positions",
                    inputs.len(),
                    targets.len(),
                    self.rows,
                    self.tokens
                ),
                hint: format!("give {n} of each"),
            });
        }
        for (ids, lowest) in [(inputs, 0), (targets, -1)] {
            let wrong = |id: i32| id < lowest || id as i64 >= self.vocab as i64;
            if let Some(i) = ids.iter().position(|&id| wrong(id)) {
                let (row, position) = ((i / self.tokens) as u64, i % self.tokens);
                let token = ids[i].cast_unsigned();
                return Err(Error::TokenOutOfRange { row, position, token, vocab: self.vocab });
            }
        }
        self.inputs.copy_from_slice(inputs);
        self.targets.copy_from_slice(targets);
        self.learned_in_step = None;
        if !self.sorted.is_empty() {
            self.sort();
        }
        Ok(())
    }

    /// Row `b` from row `index` of the corpus, which has T + 1 tokens. [`Batch::complete`] comes after the last.
    pub(super) fn set_row(&mut self, b: usize, index: u64, row: Row<'_>) -> Result<()> {
        let span = b * self.tokens..(b + 1) * self.tokens;
        let (inputs, targets) = (&mut self.inputs[span.clone()], &mut self.targets[span]);
        // Loops that the compiler turns into vector instructions: the largest token, then two copies.
        let highest = match row {
            Row::U16(row) => {
                lay_out(row, inputs, targets, i32::from);
                row.iter().copied().max().map(u32::from)
            }
            Row::U32(row) => {
                lay_out(row, inputs, targets, |t| t as i32);
                row.iter().copied().max()
            }
        };
        let token = highest.unwrap_or(0);
        if token as usize >= self.vocab {
            let position = (0..row.len()).find(|&i| row.get(i) == Some(token)).unwrap_or(0);
            return Err(Error::TokenOutOfRange { row: index, position, token, vocab: self.vocab });
        }
        Ok(())
    }

    /// What is left to do when all rows are there: targets of a conversation that are not learned become −1, and positions are sorted.
    pub(super) fn complete(&mut self, chat: Option<&ChatTokens>, learned_in_step: Option<u64>) {
        if let Some(chat) = chat {
            for row in self.targets.chunks_exact_mut(self.tokens) {
                chat.mask(row);
            }
        }
        self.learned_in_step = learned_in_step;
        if !self.sorted.is_empty() {
            self.sort();
        }
    }

    /// Counting sort of the positions by token, where every entry has its number.
    fn sort(&mut self) {
        if self.starts.is_empty() {
            let places = self.sorted.iter_mut().enumerate();
            places.for_each(|(position, place)| *place = position as i32);
            let Self { inputs, sorted, .. } = self;
            sorted.sort_unstable_by_key(|&position| (inputs[position as usize], position));
            return;
        }
        self.starts.fill(0);
        for &token in &self.inputs {
            self.starts[token as usize] += 1;
        }
        // The sum is carried in a register: through the table, each step would wait for the store before it.
        let mut sum = 0;
        for start in &mut self.starts {
            sum += std::mem::replace(start, sum);
        }
        for (position, &token) in self.inputs.iter().enumerate() {
            let slot = &mut self.starts[token as usize];
            self.sorted[*slot as usize] = position as i32;
            *slot += 1;
        }
    }
}

/// `inputs[t]` = `row[t]`, `targets[t]` = `row[t + 1]`.
fn lay_out<T: Copy>(row: &[T], inputs: &mut [i32], targets: &mut [i32], widen: impl Fn(T) -> i32) {
    for (input, &token) in inputs.iter_mut().zip(row) {
        *input = widen(token);
    }
    for (target, &token) in targets.iter_mut().zip(row.iter().skip(1)) {
        *target = widen(token);
    }
}
