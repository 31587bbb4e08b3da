//! Generation: texts of tokens with their keys and values kept, fed a piece at a time, or each by one token in a pass that they share, and the next token
//! drawn from the logits.
//!
//! The arithmetic is the forward pass's own, told what came before. Nothing is allocated per token.

use std::ops::Range;

use farthing_kernels::{Device, Tensor, Weights};

use crate::cache::{Bound, Going, Text};
use crate::gpt::{Extent, Gpt};
use crate::sampling::{Sampler, Sampling};
use crate::workspace::{Buffers, Capacity, Keep, Types, buffers, first, first_mut, write_rotary};
use crate::{Error, Result};

/// The most tokens that go through the model at a time: bounds the memory of a long prompt.
const PIECE: usize = 128;

/// Several texts in the making. Each is fed by itself, or they go on together: a pass over one token of each reads the weights once.
pub struct Texts<'a> {
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
    ) -> Result<Texts<'a>> {
        Texts::new(self, dev, weights, texts, max_tokens, Bound::Windows)
    }

    /// A generator with room for `max_tokens` tokens, prompt included. It keeps the keys and values of all of them, for [`Generator::rewind`].
    ///
    /// # Errors
    /// [`Error::Batch`] when `max_tokens` is 0; [`Error::Kernel`] when there is not the memory.
    pub fn generator<'a>(
        &'a self,
        dev: &'a dyn Device,
        weights: Weights<'a>,
        max_tokens: usize,
    ) -> Result<Generator<'a>> {
        let texts = Texts::new(self, dev, weights, 1, max_tokens, Bound::None)?;
        Ok(Generator { texts, marked: 0, carried: None })
    }
}

fn refuse<T>(what: String, hint: &str) -> Result<T> {
    Err(Error::Generation { what, hint: hint.into() })
}

impl<'a> Texts<'a> {
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

    /// Appends tokens to one text; [`Texts::logits`] has what comes next.
    ///
    /// # Numerics
    /// Within 5e-5 of the full forward pass's on `cpu` (logits are at most 15), 1e-11 on `reference`; tested below.
    ///
    /// # Errors
    /// [`Error::Generation`] when there is no such text, no token or no room; [`Error::Token`]; [`Error::Kernel`].
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
    /// As [`Texts::feed`]: a text's logits do not depend on who goes along, but for rounding, and on `reference` not at all.
    ///
    /// # Errors
    /// As [`Texts::feed`]; [`Error::Generation`] also when a text is named twice or not as many tokens are given.
    ///
    /// # Cost
    /// As [`Texts::feed`] for each; the weights are read once.
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
            Some(position) => Err(Error::Token {
                what: "input",
                id: tokens[position].into(),
                row,
                position,
                vocab,
            }),
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

/// One text in the making, which can be taken back to a mark.
pub struct Generator<'a> {
    texts: Texts<'a>,
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
    /// [`Error::Kernel`].
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
    /// [`Error::Kernel`].
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
    /// As [`Texts::feed`].
    ///
    /// # Errors
    /// As [`Texts::feed`].
    ///
    /// # Cost
    /// As [`Texts::feed`].
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
    /// [`Error::Generation`] when there are no tokens yet, or `sampling` makes no sense.
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

#[cfg(test)]
mod tests {
    use farthing_base::random::Stream;
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

    fn tokens(n: usize) -> Vec<u32> {
        (0..n).map(|i| (Stream::new(3, "text").bits(i as u64) % 50) as u32).collect()
    }

