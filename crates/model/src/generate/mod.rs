//! Generation: texts of tokens with their keys and values kept, fed a piece at a time, or each by one token in a pass that they share, and the next token
//! drawn from the logits.
//!
//! The arithmetic is the forward pass's own, told what came before. Nothing is allocated per token.

mod generator;
#[cfg(test)]
mod tests;

pub use generator::Generator;

use std::ops::Range;

use farthing_base::BatchError;
use farthing_kernels::{Device, Tensor, Weights};

use crate::cache::{Bound, Going, Text};
use crate::gpt::{Extent, Gpt};
use crate::sampling::{Sampler, Sampling};
use crate::workspace::{Buffers, Capacity, Keep, Types, buffers, first, first_mut, write_rotary};
use crate::{Error, Result};

/// The most tokens that go through the model at a time: bounds the memory of a long prompt.
const PIECE: usize = 128;

/// Several texts in the making. Each is fed by itself, or they go on together: a pass over one token of each reads the weights once.
pub struct BatchGenerator<'a> {
    gpt: &'a Gpt,
    dev: &'a dyn Device,
    weights: Weights<'a>,
    buffers: Buffers<Tensor>,
    capacity: Capacity,
    each: Vec<Text>,
    /// Softcapped logits after the last token of each, (texts, vocab_size).
    logits: Vec<f64>,
    /// Host bytes that logits pass through.
    staging: Vec<u8>,
    /// Ids of a pass as the device holds them.
    upload: Vec<i32>,
    sampler: Sampler,
    bytes: usize,
}

impl Gpt {
    /// Room for `texts` texts of at most `max_tokens` tokens each, prompts included.
    ///
    /// Of a layer with a window, keys and values are kept of at most two windows and a piece, however long a text grows. Beyond the `seq_len` that the model was
    /// trained on, an `L` layer sees the last `seq_len` tokens, and rotary angles go on.
    ///
    /// # Errors
    /// [`Error::Batch`] when there is no text or no token; [`Error::Kernel`] when there is not the memory.
    pub fn texts<'a>(
        &'a self,
        dev: &'a dyn Device,
        weights: Weights<'a>,
        texts: usize,
        max_tokens: usize,
    ) -> Result<BatchGenerator<'a>> {
        BatchGenerator::new(self, dev, weights, texts, max_tokens, Bound::Windows)
    }
}

fn refuse<T>(what: String, hint: &str) -> Result<T> {
    Err(Error::Generation { what, hint: hint.into() })
}

impl<'a> BatchGenerator<'a> {
    fn new(
        gpt: &'a Gpt,
        dev: &'a dyn Device,
        weights: Weights<'a>,
        texts: usize,
        max_tokens: usize,
        bound: Bound,
    ) -> Result<Self> {
        let capacity = Capacity::of_texts(texts, max_tokens, PIECE)?;
        let types = Types { compute: dev.compute_dtype(), master: dev.master_dtype() };
        let (config, mut bytes) = (gpt.config(), 0);
        let mut buffers = buffers(config, capacity, Keep::Generate, types, &mut |dtype, shape| {
            bytes += shape.elements() * dtype.bytes();
            Ok(dev.alloc(dtype, shape)?)
        })?;
        write_rotary(config, dev, &mut buffers.cos, &mut buffers.sin)?;
        // Behind the inputs of a pass stand its targets: none.
        let n = capacity.positions;
        dev.write_i32(buffers.tokens.view_mut().rows(n..2 * n)?, &vec![-1; n])?;
        let mut all = Vec::with_capacity(texts);
        for _ in 0..texts {
            let text = Text::new(gpt, dev, max_tokens, n, bound)?;
            bytes += text.bytes();
            all.push(text);
        }
        Ok(Self {
            gpt,
            dev,
            weights,
            staging: vec![0; texts * config.padded_vocab() * types.compute.bytes()],
            upload: Vec::with_capacity(capacity.positions),
            buffers,
            capacity,
            each: all,
            logits: vec![0.0; texts * config.vocab_size],
            sampler: Sampler::new(config.vocab_size),
            bytes,
        })
    }

