//! Attention, and its gradient.

use super::check::require;
use crate::conformance::case::{Check, Operand};
use crate::conformance::{Mismatch, Outcome};
use crate::reference::{DTYPES, add_scaled, dot};
use crate::{Device, Result};

/// What an attention call attends to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AttentionShape {
    /// Keys before its own that a position sees: position t sees t−window ..= t, so window + 1 keys.
    pub window: usize,
    /// The factor on q·k, 1/√D in the recipe.
    pub scale: f64,
}

dims! {
    /// Attention's dimensions.
    AttentionDims {
        /// Batch.
        b: b'B',
        /// Queries, the last T of S positions.
        t: b'T',
        /// Keys.
        s: b'S',
        /// Query heads.
        h: b'H',
        /// Key/value heads, a divisor of H.
        k: b'K',
        /// Head dim.
        d: b'D',
    }
}

operation! {
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
    Attention = fn attention(
        out: write Compute [like q],
        lse: write Master "(B, H, T)",
        q: read Compute "(B, T, H, D)",
        k: read Compute "(B, S, K, D)",
        v: read Compute "(B, S, K, D)",
    ) with (
        /// What it attends to.
        at: AttentionShape,
    ) -> AttentionDims,
    first [q, k, v],
    rule |_: &Self, dims| grouped(Self::NAME, dims),
    flops |op: &Self, dims| 4 * pairs(dims, op.at)
}

operation! {
    /// The gradients of [`Attention`] by q, k and v, from `out` and `lse`, with S = T.
    ///
    /// # Shapes
    /// dq (B, T, H, D), dk and dv (B, T, K, D), delta (B, H, T) master dtype (scratch), dout, out and q (B, T, H, D),
    /// lse (B, H, T), k and v (B, T, K, D).
    AttentionBackward = fn attention_backward(
        dq: write Compute [like q],
        dk: write Compute [like k],
        dv: write Compute [like v],
        delta: write Master [like lse],
        dout: read Compute [like q],
        out: read Compute [like q],
        lse: read Master "(B, H, T)",
        q: read Compute "(B, T, H, D)",
        k: read Compute "(B, S, K, D)",
        v: read Compute "(B, S, K, D)",
    ) with (
        /// What the forward attended to.
        at: AttentionShape,
    ) -> AttentionDims,
    first [q, k, v, out, lse],
    rule |_: &Self, dims| {
        grouped(Self::NAME, dims)?;
        let AttentionDims { t, s, .. } = dims;
        require(Self::NAME, s == t, || format!("{t} queries and {s} keys; gradients need as many"))
    },
    flops |op: &Self, dims| 10 * pairs(dims, op.at)
}

fn grouped(op: &'static str, AttentionDims { t, s, h, k, .. }: AttentionDims) -> Result<()> {
    require(op, k > 0 && h % k == 0, || format!("{h} query heads over {k} key/value heads"))?;
    require(op, s >= t, || format!("{t} queries, the last of {s} positions"))
}

/// Head dim times the pairs of a query and a key that it sees, over all heads.
fn pairs(AttentionDims { b, t, s, h, d, .. }: AttentionDims, at: AttentionShape) -> usize {
    let seen: usize = (s - t..s).map(|position| 1 + position.min(at.window)).sum();
    b * h * d * seen
}

impl Attention<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let dims = self.check(&DTYPES)?;
        let Self { out, lse, q, k, v, at } = self;
        let (out, lse, q) = (out.slice::<f64>()?, lse.slice::<f64>()?, q.slice::<f64>()?);
        let (k, v) = (k.slice::<f64>()?, v.slice::<f64>()?);
        let d = dims.d;
        for pair in queries(dims) {
            let q = &q[pair.row * d..(pair.row + 1) * d];
            let out = &mut out[pair.row * d..(pair.row + 1) * d];
            let keys = || visible(dims, pair, at.window);
            let score = |key: usize| at.scale * dot(q, &k[key * d..(key + 1) * d]);
            let max = keys().map(score).fold(f64::NEG_INFINITY, f64::max);
            let mut sum = 0.0;
            out.fill(0.0);
            for key in keys() {
                let e = (score(key) - max).exp();
                sum += e;
                add_scaled(out, e, &v[key * d..(key + 1) * d]);
            }
            for x in out.iter_mut() {
                *x /= sum;
            }
            lse[pair.stat] = max + sum.ln();
        }
        Ok(())
    }
}

