//! Generation: one row of tokens with its keys and values kept, fed a piece at a time, and the next token drawn from the logits.
//!
//! The arithmetic is the forward pass's own, told how many tokens came before. Nothing is allocated per token.

use farthing_kernels::{Device, Tensor, Weights};

use crate::gpt::{Extent, Gpt};
use crate::random::Stream;
use crate::workspace::{Buffers, Capacity, Keep, Types, buffers, first, first_mut, write_rotary};
use crate::{Error, Result};

/// How the next token is drawn.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// 0 takes the most likely token, the first of equals; else probabilities are softmax(logits / temperature).
    pub temperature: f64,
    /// Only the `top_k` most likely tokens can be drawn, where given.
    pub top_k: Option<usize>,
    /// Draws depend on this and on the position, nothing else.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, seed: 0 };

    fn check(&self) -> Result<()> {
        let refuse = |what: String, hint: &str| Err(Error::Generation { what, hint: hint.into() });
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            let what = format!("temperature is {}", self.temperature);
            return refuse(
                what,
                "use 0 for the most likely token, 1 for the model's own probabilities",
            );
        }
        if self.top_k == Some(0) {
            return refuse("top_k is 0".into(), "use at least 1, or leave it out");
        }
        Ok(())
    }
}

/// The most tokens that go through the model at a time: bounds the memory of a long prompt.
const PIECE: usize = 128;

/// One text in the making: the tokens so far, as keys and values.
pub struct Generator<'a> {
    gpt: &'a Gpt,
    dev: &'a dyn Device,
    weights: Weights<'a>,
    buffers: Buffers<Tensor>,
    capacity: Capacity,
    /// Tokens so far.
    past: usize,
    /// Logits after the last token, softcapped, (vocab_size).
    logits: Vec<f64>,
    /// Host bytes that logits pass through, and the candidates of a draw.
    staging: Vec<u8>,
    candidates: Vec<u32>,
}

impl Gpt {
    /// A generator with room for `max_tokens` tokens, prompt included.
    ///
    /// # Errors
    /// [`Error::Batch`] when `max_tokens` is 0; [`Error::Kernel`] when there is not the memory.
    pub fn generator<'a>(
        &'a self,
        dev: &'a dyn Device,
        weights: Weights<'a>,
        max_tokens: usize,
    ) -> Result<Generator<'a>> {
        let row = Capacity::of_batches(1, max_tokens)?;
        let capacity = Capacity { positions: row.positions.min(PIECE), tokens: max_tokens };
        let types = Types { compute: dev.compute_dtype(), master: dev.master_dtype() };
        let mut buffers =
            buffers(self.config(), capacity, Keep::Generate, types, &mut |dtype, shape| {
                Ok(dev.alloc(dtype, shape)?)
            })?;
        write_rotary(self.config(), dev, &mut buffers.cos, &mut buffers.sin)?;
        let vocab = self.config().vocab_size;
        Ok(Generator {
            gpt: self,
            dev,
            weights,
            staging: vec![0; self.config().padded_vocab() * types.compute.bytes()],
            buffers,
            capacity,
            past: 0,
            logits: vec![0.0; vocab],
            candidates: (0..vocab as u32).collect(),
        })
    }
}

