//! `Device`: what a training step computes, as one object-safe trait in six parts.
//!
//! The contract, for every operation here:
//! - Arguments are contiguous and row-major. Outputs come first. N stands for B·T rows, C channels, V vocabulary,
//!   H query heads, K key/value heads, D head dim, G gate channels; shapes are given beside each argument.
//! - Floats are of the device's [`Memory::compute_dtype`] unless said otherwise; parameters' gradients, parameters that
//!   are single numbers or gates, statistics (`rstd`, `lse`, `losses`) and optimizer state are of its
//!   [`Memory::master_dtype`]. Ids, targets and positions are I32. Sums accumulate in at least f32.
//! - "Adds to" means the output is read and added to; otherwise it is overwritten, whatever it held.
//! - Nothing is allocated, and the result never depends on the number of threads.
//! - Every operation may fail with [`Error::Shape`](crate::Error::Shape), [`Error::Unsupported`](crate::Error::Unsupported)
//!   or [`Error::Place`](crate::Error::Place), before it writes anything.

#![allow(
    clippy::missing_errors_doc,
    reason = "the module's head says once what every operation may fail with"
)]

use crate::{Bf16, DType, Expr, Mut, Place, Ref, Result, Shape, Tensor};

/// Everything a training step needs of a machine. See the module's head for what holds for every operation.
pub trait Device: Memory + Dense + Attention + Loss + Pointwise + Update + Send + Sync {}

impl<D: Memory + Dense + Attention + Loss + Pointwise + Update + Send + Sync> Device for D {}

/// A factor that is a host number times, optionally, one parameter on the device.
#[derive(Clone, Copy)]
pub struct Coef<'a> {
    /// The parameter, one element of the master dtype; 1 when absent.
    pub parameter: Option<Ref<'a>>,
    /// The host factor.
    pub times: f64,
}

impl<'a> Coef<'a> {
    /// The number one.
    pub const ONE: Coef<'static> = Coef { parameter: None, times: 1.0 };

    /// `times · parameter`.
    pub fn new(parameter: Ref<'a>, times: f64) -> Self {
        Self { parameter: Some(parameter), times }
    }
}

/// Memory and its movement.
pub trait Memory {
    /// A short name for messages: "cpu", "reference", "cuda:0".
    fn name(&self) -> &'static str;

    /// Where this device's tensors are.
    fn place(&self) -> Place;

    /// The float type of activations, and of weights as they are multiplied: F64 on `reference`, F32 on `cpu`.
    fn compute_dtype(&self) -> DType;

    /// The float type of master weights, gradients, statistics and optimizer state: F64 on `reference`, else F32.
    fn master_dtype(&self) -> DType;

    /// A zeroed tensor.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor>;

    /// Copies host bytes, in `dst`'s own element type, to the device.
    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()>;

    /// Copies the device's bytes, in `src`'s own element type, to the host, after all that was launched before.
    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()>;

