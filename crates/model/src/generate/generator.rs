//! One text that an evaluation or a sample goes on with, and takes back to a mark.

use farthing_kernels::{Device, Tensor, Weights};

use super::BatchGenerator;
use crate::cache::Bound;
use crate::{Gpt, Result, Sampling};

impl Gpt {
    /// A generator with room for `max_tokens` tokens, prompt included. It keeps the keys and values of all of them, for [`Generator::rewind`].
    ///
    /// # Errors
    /// [`Error::Batch`](crate::Error::Batch) when `max_tokens` is 0; [`Error::Kernel`](crate::Error::Kernel) when there is not the memory.
    pub fn generator<'a>(
        &'a self,
        dev: &'a dyn Device,
        weights: Weights<'a>,
        max_tokens: usize,
    ) -> Result<Generator<'a>> {
        let texts = BatchGenerator::new(self, dev, weights, 1, max_tokens, Bound::None)?;
        Ok(Generator { texts, marked: 0, carried: None })
    }
}

/// One text in the making, which can be taken back to a mark.
pub struct Generator<'a> {
    pub(super) texts: BatchGenerator<'a>,
    /// Tokens at the mark, and what was carried over there, where the model carries anything.
    marked: usize,
    carried: Option<Tensor>,
}

impl Generator<'_> {
    /// Forgets all tokens, to begin another text.
    pub fn reset(&mut self) {
        self.texts.clear(0);
        self.marked = 0;
    }

    /// Marks where the text stands, for [`Generator::rewind`]. Allocates once, where the model carries a token over (smear).
    ///
    /// # Errors
    /// [`Error::Kernel`](crate::Error::Kernel).
    pub fn mark(&mut self) -> Result<()> {
        self.marked = self.len();
        let dev = self.texts.dev;
        let Some(previous) = &self.texts.each[0].previous else { return Ok(()) };
        let carried = match &mut self.carried {
            Some(carried) => carried,
            none => none.insert(dev.alloc(previous.dtype(), previous.shape())?),
        };
        Ok(dev.copy(carried.view_mut(), previous.view())?)
    }

    /// Forgets the tokens since the mark, or all where there is none: what comes next goes on from there.
    ///
    /// # Errors
    /// [`Error::Kernel`](crate::Error::Kernel).
    pub fn rewind(&mut self) -> Result<()> {
        let (dev, text) = (self.texts.dev, &mut self.texts.each[0]);
        text.tokens.truncate(self.marked);
        match (&mut text.previous, &self.carried) {
            (Some(previous), Some(carried)) if self.marked > 0 => {
                Ok(dev.copy(previous.view_mut(), carried.view())?)
            }
            _ => Ok(()),
        }
    }

    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.texts.tokens(0).len()
    }

    /// Whether there are no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends tokens and returns the softcapped logits of what comes next, one per entry of the vocabulary.
    ///
    /// # Numerics
    /// As [`BatchGenerator::feed`].
    ///
    /// # Errors
    /// As [`BatchGenerator::feed`].
    ///
    /// # Cost
    /// As [`BatchGenerator::feed`].
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f64]> {
        self.texts.feed(0, tokens)?;
        self.texts.logits(0)
    }

    /// [`Generator::feed`], and after each of the tokens its number among them and the logits of what comes next go to `each`.
    ///
    /// # Errors
    /// As [`Generator::feed`].
    ///
    /// # Cost
    /// Beside that of [`Generator::feed`], a product with `lm_head` for each token, and its logits on the way to the host.
    pub fn feed_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f64])) -> Result<()> {
        self.texts.append(0, tokens, &mut |texts, piece| {
            for (at, i) in piece.enumerate() {
                texts.read_logits(at, &[0])?;
                each(i, &texts.logits);
            }
            Ok(())
        })
    }

    /// Draws the token that comes after those so far. Does not append it.
    ///
    /// # Errors
    /// [`Error::Generation`](crate::Error::Generation) when there are no tokens yet, or `sampling` makes no sense.
    pub fn draw(&mut self, sampling: &Sampling) -> Result<u32> {
        self.texts.draw(0, sampling)
    }

    /// Feeds a prompt, then draws and feeds up to `max_new` tokens. Stops early, without it, at a token for which `stop` is true, and where the
    /// room ends.
    ///
    /// # Errors
    /// As [`Generator::feed`] and [`Generator::draw`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_new: usize,
        sampling: &Sampling,
        stop: impl Fn(u32) -> bool,
    ) -> Result<Vec<u32>> {
        sampling.check()?;
        self.feed(prompt)?;
        let mut out = Vec::with_capacity(max_new);
        while out.len() < max_new {
            let token = self.draw(sampling)?;
            if stop(token) {
                break;
            }
            out.push(token);
            if self.len() == self.texts.max_tokens() {
                break;
            }
            self.feed(&[token])?;
        }
        Ok(out)
    }
}
