//! GPT-2, forward only: the yardstick that trained models are held against. Learned positions, layer norms, biases, GELU, a tied head.
//!
//! Apart from [`Gpt`](crate::Gpt): it cannot be trained, generates nothing and has no checkpoints but those of `transformers`. It is computed with operations
//! that training has; `weights` says how layer norms and biases become such.
//!
//! # Source
//! Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

mod config;
mod weights;

pub use config::Gpt2Config;

use std::mem::swap;
use std::path::Path;

use farthing_base::Batch;
use farthing_kernels::ops::AttentionShape;
use farthing_kernels::{Coef, DType, Device, Expr, Mut, Ref, Tensor};
use rayon::prelude::*;

use self::weights::{Affine, Block, Weights};
use crate::workspace::{first, first_mut, float};
use crate::{Error, Result};

/// Rows of logits that exist at once.
const LOGIT_ROWS: usize = 128;

/// A GPT-2 on a device of f32 or f64.
pub struct Gpt2<'a> {
    config: Gpt2Config,
    dev: &'a dyn Device,
    weights: Weights,
    buffers: Option<Buffers>,
}

/// What a forward pass writes, with room for `positions` positions.
struct Buffers {
    positions: usize,
    /// (N): tokens; their places in their rows; zeros, by which a bias is looked up; rows whose logits are wanted.
    ids: Tensor,
    places: Tensor,
    zeros: Tensor,
    wanted: Tensor,
    /// (N, C): the stream, and what is added to it or becomes the next.
    stream: Tensor,
    other: Tensor,
    added: Tensor,
    normed: Tensor,
    /// (N).
    rstd: Tensor,
    /// (N, C) each.
    qkv: [Tensor; 3],
    attended: Tensor,
    /// (N·H).
    lse: Tensor,
    /// (N, M).
    inner: Tensor,
    /// (LOGIT_ROWS, C) and (LOGIT_ROWS, V).
    last: Tensor,
    logits: Tensor,
}

/// What the model says about one position.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Scored {
    /// −ln of the probability of the target, in nats.
    pub loss: f64,
    /// The most likely next token, ties to the lowest id.
    pub prediction: i32,
}

impl<'a> Gpt2<'a> {
    /// Reads the model of a file of weights, in safetensors, with its `config.json` beside it.
    ///
    /// # Numerics
    /// Logits are within 1e-4 of `transformers`' in f32, and 1e-5 in f64; `tests/golden_gpt2.rs` shows it.
    ///
    /// # Errors
    /// As [`Gpt2Config::read`]; [`Error::File`], [`Error::ParameterShape`], [`Error::ElementType`], [`Error::NotFinite`], [`Error::Unknown`] for weights that are
    /// not whole or not those of the configuration, before memory is asked for; [`Error::Config`] for a device that computes in bf16; [`Error::Kernel`].
    pub fn open(model: &Path, dev: &'a dyn Device) -> Result<Self> {
        if dev.compute_dtype() == DType::BF16 {
            return Err(Error::Config {
                key: "device",
                what: format!("{} computes in bf16, and GPT-2 is computed in f32", dev.name()),
                hint: "compute on the processor".into(),
            });
        }
        let config = Gpt2Config::read(model)?;
        let weights = Weights::read(&config, model, dev)?;
        Ok(Self { config, dev, weights, buffers: None })
    }

    /// Whether a file has the whole model that the `config.json` beside it says.
    ///
    /// # Errors
    /// As [`Gpt2::open`], but for the device's.
    pub fn check(model: &Path) -> Result<()> {
        weights::check(&Gpt2Config::read(model)?, model)
    }

    /// The model's shape.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Scores every position of a batch whose target is not −1; `each` is told its number and what the model says.
    ///
    /// # Errors
    /// [`Error::Tokens`]; [`Error::Batch`] for a target beyond the positions that the model knows; [`Error::Kernel`].
    ///
    /// # Cost
    /// A forward pass over the whole batch, and of the head the rows that have a target.
    pub fn score(&mut self, batch: &Batch, each: &mut dyn FnMut(usize, Scored)) -> Result<()> {
        let vocab = self.config.vocab_size;
        let wanted: Vec<i32> = (0..batch.targets().len() as i32)
            .filter(|&i| batch.targets()[i as usize] >= 0)
            .collect();
        self.check_targets(batch, &wanted)?;
        self.trunk(batch)?;
        let mut host = Vec::new();
        for chunk in wanted.chunks(LOGIT_ROWS) {
            self.read_logits(chunk, &mut host)?;
            let width = host.len() / (chunk.len() * vocab);
            let rows = host.par_chunks_exact(vocab * width).zip(chunk);
            let scored: Vec<Scored> = rows
                .map(|(row, &at)| scored(row, width, batch.targets()[at as usize] as usize))
                .collect();
            chunk.iter().zip(scored).for_each(|(&at, scored)| each(at as usize, scored));
        }
        Ok(())
    }