impl Generator<'_> {
    /// Forgets all tokens, to begin another text.
    pub fn reset(&mut self) {
        self.past = 0;
    }

    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.past
    }

    /// Whether there are no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.past == 0
    }

    /// Appends tokens and returns the softcapped logits of what comes next, one per entry of the vocabulary.
    ///
    /// # Numerics
    /// Within 1e-5 of the full forward pass's, tested below.
    ///
    /// # Errors
    /// [`Error::Generation`] when there is no token or no room; [`Error::Token`]; [`Error::Kernel`].
    ///
    /// # Cost
    /// 2 FLOPs per weight and token, and attention over the keys each sees.
    pub fn feed(&mut self, tokens: &[i32]) -> Result<&[f64]> {
        let refuse = |what: String, hint: &str| Err(Error::Generation { what, hint: hint.into() });
        if tokens.is_empty() {
            return refuse("no tokens".into(), "begin with the <|bos|> token");
        }
        if self.past + tokens.len() > self.capacity.tokens {
            let what = format!(
                "{} tokens after {}, with room for {}",
                tokens.len(),
                self.past,
                self.capacity.tokens
            );
            return refuse(what, "ask for a generator with a larger max_tokens");
        }
        let vocab = self.gpt.config().vocab_size;
        let wrong = tokens.iter().position(|&id| id < 0 || id as i64 >= vocab as i64);
        if let Some(position) = wrong {
            return Err(Error::Token {
                what: "input",
                id: tokens[position],
                row: 0,
                position,
                vocab,
            });
        }
        let mut last = 0;
        for piece in tokens.chunks(self.capacity.positions) {
            let at = Extent { rows: 1, tokens: piece.len(), past: self.past };
            self.dev.write_i32(first_mut(&mut self.buffers.ids, piece.len())?, piece)?;
            self.gpt.trunk(self.dev, self.weights, &mut self.buffers, at)?;
            self.past += piece.len();
            last = piece.len() - 1;
        }
        self.read_logits(last)?;
        Ok(&self.logits)
    }

    /// Logits of position `last` of the last piece.
    fn read_logits(&mut self, last: usize) -> Result<()> {
        let (dev, buf, config) = (self.dev, &mut self.buffers, self.gpt.config());
        let head = self.weights.get(self.gpt.ids().lm_head)?;
        dev.linear(buf.logits.view_mut(), buf.normed.view().rows(last..last + 1)?, head, false)?;
        dev.write_i32(first_mut(&mut buf.targets, 1)?, &[-1])?;
        dev.cross_entropy(
            first_mut(&mut buf.losses, 1)?,
            buf.logits.view_mut(),
            first(&buf.targets, 1)?,
            config.vocab_size,
            config.logit_softcap,
            None,
        )?;
        dev.read(&mut self.staging, buf.logits.view())?;
        let width = buf.logits.dtype().bytes();
        for (logit, bytes) in self.logits.iter_mut().zip(self.staging.chunks_exact(width)) {
            *logit = match *bytes {
                [a, b] => f32::from_bits(u32::from(u16::from_ne_bytes([a, b])) << 16) as f64,
                _ => crate::workspace::float(bytes),
            };
        }
        Ok(())
    }

    /// Draws the token that comes after those so far. Does not append it.
    ///
    /// # Errors
    /// [`Error::Generation`] when there are no tokens yet, or `sampling` makes no sense.
    pub fn draw(&mut self, sampling: &Sampling) -> Result<i32> {
        sampling.check()?;
        if self.is_empty() {
            let what = "no tokens to go on from".into();
            return Err(Error::Generation { what, hint: "feed a prompt first".into() });
        }
        let u = Stream::new(sampling.seed, "sampling").uniform(self.past as u64);
        Ok(pick(&self.logits, &mut self.candidates, sampling, u) as i32)
    }

    /// Feeds a prompt, then draws and feeds up to `max_new` tokens. Stops early, without it, at a token for which `stop` is true, and where the
    /// room ends.
    ///
    /// # Errors
    /// As [`Generator::feed`] and [`Generator::draw`].
    pub fn generate(
        &mut self,
        prompt: &[i32],
        max_new: usize,
        sampling: &Sampling,
        stop: impl Fn(i32) -> bool,
    ) -> Result<Vec<i32>> {
        sampling.check()?;
        self.feed(prompt)?;
        let mut out = Vec::with_capacity(max_new);
        while out.len() < max_new {
            let token = self.draw(sampling)?;
            if stop(token) {
                break;
            }
            out.push(token);
            if self.past == self.capacity.tokens {
                break;
            }
            self.feed(&[token])?;
        }
        Ok(out)
    }
}

/// The token at `u` of the cumulative probabilities, in ascending order of ids. Among equals, lower ids are the more likely ones.
fn pick(logits: &[f64], candidates: &mut [u32], sampling: &Sampling, u: f64) -> u32 {
    let value = |id: u32| logits[id as usize];
    let falling = |a: &u32, b: &u32| value(*b).total_cmp(&value(*a)).then(a.cmp(b));
    let top = candidates.iter().copied().min_by(falling).unwrap_or(0);
    if sampling.temperature == 0.0 {
        return top;
    }
    let kept = match sampling.top_k {
        Some(k) if k < candidates.len() => candidates.select_nth_unstable_by(k, falling).0,
        _ => candidates,
    };
    kept.sort_unstable();
    let weight = |id: u32| ((value(id) - value(top)) / sampling.temperature).exp();
    let total: f64 = kept.iter().map(|&id| weight(id)).sum();
    let mut left = u * total;
    for &id in kept.iter() {
        left -= weight(id);
        if left < 0.0 {
            return id;
        }
    }
    top
}
