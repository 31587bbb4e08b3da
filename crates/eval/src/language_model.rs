//! The seam between an evaluation and a model: tokens in, a loss and a greedy prediction per position out.

use farthing_base::Batch;

use crate::{Error, Result};

/// What a model says about a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// (B, T): −ln of the probability of each target, in nats; 0 where the target is [`IGNORE`](crate::IGNORE).
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

    /// Scores every position of `batch` whose target is not [`IGNORE`](crate::IGNORE), with predictions where they are asked for.
    ///
    /// What stands after a position, or in another row, must not change its scores: rows are filled up at their end with BOS.
    ///
    /// # Errors
    /// [`Error::Token`] for a token outside the vocabulary; [`Error::Model`].
    fn score(&mut self, batch: &Batch, predictions: bool, scores: &mut Scores) -> Result<()>;

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
    batch: &Batch,
    predictions: bool,
    scores: &mut Scores,
) -> Result<()> {
    model.score(batch, predictions, scores)?;
    let positions = batch.inputs().len();
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
