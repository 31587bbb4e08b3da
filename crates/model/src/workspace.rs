//! `Workspace`: every buffer that a forward and backward pass touches, made once, so that a step allocates nothing.
//!
//! One function lists the buffers; it is run with an allocator to make them and with a counter to plan them, so that the
//! figures agree. Buffers are sized for N = rows · tokens positions; a batch with fewer, in any arrangement of rows and
//! tokens, uses the first of them.

use farthing_kernels::{DType, Device, Mut, Ref, Shape, Tensor};

use crate::gpt::Extent;
use crate::{Error, GptConfig, Mlp, Result};

/// What a workspace is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Mode {
    /// Forward and backward: keeps every layer's activations. Evaluates too.
    Train,
    /// Forward only: layers share one set of activations.
    Evaluate,
}

/// Every buffer of a pass over at most `rows · tokens` positions. Made by [`Gpt::workspace`](crate::Gpt::workspace).
pub struct Workspace {
    pub(crate) mode: Mode,
    /// The most positions a batch can have.
    pub(crate) capacity: usize,
    /// The most tokens a row can have: the length of the rotary tables.
    pub(crate) tokens: usize,
    /// Positions of the last batch.
    pub(crate) used: usize,
    pub(crate) has_predictions: bool,
    pub(crate) buffers: Buffers<Tensor>,
    /// Host bytes that losses pass through.
    staging: Vec<u8>,
    /// A batch on its way to `tokens`.
    pub(crate) upload: Vec<i32>,
    bytes: usize,
}

