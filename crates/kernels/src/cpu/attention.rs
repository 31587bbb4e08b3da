//! Causal, windowed, grouped-query attention, forward and backward, in blocks of scores.
//!
//! After FlashAttention-2: a block of queries meets the keys it sees, a block of keys at a time, with a running maximum and
//! sum per query. Both products of a block go through `gemm`, on heads where they lie in (B, T, H, D). A block of queries
//! meets only the keys between its first query's window and its last query, so that work is in proportion to the window.

use std::ops::Range;

use super::gemm::multiply;
use super::matrix::{Mat, MatMut};
use super::simd::{self, Math, vectorised, with_math};
use super::work::Workers;
use super::{Cpu, DTYPES};
use crate::ops::{Attention, AttentionBackward, AttentionDims};
use crate::{AttentionShape, Result};

/// Queries of a block.
const QUERIES: usize = 64;
/// Keys of a block: with the queries, 64 KiB of scores.
const KEYS: usize = 256;

/// Blocks of keys that queries `queries` (positions among the keys) see.
fn key_blocks(queries: &Range<usize>, window: usize) -> impl Iterator<Item = Range<usize>> {
    let (first, end) = (queries.start.saturating_sub(window), queries.end);
    (first..end).step_by(KEYS).map(move |start| start..end.min(start + KEYS))
}

/// The part of a block of keys that position `position` sees, relative to the block's first key.
fn visible(keys: &Range<usize>, position: usize, window: usize) -> Range<usize> {
    let start = position.saturating_sub(window).clamp(keys.start, keys.end);
    let end = (position + 1).clamp(start, keys.end);
    start - keys.start..end - keys.start
}

impl Cpu {
    pub(super) fn attention(&self, op: Attention<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let Attention { out, lse, q, k, v, at } = op;
        let (out, lse) = (out.slice()?, lse.slice()?);
        let (q, k, v) = (q.slice()?, k.slice()?, v.slice()?);
        forward(&self.workers, dims, at, out, lse, q, k, v);
        Ok(())
    }

    pub(super) fn attention_backward(&self, op: AttentionBackward<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let AttentionBackward { dq, dk, dv, delta, dout, out, lse, q, k, v, at } = op;
        let (dq, dk, dv, delta) = (dq.slice()?, dk.slice()?, dv.slice()?, delta.slice()?);
        let (dout, out, lse) = (dout.slice()?, out.slice()?, lse.slice()?);
        let (q, k, v) = (q.slice()?, k.slice()?, v.slice()?);
        backward(&self.workers, dims, at, dq, dk, dv, delta, dout, out, lse, q, k, v);
        Ok(())
    }
}

/// The forward pass. See [`Attention`](crate::ops::Attention).
fn forward(
    workers: &Workers,
    dims: AttentionDims,
    at: AttentionShape,
    out: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
) {
    let AttentionDims { b, t, s, h, k: kv_heads, d } = dims;
    let (q, out) = (Mat::new(q, b * t, h * d), MatMut::new(out, b * t, h * d).share());
    let (k, v) = (Mat::new(k, b * s, kv_heads * d), Mat::new(v, b * s, kv_heads * d));
    let lse = MatMut::new(lse, b * h, t).share();
    let blocks = t.div_ceil(QUERIES);
    workers.tasks(b * h * blocks, |task| {
        let (block, head, batch) = (task % blocks, task / blocks % h, task / blocks / h);
        let queries = block * QUERIES..t.min((block + 1) * QUERIES);
        let q_rows = batch * t + queries.start..batch * t + queries.end;
        let (q_cols, kv_cols) = (columns(head, d), columns(head / (h / kv_heads), d));
        let kv_rows = batch * s..(batch + 1) * s;
        // SAFETY: these queries of this head are this task's alone, in `out` and in `lse`.
        let (out, mut lse) = unsafe {
            let lse_row = batch * h + head;
            (
                out.part(q_rows.clone(), q_cols.clone()),
                lse.part(lse_row..lse_row + 1, queries.clone()),
            )
        };
        let positions = queries.start + s - t..queries.end + s - t;
        let (q, k) = (q.part(q_rows, q_cols), k.part(kv_rows.clone(), kv_cols.clone()));
        workers.scratch(QUERIES * (KEYS + d), |scratch| {
            forward_block(scratch, positions, at, out, lse.row(0), q, k, v.part(kv_rows, kv_cols));
        });
    });
}