    /// dst = src, equal types and numbers of elements.
    fn copy(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()>;

    /// dst = src, rounded to nearest even where `dst`'s float type is narrower.
    fn cast(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()>;

    /// Every element of `dst` = `value`, in its own type.
    fn fill(&self, dst: Mut<'_>, value: f64) -> Result<()>;

    /// Waits for everything launched so far.
    fn synchronize(&self) -> Result<()>;

    /// What a user should know of how this device has computed so far, a line each: a slow way, taken because a library refused the fast one.
    /// Empty on most.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Matrix products and table look-ups. Weights are (out, in).
pub trait Dense {
    /// y = x · wᵀ, or y += x · wᵀ when `accumulate`.
    ///
    /// # Shapes
    /// y (N, O), x (N, I), w (O, I).
    /// # Cost
    /// 2·N·O·I FLOPs.
    fn linear(&self, y: Mut<'_>, x: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()>;

    /// dx = dy · w, or dx += dy · w when `accumulate`: the gradient of [`Dense::linear`] by x.
    ///
    /// # Shapes
    /// dx (N, I), dy (N, O), w (O, I).
    /// # Cost
    /// 2·N·O·I FLOPs.
    fn linear_dx(&self, dx: Mut<'_>, dy: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()>;

    /// dw = dyᵀ · x, or dw += dyᵀ · x when `accumulate`: the gradient of [`Dense::linear`] by w.
    ///
    /// # Shapes
    /// dw (O, I) master dtype, x (N, I), dy (N, O).
    /// # Cost
    /// 2·N·O·I FLOPs.
    fn linear_dw(&self, dw: Mut<'_>, x: Ref<'_>, dy: Ref<'_>, accumulate: bool) -> Result<()>;

    /// out\[n\] = table\[ids\[n\]\].
    ///
    /// # Shapes
    /// out (N, C), table (V, C), ids (N) I32 in 0..V.
    /// # Errors
    /// [`Error::Index`](crate::Error::Index) for an id outside the table (host devices; a GPU clamps).
    fn embed(&self, out: Mut<'_>, table: Ref<'_>, ids: Ref<'_>) -> Result<()>;

    /// dtable\[ids\[n\]\] += dout\[n\] for all n: the gradient of [`Dense::embed`]. Each id's rows are added in an order that shapes and ids
    /// give: ascending n on host devices.
    ///
    /// `order` lists 0..N sorted by (id, n), so that each id's rows are one run: the sum is deterministic without atomics.
    ///
    /// # Shapes
    /// dtable (V, C) master dtype, dout (N, C), ids (N) I32, order (N) I32.
    fn embed_backward(
        &self,
        dtable: Mut<'_>,
        dout: Ref<'_>,
        ids: Ref<'_>,
        order: Ref<'_>,
    ) -> Result<()>;
}

/// What an attention call attends to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AttentionShape {
    /// Keys before its own that a position sees: position t sees t−window ..= t, so window + 1 keys.
    pub window: usize,
    /// The factor on q·k, 1/√D in the recipe.
    pub scale: f64,
}

/// Attention and what prepares its operands.
pub trait Attention {
    /// Rotary embedding, RMS norm over the head dim, and a gain, in place: x = gain · norm(rotate(x)).
    ///
    /// With halves x1, x2 of a head: y1 = x1·cos + x2·sin, y2 = −x1·sin + x2·cos. norm(y) = y·rstd,
    /// rstd = 1/√(mean(y²) + 2⁻²³).
    ///
    /// # Shapes
    /// x (B, T, H, D), rstd (B, T, H) master dtype, cos and sin (T, D/2) master dtype.
    fn rotary_norm(
        &self,
        x: Mut<'_>,
        rstd: Mut<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()>;

    /// The gradient of [`Attention::rotary_norm`], in place: `dx` holds ∂loss/∂y on entry and ∂loss/∂x on exit.
    ///
    /// # Shapes
    /// dx and y (B, T, H, D), y being the forward's result; rstd (B, T, H); cos and sin (T, D/2).
    fn rotary_norm_backward(
        &self,
        dx: Mut<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()>;

    /// Adds gated value embeddings: v += gate · ve with gate\[n, k\] = max · sigmoid(Σ_g w\[k, g\]·x\[n, g\]) over the first G channels.
    ///
    /// # Shapes
    /// v and ve (N, K, D), gate (N, K) master dtype, x (N, C) with C ≥ G, w (K, G) compute dtype.
    fn value_gate(
        &self,
        v: Mut<'_>,
        gate: Mut<'_>,
        ve: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()>;

    /// The gradient of [`Attention::value_gate`]: dve = gate · dv; adds to dw; adds to the first G channels of dx.
    ///
    /// # Shapes
    /// dve, dv and ve (N, K, D), dw (K, G) master dtype, dx and x (N, C), gate (N, K), w (K, G).
    fn value_gate_backward(
        &self,
        dve: Mut<'_>,
        dw: Mut<'_>,
        dx: Mut<'_>,
        dv: Ref<'_>,
        ve: Ref<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()>;

    /// Causal, windowed, grouped-query attention: out = softmax(scale · q·kᵀ over the keys each position sees) · v.
    ///
    /// Queries are the last T of S positions, so a key/value cache of S ≥ T is the same call. Query head h reads
    /// key/value head h / (H/K). `lse` = log Σ exp(scale · q·k), natural log.
    ///
    /// # Shapes
    /// out and q (B, T, H, D), lse (B, H, T) master dtype, k and v (B, S, K, D).
    /// # Cost
    /// About 4·D FLOPs per (query, visible key) pair and head; scores never exist beyond one block.
    /// # Source
    /// FlashAttention-2, arXiv 2307.08691.
    fn attention(
        &self,
        out: Mut<'_>,
        lse: Mut<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()>;

    /// The gradients of [`Attention::attention`] by q, k and v, from `out` and `lse`, with S = T.
    ///
    /// # Shapes
    /// dq (B, T, H, D), dk and dv (B, T, K, D), delta (B, H, T) master dtype (scratch), dout, out and q (B, T, H, D),
    /// lse (B, H, T), k and v (B, T, K, D).
    fn attention_backward(
        &self,
        dq: Mut<'_>,
        dk: Mut<'_>,
        dv: Mut<'_>,
        delta: Mut<'_>,
        dout: Ref<'_>,
        out: Ref<'_>,
        lse: Ref<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()>;
}

/// The loss, and reductions to few numbers.
pub trait Loss {
    /// Softcapped cross-entropy per row: with z = softcap · tanh(logits / softcap) over the first `vocab` columns,
    /// losses\[n\] = log Σ exp z − z\[target\], in nats; 0 where the target is −1.
    ///
    /// With `grad: Some(g)`, `logits` becomes g · ∂losses\[n\]/∂logits in place (0 in padding columns and ignored rows), so
    /// that a chunk of rows is all the logits that ever exist. With `None`, the first `vocab` columns of `logits` become z and padding columns 0.
    ///
    /// # Shapes
    /// losses (N) master dtype, logits (N, V) compute dtype, targets (N) I32 in −1..vocab, vocab ≤ V.
    /// # Errors
    /// [`Error::Index`](crate::Error::Index) for a target outside the vocabulary.
    fn cross_entropy(
        &self,
        losses: Mut<'_>,
        logits: Mut<'_>,
        targets: Ref<'_>,
        vocab: usize,
        softcap: f64,
        grad: Option<f64>,
    ) -> Result<()>;

    /// out\[n\] = the first column with the largest value among the first `vocab` of row n.
    ///
    /// # Shapes
    /// out (N) I32, logits (N, V).
    fn argmax(&self, out: Mut<'_>, logits: Ref<'_>, vocab: usize) -> Result<()>;

    /// out = Σ x, accumulated in f64 on host devices, by a fixed tree elsewhere.
    ///
    /// # Shapes
    /// out (1) master dtype, x any shape, master dtype.
    fn sum(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()>;

    /// out = Σ x², as [`Loss::sum`].
    ///
    /// # Shapes
    /// out (1) master dtype, x any shape, master dtype.
    fn sum_squares(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()>;
}

/// Operations that read and write each row or element about once.
pub trait Pointwise {
    /// y = x · rstd, rstd = 1/√(mean over C of x² + 2⁻²³).
    ///
    /// # Shapes
    /// y and x (N, C), rstd (N) master dtype.
    fn rms_norm(&self, y: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>) -> Result<()>;

    /// dx = rstd · (dy − y · mean(dy·y)), or dx += … when `accumulate`: the gradient of [`Pointwise::rms_norm`], from its result.
    ///
    /// # Shapes
    /// dx, dy and y (N, C), rstd (N).
    fn rms_norm_backward(
        &self,
        dx: Mut<'_>,
        dy: Ref<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        accumulate: bool,
    ) -> Result<()>;

    /// out = a·x + b·y.
    ///
    /// # Shapes
    /// out, x and y of one shape.
    fn mix(&self, out: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>, b: Coef<'_>) -> Result<()>;

    /// [`Pointwise::mix`] and [`Pointwise::rms_norm`] of its result in one pass: out = a·x + b·y, normed = out · rstd.
    ///
    /// # Shapes
    /// out, normed, x and y (N, C), rstd (N) master dtype.
    fn mix_norm(
        &self,
        out: Mut<'_>,
        normed: Mut<'_>,
        rstd: Mut<'_>,
        x: Ref<'_>,
        a: Coef<'_>,
        y: Ref<'_>,
        b: Coef<'_>,
    ) -> Result<()>;

    /// The gradient of [`Pointwise::mix`]. `dx` holds ∂loss/∂out on entry and a·that on exit; dy += b·∂loss/∂out;
    /// da += a.times · Σ ∂loss/∂out·x and db += b.times · Σ ∂loss/∂out·y where given (the gradients by the parameters in a and b).
    ///
    /// # Shapes
    /// dx, dy, x and y of one shape; da and db (1) master dtype.
    fn mix_backward(
        &self,
        dx: Mut<'_>,
        dy: Mut<'_>,
        da: Option<Mut<'_>>,
        db: Option<Mut<'_>>,
        x: Ref<'_>,
        a: Coef<'_>,
        y: Ref<'_>,
        b: Coef<'_>,
    ) -> Result<()>;

    /// Smear: out_t = x_t + lambda · gate_t · x_{t−1}, gate_t = sigmoid(Σ_g w\[g\]·x_t\[g\]) over the first G channels.
    /// x_{−1} is `prev` when given (a key/value-cached step), else out_0 = x_0 and gate_0 = 0.
    ///
    /// # Shapes
    /// out and x (B, T, C), gate (B, T) master dtype, prev (B, C), w (1, G) compute dtype, lambda (1) master dtype.
    fn smear(
        &self,
        out: Mut<'_>,
        gate: Mut<'_>,
        x: Ref<'_>,
        prev: Option<Ref<'_>>,
        w: Ref<'_>,
        lambda: Ref<'_>,
    ) -> Result<()>;

    /// The gradient of [`Pointwise::smear`] without `prev`: overwrites dx; adds to dw and dlambda.
    ///
    /// # Shapes
    /// dx, dout and x (B, T, C), dw (1, G) and dlambda (1) master dtype, gate (B, T), w (1, G), lambda (1).
    fn smear_backward(
        &self,
        dx: Mut<'_>,
        dw: Mut<'_>,
        dlambda: Mut<'_>,
        dout: Ref<'_>,
        x: Ref<'_>,
        gate: Ref<'_>,
        w: Ref<'_>,
        lambda: Ref<'_>,
    ) -> Result<()>;

    /// y = max(x, 0)².
    ///
    /// # Shapes
    /// y and x of one shape.
    fn relu2(&self, y: Mut<'_>, x: Ref<'_>) -> Result<()>;

    /// In place, dx holds ∂loss/∂y on entry and 2·max(x, 0) times it on exit: the gradient of [`Pointwise::relu2`].
    ///
    /// # Shapes
    /// dx and x of one shape.
    fn relu2_backward(&self, dx: Mut<'_>, x: Ref<'_>) -> Result<()>;

    /// y = silu(gate) · x with silu(g) = g · sigmoid(g): the product inside a SwiGLU MLP.
    ///
    /// # Shapes
    /// y, gate and x of one shape.
    /// # Source
    /// arXiv 2002.05202.
    fn swiglu(&self, y: Mut<'_>, gate: Ref<'_>, x: Ref<'_>) -> Result<()>;

    /// The gradient of [`Pointwise::swiglu`]. `dx` holds ∂loss/∂y on entry and silu(gate) times it on exit;
    /// dgate = ∂loss/∂y · x · s · (1 + gate · (1 − s)) with s = sigmoid(gate), which is computed again rather than stored.
    ///
    /// # Shapes
    /// dx, dgate, gate and x of one shape.
    fn swiglu_backward(&self, dx: Mut<'_>, dgate: Mut<'_>, gate: Ref<'_>, x: Ref<'_>)
    -> Result<()>;

    /// out\[i\] = exprs\[i\] at each element, from inputs, the old outputs and host scalars, so that a foreign optimizer runs on any
    /// device. All expressions of an element are evaluated before any of its outputs is written.
    ///
    /// # Shapes
    /// All `out` and `ins` have the same number of elements; any mix of float types; one expression per output, of which
    /// there are at most [`Expr::MAX_OUTPUTS`].
    fn map(
        &self,
        exprs: &[Expr],
        out: &mut [Mut<'_>],
        ins: &[Ref<'_>],
        scalars: &[f64],
    ) -> Result<()>;
}

/// AdamW's numbers for one step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: p *= 1 − lr·weight_decay.
    pub weight_decay: f64,
    /// t ≥ 1, counted from the first update.
    pub step: u64,
}

/// The update rules' operations, on slabs: K matrices of R rows and S columns, all in the master dtype.
pub trait Update {
    /// p *= 1 − lr·wd; m = lerp(m, g, 1−β1); v = lerp(v, g², 1−β2); p −= lr/(1−β1ᵗ) · m / (√(v/(1−β2ᵗ)) + eps).
    ///
    /// # Shapes
    /// p, m, v and g of one shape.
    /// # Source
    /// arXiv 1711.05101.
    fn adamw(&self, p: Mut<'_>, m: Mut<'_>, v: Mut<'_>, g: Ref<'_>, hyper: AdamW) -> Result<()>;

    /// buf = lerp(buf, g, 1−µ), then out = lerp(g, buf, µ), with lerp(a, b, w) = a + w·(b − a).
    ///
    /// # Shapes
    /// out, buf and g of one shape.
    fn nesterov(&self, out: Mut<'_>, buf: Mut<'_>, g: Ref<'_>, momentum: f64) -> Result<()>;

    /// Scales each row of each matrix to norm ‖x‖_F/√R, the row's norm clamped to at least 1e-6.
    ///
    /// # Shapes
    /// x (K, R, S).
    fn equilibrate_rows(&self, x: Mut<'_>) -> Result<()>;

    /// Elements of scratch that [`Update::polar_express`] needs for this shape (K, R, S).
    fn polar_express_scratch(&self, shape: Shape) -> usize;

    /// x = x / (‖x‖_F · safety + 1e-6), then for each (a, b, c): R ≤ S: A = x·xᵀ, x = a·x + (b·A + c·A·A)·x; R > S: the same from
    /// the other side. Afterwards x is near its polar factor.
    ///
    /// # Shapes
    /// x (K, R, S); scratch 1-dimensional, master dtype, at least [`Update::polar_express_scratch`] elements.
    /// # Cost
    /// Per matrix and step, with m = min(R, S), n = max(R, S): 4·m²·n + 2·m³ FLOPs, less where symmetry is used.
    /// # Source
    /// arXiv 2505.16932.
    fn polar_express(
        &self,
        x: Mut<'_>,
        scratch: Mut<'_>,
        safety: f64,
        steps: &[[f64; 3]],
    ) -> Result<()>;

    /// x *= √min(R, S) / max(‖x‖_F, 1e-6), per matrix.
    ///
    /// # Shapes
    /// x (K, R, S).
    fn renormalize(&self, x: Mut<'_>) -> Result<()>;

    /// NorMuon's variance reduction: R ≥ S: one value per row, v = mean of x² over its n = S columns; else one per column, n = R.
    /// s = lerp(s, v, 1−β2); w = max(s, 1e-10)^−½; x *= w · √(n·Σv) / max(√(n·Σ(v·w²)), 1e-10), sums per matrix.
    ///
    /// # Shapes
    /// x (K, R, S); s (K, R) when R ≥ S, else (K, S).
    /// # Source
    /// NorMuon, arXiv 2510.05491.
    fn variance_reduce(&self, x: Mut<'_>, s: Mut<'_>, beta2: f64) -> Result<()>;

    /// p −= lr·x + lr·wd·p where x·p ≥ 0, p −= lr·x elsewhere.
    ///
    /// # Shapes
    /// p and x of one shape.
    /// # Source
    /// Cautious weight decay, after arXiv 2411.16085.
    fn cautious_update(&self, p: Mut<'_>, x: Ref<'_>, lr: f64, weight_decay: f64) -> Result<()>;
}

/// Conveniences that every device gets; all go through [`Memory`].
impl dyn Device + '_ {
    /// A zeroed tensor of the compute dtype.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn activations(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.alloc(self.compute_dtype(), shape.into())
    }

    /// A zeroed tensor of the master dtype.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn master(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.alloc(self.master_dtype(), shape.into())
    }

    /// Writes floats, rounded to `dst`'s type. Allocates on the host: for initialisation and tests.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) when the lengths differ; as [`Memory::write`].
    pub fn write_f64(&self, dst: Mut<'_>, src: &[f64]) -> Result<()> {
        check_len("write_f64", dst.shape(), src.len())?;
        match dst.dtype() {
            DType::F64 => self.write(dst, bytemuck::cast_slice(src)),
            DType::F32 => {
                let src: Vec<f32> = src.iter().map(|&x| x as f32).collect();
                self.write(dst, bytemuck::cast_slice(&src))
            }
            DType::I32 => {
                let src: Vec<i32> = src.iter().map(|&x| x as i32).collect();
                self.write(dst, bytemuck::cast_slice(&src))
            }
            DType::BF16 => {
                let src: Vec<Bf16> = src.iter().map(|&x| Bf16::from_f64(x)).collect();
                self.write(dst, bytemuck::cast_slice(&src))
            }
        }
    }

    /// Reads floats, widened. Allocates on the host: for checkpoints, metrics and tests.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn read_f64(&self, src: Ref<'_>) -> Result<Vec<f64>> {
        match src.dtype() {
            DType::F64 => self.read_as::<f64>(src),
            DType::F32 => Ok(self.read_as::<f32>(src)?.into_iter().map(f64::from).collect()),
            DType::I32 => Ok(self.read_as::<i32>(src)?.into_iter().map(f64::from).collect()),
            DType::BF16 => {
                Ok(self.read_as::<Bf16>(src)?.into_iter().map(|x| f64::from(x.to_f32())).collect())
            }
        }
    }

    /// Writes ids, targets or positions.
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) when `dst` is not I32; as [`Memory::write`].
    pub fn write_i32(&self, dst: Mut<'_>, src: &[i32]) -> Result<()> {
        check_len("write_i32", dst.shape(), src.len())?;
        if dst.dtype() != DType::I32 {
            return Err(crate::Error::DType {
                op: "write_i32",
                got: dst.dtype(),
                asked: DType::I32,
            });
        }
        self.write(dst, bytemuck::cast_slice(src))
    }

    fn read_as<T: crate::Element>(&self, src: Ref<'_>) -> Result<Vec<T>> {
        let mut out = vec![T::zeroed(); src.shape().elements()];
        self.read(bytemuck::cast_slice_mut(&mut out), src)?;
        Ok(out)
    }
}

fn check_len(op: &'static str, shape: Shape, len: usize) -> Result<()> {
    if shape.elements() == len {
        return Ok(());
    }
    Err(crate::Error::Argument { op, what: format!("{len} values for a tensor of shape {shape}") })
}