    /// Logits of every position of a batch, (B·T, V), whatever its targets.
    ///
    /// # Errors
    /// As [`Gpt2::score`].
    pub fn logits(&mut self, batch: &Batch) -> Result<Vec<f64>> {
        let all: Vec<i32> = (0..batch.inputs().len() as i32).collect();
        self.check_targets(batch, &all)?;
        self.trunk(batch)?;
        let (mut host, mut logits) = (Vec::new(), Vec::new());
        for chunk in all.chunks(LOGIT_ROWS) {
            self.read_logits(chunk, &mut host)?;
            let width = host.len() / (chunk.len() * self.config.vocab_size);
            logits.extend(host.chunks_exact(width).map(float));
        }
        Ok(logits)
    }

    fn check_targets(&self, batch: &Batch, wanted: &[i32]) -> Result<()> {
        let (tokens, most) = (batch.tokens(), self.config.n_positions);
        let far = wanted.iter().find(|&&at| at as usize % tokens >= most);
        if let Some(&at) = far {
            return Err(Error::Batch {
                what: format!("a target at position {} of a row", at as usize % tokens),
                hint: format!("this GPT-2 knows {most} positions; give rows of at most so many"),
            });
        }
        Ok(batch.check_vocab(self.config.vocab_size)?)
    }

    /// Makes room for `n` positions.
    fn reserve(&mut self, n: usize) -> Result<&mut Buffers> {
        if self.buffers.as_ref().is_none_or(|held| held.positions < n) {
            // The old ones go first, so that both are never held.
            self.buffers = None;
            self.buffers = Some(Buffers::new(&self.config, self.dev, n)?);
        }
        // It is there by now.
        self.buffers.as_mut().ok_or_else(|| Error::Batch {
            what: "there are no buffers".into(),
            hint: "this is a fault of farthing".into(),
        })
    }

    /// Everything up to the last norm.
    fn trunk(&mut self, batch: &Batch) -> Result<()> {
        let (n, t) = (batch.inputs().len(), batch.tokens());
        // What fills a row up may stand beyond the last position; nothing is asked of it there.
        let last = self.config.n_positions - 1;
        let places: Vec<i32> = (0..n).map(|at| (at % t).min(last) as i32).collect();
        self.reserve(n)?;
        let Self { config, dev, weights, buffers, .. } = self;
        let (dev, Some(buf)) = (*dev, buffers) else { return Ok(()) };
        dev.write_i32(first_mut(&mut buf.ids, n)?, batch.inputs())?;
        dev.write_i32(first_mut(&mut buf.places, n)?, &places)?;
        dev.embed(first_mut(&mut buf.other, n)?, weights.tokens.view(), first(&buf.ids, n)?)?;
        dev.embed(first_mut(&mut buf.added, n)?, weights.positions.view(), first(&buf.places, n)?)?;
        buf.add(dev, n)?;
        for block in &weights.blocks {
            buf.block(config, dev, block, n, t)?;
        }
        Ok(())
    }

    /// The logits of some positions of the last pass, as the device's bytes.
    fn read_logits(&mut self, wanted: &[i32], host: &mut Vec<u8>) -> Result<()> {
        let Self { dev, weights, buffers, .. } = self;
        let (dev, Some(buf), n) = (*dev, buffers, wanted.len()) else { return Ok(()) };
        dev.write_i32(first_mut(&mut buf.wanted, n)?, wanted)?;
        dev.embed(first_mut(&mut buf.last, n)?, buf.normed.view(), first(&buf.wanted, n)?)?;
        let (last, zeros) = (first(&buf.last, n)?, first(&buf.zeros, n)?);
        affine(dev, first_mut(&mut buf.logits, n)?, last, &weights.head, zeros)?;
        let logits = first(&buf.logits, n)?;
        host.resize(logits.shape().elements() * logits.dtype().bytes(), 0);
        Ok(dev.read(host, logits)?)
    }
}