impl Workspace {
    pub(crate) fn new(
        config: &GptConfig,
        dev: &dyn Device,
        rows: usize,
        tokens: usize,
        mode: Mode,
    ) -> Result<Self> {
        let extent = Capacity::of_batches(rows, tokens)?;
        let types = Types { compute: dev.compute_dtype(), master: dev.master_dtype() };
        let mut bytes = 0;
        let keep = match mode {
            Mode::Train => Keep::Train,
            Mode::Evaluate => Keep::Evaluate,
        };
        let mut buffers = buffers(config, extent, keep, types, &mut |dtype, shape| {
            bytes += shape.elements() * dtype.bytes();
            Ok(dev.alloc(dtype, shape)?)
        })?;
        write_rotary(config, dev, &mut buffers.cos, &mut buffers.sin)?;
        let staging = vec![0; extent.positions * types.master.bytes()];
        let upload = Vec::with_capacity(buffers.tokens.shape()[0]);
        Ok(Self {
            mode,
            capacity: extent.positions,
            tokens,
            used: 0,
            has_predictions: false,
            buffers,
            staging,
            upload,
            bytes,
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room for a batch of `rows` rows of `tokens` tokens.
    pub fn fits(&self, rows: usize, tokens: usize) -> bool {
        tokens <= self.tokens && rows.saturating_mul(tokens) <= self.capacity
    }

    /// Positions of the last batch: the number of losses there are.
    pub fn positions(&self) -> usize {
        self.used
    }

    /// The sum of the last batch's losses, in nats; ignored positions count 0.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn loss_sum(&mut self, dev: &dyn Device) -> Result<f64> {
        let losses = self.buffers.losses.view().rows(0..self.used)?;
        dev.sum(self.buffers.total.view_mut(), losses)?;
        let mut host = [0; 8];
        let total = self.buffers.total.view();
        let host = &mut host[..total.dtype().bytes()];
        dev.read(host, total)?;
        Ok(float(host))
    }

    /// out = the sum of the last batch's losses, in nats, on the device: for whoever reads several at once.
    ///
    /// # Shapes
    /// out (1) master dtype.
    /// # Errors
    /// [`Error::Kernel`].
    pub fn sum_losses(&self, dev: &dyn Device, out: Mut<'_>) -> Result<()> {
        Ok(dev.sum(out, self.buffers.losses.view().rows(0..self.used)?)?)
    }

    /// The last batch's losses per position in nats, 0 where the target was −1, in the batch's own order.
    ///
    /// # Errors
    /// [`Error::Batch`] when `out` has not [`Workspace::positions`] elements; [`Error::Kernel`].
    pub fn read_losses(&mut self, dev: &dyn Device, out: &mut [f64]) -> Result<()> {
        self.check_len(out.len())?;
        let losses = self.buffers.losses.view().rows(0..self.used)?;
        let width = losses.dtype().bytes();
        let host = &mut self.staging[..self.used * width];
        dev.read(host, losses)?;
        for (out, bytes) in out.iter_mut().zip(host.chunks_exact(width)) {
            *out = float(bytes);
        }
        Ok(())
    }

    /// The most likely next token at each position of the last batch.
    ///
    /// # Errors
    /// [`Error::Batch`] when `out` has not [`Workspace::positions`] elements or the last batch was evaluated without
    /// predictions; [`Error::Kernel`].
    pub fn read_predictions(&self, dev: &dyn Device, out: &mut [i32]) -> Result<()> {
        self.check_len(out.len())?;
        if !self.has_predictions {
            let what = "there are no predictions of the last batch".into();
            let hint = "evaluate it with predictions = true".into();
            return Err(Error::Batch { what, hint });
        }
        let predictions = self.buffers.predictions.view().rows(0..self.used)?;
        Ok(dev.read(bytemuck::cast_slice_mut(out), predictions)?)
    }

    fn check_len(&self, len: usize) -> Result<()> {
        if len == self.used {
            return Ok(());
        }
        let what = format!("{len} places for the {} positions of the last batch", self.used);
        Err(Error::Batch { what, hint: "ask Workspace::positions() for the length".into() })
    }
}

/// A master-type float from its bytes.
pub(crate) fn float(bytes: &[u8]) -> f64 {
    match *bytes {
        [a, b, c, d] => f32::from_ne_bytes([a, b, c, d]) as f64,
        [a, b, c, d, e, f, g, h] => f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    }
}

/// How much a set of buffers has room for.
#[derive(Clone, Copy)]
pub(crate) struct Capacity {
    /// N, the positions of one pass.
    pub(crate) positions: usize,
    /// The most tokens a row can have, those of earlier passes included.
    pub(crate) tokens: usize,
    /// The most rows of a pass that goes on with texts.
    pub(crate) texts: usize,
}

impl Capacity {
    /// Room for `rows` rows of `tokens` tokens in one pass.
    pub(crate) fn of_batches(rows: usize, tokens: usize) -> Result<Self> {
        let positions = rows.checked_mul(tokens).filter(|&n| n > 0 && i32::try_from(n).is_ok());
        let positions = positions.ok_or_else(|| Error::Batch {
            what: format!("{rows} rows of {tokens} tokens"),
            hint: "a workspace has at least 1 position and at most 2³¹ − 1".into(),
        })?;
        Ok(Self { positions, tokens, texts: 0 })
    }

    /// Room to go on with `texts` texts of `tokens` tokens in all, `positions` at a time.
    pub(crate) fn of_texts(texts: usize, tokens: usize, positions: usize) -> Result<Self> {
        Self::of_batches(texts, tokens)?;
        Ok(Self { positions: tokens.min(positions).max(texts), tokens, texts })
    }
}

/// Which activations outlive their layer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All, and there are gradients.
    Train,
    /// None.
    Evaluate,
    /// None here: what stays of texts in the making is theirs.
    Generate,
}

#[derive(Clone, Copy)]
pub(crate) struct Types {
    pub(crate) compute: DType,
    pub(crate) master: DType,
}

/// One layer's activations; N positions, C channels, H·D query and K·D key/value channels.
pub(crate) struct Layer<T> {
    /// The attention's input (N, C) and its statistic (N).
    pub(crate) n1: T,
    pub(crate) rstd1: T,
    /// Queries after rotary and norm (N, H·D), their statistic (N, H), and the keys' (N, K).
    pub(crate) q: T,
    pub(crate) rstd_q: T,
    pub(crate) rstd_k: T,
    /// The value embedding's gate (N, K).
    pub(crate) gate: Option<T>,
    /// Attention's output before its projection (N, H·D), and log-sum-exp (B, H, T in N·H places).
    pub(crate) att: T,
    pub(crate) lse: T,
    /// The MLP's input (N, C) and its statistic (N).
    pub(crate) n2: T,
    pub(crate) rstd2: T,
    /// The MLP's hidden values after relu² (N, M), or SwiGLU's two factors, the gate's before silu.
    pub(crate) h: T,
    pub(crate) h_gate: Option<T>,
}

/// One layer's keys (after rotary and norm) and values (after the value embedding), (N, K·D) each.
pub(crate) struct KeyValue<T> {
    pub(crate) k: T,
    pub(crate) v: T,
}

/// Smear's input (N, C), gate (N), and, where texts are gone on with, the input at the last position of each (R, C).
pub(crate) struct Smear<T> {
    pub(crate) x: T,
    pub(crate) gate: T,
    pub(crate) previous: Option<T>,
}

/// Gradients by activations.
pub(crate) struct Gradients<T> {
    /// By the residual stream, by the first stream, and by the middle one: (N, C).
    pub(crate) dx: T,
    pub(crate) dx0: T,
    pub(crate) dmid: Option<T>,
    /// By attention's output and by the queries, (N, H·D); scratch of N·H places.
    pub(crate) datt: T,
    pub(crate) dq: T,
    pub(crate) delta: T,
    /// By keys, values and value embeddings, (N, K·D).
    pub(crate) dk: T,
    pub(crate) dv: T,
    pub(crate) dve: Option<T>,
    /// By what the MLP's first matrix makes, and by SwiGLU's gate, (N, M).
    pub(crate) dh: T,
    pub(crate) dh_gate: Option<T>,
}

/// Every buffer of a pass. `T` is a tensor, or nothing at all when they are only counted.
pub(crate) struct Buffers<T> {
    /// What the host gives of a batch, in one piece: inputs (N), targets (N) and, for training, positions sorted by (id, position) (N).
    pub(crate) tokens: T,
    /// Rotary tables (tokens, D/2).
    pub(crate) cos: T,
    pub(crate) sin: T,
    /// The embeddings' norm statistic (N).
    pub(crate) rstd0: T,
    pub(crate) smear: Option<Smear<T>>,
    /// The residual stream before layer i stands in `stream[slots[i]]`, after the last in `stream[slots[L]]`.
    pub(crate) stream: Vec<T>,
    pub(crate) slots: Vec<usize>,
    /// All layers', or one that they share.
    pub(crate) layers: Vec<Layer<T>>,
    pub(crate) kv: Vec<KeyValue<T>>,
    /// The head's input (N, C) and its statistic (N).
    pub(crate) normed: T,
    pub(crate) rstd: T,
    /// Logits of one chunk of rows (R, V).
    pub(crate) logits: T,
    pub(crate) losses: T,
    pub(crate) predictions: T,
    pub(crate) total: T,
    /// Scratch: (N, C); for SwiGLU, where no gradient's place will do, (N, M); for value embeddings (N, K·D).
    pub(crate) wide_c: T,
    pub(crate) act: Option<T>,
    pub(crate) ve: Option<T>,
    pub(crate) gradients: Option<Gradients<T>>,
}

impl<T> Buffers<T> {
    /// Where layer `i`'s activations are.
    pub(crate) fn layer_slot(&self, i: usize) -> usize {
        i.min(self.layers.len() - 1)
    }