    /// Texts that there is room for.
    pub fn count(&self) -> usize {
        self.each.len()
    }

    /// The most tokens of a text.
    pub fn max_tokens(&self) -> usize {
        self.capacity.tokens
    }

    /// Bytes on the device, weights apart.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tokens of a text so far; none of one that there is no room for.
    pub fn tokens(&self, text: usize) -> &[u32] {
        self.each.get(text).map_or(&[], |text| &text.tokens)
    }

    /// Softcapped logits of what comes after a text, one per entry of the vocabulary.
    ///
    /// # Errors
    /// [`Error::Generation`] when it has no tokens, or there is no such text.
    pub fn logits(&self, text: usize) -> Result<&[f64]> {
        if self.tokens(text).is_empty() {
            return refuse("no tokens to go on from".into(), "feed a prompt first");
        }
        let vocab = self.gpt.config().vocab_size;
        Ok(&self.logits[text * vocab..(text + 1) * vocab])
    }

    /// Forgets a text's tokens, to begin another.
    pub fn clear(&mut self, text: usize) {
        if let Some(text) = self.each.get_mut(text) {
            text.clear();
        }
    }

    /// Makes the text `to` the same as `from`, so that several go on from one prompt that was fed once.
    ///
    /// # Errors
    /// [`Error::Generation`] when there are no such two texts; [`Error::Kernel`].
    pub fn copy(&mut self, from: usize, to: usize) -> Result<()> {
        let Ok([from_text, to_text]) = self.each.get_disjoint_mut([from, to]) else {
            return refuse(format!("text {from} to be copied to text {to}"), "name two texts");
        };
        to_text.copy_from(from_text, self.dev)?;
        let vocab = self.gpt.config().vocab_size;
        self.logits.copy_within(from * vocab..(from + 1) * vocab, to * vocab);
        Ok(())
    }

    /// Appends tokens to one text; [`BatchGenerator::logits`] has what comes next.
    ///
    /// # Numerics
    /// Within 5e-5 of the full forward pass's on `cpu` (logits are at most 15), 1e-11 on `reference`; tested below.
    ///
    /// # Errors
    /// [`Error::Generation`] when there is no such text, no token or no room; [`Error::Tokens`]; [`Error::Kernel`].
    ///
    /// # Cost
    /// 2 FLOPs per weight and token, and attention over the keys each sees.
    pub fn feed(&mut self, text: usize, tokens: &[u32]) -> Result<()> {
        let end = tokens.len();
        self.append(text, tokens, &mut |this, piece| {
            if piece.end == end { this.read_logits(piece.len() - 1, &[text]) } else { Ok(()) }
        })
    }

    /// Appends one token to each of several texts, in one pass.
    ///
    /// # Numerics
    /// As [`BatchGenerator::feed`]: a text's logits do not depend on who goes along, but for rounding, and on `reference` not at all.
    ///
    /// # Errors
    /// As [`BatchGenerator::feed`]; [`Error::Generation`] also when a text is named twice or not as many tokens are given.
    ///
    /// # Cost
    /// As [`BatchGenerator::feed`] for each; the weights are read once.
    pub fn step(&mut self, texts: &[usize], tokens: &[u32]) -> Result<()> {
        if texts.len() != tokens.len() {
            let what = format!("{} tokens for {} texts", tokens.len(), texts.len());
            return refuse(what, "give one token for each");
        }
        if let Some(i) = (1..texts.len()).find(|&i| texts[..i].contains(&texts[i])) {
            return refuse(format!("text {} twice in a step", texts[i]), "name each once");
        }
        for (row, (&text, token)) in texts.iter().zip(tokens).enumerate() {
            self.check(text, std::slice::from_ref(token), row)?;
        }
        if texts.is_empty() {
            return Ok(());
        }
        self.pass(texts, tokens, 1)?;
        self.read_logits(0, texts)
    }

    /// Draws the token that comes after a text. Does not append it.
    ///
    /// # Errors
    /// [`Error::Generation`] when it has no tokens yet, or `sampling` makes no sense.
    pub fn draw(&mut self, text: usize, sampling: &Sampling) -> Result<u32> {
        self.logits(text)?;
        let (vocab, tokens) = (self.gpt.config().vocab_size, &self.each[text].tokens);
        let logits = &self.logits[text * vocab..(text + 1) * vocab];
        self.sampler.draw(logits, tokens, sampling, tokens.len())
    }

