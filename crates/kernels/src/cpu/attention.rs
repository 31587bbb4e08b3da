//! Causal, windowed, grouped-query attention, forward and backward, one block of scores at a time.
//!
//! This follows FlashAttention-2: a block of queries visits the keys that it sees, block by block, and keeps a running maximum and sum per query. A block of scores is stored as
//! (keys, queries), which puts queries in the lanes of a vector and lets keys and values be multiplied where they lie in (B, T, H, D). A block of queries skips all keys before its first
//! query's window and after its last query, and the work is proportional to the window.

use std::ops::Range;

use super::gemm::{Kernel, Left, Right, Start};
use super::matrix::{Mat, MatMut};
use super::simd::{self, Math, vectorised, with_math};
use super::work::Workers;
use super::{Cpu, DTYPES};
use crate::ops::{Attention, AttentionBackward, AttentionDims};
use crate::{AttentionShape, Result};

/// Queries of a block.
const QUERIES: usize = 64;
/// Keys of a block: with the queries, 32 KiB of scores.
const KEYS: usize = 128;
/// Queries of a task of the forward pass, for which values are packed once.
const TASK: usize = 512;
/// Lanes that are worked on at once; a row of scores is a multiple of it.
const LANES: usize = 16;

/// Blocks of keys that queries `queries` (positions among the keys) see.
fn key_blocks(queries: &Range<usize>, window: usize) -> impl Iterator<Item = Range<usize>> {
    let (first, end) = (queries.start.saturating_sub(window), queries.end);
    (first..end).step_by(KEYS).map(move |start| start..end.min(start + KEYS))
}

/// The queries of `queries` that see key `key`, relative to the first.
fn seeing(queries: &Range<usize>, key: usize, window: usize) -> Range<usize> {
    let start = key.clamp(queries.start, queries.end);
    let end = key.saturating_add(window).saturating_add(1).clamp(start, queries.end);
    start - queries.start..end - queries.start
}

/// A block of scores, by keys: a row has a place for each query, and some beyond that are nobody's.
struct Block<'a> {
    data: &'a mut [f32],
    width: usize,
    keys: Range<usize>,
    queries: Range<usize>,
    window: usize,
}

impl<'a> Block<'a> {
    fn new(
        data: &'a mut [f32],
        width: usize,
        keys: &Range<usize>,
        queries: &Range<usize>,
        window: usize,
    ) -> Self {
        let data = &mut data[..keys.len() * width];
        Self { data, width, keys: keys.clone(), queries: queries.clone(), window }
    }

    /// Computes the products of rows of `left`, one for each key, with the queries' rows in `right`; what no query sees may be left out.
    fn products(&mut self, kernel: Kernel, scale: f32, left: Mat<'_>, right: Right<'_>) {
        let below = self.keys.start as isize - self.queries.start as isize;
        let mut dst = MatMut::new(self.data, self.keys.len(), self.width);
        kernel.block(&mut dst, Start::Zero, scale, Left::Matrix(left), right, Some(below));
    }

    /// Fills what is not seen.
    #[inline(always)]
    fn fill_unseen(&mut self, value: f32) {
        let all = self.queries.len();
        for (key, row) in self.keys.clone().zip(self.data.chunks_exact_mut(self.width)) {
            let seen = seeing(&self.queries, key, self.window);
            row[..seen.start].fill(value);
            row[seen.end..all].fill(value);
        }
    }

    /// (keys, queries).
    fn by_keys(&self) -> Mat<'_> {
        let all = Mat::new(self.data, self.keys.len(), self.width);
        all.part(0..self.keys.len(), 0..self.queries.len())
    }

    /// Each key's row.
    fn rows(&mut self) -> std::slice::ChunksExactMut<'_, f32> {
        self.data.chunks_exact_mut(self.width)
    }
}