    /// Where layer `i`'s keys and values are.
    pub(crate) fn kv_slot(&self, i: usize) -> usize {
        i.min(self.kv.len() - 1)
    }
}

/// The most bytes and rows of a chunk of logits, unless one row is larger. For each chunk the head's weights are read and their gradient is read and written: the fewer the
/// better on a GPU, which computes in bf16. In f32 they are for a CPU, whose caches are to hold them.
fn chunk_limits(dtype: DType) -> (usize, usize) {
    if dtype == DType::BF16 { (256 << 20, 4096) } else { (64 << 20, usize::MAX) }
}

/// Rows whose logits exist at a time: a multiple of 64 where there are so many.
fn chunk_rows(config: &GptConfig, positions: usize, dtype: DType) -> usize {
    let (bytes, rows) = chunk_limits(dtype);
    let fit = (bytes / (config.padded_vocab() * dtype.bytes())).min(rows);
    let fit = if fit >= 64 { fit - fit % 64 } else { fit };
    fit.clamp(1, positions)
}

/// The slot of each stream: all apart for training; otherwise two in turn, beside the first stream and the middle one, which are needed again.
fn stream_slots(config: &GptConfig, keep: Keep) -> Vec<usize> {
    let middle = config.backout.then(|| config.backout_layer() + 1);
    let slot = |i: usize| match (keep, i) {
        (Keep::Train, i) => i,
        (_, 0) => 0,
        (_, i) if Some(i) == middle => 3,
        (_, i) => 1 + i % 2,
    };
    (0..=config.depth).map(slot).collect()
}

/// Lists every buffer to `make`.
pub(crate) fn buffers<T>(
    config: &GptConfig,
    capacity: Capacity,
    keep: Keep,
    types: Types,
    make: &mut dyn FnMut(DType, Shape) -> Result<T>,
) -> Result<Buffers<T>> {
    let Types { compute, master } = types;
    let n = capacity.positions;
    let [c, h, k, d] = [config.model_dim, config.heads, config.kv_heads, config.head_dim];
    let (m, swiglu) = (config.mlp_dim(), config.mlp == Mlp::Swiglu);
    let has_value_embeds = (0..config.depth).any(|i| config.has_value_embed(i));
    let slots = stream_slots(config, keep);
    let shared = if keep == Keep::Train { config.depth } else { 1 };
    let generate = keep == Keep::Generate;
    let head_rows = if generate { capacity.texts } else { chunk_rows(config, n, compute) };

    let stream = (0..=slots.iter().copied().max().unwrap_or(0))
        .map(|_| make(compute, [n, c].into()))
        .collect::<Result<_>>()?;
    let mut layers = Vec::with_capacity(shared);
    for i in 0..shared {
        let gated = if keep == Keep::Train { config.has_value_embed(i) } else { has_value_embeds };
        layers.push(Layer {
            n1: make(compute, [n, c].into())?,
            rstd1: make(master, [n].into())?,
            q: make(compute, [n, h * d].into())?,
            rstd_q: make(master, [n, h].into())?,
            rstd_k: make(master, [n, k].into())?,
            gate: gated.then(|| make(master, [n, k].into())).transpose()?,
            att: make(compute, [n, h * d].into())?,
            lse: make(master, [n, h].into())?,
            n2: make(compute, [n, c].into())?,
            rstd2: make(master, [n].into())?,
            h: make(compute, [n, m].into())?,
            h_gate: swiglu.then(|| make(compute, [n, m].into())).transpose()?,
        });
    }
    let mut kv = Vec::with_capacity(shared);
    for _ in 0..shared {
        let shape = Shape::from([n, k * d]);
        kv.push(KeyValue { k: make(compute, shape)?, v: make(compute, shape)? });
    }
    let smear = if config.smear {
        Some(Smear {
            x: make(compute, [n, c].into())?,
            gate: make(master, [n].into())?,
            previous: generate.then(|| make(compute, [capacity.texts, c].into())).transpose()?,
        })
    } else {
        None
    };
    let gradients = if keep == Keep::Train {
        Some(Gradients {
            dx: make(compute, [n, c].into())?,
            dx0: make(compute, [n, c].into())?,
            dmid: config.backout.then(|| make(compute, [n, c].into())).transpose()?,
            datt: make(compute, [n, h * d].into())?,
            dq: make(compute, [n, h * d].into())?,
            delta: make(master, [n, h].into())?,
            dk: make(compute, [n, k * d].into())?,
            dv: make(compute, [n, k * d].into())?,
            dve: has_value_embeds.then(|| make(compute, [n, k * d].into())).transpose()?,
            dh: make(compute, [n, m].into())?,
            dh_gate: swiglu.then(|| make(compute, [n, m].into())).transpose()?,
        })
    } else {
        None
    };
    Ok(Buffers {
        tokens: make(DType::I32, [n * if keep == Keep::Train { 3 } else { 2 }].into())?,
        cos: make(master, [capacity.tokens, d / 2].into())?,
        sin: make(master, [capacity.tokens, d / 2].into())?,
        rstd0: make(master, [n].into())?,
        smear,
        stream,
        slots,
        layers,
        kv,
        normed: make(compute, [n, c].into())?,
        rstd: make(master, [n].into())?,
        logits: make(compute, [head_rows, config.padded_vocab()].into())?,
        losses: make(master, [n].into())?,
        predictions: make(DType::I32, [n].into())?,
        total: make(master, [1].into())?,
        wide_c: make(compute, [n, c].into())?,
        act: (swiglu && gradients.is_none()).then(|| make(compute, [n, m].into())).transpose()?,
        ve: has_value_embeds.then(|| make(compute, [n, k * d].into())).transpose()?,
        gradients,
    })
}

/// Fills the rotary tables, in f64: angle = t · base^(−2j/R) for the first R/2 of a head's D/2 pairs, R being the channels that are turned,
/// and 0 for the others.
///
/// That pairs stay j and j + D/2 whatever R is leaves one kernel for all; to a model that starts from random weights it is the same as turning
/// the first R channels among themselves.
pub(crate) fn write_rotary(
    config: &GptConfig,
    dev: &dyn Device,
    cos: &mut Tensor,
    sin: &mut Tensor,
) -> Result<()> {
    let [tokens, half] = *cos.shape() else { return Ok(()) };
    let turned = config.rotary_dim();
    let angle = |t: usize, j: usize| {
        if 2 * j >= turned {
            return 0.0;
        }
        t as f64 * config.rope_base.powf(-2.0 * j as f64 / turned as f64)
    };
    let angles: Vec<f64> = (0..tokens * half).map(|at| angle(at / half, at % half)).collect();
    dev.write_f64(cos.view_mut(), &angles.iter().map(|a| a.cos()).collect::<Vec<_>>())?;
    dev.write_f64(sin.view_mut(), &angles.iter().map(|a| a.sin()).collect::<Vec<_>>())?;
    Ok(())
}

/// The positions of a pass, in the shape that operations take.
pub(crate) fn bind(tensor: &mut Tensor, n: usize, shape: impl Into<Shape>) -> Result<Mut<'_>> {
    Ok(tensor.view_mut().rows(0..n)?.reshape(shape)?)
}