impl AttentionBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let dims = self.check(&DTYPES)?;
        let Self { dq, dk, dv, delta, dout, out, lse, q, k, v, at } = self;
        let (dq, dk, dv) = (dq.slice::<f64>()?, dk.slice::<f64>()?, dv.slice::<f64>()?);
        let (delta, dout, out) = (delta.slice::<f64>()?, dout.slice::<f64>()?, out.slice::<f64>()?);
        let (lse, q) = (lse.slice::<f64>()?, q.slice::<f64>()?);
        let (k, v) = (k.slice::<f64>()?, v.slice::<f64>()?);
        let d = dims.d;
        dq.fill(0.0);
        dk.fill(0.0);
        dv.fill(0.0);
        for pair in queries(dims) {
            let row = pair.row * d..(pair.row + 1) * d;
            let (q, dout, out) = (&q[row.clone()], &dout[row.clone()], &out[row.clone()]);
            delta[pair.stat] = dot(dout, out);
            for key in visible(dims, pair, at.window) {
                let col = key * d..(key + 1) * d;
                let p = (at.scale * dot(q, &k[col.clone()]) - lse[pair.stat]).exp();
                let ds = p * (dot(dout, &v[col.clone()]) - delta[pair.stat]);
                add_scaled(&mut dv[col.clone()], p, dout);
                add_scaled(&mut dq[row.clone()], at.scale * ds, &k[col.clone()]);
                add_scaled(&mut dk[col], at.scale * ds, q);
            }
        }
        Ok(())
    }
}

fn queries(dims: AttentionDims) -> impl Iterator<Item = Query> {
    let AttentionDims { b, t, h, .. } = dims;
    (0..b * h * t).map(move |stat| {
        let (b, h_, t_) = (stat / t / h, stat / t % h, stat % t);
        Query { b, h: h_, t: t_, row: (b * t + t_) * h + h_, stat }
    })
}

/// Rows in (B, S, K) of the keys that a query sees.
fn visible(dims: AttentionDims, query: Query, window: usize) -> impl Iterator<Item = usize> {
    let AttentionDims { t, s, h, k, .. } = dims;
    let position = s - t + query.t;
    let head = query.h / (h / k);
    (position.saturating_sub(window)..=position)
        .map(move |position| (query.b * s + position) * k + head)
}

/// One query of one head.
#[derive(Clone, Copy)]
struct Query {
    b: usize,
    h: usize,
    t: usize,
    /// Its row in (B, T, H).
    row: usize,
    /// Its place in (B, H, T).
    stat: usize,
}

/// One attention call's sizes.
struct Sizes {
    b: usize,
    t: usize,
    s: usize,
    h: usize,
    k: usize,
    d: usize,
    window: usize,
}

const fn sizes(
    (b, t, s): (usize, usize, usize),
    (h, k, d): (usize, usize, usize),
    window: usize,
) -> Sizes {
    Sizes { b, t, s, h, k, d, window }
}

/// Blocks of 64 and 128 and windows have edges inside; H/K is 1, 2 and 3.
const SELF: [Sizes; 11] = [
    sizes((1, 1, 1), (1, 1, 8), 0),
    sizes((2, 5, 5), (2, 1, 16), 0),
    sizes((1, 70, 70), (2, 2, 32), 3),
    sizes((1, 64, 64), (1, 1, 32), 63),
    sizes((2, 130, 130), (3, 1, 24), 64),
    sizes((1, 129, 129), (2, 2, 20), 127),
    sizes((1, 300, 300), (2, 1, 64), 128),
    sizes((1, 390, 390), (3, 3, 32), 200),
    sizes((1, 333, 333), (6, 2, 16), 1000),
    sizes((1, 257, 257), (2, 2, 128), 255),
    sizes((2, 70, 70), (2, 1, 18), usize::MAX),
];