/// One block of queries against all keys they see.
fn forward_block(
    scratch: &mut [f32],
    positions: Range<usize>,
    at: AttentionShape,
    mut out: MatMut<'_>,
    lse: &mut [f32],
    q: Mat<'_>,
    k: Mat<'_>,
    v: Mat<'_>,
) {
    let (n, d) = (q.rows, q.cols);
    let (scores, sums) = scratch.split_at_mut(QUERIES * KEYS);
    let mut sums = MatMut::new(&mut sums[..n * d], n, d);
    let (mut largest, mut total) = ([f32::NEG_INFINITY; QUERIES], [0f32; QUERIES]);
    for (i, keys) in key_blocks(&positions, at.window).enumerate() {
        let mut scores = MatMut::new(&mut scores[..n * keys.len()], n, keys.len());
        let (k, v) = (k.part(keys.clone(), 0..d), v.part(keys.clone(), 0..d));
        multiply(&mut scores, false, at.scale as f32, q, k.t());
        with_math(
            #[inline(always)]
            |math| {
                for r in 0..n {
                    let seen = visible(&keys, positions.start + r, at.window);
                    let kept =
                        softmax_row(math, scores.row(r), seen, &mut largest[r], &mut total[r]);
                    if i > 0 && kept != 1.0 {
                        for x in sums.row(r) {
                            *x *= kept;
                        }
                    }
                }
            },
        );
        multiply(&mut sums, i > 0, 1.0, scores.view(), v);
    }
    for r in 0..n {
        let scale = 1.0 / total[r];
        out.row(r).iter_mut().zip(sums.row(r)).for_each(|(out, &mut sum)| *out = sum * scale);
        lse[r] = largest[r] + total[r].ln();
    }
}

/// Turns scores into exp(score − largest so far), 0 where they are not seen, and adds them to `total`. Returns the factor that
/// earlier blocks' sums have to take.
#[inline(always)]
fn softmax_row(
    math: Math,
    scores: &mut [f32],
    seen: Range<usize>,
    largest: &mut f32,
    total: &mut f32,
) -> f32 {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    if seen.is_empty() {
        return 1.0;
    }
    let scores = &mut scores[seen];
    let before = *largest;
    *largest = before.max(simd::max(scores));
    let max = *largest;
    let kept = math.exp_negative(before - max);
    *total = *total * kept
        + simd::map_sum(
            scores,
            #[inline(always)]
            |x| math.exp_negative(x - max),
        );
    kept
}

/// The backward pass. See [`AttentionBackward`](crate::ops::AttentionBackward).
fn backward(
    workers: &Workers,
    dims: AttentionDims,
    at: AttentionShape,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    delta: &mut [f32],
    dout: &[f32],
    out: &[f32],
    lse: &[f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
) {
    let AttentionDims { b, t, h, k: kv_heads, d, .. } = dims;
    let wide = |x| Mat::new(x, b * t, h * d);
    let (q, out, dout) = (wide(q), wide(out), wide(dout));
    let (k, v) = (Mat::new(k, b * t, kv_heads * d), Mat::new(v, b * t, kv_heads * d));
    let lse = Mat::new(lse, b * h, t);
    let dq = MatMut::new(dq, b * t, h * d).share();
    let dk = MatMut::new(dk, b * t, kv_heads * d).share();
    let dv = MatMut::new(dv, b * t, kv_heads * d).share();
    let delta = MatMut::new(delta, b * h, t).share();
    let group = h / kv_heads;
    workers.tasks(b * kv_heads, |task| {
        let (batch, kv_head) = (task / kv_heads, task % kv_heads);
        let (rows, kv_cols) = (batch * t..(batch + 1) * t, columns(kv_head, d));
        let (k, v) = (k.part(rows.clone(), kv_cols.clone()), v.part(rows.clone(), kv_cols.clone()));
        // SAFETY: this key/value head is this task's alone.
        let (mut dk, mut dv) =
            unsafe { (dk.part(rows.clone(), kv_cols.clone()), dv.part(rows.clone(), kv_cols)) };
        for r in 0..t {
            dk.row(r).fill(0.0);
            dv.row(r).fill(0.0);
        }
        for head in kv_head * group..(kv_head + 1) * group {
            let (cols, row) = (columns(head, d), batch * h + head);
            // SAFETY: query heads of this key/value head are this task's alone.
            let (dq, mut delta) =
                unsafe { (dq.part(rows.clone(), cols.clone()), delta.part(row..row + 1, 0..t)) };
            let head = Head {
                out: out.part(rows.clone(), cols.clone()),
                dout: dout.part(rows.clone(), cols.clone()),
                q: q.part(rows.clone(), cols),
                lse: lse.row(row),
                k,
                v,
            };
            workers.scratch(2 * QUERIES * KEYS, |scratch| {
                head.backward(scratch, at, dq, &mut dk, &mut dv, delta.row(0));
            });
        }
    });
}

/// What one query head's gradients are computed from.
struct Head<'a> {
    out: Mat<'a>,
    dout: Mat<'a>,
    q: Mat<'a>,
    lse: &'a [f32],
    k: Mat<'a>,
    v: Mat<'a>,
}

