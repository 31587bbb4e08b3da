//! The seam between an evaluation and a model: tokens in, a loss and a greedy prediction per position out.

use crate::{Error, Result};

/// A target that is not evaluated; its loss is 0.
pub const IGNORE: i32 = -1;

/// Rows of tokens of one length, and what follows each of them.
///
/// # Shapes
/// `inputs` (B, T) and `targets` (B, T), row-major; `targets[b, t]` is the token after `inputs[b, t]`, or [`IGNORE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalBatch {
    inputs: Vec<i32>,
    targets: Vec<i32>,
    rows: usize,
    tokens: usize,
}

impl EvalBatch {
    /// A batch of `rows` rows (B) of `tokens` positions (T).
    ///
    /// # Errors
    /// [`Error::EvalBatch`] when a size is 0 or `inputs` or `targets` do not number B·T.
    pub fn new(inputs: Vec<i32>, targets: Vec<i32>, rows: usize, tokens: usize) -> Result<Self> {
        let n = rows.checked_mul(tokens).filter(|&n| n > 0);
        if n != Some(inputs.len()) || n != Some(targets.len()) {
            let (inputs, targets) = (inputs.len(), targets.len());
            return Err(Error::EvalBatch { rows, tokens, inputs, targets });
        }
        Ok(Self { inputs, targets, rows, tokens })
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

    /// (B, T): the tokens that it is to predict.
    pub fn targets(&self) -> &[i32] {
        &self.targets
    }
}

/// What a model says about a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// (B, T): −ln of the probability of each target, in nats; 0 where the target is [`IGNORE`].
    pub losses: Vec<f64>,
    /// (B, T): the most probable next token, ties to the lowest id; empty when not asked for.
    pub predictions: Vec<i32>,
}

impl Scores {
    /// Makes room for the scores of `positions` positions, zeroed.
    pub fn reset(&mut self, positions: usize, predictions: bool) {
        self.losses.clear();
        self.losses.resize(positions, 0.0);
        self.predictions.clear();
        self.predictions.resize(if predictions { positions } else { 0 }, 0);
    }
}

/// A model that predicts the next token from those before it in the same row.
pub trait LanguageModel {
    /// The longest row, the last target included, that the model takes; `None` where there is no bound. Of a longer prompt CORE keeps the end.
    fn max_tokens(&self) -> Option<usize> {
        None
    }

    /// Scores every position of `batch` whose target is not [`IGNORE`], with predictions where they are asked for.
    ///
    /// What stands after a position, or in another row, must not change its scores: rows are filled up at their end with BOS.
    ///
    /// # Errors
    /// [`Error::Token`] for a token outside the vocabulary; [`Error::Model`].
    fn score(&mut self, batch: &EvalBatch, predictions: bool, scores: &mut Scores) -> Result<()>;

    /// Scores rows that begin with the same tokens, `prefix`, which are computed once: of each of `rests`, −ln of the probability of every
    /// token after the prefix and the tokens before it, in nats. `None` where the model cannot do that; the rows are then scored whole.
    ///
    /// # Errors
    /// As [`LanguageModel::score`].
    fn score_shared(
        &mut self,
        _prefix: &[u32],
        _rests: &[&[u32]],
    ) -> Result<Option<Vec<Vec<f64>>>> {
        Ok(None)
    }
}

/// [`LanguageModel::score`], and a check that everything asked for is there.
pub(crate) fn score(
    model: &mut dyn LanguageModel,
    batch: &EvalBatch,
    predictions: bool,
    scores: &mut Scores,
) -> Result<()> {
    model.score(batch, predictions, scores)?;
    let positions = batch.inputs.len();
    let short = predictions && scores.predictions.len() != positions;
    if scores.losses.len() != positions || short {
        return Err(Error::Scores {
            losses: scores.losses.len(),
            predictions: scores.predictions.len(),
            positions,
        });
    }
    Ok(())
}
