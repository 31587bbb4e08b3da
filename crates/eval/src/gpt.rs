//! farthing's own GPT as a [`LanguageModel`]: one workspace, grown when a batch needs more than any before it.

use crate::{Batch, Error, LanguageModel, Result, Scores};
use farthing_base::BatchError;
use farthing_kernels::{Device, Params};
use farthing_model::{Generator, Gpt, Mode, Workspace};

/// Scores batches with a [`Gpt`] on a device.
///
/// Rows may be longer than the model's context: rotary angles go on, and windows keep their length.
///
/// # Numerics
/// Losses are in the device's master type and widened to f64. Greedy predictions are the device's.
///
/// # Cost
/// A forward pass over each batch, padding included, and memory for the largest batch. Of rows that begin alike
/// ([`LanguageModel::score_shared`]) one pass over what they share and one over what each goes on with, and memory for the longest.
pub struct GptScorer<'a> {
    gpt: &'a Gpt,
    dev: &'a dyn Device,
    params: &'a Params,
    /// Somebody else's buffers, for batches that fit into them.
    lent: Option<&'a mut Workspace>,
    /// Rows and tokens that it was made for, and the buffers.
    workspace: Option<(usize, usize, Workspace)>,
    /// The longest text that it has room for, and the keys and values of one.
    generator: Option<(usize, Generator<'a>)>,
}

impl<'a> GptScorer<'a> {
    /// A model, its weights, and where they are. Nothing is allocated before the first batch.
    pub fn new(gpt: &'a Gpt, dev: &'a dyn Device, params: &'a Params) -> Self {
        Self { gpt, dev, params, lent: None, workspace: None, generator: None }
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

/// −ln of the probability of `token`, which stands at `position` of row `row`.
fn loss(logits: &[f64], token: u32, row: usize, position: usize) -> Result<f64> {
    let vocab = logits.len();
    let logit = logits.get(token as usize);
    let logit = logit.ok_or(Error::Token { token: token.into(), row, position, vocab })?;
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(most + logits.iter().map(|z| (z - most).exp()).sum::<f64>().ln() - logit)
}

pub(crate) fn failed(e: farthing_model::Error) -> Error {
    match e {
        farthing_model::Error::Tokens(BatchError::Token {
            id,
            row,
            position,
            vocab: Some(vocab),
            ..
        }) => Error::Token { token: id, row, position, vocab },
        e => Error::Model { source: e.into() },
    }
}

impl LanguageModel for GptScorer<'_> {
    fn score(&mut self, batch: &Batch, predictions: bool, scores: &mut Scores) -> Result<()> {
        let (gpt, dev, params) = (self.gpt, self.dev, self.params);
        let workspace = self.reserve(batch.rows(), batch.tokens())?;
        gpt.evaluate(dev, params.weights(), workspace, batch, predictions).map_err(failed)?;
        scores.reset(batch.inputs().len(), predictions);
        workspace.read_losses(dev, &mut scores.losses).map_err(failed)?;
        if predictions {
            workspace.read_predictions(dev, &mut scores.predictions).map_err(failed)?;
        }
        Ok(())
    }

    fn score_shared(&mut self, prefix: &[u32], rests: &[&[u32]]) -> Result<Option<Vec<Vec<f64>>>> {
        let longest = rests.iter().map(|rest| rest.len()).max().unwrap_or(0);
        let (gpt, dev, params) = (self.gpt, self.dev, self.params);
        let room = (prefix.len() + longest).next_multiple_of(256);
        if self.generator.as_ref().is_none_or(|(held, _)| *held < room) {
            // The old one goes first, so that both are never held.
            self.generator = None;
            let made = gpt.generator(dev, params.weights(), room).map_err(failed)?;
            self.generator = Some((room, made));
        }
        let Some((_, generator)) = &mut self.generator else { return Ok(None) };
        generator.reset();
        let first = generator.feed(prefix).map_err(failed)?.to_vec();
        generator.mark().map_err(failed)?;
        let mut all = Vec::with_capacity(rests.len());
        for (row, rest) in rests.iter().enumerate() {
            let mut losses = Vec::with_capacity(rest.len());
            if let [fed @ .., _] = rest {
                losses.push(loss(&first, rest[0], row, prefix.len()));
                generator.rewind().map_err(failed)?;
                if !fed.is_empty() {
                    let each = &mut |i: usize, logits: &[f64]| {
                        losses.push(loss(logits, rest[i + 1], row, prefix.len() + i + 1));
                    };
                    generator.feed_each(fed, each).map_err(failed)?;
                }
            }
            all.push(losses.into_iter().collect::<Result<_>>()?);
        }
        Ok(Some(all))
    }
}