/// The width of a row of scores for this many queries.
fn score_width(kernel: Kernel, queries: usize) -> usize {
    queries.next_multiple_of(kernel.width().max(LANES))
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
    let (kernel, parts, group) = (workers.kernel(), t.div_ceil(TASK), h / kv_heads);
    workers.tasks(b * kv_heads * parts, |task| {
        let (part, kv_head, batch) =
            (task % parts, task / parts % kv_heads, task / parts / kv_heads);
        let queries = part * TASK..t.min((part + 1) * TASK);
        // Keys that any of them sees.
        let keys = (queries.start + s - t).saturating_sub(at.window)..queries.end + s - t;
        let kv_rows = batch * s + keys.start..batch * s + keys.end;
        let kv_cols = columns(kv_head, d);
        let k = k.part(kv_rows.clone(), kv_cols.clone());
        let v = v.part(kv_rows, kv_cols);
        let (of_v, of_q) = (kernel.packed_len(keys.len(), d), kernel.packed_len(d, QUERIES));
        workers.scratch(of_v + of_q + QUERIES * (2 * KEYS + d), |scratch: &mut [f32]| {
            let (values, scratch) = scratch.split_at_mut(of_v);
            kernel.pack(values, v);
            for head in kv_head * group..(kv_head + 1) * group {
                for start in queries.clone().step_by(QUERIES) {
                    let rows = start..queries.end.min(start + QUERIES);
                    let q_rows = batch * t + rows.start..batch * t + rows.end;
                    let lse_row = batch * h + head;
                    // SAFETY: these queries of this head are this task's alone, in `out` and in `lse`.
                    let (out, mut lse) = unsafe {
                        let out = out.part(q_rows.clone(), columns(head, d));
                        (out, lse.part(lse_row..lse_row + 1, rows.clone()))
                    };
                    let q = q.part(q_rows, columns(head, d));
                    // Positions among this task's keys.
                    let positions = rows.start + s - t - keys.start..rows.end + s - t - keys.start;
                    forward_block(kernel, scratch, positions, at, out, lse.row(0), q, k, values);
                }
            }
        });
    });
}

/// One block of queries against all keys they see; `values` are packed.
fn forward_block(
    kernel: Kernel,
    scratch: &mut [f32],
    positions: Range<usize>,
    at: AttentionShape,
    mut out: MatMut<'_>,
    lse: &mut [f32],
    q: Mat<'_>,
    k: Mat<'_>,
    values: &[f32],
) {
    let (n, d, scale) = (q.rows, q.cols, at.scale as f32);
    let (width, panel) = (score_width(kernel, n), kernel.width());
    let (packed, scratch) = scratch.split_at_mut(kernel.packed_len(d, width));
    kernel.pack(&mut packed[..kernel.packed_len(d, n)], q.t());
    let (scores, sums) = scratch.split_at_mut(QUERIES * KEYS);
    let mut sums = MatMut::new(&mut sums[..n * d], n, d);
    let (mut largest, mut total) = ([f32::NEG_INFINITY; QUERIES], [0f32; QUERIES]);
    for (i, keys) in key_blocks(&positions, at.window).enumerate() {
        let mut scores = Block::new(scores, width, &keys, &positions, at.window);
        let right = Right::packed(packed, d, panel, 0..d);
        scores.products(kernel, scale, k.part(keys.clone(), 0..d), right);
        let mut kept = [1f32; QUERIES];
        with_math(
            #[inline(always)]
            |math| softmax(math, &mut scores, &mut largest, &mut total, &mut kept),
        );
        if i > 0 {
            for r in (0..n).filter(|&r| kept[r] != 1.0) {
                sums.row(r).iter_mut().for_each(|x| *x *= kept[r]);
            }
        }
        let start = if i > 0 { Start::Old } else { Start::Zero };
        let right = Right::packed(values, k.rows, panel, keys);
        kernel.block(&mut sums, start, 1.0, Left::Matrix(scores.by_keys().t()), right, None);
    }
    for r in 0..n {
        let scale = 1.0 / total[r];
        out.row(r).iter_mut().zip(sums.row(r)).for_each(|(out, &mut sum)| *out = sum * scale);
        lse[r] = largest[r] + total[r].ln();
    }
}