    /// Softcapped logits of every position, from one pass over the whole row.
    fn all_logits(gpt: &Gpt, dev: &dyn Device, params: &Params, text: &[u32]) -> Vec<Vec<f64>> {
        let n = text.len();
        let mut ws = gpt.workspace(dev, 1, n, Mode::Evaluate).unwrap();
        let ignored = vec![-1; n];
        let inputs: Vec<i32> = text.iter().map(|&id| id as i32).collect();
        let batch = Batch::new(n, &inputs, &ignored);
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
            assert_eq!(text[t + 1], best as u32);
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
        let sampling = |seed| Sampling { temperature: 0.5, seed, ..Sampling::GREEDY };
        let mut sampler = Sampler::new(4);
        let mut counts = [0.0; 4];
        let n = 20_000;
        for i in 0..n {
            counts[sampler.draw(&logits, &[], &sampling(1), i).unwrap() as usize] += 1.0 / n as f64;
        }
        let total: f64 = [0.0f64, 4.0, 2.0].iter().map(|z| z.exp()).sum();
        for (count, z) in counts.iter().zip([0.0f64, 4.0, 2.0, f64::NEG_INFINITY]) {
            assert!((count - z.exp() / total).abs() < 0.01, "{counts:?}");
        }
        let two = Sampling { top_k: Some(2), ..sampling(2) };
        for i in 0..1000 {
            assert!(matches!(sampler.draw(&logits, &[], &two, i).unwrap(), 1 | 2));
        }
        let equal = [1.0, 3.0, 3.0, 0.0];
        assert_eq!(sampler.draw(&equal, &[], &Sampling::GREEDY, 0).unwrap(), 1);

        let dev = Reference::new();
        let (gpt, params) = model(Preset::Nanochat202601, &dev);
        let text = |seed| {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
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

    /// Feeds a text a piece at a time, of lengths that straddle windows, pieces and the room that is kept.
    fn bounded_equals_full(dev: &dyn Device, tolerance: f64) {
        let text = tokens(700);
        for preset in BOTH {
            let (gpt, params) = model(preset, dev);
            let full = all_logits(&gpt, dev, &params, &text);
            let mut texts = gpt.texts(dev, params.weights(), 1, 700).unwrap();
            // Ten times the room costs the rotary tables' two rows of D/2 angles a token, and not one key.
            let longer = gpt.texts(dev, params.weights(), 1, 7_000).unwrap();
            let angles = 2 * 8 * dev.master_dtype().bytes();
            assert_eq!(longer.bytes() - texts.bytes(), 6_300 * angles);
            let (mut at, mut error) = (0, 0.0f64);
            for n in [1, 1, 100, 1, 128, 7, 1, 1, 200, 1].into_iter().cycle() {
                let n = n.min(text.len() - at);
                texts.feed(0, &text[at..at + n]).unwrap();
                at += n;
                error = error.max(furthest(texts.logits(0).unwrap(), &full[at - 1]));
                if at == text.len() {
                    break;
                }
            }
            assert!(error < tolerance, "{preset:?}: {error:e}");
            assert_eq!(texts.tokens(0), text);
        }
    }

    #[test]
    fn what_windows_keep_bounded_is_the_full_forward_pass() {
        bounded_equals_full(&Reference::new(), 1e-11);
        bounded_equals_full(&farthing_kernels::cpu::Cpu::new(2).unwrap(), 5e-5);
    }

    /// Texts of several lengths, some of which end before others and make room for new ones.
    fn together_equals_alone(dev: &dyn Device, tolerance: f64) {
        let prompts = [tokens(40), tokens(3), tokens(150), tokens(1), tokens(20)];
        let sampling = |seed| Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
        for preset in BOTH {
            let (gpt, params) = model(preset, dev);
            let alone: Vec<(Vec<u32>, Vec<f64>)> = (0..5)
                .map(|i| {
                    let mut one = gpt.generator(dev, params.weights(), 300).unwrap();
                    let draw = sampling(i as u64);
                    let new = one.generate(&prompts[i], 9 + 3 * i, &draw, |_| false).unwrap();
                    (new, one.texts.logits(0).unwrap().to_vec())
                })
                .collect();
            let mut texts = gpt.texts(dev, params.weights(), 3, 300).unwrap();
            let mut waiting = (0..5usize).rev().collect::<Vec<_>>();
            let mut going: Vec<(usize, usize)> = Vec::new();
            let mut done = 0;
            while done < 5 {
                while let Some(slot) = (0..3).find(|s| going.iter().all(|(at, _)| at != s)) {
                    let Some(i) = waiting.pop() else { break };
                    texts.clear(slot);
                    texts.feed(slot, &prompts[i]).unwrap();
                    going.push((slot, i));
                }
                let rows: Vec<usize> = going.iter().map(|(slot, _)| *slot).collect();
                let next: Vec<u32> = going
                    .iter()
                    .map(|&(slot, i)| texts.draw(slot, &sampling(i as u64)).unwrap())
                    .collect();
                texts.step(&rows, &next).unwrap();
                going.retain(|&(slot, i)| {
                    let new = &texts.tokens(slot)[prompts[i].len()..];
                    let over = new.len() == alone[i].0.len();
                    if over {
                        assert_eq!(new, alone[i].0, "{preset:?}, text {i}");
                        let error = furthest(texts.logits(slot).unwrap(), &alone[i].1);
                        assert!(error <= tolerance, "{preset:?}, text {i}: {error:e}");
                        done += 1;
                    }
                    !over
                });
            }
        }
    }

    #[test]
    fn a_text_among_others_is_the_same_as_alone() {
        together_equals_alone(&Reference::new(), 0.0);
        together_equals_alone(&farthing_kernels::cpu::Cpu::new(2).unwrap(), 5e-5);
    }

    #[test]
    fn a_copied_text_goes_on_as_its_origin_would() {
        let dev = Reference::new();
        let text = tokens(400);
        for preset in BOTH {
            let (gpt, params) = model(preset, &dev);
            let mut texts = gpt.texts(&dev, params.weights(), 2, 420).unwrap();
            texts.feed(0, &text[..390]).unwrap();
            texts.feed(1, &text[..5]).unwrap();
            texts.copy(0, 1).unwrap();
            assert_eq!(texts.logits(0).unwrap(), texts.logits(1).unwrap());
            texts.feed(1, &text[390..]).unwrap();
            texts.feed(0, &text[390..]).unwrap();
            assert_eq!(texts.logits(0).unwrap(), texts.logits(1).unwrap());
            for (from, to) in [(0, 0), (0, 2), (5, 1)] {
                assert!(matches!(texts.copy(from, to), Err(Error::Generation { .. })));
            }
        }
    }

    #[test]
    fn steps_that_cannot_be_are_refused() {
        let dev = Reference::new();
        let (gpt, params) = model(Preset::Nanochat202607, &dev);
        assert!(gpt.texts(&dev, params.weights(), 0, 9).is_err());
        let mut texts = gpt.texts(&dev, params.weights(), 2, 3).unwrap();
        assert!(texts.logits(0).is_err() && texts.logits(7).is_err());
        assert!(texts.draw(7, &Sampling::GREEDY).is_err() && texts.feed(2, &[1]).is_err());
        texts.step(&[], &[]).unwrap();
        for (rows, next) in [(&[0, 1][..], &[1][..]), (&[1, 1], &[1, 1]), (&[2], &[1])] {
            assert!(matches!(texts.step(rows, next), Err(Error::Generation { .. })), "{rows:?}");
        }
        assert!(matches!(texts.step(&[0, 1], &[1, 50]), Err(Error::Token { row: 1, .. })));
        assert!(texts.tokens(0).is_empty() && texts.tokens(1).is_empty());
        texts.feed(1, &[1, 2, 3]).unwrap();
        assert!(matches!(texts.step(&[0, 1], &[1, 1]), Err(Error::Generation { .. })));
        assert!(texts.tokens(0).is_empty());
    }
}