/// As [`bind`], to read.
pub(crate) fn bound(tensor: &Tensor, n: usize, shape: impl Into<Shape>) -> Result<Ref<'_>> {
    Ok(tensor.view().rows(0..n)?.reshape(shape)?)
}

/// The first `n` rows, to read.
pub(crate) fn first(tensor: &Tensor, n: usize) -> Result<Ref<'_>> {
    Ok(tensor.view().rows(0..n)?)
}

/// The first `n` rows, to write.
pub(crate) fn first_mut(tensor: &mut Tensor, n: usize) -> Result<Mut<'_>> {
    Ok(tensor.view_mut().rows(0..n)?)
}

impl Layer<Tensor> {
    /// Every view that a pass takes, in its final shape.
    pub(crate) fn bind(&mut self, config: &GptConfig, at: Extent) -> Result<Layer<Mut<'_>>> {
        let (n, [b, t]) = (at.positions(), [at.rows, at.tokens]);
        let GptConfig { model_dim: c, heads: h, kv_heads: k, head_dim: d, .. } = *config;
        let m = config.mlp_dim();
        Ok(Layer {
            n1: bind(&mut self.n1, n, [b, t, c])?,
            rstd1: bind(&mut self.rstd1, n, [b, t])?,
            q: bind(&mut self.q, n, [b, t, h, d])?,
            rstd_q: bind(&mut self.rstd_q, n, [b, t, h])?,
            rstd_k: bind(&mut self.rstd_k, n, [b, t, k])?,
            gate: self.gate.as_mut().map(|gate| bind(gate, n, [b, t, k])).transpose()?,
            att: bind(&mut self.att, n, [b, t, h, d])?,
            lse: bind(&mut self.lse, n, [b, h, t])?,
            n2: bind(&mut self.n2, n, [b, t, c])?,
            rstd2: bind(&mut self.rstd2, n, [b, t])?,
            h: bind(&mut self.h, n, [b, t, m])?,
            h_gate: self.h_gate.as_mut().map(|gate| bind(gate, n, [b, t, m])).transpose()?,
        })
    }
}

