//! Generation: one row of tokens with its keys and values kept, fed a piece at a time, and the next token drawn from the logits.
//!
//! The arithmetic is the forward pass's own, told how many tokens came before. Nothing is allocated per token.

use std::ops::Range;

use farthing_base::random::Stream;
use farthing_kernels::{Device, Tensor, Weights};

use crate::gpt::{Extent, Gpt};
use crate::workspace::{Buffers, Capacity, Keep, Types, buffers, first_mut, write_rotary};
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
    /// Tokens at the mark, and what was carried over there, where the model carries anything.
    marked: usize,
    carried: Option<Tensor>,
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
            marked: 0,
            carried: None,
            logits: vec![0.0; vocab],
            candidates: (0..vocab as u32).collect(),
        })
    }
}

impl Generator<'_> {
    /// Forgets all tokens, to begin another text.
    pub fn reset(&mut self) {
        (self.past, self.marked) = (0, 0);
    }

    /// Marks where the text stands, for [`Generator::rewind`]. Allocates once, where the model carries a token over (smear).
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn mark(&mut self) -> Result<()> {
        self.marked = self.past;
        let Some(previous) = self.buffers.smear.as_ref().and_then(|s| s.previous.as_ref()) else {
            return Ok(());
        };
        let carried = match &mut self.carried {
            Some(carried) => carried,
            none => none.insert(self.dev.alloc(previous.dtype(), previous.shape())?),
        };
        Ok(self.dev.copy(carried.view_mut(), previous.view())?)
    }

    /// Forgets the tokens since the mark, or all where there is none: what comes next goes on from there.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn rewind(&mut self) -> Result<()> {
        self.past = self.marked;
        let previous = self.buffers.smear.as_mut().and_then(|s| s.previous.as_mut());
        match (previous, &self.carried) {
            (Some(previous), Some(carried)) if self.marked > 0 => {
                Ok(self.dev.copy(previous.view_mut(), carried.view())?)
            }
            _ => Ok(()),
        }
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
    /// Within 5e-5 of the full forward pass's on `cpu` (logits are at most 15), 1e-11 on `reference`; tested below.
    ///
    /// # Errors
    /// [`Error::Generation`] when there is no token or no room; [`Error::Token`]; [`Error::Kernel`].
    ///
    /// # Cost
    /// 2 FLOPs per weight and token, and attention over the keys each sees.
    pub fn feed(&mut self, tokens: &[i32]) -> Result<&[f64]> {
        let end = tokens.len();
        self.append(tokens, &mut |this, piece| {
            if piece.end == end { this.read_logits(piece.len() - 1) } else { Ok(()) }
        })?;
        Ok(&self.logits)
    }

    /// [`Generator::feed`], and after each of the tokens its number among them and the logits of what comes next go to `each`.
    ///
    /// # Errors
    /// As [`Generator::feed`].
    ///
    /// # Cost
    /// Beside that of [`Generator::feed`], a product with `lm_head` for each token, and its logits on the way to the host.
    pub fn feed_each(&mut self, tokens: &[i32], each: &mut dyn FnMut(usize, &[f64])) -> Result<()> {
        self.append(tokens, &mut |this, piece| {
            for (at, i) in piece.enumerate() {
                this.read_logits(at)?;
                each(i, &this.logits);
            }
            Ok(())
        })
    }

    /// Sends tokens through the trunk, a piece at a time; `after` is told which went.
    fn append(
        &mut self,
        tokens: &[i32],
        after: &mut dyn FnMut(&mut Self, Range<usize>) -> Result<()>,
    ) -> Result<()> {
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
        let mut begin = 0;
        for piece in tokens.chunks(self.capacity.positions) {
            let at = Extent { rows: 1, tokens: piece.len(), past: self.past };
            self.dev.write_i32(first_mut(&mut self.buffers.tokens, piece.len())?, piece)?;
            self.gpt.trunk(self.dev, self.weights, &mut self.buffers, at)?;
            self.past += piece.len();
            after(self, begin..begin + piece.len())?;
            begin += piece.len();
        }
        Ok(())
    }

    /// Logits of position `last` of the last piece.
    fn read_logits(&mut self, last: usize) -> Result<()> {
        let (dev, buf, config) = (self.dev, &mut self.buffers, self.gpt.config());
        let head = self.weights.get(self.gpt.ids().lm_head)?;
        dev.linear(buf.logits.view_mut(), buf.normed.view().rows(last..last + 1)?, head, false)?;
        // One position of a piece whose inputs are read no more: its target stands behind it.
        dev.write_i32(buf.tokens.view_mut().rows(1..2)?, &[-1])?;
        dev.cross_entropy(
            first_mut(&mut buf.losses, 1)?,
            buf.logits.view_mut(),
            buf.tokens.view().rows(1..2)?,
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

#[cfg(test)]
mod tests {
    use farthing_kernels::Params;
    use farthing_kernels::reference::Reference;
    use farthing_kernels::rounded::Rounded;

    use super::*;
    use crate::{Batch, GptConfig, Mlp, Mode, ModelConfig, Preset};

    const BOTH: [Preset; 2] = [Preset::Nanochat202601, Preset::Nanochat202607];

    /// Four layers with short windows, grouped queries, and weights that are not the silent starting ones.
    fn model(preset: Preset, dev: &dyn Device) -> (Gpt, Params) {
        let small = ModelConfig {
            aspect_ratio: Some(8),
            head_dim: Some(16),
            kv_heads: Some(1),
            short_window: Some(3),
            ..ModelConfig::new(preset, 4)
        };
        build(small.resolve(50, 12).unwrap(), dev)
    }

    fn build(config: GptConfig, dev: &dyn Device) -> (Gpt, Params) {
        let gpt = Gpt::new(config).unwrap();
        let mut params = Params::new(dev, gpt.single_group()).unwrap();
        for spec in gpt.params() {
            let stream = Stream::new(1, &spec.name);
            let scale = if spec.name.contains("lambda") { 0.7 } else { 0.3 };
            let values: Vec<f64> =
                (0..spec.shape.elements()).map(|i| scale * stream.normal(i as u64)).collect();
            dev.write_f64(params.master_mut(spec.id).unwrap(), &values).unwrap();
        }
        params.refresh_compute(dev).unwrap();
        (gpt, params)
    }

    fn tokens(n: usize) -> Vec<i32> {
        (0..n).map(|i| (Stream::new(3, "text").bits(i as u64) % 50) as i32).collect()
    }

    /// Softcapped logits of every position, from one pass over the whole row.
    fn all_logits(gpt: &Gpt, dev: &dyn Device, params: &Params, text: &[i32]) -> Vec<Vec<f64>> {
        let n = text.len();
        let mut ws = gpt.workspace(dev, 1, n, Mode::Evaluate).unwrap();
        let ignored = vec![-1; n];
        let batch = Batch::new(n, text, &ignored);
        gpt.evaluate(dev, params.weights(), &mut ws, &batch, false).unwrap();
        let logits = dev.read_f64(ws.buffers.logits.view().rows(0..n).unwrap()).unwrap();
        logits.chunks(gpt.config().padded_vocab()).map(|row| row[..50].to_vec()).collect()
    }

    fn furthest(a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    fn kept_equals_full(dev: &dyn Device, tolerance: f64) {
        let text = tokens(30);
        let plain = BOTH.map(|preset| model(preset, dev).0.config().clone());
        let variant = GptConfig { rotary_fraction: 0.5, mlp: Mlp::Swiglu, ..plain[1].clone() };
        for config in plain.into_iter().chain([variant]) {
            let (gpt, params) = build(config, dev);
            let full = all_logits(&gpt, dev, &params, &text);
            let spread = furthest(&full[3], &full[20]);
            assert!(spread > 0.1, "logits hardly differ: {spread}");
            for prompt in [1, 5, 29] {
                let mut generator = gpt.generator(dev, params.weights(), 30).unwrap();
                let mut error =
                    furthest(generator.feed(&text[..prompt]).unwrap(), &full[prompt - 1]);
                for t in prompt..30 {
                    error = error.max(furthest(generator.feed(&text[t..=t]).unwrap(), &full[t]));
                }
                assert!(error < tolerance, "{:?}, prompt of {prompt}: {error:e}", gpt.config());
            }
        }
    }

    #[test]
    fn logits_with_kept_keys_are_the_full_forward_passes() {
        kept_equals_full(&Reference::new(), 1e-11);
        kept_equals_full(&farthing_kernels::cpu::Cpu::new(2).unwrap(), 5e-5);
    }

    #[test]
    fn texts_that_begin_alike_go_on_from_a_mark() {
        let dev = Reference::new();
        let text = tokens(30);
        for preset in BOTH {
            let (gpt, params) = model(preset, &dev);
            let mut generator = gpt.generator(&dev, params.weights(), 30).unwrap();
            for shared in [1, 7] {
                generator.reset();
                generator.feed(&text[..shared]).unwrap();
                generator.mark().unwrap();
                // The second one is longer than what it covers, the third shorter.
                for from in [10, 3, 20] {
                    let rest = &text[from..from + 3 + from % 7];
                    let whole = [&text[..shared], rest].concat();
                    let full = all_logits(&gpt, &dev, &params, &whole);
                    generator.rewind().unwrap();
                    assert_eq!(generator.len(), shared);
                    let mut seen = 0;
                    generator
                        .feed_each(rest, &mut |i, logits| {
                            let error = furthest(logits, &full[shared + i]);
                            assert!(error < 1e-11, "{preset:?}, {shared} + {i}: {error:e}");
                            assert_eq!(i, seen);
                            seen += 1;
                        })
                        .unwrap();
                    assert_eq!(seen, rest.len());
                }
            }
        }
    }

    /// Stored in bf16, a product of one row may round a value the other way than the same row among many.
    #[test]
    fn logits_with_kept_keys_are_the_full_forward_passes_in_bf16() {
        let dev = Rounded::new(Box::new(Reference::new())).unwrap();
        let text = tokens(30);
        let (gpt, params) = model(Preset::Nanochat202607, &dev);
        let full = all_logits(&gpt, &dev, &params, &text);
        let mut generator = gpt.generator(&dev, params.weights(), 30).unwrap();
        let mut error = furthest(generator.feed(&text[..5]).unwrap(), &full[4]);
        for t in 5..30 {
            error = error.max(furthest(generator.feed(&text[t..=t]).unwrap(), &full[t]));
        }
        assert!(error < 0.1, "{error:e}");
        let exact = Reference::new();
        let (gpt, params) = model(Preset::Nanochat202607, &exact);
        let off = furthest(&all_logits(&gpt, &exact, &params, &text)[29], &full[29]);
        assert!(off > 1e-4 && off < 1.0, "bf16 logits are off by {off:e}");
    }

    #[test]
    fn a_prompt_longer_than_a_piece_is_the_same() {
        let dev = Reference::new();
        let text = tokens(2 * PIECE + 5);
        let (gpt, params) = model(Preset::Nanochat202607, &dev);
        let full = all_logits(&gpt, &dev, &params, &text);
        let mut generator = gpt.generator(&dev, params.weights(), text.len()).unwrap();
        let error = furthest(generator.feed(&text).unwrap(), &full[text.len() - 1]);
        assert!(error < 1e-5, "{error:e}");
    }

    #[test]
    fn greedy_text_is_the_most_likely_and_another_text_begins_afresh() {
        let dev = Reference::new();
        let (gpt, params) = model(Preset::Nanochat202607, &dev);
        let mut generator = gpt.generator(&dev, params.weights(), 20).unwrap();
        let out = generator.generate(&[1, 2], 8, &Sampling::GREEDY, |_| false).unwrap();
        assert_eq!(out.len(), 8);
        let text = [&[1, 2], &out[..]].concat();
        for (t, row) in all_logits(&gpt, &dev, &params, &text).iter().enumerate().skip(1).take(8) {
            let best = (0..50).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            assert_eq!(text[t + 1], best as i32);
        }
        generator.reset();
        assert_eq!(generator.generate(&[1, 2], 8, &Sampling::GREEDY, |_| false).unwrap(), out);
        generator.reset();
        let stopped = generator.generate(&[1, 2], 8, &Sampling::GREEDY, |id| id == out[0]).unwrap();
        assert!(stopped.is_empty());
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let logits = [0.0, 2.0, 1.0, f64::MIN];
        let sampling = Sampling { temperature: 0.5, top_k: None, seed: 0 };
        let mut candidates = [0, 1, 2, 3];
        let mut counts = [0.0; 4];
        let n = 20_000;
        for i in 0..n {
            let u = Stream::new(1, "u").uniform(i);
            counts[pick(&logits, &mut candidates, &sampling, u) as usize] += 1.0 / n as f64;
        }
        let total: f64 = [0.0f64, 4.0, 2.0].iter().map(|z| z.exp()).sum();
        for (count, z) in counts.iter().zip([0.0f64, 4.0, 2.0, f64::NEG_INFINITY]) {
            assert!((count - z.exp() / total).abs() < 0.01, "{counts:?}");
        }
        let two = Sampling { top_k: Some(2), ..sampling };
        for i in 0..1000 {
            let u = Stream::new(2, "u").uniform(i);
            assert!(matches!(pick(&logits, &mut candidates, &two, u), 1 | 2));
        }
        let equal = [1.0, 3.0, 3.0, 0.0];
        assert_eq!(pick(&equal, &mut candidates, &Sampling::GREEDY, 0.9), 1);

        let dev = Reference::new();
        let (gpt, params) = model(Preset::Nanochat202601, &dev);
        let text = |seed| {
            let sampling = Sampling { temperature: 1.0, top_k: None, seed };
            let mut generator = gpt.generator(&dev, params.weights(), 20).unwrap();
            generator.generate(&[4], 12, &sampling, |_| false).unwrap()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn requests_that_cannot_be_met_are_refused() {
        let dev = Reference::new();
        let (gpt, params) = model(Preset::Nanochat202601, &dev);
        assert!(gpt.generator(&dev, params.weights(), 0).is_err());
        let mut generator = gpt.generator(&dev, params.weights(), 4).unwrap();
        assert!(matches!(generator.draw(&Sampling::GREEDY), Err(Error::Generation { .. })));
        assert!(matches!(generator.feed(&[]), Err(Error::Generation { .. })));
        assert!(matches!(generator.feed(&[1, 2, 3, 4, 5]), Err(Error::Generation { .. })));
        assert!(matches!(generator.feed(&[50]), Err(Error::Token { id: 50, .. })));
        assert!(generator.is_empty());
        for sampling in [
            Sampling { temperature: -1.0, ..Sampling::GREEDY },
            Sampling { temperature: f64::NAN, ..Sampling::GREEDY },
            Sampling { top_k: Some(0), ..Sampling::GREEDY },
        ] {
            let refused = generator.generate(&[1], 1, &sampling, |_| false);
            assert!(matches!(refused, Err(Error::Generation { .. })));
        }
        let out = generator.generate(&[1, 2], 9, &Sampling::GREEDY, |_| false).unwrap();
        assert_eq!(out.len(), 3, "two tokens of room, and the one that needs none");
    }
}