impl Buffers {
    fn new(config: &Gpt2Config, dev: &dyn Device, n: usize) -> Result<Self> {
        let (c, heads) = (config.n_embd, config.n_head);
        let ids = |n: usize| dev.alloc(DType::I32, [n].into());
        let wide = || dev.activations([n, c]);
        let rows = n.max(LOGIT_ROWS);
        Ok(Self {
            positions: n,
            ids: ids(n)?,
            places: ids(n)?,
            zeros: ids(rows)?,
            wanted: ids(LOGIT_ROWS)?,
            stream: wide()?,
            other: wide()?,
            added: wide()?,
            normed: wide()?,
            rstd: dev.master([n])?,
            qkv: [wide()?, wide()?, wide()?],
            attended: wide()?,
            lse: dev.master([n * heads])?,
            inner: dev.activations([n, config.inner()])?,
            last: dev.activations([LOGIT_ROWS, c])?,
            logits: dev.activations([LOGIT_ROWS, config.vocab_size])?,
        })
    }

    /// stream = other + added, with its norm.
    fn add(&mut self, dev: &dyn Device, n: usize) -> Result<()> {
        dev.mix_norm(
            first_mut(&mut self.stream, n)?,
            first_mut(&mut self.normed, n)?,
            first_mut(&mut self.rstd, n)?,
            first(&self.other, n)?,
            Coef::ONE,
            first(&self.added, n)?,
            Coef::ONE,
        )?;
        Ok(())
    }

    fn block(
        &mut self,
        config: &Gpt2Config,
        dev: &dyn Device,
        block: &Block,
        n: usize,
        t: usize,
    ) -> Result<()> {
        let (heads, d) = (config.n_head, config.head_dim());
        for (to, of) in self.qkv.iter_mut().zip(&block.qkv) {
            let (normed, zeros) = (first(&self.normed, n)?, first(&self.zeros, n)?);
            affine(dev, first_mut(to, n)?, normed, of, zeros)?;
        }
        let shape = [n / t, t, heads, d];
        let [q, k, v] = &self.qkv;
        dev.attention(
            first_mut(&mut self.attended, n)?.reshape(shape)?,
            first_mut(&mut self.lse, n * heads)?.reshape([n / t, heads, t])?,
            first(q, n)?.reshape(shape)?,
            first(k, n)?.reshape(shape)?,
            first(v, n)?.reshape(shape)?,
            AttentionShape { window: t, scale: 1.0 / (d as f64).sqrt() },
        )?;
        swap(&mut self.stream, &mut self.other);
        let (attended, zeros) = (first(&self.attended, n)?, first(&self.zeros, n)?);
        affine(dev, first_mut(&mut self.added, n)?, attended, &block.attn_proj, zeros)?;
        self.add(dev, n)?;

        let (normed, zeros) = (first(&self.normed, n)?, first(&self.zeros, n)?);
        affine(dev, first_mut(&mut self.inner, n)?, normed, &block.fc, zeros)?;
        dev.map(&[gelu()], &mut [first_mut(&mut self.inner, n)?], &[], &[])?;
        swap(&mut self.stream, &mut self.other);
        let inner = first(&self.inner, n)?;
        affine(dev, first_mut(&mut self.added, n)?, inner, &block.mlp_proj, zeros)?;
        self.add(dev, n)
    }
}

/// y = x · wᵀ + bias, the bias being looked up by zeros.
fn affine(dev: &dyn Device, mut y: Mut<'_>, x: Ref<'_>, of: &Affine, zeros: Ref<'_>) -> Result<()> {
    dev.embed(y.reborrow(), of.bias.view(), zeros)?;
    Ok(dev.linear(y, x, of.weight.view(), true)?)
}

/// ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
fn gelu() -> Expr {
    let x = || Expr::old(0);
    let inner = x() + x() * x() * x() * 0.044_715;
    (inner * (2.0 / std::f64::consts::PI).sqrt()).tanh() * x() * 0.5 + x() * 0.5
}

/// The verdict of a row of logits, `width` bytes each, on a target.
fn scored(row: &[u8], width: usize, target: usize) -> Scored {
    let logits = || row.chunks_exact(width).map(float);
    let (mut most, mut prediction) = (f64::NEG_INFINITY, 0);
    for (id, logit) in logits().enumerate() {
        if logit > most {
            (most, prediction) = (logit, id as i32);
        }
    }
    let sum: f64 = logits().map(|z| (z - most).exp()).sum();
    let at = float(&row[target * width..(target + 1) * width]);
    Scored { loss: most + sum.ln() - at, prediction }
}