impl KeyValue<Tensor> {
    /// This pass's keys and values, (B, T, K, D) each.
    pub(crate) fn fresh(&mut self, config: &GptConfig, at: Extent) -> Result<[Mut<'_>; 2]> {
        let (n, shape) = (at.positions(), at.kv(config));
        Ok([bind(&mut self.k, n, shape)?, bind(&mut self.v, n, shape)?])
    }

    /// The same to read.
    pub(crate) fn all(&self, config: &GptConfig, at: Extent) -> Result<[Ref<'_>; 2]> {
        let (n, shape) = (at.positions(), at.kv(config));
        Ok([bound(&self.k, n, shape)?, bound(&self.v, n, shape)?])
    }
}

impl Gradients<Tensor> {
    /// Every view that a pass takes, in its final shape.
    pub(crate) fn bind(&mut self, config: &GptConfig, at: Extent) -> Result<Gradients<Mut<'_>>> {
        let (n, [b, t]) = (at.positions(), [at.rows, at.tokens]);
        let (c, m) = (config.model_dim, config.mlp_dim());
        let (queries, keys) = (at.q(config), at.kv(config));
        Ok(Gradients {
            dx: bind(&mut self.dx, n, [b, t, c])?,
            dx0: bind(&mut self.dx0, n, [b, t, c])?,
            dmid: self.dmid.as_mut().map(|dmid| bind(dmid, n, [b, t, c])).transpose()?,
            datt: bind(&mut self.datt, n, queries)?,
            dq: bind(&mut self.dq, n, queries)?,
            delta: bind(&mut self.delta, n, [b, config.heads, t])?,
            dk: bind(&mut self.dk, n, keys)?,
            dv: bind(&mut self.dv, n, keys)?,
            dve: self.dve.as_mut().map(|dve| bind(dve, n, keys)).transpose()?,
            dh: bind(&mut self.dh, n, [b, t, m])?,
            dh_gate: self.dh_gate.as_mut().map(|dh| bind(dh, n, [b, t, m])).transpose()?,
        })
    }
}
