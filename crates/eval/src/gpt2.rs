//! GPT-2 as a [`LanguageModel`]: the yardstick in the same harness.

use crate::gpt::failed;
use crate::{Batch, LanguageModel, Result, Scores};
use farthing_model::Gpt2;

/// Scores batches with a GPT-2.
///
/// # Numerics
/// Logits are f32, or f64 on `reference`; losses are computed from them in f64.
///
/// # Cost
/// A forward pass over each batch, padding included, and the head for positions that are scored.
pub struct Gpt2Scorer<'a>(Gpt2<'a>);

impl<'a> Gpt2Scorer<'a> {
    /// A model that was read.
    pub fn new(model: Gpt2<'a>) -> Self {
        Self(model)
    }
}

impl LanguageModel for Gpt2Scorer<'_> {
    fn max_tokens(&self) -> Option<usize> {
        Some(self.0.config().n_positions)
    }

    fn score(&mut self, batch: &Batch, predictions: bool, scores: &mut Scores) -> Result<()> {
        scores.reset(batch.inputs().len(), predictions);
        let mut each = |at: usize, scored: farthing_model::Scored| {
            scores.losses[at] = scored.loss;
            if let Some(prediction) = scores.predictions.get_mut(at) {
                *prediction = scored.prediction;
            }
        };
        self.0.score(batch, &mut each).map_err(failed)
    }
}