/// Turns scores into exp(score − largest so far), 0 where they are not seen, and adds them to `total`. `kept` gets the factor that earlier blocks' sums have to take.
#[inline(always)]
fn softmax(
    math: Math,
    scores: &mut Block<'_>,
    largest: &mut [f32; QUERIES],
    total: &mut [f32; QUERIES],
    kept: &mut [f32; QUERIES],
) {
    scores.fill_unseen(f32::NEG_INFINITY);
    let before = *largest;
    for row in scores.rows() {
        for (largest, score) in lanes(largest).zip(lanes(row)) {
            for i in 0..LANES {
                largest[i] = if score[i] > largest[i] { score[i] } else { largest[i] };
            }
        }
    }
    for r in 0..QUERIES {
        // Equal, too, where nothing was seen yet.
        let same = before[r] == largest[r];
        kept[r] = if same { 1.0 } else { math.exp_negative(before[r] - largest[r]) };
        total[r] *= kept[r];
    }
    for row in scores.rows() {
        for (score, largest) in lanes(row).zip(largest.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                score[i] = math.exp_negative(score[i] - largest[i]);
            }
        }
    }
    scores.fill_unseen(0.0);
    for row in scores.rows() {
        for (total, score) in lanes(total).zip(lanes(row)) {
            for i in 0..LANES {
                total[i] += score[i];
            }
        }
    }
}

/// Groups of lanes.
#[inline(always)]
fn lanes(row: &mut [f32]) -> std::slice::IterMut<'_, [f32; LANES]> {
    row.as_chunks_mut::<LANES>().0.iter_mut()
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
    let kernel = workers.kernel();
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
        let of_k = kernel.packed_len(t, d);
        let of_block = 2 * (kernel.packed_len(d, QUERIES) + kernel.packed_len(QUERIES, d));
        workers.scratch(of_k + of_block + 2 * QUERIES * KEYS, |scratch: &mut [f32]| {
            let (keys, scratch) = scratch.split_at_mut(of_k);
            kernel.pack(keys, k);
            for head in kv_head * group..(kv_head + 1) * group {
                let (cols, row) = (columns(head, d), batch * h + head);
                // SAFETY: query heads of this key/value head are this task's alone.
                let (dq, mut delta) = unsafe {
                    (dq.part(rows.clone(), cols.clone()), delta.part(row..row + 1, 0..t))
                };
                let head = Head {
                    kernel,
                    out: out.part(rows.clone(), cols.clone()),
                    dout: dout.part(rows.clone(), cols.clone()),
                    q: q.part(rows.clone(), cols),
                    lse: lse.row(row),
                    k,
                    v,
                    keys,
                };
                head.backward(scratch, at, dq, &mut dk, &mut dv, delta.row(0));
            }
        });
    });
}

/// What one query head's gradients are computed from.
struct Head<'a> {
    kernel: Kernel,
    out: Mat<'a>,
    dout: Mat<'a>,
    q: Mat<'a>,
    lse: &'a [f32],
    k: Mat<'a>,
    v: Mat<'a>,
    /// k, packed.
    keys: &'a [f32],
}