impl Head<'_> {
    /// Overwrites dq and delta, adds to dk and dv.
    fn backward(
        &self,
        scratch: &mut [f32],
        at: AttentionShape,
        mut dq: MatMut<'_>,
        dk: &mut MatMut<'_>,
        dv: &mut MatMut<'_>,
        delta: &mut [f32],
    ) {
        let (t, d) = (self.q.rows, self.q.cols);
        let scale = at.scale as f32;
        for (r, delta) in delta.iter_mut().enumerate() {
            let (dout, out) = (self.dout.row(r), self.out.row(r));
            *delta = vectorised(
                #[inline(always)]
                || simd::dot(dout, out),
            );
        }
        let (probabilities, gradients) = scratch.split_at_mut(QUERIES * KEYS);
        for start in (0..t).step_by(QUERIES) {
            let queries = start..t.min(start + QUERIES);
            let (q, dout) =
                (self.q.part(queries.clone(), 0..d), self.dout.part(queries.clone(), 0..d));
            for (i, keys) in key_blocks(&queries, at.window).enumerate() {
                let (n, m) = (queries.len(), keys.len());
                let (k, v) = (self.k.part(keys.clone(), 0..d), self.v.part(keys.clone(), 0..d));
                let mut p = MatMut::new(&mut probabilities[..n * m], n, m);
                let mut dp = MatMut::new(&mut gradients[..n * m], n, m);
                multiply(&mut p, false, scale, q, k.t());
                multiply(&mut dp, false, 1.0, dout, v.t());
                with_math(
                    #[inline(always)]
                    |math| {
                        for r in 0..n {
                            let position = start + r;
                            let seen = visible(&keys, position, at.window);
                            let (lse, delta) = (self.lse[position], delta[position]);
                            softmax_backward_row(
                                math,
                                p.row(r),
                                dp.row(r),
                                seen,
                                lse,
                                delta,
                                scale,
                            );
                        }
                    },
                );
                multiply(&mut dv.part(keys.clone(), 0..d), true, 1.0, p.view().t(), dout);
                multiply(&mut dk.part(keys, 0..d), true, 1.0, dp.view().t(), q);
                multiply(&mut dq.part(queries.clone(), 0..d), i > 0, 1.0, dp.view(), k);
            }
        }
    }
}

/// Turns scores into probabilities p and their gradients dp into the scores': scale · p · (dp − delta); 0 where not seen.
#[inline(always)]
fn softmax_backward_row(
    math: Math,
    p: &mut [f32],
    dp: &mut [f32],
    seen: Range<usize>,
    lse: f32,
    delta: f32,
    scale: f32,
) {
    for x in [&mut *p, &mut *dp] {
        x[..seen.start].fill(0.0);
        x[seen.end..].fill(0.0);
    }
    for (p, dp) in p[seen.clone()].iter_mut().zip(&mut dp[seen]) {
        *p = math.exp_negative(*p - lse);
        *dp = scale * *p * (*dp - delta);
    }
}

/// The columns of head `head`.
fn columns(head: usize, d: usize) -> Range<usize> {
    head * d..(head + 1) * d
}