/// The last T of S positions.
const CACHED: [Sizes; 6] = [
    sizes((1, 1, 257), (4, 2, 64), 128),
    sizes((2, 1, 300), (3, 1, 16), 1000),
    sizes((2, 3, 100), (2, 2, 16), 40),
    sizes((1, 65, 200), (2, 1, 32), 128),
    sizes((1, 130, 391), (3, 1, 24), 0),
    sizes((1, 100, 330), (2, 2, 32), usize::MAX),
];

impl Sizes {
    fn announce(&self, check: &mut Check<'_>) -> AttentionShape {
        let Self { b, t, s, h, k, d, window } = self;
        check.case(format!("B {b}, T {t}, S {s}, H {h}, K {k}, D {d}, window {window}"));
        AttentionShape { window: *window, scale: 1.0 / (*d as f64).sqrt() }
    }

    /// Queries, keys, values; queries large enough for an uneven softmax.
    fn draw(&self, check: &mut Check<'_>) -> [Operand; 3] {
        let Self { b, t, s, h, k, d, .. } = *self;
        let q = check.normal([b, t, h, d]).edit(|_, q| 2.0 * q);
        [q, check.normal([b, s, k, d]), check.normal([b, s, k, d])]
    }

    fn results(&self) -> [Operand; 2] {
        let Self { b, t, h, d, .. } = *self;
        [Operand::poison([b, t, h, d]), Operand::poison([b, h, t]).master()]
    }
}

/// [`Attention`], with and without a cache.
pub fn attention(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "attention");
    for sizes in SELF.iter().chain(&CACHED) {
        let at = sizes.announce(&mut check);
        let ([q, k, v], [out, lse]) = (sizes.draw(&mut check), sizes.results());
        check.run([&out, &lse], [&q, &k, &v], |dev, [out, lse], [q, k, v]| {
            dev.attention(out, lse, q, k, v, at)
        })?;
    }
    large_scores(&mut check)?;
    Ok(check.worst)
}

/// [`AttentionBackward`].
pub fn attention_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "attention_backward");
    for sizes in &SELF {
        let at = sizes.announce(&mut check);
        let ([q, k, v], [out, lse]) = (sizes.draw(&mut check), sizes.results());
        let [out, lse] =
            check.reference([&out, &lse], [&q, &k, &v], |dev, [out, lse], [q, k, v]| {
                dev.attention(out, lse, q, k, v, at)
            })?;
        let Sizes { b, t, h, k: heads, d, window, .. } = *sizes;
        // With one key per query dq and dk are 0, and what rounding leaves has no relative size.
        check.floor = if window == 0 || t == 1 { 1.0 } else { 0.0 };
        let dout = check.normal([b, t, h, d]);
        let dq = Operand::poison([b, t, h, d]);
        let [dk, dv] = [Operand::poison([b, t, heads, d]), Operand::poison([b, t, heads, d])];
        check.run(
            [&dq, &dk, &dv],
            [&dout, &out, &lse, &q, &k, &v],
            |dev, [dq, dk, dv], [dout, out, lse, q, k, v]| {
                let mut delta = dev.master([b, h, t])?;
                dev.fill(delta.view_mut(), f64::NAN)?;
                let delta = delta.view_mut();
                dev.attention_backward(dq, dk, dv, delta, dout, out, lse, q, k, v, at)
            },
        )?;
    }
    Ok(check.worst)
}

/// Scores beyond what exp can hold: only differences may be exponentiated.
fn large_scores(check: &mut Check<'_>) -> Result<(), Mismatch> {
    let sizes = sizes((1, 70, 70), (2, 1, 16), 66);
    let at = AttentionShape { scale: 64.0, ..sizes.announce(check) };
    let ([q, k, v], [out, lse]) = (sizes.draw(check), sizes.results());
    // Integers, so that scores are exact in any type and the softmax is as sharp on each side.
    let (q, k) = (q.edit(|_, x| x.round()), k.edit(|_, x| x.round()));
    check.run([&out, &lse], [&q, &k, &v], |dev, [out, lse], [q, k, v]| {
        dev.attention(out, lse, q, k, v, at)
    })
}
