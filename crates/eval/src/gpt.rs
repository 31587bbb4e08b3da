//! farthing's own GPT as a [`LanguageModel`]: one workspace, grown when a batch needs more than any before it.

use crate::{Batch, Error, LanguageModel, Result, Scores};
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, Mode, Workspace};

/// Scores batches with a [`Gpt`] on a device.
///
/// Rows may be longer than the model's context: rotary angles go on, and windows keep their length.
///
/// # Numerics
/// Losses are in the device's master type and widened to f64. Greedy predictions are the device's.
///
/// # Cost
/// A forward pass over each batch, padding included, and memory for the largest batch.
pub struct GptScorer<'a> {
    gpt: &'a Gpt,
    dev: &'a dyn Device,
    params: &'a Params,
    /// Somebody else's buffers, for batches that fit into them.
    lent: Option<&'a mut Workspace>,
    /// Rows and tokens that it was made for, and the buffers.
    workspace: Option<(usize, usize, Workspace)>,
}

impl<'a> GptScorer<'a> {
    /// A model, its weights, and where they are. Nothing is allocated before the first batch.
    pub fn new(gpt: &'a Gpt, dev: &'a dyn Device, params: &'a Params) -> Self {
        Self { gpt, dev, params, lent: None, workspace: None }
    }

    /// The same in buffers that are there, such as a training's; others are allocated for a batch that does not fit.
    pub fn within(
        gpt: &'a Gpt,
        dev: &'a dyn Device,
        params: &'a Params,
        workspace: &'a mut Workspace,
    ) -> Self {
        Self { lent: Some(workspace), ..Self::new(gpt, dev, params) }
    }

    /// The buffers, with room for `rows` rows of `tokens` tokens.
    fn reserve(&mut self, rows: usize, tokens: usize) -> Result<&mut Workspace> {
        if let Some(lent) = self.lent.as_mut().filter(|lent| lent.fits(rows, tokens)) {
            return Ok(lent);
        }
        let (held_rows, held_tokens) =
            self.workspace.as_ref().map_or((0, 0), |(rows, tokens, _)| (*rows, *tokens));
        let enough = tokens <= held_tokens && rows * tokens <= held_rows * held_tokens;
        let (rows, tokens, workspace) = match self.workspace.take() {
            Some(held) if enough => held,
            old => {
                // The old one goes first, so that both are never held.
                drop(old);
                let most = tokens.max(held_tokens);
                let rows = (rows * tokens).max(held_rows * held_tokens).div_ceil(most);
                let made = self.gpt.workspace(self.dev, rows, most, Mode::Evaluate);
                (rows, most, made.map_err(failed)?)
            }
        };
        Ok(&mut self.workspace.insert((rows, tokens, workspace)).2)
    }
}

fn failed(e: farthing_model::Error) -> Error {
    match e {
        farthing_model::Error::Token { id, row, position, vocab, .. } => {
            Error::Token { token: id, row, position, vocab }
        }
        e => Error::Model { source: e.into() },
    }
}

impl LanguageModel for GptScorer<'_> {
    fn score(&mut self, batch: &Batch, predictions: bool, scores: &mut Scores) -> Result<()> {
        let (gpt, dev, params) = (self.gpt, self.dev, self.params);
        let workspace = self.reserve(batch.rows(), batch.tokens())?;
        let tokens = farthing_model::Batch::new(batch.tokens(), batch.inputs(), batch.targets());
        gpt.evaluate(dev, params.weights(), workspace, &tokens, predictions).map_err(failed)?;
        scores.reset(batch.inputs().len(), predictions);
        workspace.read_losses(dev, &mut scores.losses).map_err(failed)?;
        if predictions {
            workspace.read_predictions(dev, &mut scores.predictions).map_err(failed)?;
        }
        Ok(())
    }
}