impl<'a> Head<'a> {
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
        let (t, d, kernel) = (self.q.rows, self.q.cols, self.kernel);
        let (scale, panel) = (at.scale as f32, kernel.width());
        for (r, delta) in delta.iter_mut().enumerate() {
            let (dout, out) = (self.dout.row(r), self.out.row(r));
            *delta = vectorised(
                #[inline(always)]
                || simd::dot(dout, out),
            );
        }
        let (wide, tall) = (kernel.packed_len(d, QUERIES), kernel.packed_len(QUERIES, d));
        let (q_wide, scratch) = scratch.split_at_mut(wide);
        let (dout_wide, scratch) = scratch.split_at_mut(wide);
        let (q_tall, scratch) = scratch.split_at_mut(tall);
        let (dout_tall, scratch) = scratch.split_at_mut(tall);
        let (probabilities, gradients) = scratch.split_at_mut(QUERIES * KEYS);
        for start in (0..t).step_by(QUERIES) {
            let queries = start..t.min(start + QUERIES);
            let n = queries.len();
            let width = score_width(kernel, n);
            let rows = |of: Mat<'a>| of.part(queries.clone(), 0..d);
            let (wide, tall) = (kernel.packed_len(d, n), kernel.packed_len(n, d));
            kernel.pack(&mut q_wide[..wide], rows(self.q).t());
            kernel.pack(&mut dout_wide[..wide], rows(self.dout).t());
            kernel.pack(&mut q_tall[..tall], rows(self.q));
            kernel.pack(&mut dout_tall[..tall], rows(self.dout));
            let (mut lse, mut shift) = ([0f32; QUERIES], [0f32; QUERIES]);
            lse[..n].copy_from_slice(&self.lse[queries.clone()]);
            shift[..n].copy_from_slice(&delta[queries.clone()]);
            for (i, keys) in key_blocks(&queries, at.window).enumerate() {
                let of = keys.clone();
                let (k, v) = (self.k.part(of.clone(), 0..d), self.v.part(of.clone(), 0..d));
                let mut p = Block::new(probabilities, width, &keys, &queries, at.window);
                let mut dp = Block::new(gradients, width, &keys, &queries, at.window);
                p.products(kernel, scale, k, Right::packed(q_wide, d, panel, 0..d));
                dp.products(kernel, 1.0, v, Right::packed(dout_wide, d, panel, 0..d));
                with_math(
                    #[inline(always)]
                    |math| softmax_backward(math, &mut p, &mut dp, &lse, &shift, scale),
                );
                let add = |to: &mut MatMut<'_>, left: &Block<'_>, right: &[f32]| {
                    let right = Right::packed(right, n, panel, 0..n);
                    let left = Left::Matrix(left.by_keys());
                    kernel.block(
                        &mut to.part(of.clone(), 0..d),
                        Start::Old,
                        1.0,
                        left,
                        right,
                        None,
                    );
                };
                add(dv, &p, dout_tall);
                add(dk, &dp, q_tall);
                let start = if i > 0 { Start::Old } else { Start::Zero };
                let (left, right) =
                    (Left::Matrix(dp.by_keys().t()), Right::packed(self.keys, t, panel, keys));
                kernel.block(&mut dq.part(queries.clone(), 0..d), start, 1.0, left, right, None);
            }
        }
    }
}

/// Turns scores into probabilities p and their gradients dp into the scores': scale · p · (dp − delta); 0 where not seen.
#[inline(always)]
fn softmax_backward(
    math: Math,
    p: &mut Block<'_>,
    dp: &mut Block<'_>,
    lse: &[f32; QUERIES],
    delta: &[f32; QUERIES],
    scale: f32,
) {
    for (p, dp) in p.rows().zip(dp.rows()) {
        let numbers = lse.as_chunks::<LANES>().0.iter().zip(delta.as_chunks::<LANES>().0);
        for ((p, dp), (lse, delta)) in lanes(p).zip(lanes(dp)).zip(numbers) {
            for i in 0..LANES {
                p[i] = math.exp_negative(p[i] - lse[i]);
                dp[i] = scale * p[i] * (dp[i] - delta[i]);
            }
        }
    }
    p.fill_unseen(0.0);
    dp.fill_unseen(0.0);
}

/// The columns of head `head`.
fn columns(head: usize, d: usize) -> Range<usize> {
    head * d..(head + 1) * d
}