    fn check(&self, text: usize, tokens: &[u32], row: usize) -> Result<()> {
        let Some(found) = self.each.get(text) else {
            let what = format!("text {text} of {}", self.each.len());
            return refuse(what, "ask for room for more texts");
        };
        if tokens.is_empty() {
            return refuse("no tokens".into(), "begin with the <|bos|> token");
        }
        if found.past() + tokens.len() > self.capacity.tokens {
            let (n, past, room) = (tokens.len(), found.past(), self.capacity.tokens);
            let what = format!("{n} tokens after {past}, with room for {room}");
            return refuse(what, "ask for a generator with a larger max_tokens");
        }
        let vocab = self.gpt.config().vocab_size;
        let wrong = tokens.iter().position(|&id| id as usize >= vocab);
        match wrong {
            Some(position) => Err(Error::Tokens(BatchError::Token {
                what: "token",
                id: tokens[position].into(),
                row,
                position,
                vocab: Some(vocab),
            })),
            None => Ok(()),
        }
    }

    /// Sends tokens through the trunk, a piece at a time; `after` is told which went.
    fn append(
        &mut self,
        text: usize,
        tokens: &[u32],
        after: &mut dyn FnMut(&mut Self, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        self.check(text, tokens, 0)?;
        let mut begin = 0;
        for piece in tokens.chunks(self.capacity.positions) {
            self.pass(&[text], piece, piece.len())?;
            after(self, begin..begin + piece.len())?;
            begin += piece.len();
        }
        Ok(())
    }

    /// Sends the next `each` tokens of some texts through the trunk.
    fn pass(&mut self, rows: &[usize], tokens: &[u32], each: usize) -> Result<()> {
        let Self { gpt, dev, weights, buffers, upload, each: texts, .. } = self;
        upload.clear();
        upload.extend(tokens.iter().map(|&id| id as i32));
        dev.write_i32(first_mut(&mut buffers.tokens, tokens.len())?, upload)?;
        let at = Extent { rows: rows.len(), tokens: each };
        let mut going = Going { texts, rows };
        gpt.trunk(*dev, *weights, buffers, at, Some(&mut going))?;
        for (&row, tokens) in rows.iter().zip(tokens.chunks(each)) {
            texts[row].tokens.extend_from_slice(tokens);
        }
        Ok(())
    }

    /// Logits of the last pass's positions from `from` on, one for each of these texts.
    fn read_logits(&mut self, from: usize, texts: &[usize]) -> Result<()> {
        let (dev, buf, config) = (self.dev, &mut self.buffers, self.gpt.config());
        let (n, positions) = (texts.len(), self.capacity.positions);
        let head = self.weights.get(self.gpt.ids().lm_head)?;
        let mut logits = first_mut(&mut buf.logits, n)?;
        let normed = buf.normed.view().rows(from..from + n)?;
        dev.linear(logits.reborrow(), normed, head, false)?;
        let (vocab, softcap) = (config.vocab_size, config.logit_softcap);
        let none = buf.tokens.view().rows(positions..positions + n)?;
        dev.cross_entropy(first_mut(&mut buf.losses, n)?, logits, none, vocab, softcap, None)?;
        let width = buf.logits.dtype().bytes();
        let row = config.padded_vocab() * width;
        let staging = &mut self.staging[..n * row];
        dev.read(staging, first(&buf.logits, n)?)?;
        for (&text, bytes) in texts.iter().zip(staging.chunks_exact(row)) {
            let logits = &mut self.logits[text * vocab..(text + 1) * vocab];
            for (logit, bytes) in logits.iter_mut().zip(bytes.chunks_exact(width)) {
                *logit = match *bytes {
                    [a, b] => f32::from_bits(u32::from(u16::from_ne_bytes([a, b])) << 16) as f64,
                    _ => crate::workspace::float(bytes),
                };
            }
        }
        Ok(())
    }
}
