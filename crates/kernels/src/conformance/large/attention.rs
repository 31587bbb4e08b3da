//! Attention and its backward over 2,048 positions, against f64 at chosen rows of every head.
//!
//! The backward's reference starts from the device's own `out` and `lse`, which are its inputs; [`forward`] judges those.

use rayon::prelude::*;

use super::super::case::Check;
use super::super::{Mismatch, Outcome};
use super::{Scale, asked, numbers, poisoned, write};
use crate::{AttentionShape, Device, Result, Tensor};

pub(super) struct Sizes {
    pub(super) b: usize,
    pub(super) t: usize,
    pub(super) h: usize,
    pub(super) d: usize,
    pub(super) windows: [usize; 2],
    /// Rows of a block that is compared.
    rows: usize,
    /// The first rows of the blocks: ends, edges of tiles, the first query and the last key whose window is not the whole.
    blocks: [usize; 6],
}

pub(super) const REAL: Sizes = Sizes {
    b: 2,
    t: 2048,
    h: 12,
    d: 128,
    windows: [512, 2048],
    rows: 16,
    blocks: [0, 56, 504, 1016, 1528, 2032],
};

pub(super) const SMALL: Sizes = Sizes {
    b: 2,
    t: 160,
    h: 2,
    d: 16,
    windows: [40, 160],
    rows: 8,
    blocks: [0, 36, 60, 76, 116, 152],
};

/// One head's operands, row by row: (T, D) each.
struct Head {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dout: Vec<f64>,
}

/// A call at one window: what it sees, and its scale.
#[derive(Clone, Copy)]
struct Call {
    t: usize,
    d: usize,
    at: AttentionShape,
}

impl Sizes {
    fn shape(&self) -> [usize; 4] {
        [self.b, self.t, self.h, self.d]
    }

    pub(super) fn at(&self, window: usize) -> AttentionShape {
        AttentionShape { window, scale: 1.0 / (self.d as f64).sqrt() }
    }

    fn call(&self, window: usize) -> Call {
        Call { t: self.t, d: self.d, at: self.at(window) }
    }

    pub(super) fn case(&self, window: usize) -> String {
        let Self { b, t, h, d, .. } = self;
        format!("B {b}, T {t}, H {h}, D {d}, window {window}")
    }

    /// Rows of one head of a (B, T, H, D) array.
    fn of_head<X: Copy + Into<f64>>(&self, x: &[X], b: usize, h: usize) -> Vec<f64> {
        let row = |t: usize| ((b * self.t + t) * self.h + h) * self.d;
        (0..self.t).flat_map(|t| x[row(t)..][..self.d].iter().map(|&x| x.into())).collect()
    }

    fn head(&self, [q, k, v, dout]: &[Vec<f32>; 4], b: usize, h: usize) -> Head {
        Head {
            q: self.of_head(q, b, h),
            k: self.of_head(k, b, h),
            v: self.of_head(v, b, h),
            dout: self.of_head(dout, b, h),
        }
    }

    /// Each head, by batch and number.
    fn heads(&self) -> impl IndexedParallelIterator<Item = (usize, usize)> {
        let h = self.h;
        (0..self.b * h).into_par_iter().map(move |i| (i / h, i % h))
    }
}

/// Sums of products in eight strands, so that the compiler may use vectors.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    for (x, y) in x.chunks_exact(8).zip(y.chunks_exact(8)) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum()
}

fn add_scaled(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

impl Call {
    fn row<'x>(&self, x: &'x [f64], t: usize) -> &'x [f64] {
        &x[t * self.d..(t + 1) * self.d]
    }

    /// Keys that query t sees.
    fn keys(&self, t: usize) -> std::ops::RangeInclusive<usize> {
        t.saturating_sub(self.at.window)..=t
    }

    /// Queries that see key s.
    fn queries(&self, s: usize) -> std::ops::RangeInclusive<usize> {
        s..=s.saturating_add(self.at.window).min(self.t - 1)
    }

    /// out and lse of query t.
    fn forward(&self, head: &Head, t: usize) -> (Vec<f64>, f64) {
        let q = self.row(&head.q, t);
        let scores: Vec<f64> =
            self.keys(t).map(|s| self.at.scale * dot(q, self.row(&head.k, s))).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        let mut out = vec![0.0; self.d];
        for (s, score) in self.keys(t).zip(&scores) {
            add_scaled(&mut out, (score - most).exp() / sum, self.row(&head.v, s));
        }
        (out, most + sum.ln())
    }

    /// The weight of key s for query t, and the gradient of its score.
    fn score_gradient(
        &self,
        head: &Head,
        (lse, delta): (f64, f64),
        t: usize,
        s: usize,
    ) -> (f64, f64) {
        let (q, k, v) = (self.row(&head.q, t), self.row(&head.k, s), self.row(&head.v, s));
        let p = (self.at.scale * dot(q, k) - lse).exp();
        (p, self.at.scale * p * (dot(self.row(&head.dout, t), v) - delta))
    }

    /// dq of query t.
    fn dq(&self, head: &Head, statistics: &[(f64, f64)], t: usize) -> Vec<f64> {
        let mut dq = vec![0.0; self.d];
        for s in self.keys(t) {
            let (_, ds) = self.score_gradient(head, statistics[t], t, s);
            add_scaled(&mut dq, ds, self.row(&head.k, s));
        }
        dq
    }

    /// dk and dv of key s.
    fn dk_dv(&self, head: &Head, statistics: &[(f64, f64)], s: usize) -> (Vec<f64>, Vec<f64>) {
        let (mut dk, mut dv) = (vec![0.0; self.d], vec![0.0; self.d]);
        for t in self.queries(s) {
            let (p, ds) = self.score_gradient(head, statistics[t], t, s);
            add_scaled(&mut dk, ds, self.row(&head.q, t));
            add_scaled(&mut dv, p, self.row(&head.dout, t));
        }
        (dk, dv)
    }
}

/// Queries, large enough for an uneven softmax, keys, values and the result's gradient.
fn draw(sizes: &Sizes) -> [Vec<f32>; 4] {
    let n = sizes.shape().iter().product();
    let mut drawn = [1, 2, 3, 4].map(|salt| numbers(salt, 0..n));
    drawn[0].iter_mut().for_each(|q| *q *= 2.0);
    drawn
}

/// A call's operands on a device.
pub(super) struct Operands {
    /// q, k, v and dout.
    ins: [Tensor; 4],
    pub(super) out: Tensor,
    pub(super) lse: Tensor,
    pub(super) dq: Tensor,
    pub(super) dk: Tensor,
    pub(super) dv: Tensor,
    delta: Tensor,
}

impl Operands {
    pub(super) fn new(dev: &dyn Device, sizes: &Sizes) -> Result<Self> {
        Self::of(dev, sizes, &draw(sizes))
    }

    fn of(dev: &dyn Device, sizes: &Sizes, values: &[Vec<f32>; 4]) -> Result<Self> {
        let given = |values: &[f32]| {
            let mut tensor = dev.activations(sizes.shape())?;
            write(dev, tensor.view_mut(), values)?;
            Ok(tensor)
        };
        let [q, k, v, dout] = values;
        let poison = || poisoned(dev, dev.compute_dtype(), sizes.shape());
        let statistic = || poisoned(dev, dev.master_dtype(), [sizes.b, sizes.h, sizes.t]);
        Ok(Self {
            ins: [given(q)?, given(k)?, given(v)?, given(dout)?],
            out: poison()?,
            lse: statistic()?,
            dq: poison()?,
            dk: poison()?,
            dv: poison()?,
            delta: statistic()?,
        })
    }

    /// out and lse, whatever they held.
    pub(super) fn forward(&mut self, dev: &dyn Device, at: AttentionShape) -> Result<()> {
        dev.fill(self.out.view_mut(), f64::NAN)?;
        dev.fill(self.lse.view_mut(), f64::NAN)?;
        let [q, k, v, _] = self.ins.each_ref().map(Tensor::view);
        dev.attention(self.out.view_mut(), self.lse.view_mut(), q, k, v, at)
    }

    /// dq, dk and dv, whatever they held, from out and lse.
    pub(super) fn backward(&mut self, dev: &dyn Device, at: AttentionShape) -> Result<()> {
        for gradient in [&mut self.dq, &mut self.dk, &mut self.dv, &mut self.delta] {
            dev.fill(gradient.view_mut(), f64::NAN)?;
        }
        let [q, k, v, dout] = self.ins.each_ref().map(Tensor::view);
        let [dq, dk, dv] = [&mut self.dq, &mut self.dk, &mut self.dv].map(Tensor::view_mut);
        let (delta, out, lse) = (self.delta.view_mut(), self.out.view(), self.lse.view());
        dev.attention_backward(dq, dk, dv, delta, dout, out, lse, q, k, v, at)
    }
}

/// What one block of one head holds, and should.
struct Block {
    what: String,
    output: usize,
    got: Vec<f64>,
    expected: Vec<f64>,
}

/// Judges blocks in order, and that nothing at all was left as it was.
fn judge(
    check: &mut Check<'_>,
    dev: &dyn Device,
    outputs: &[Vec<f64>],
    masters: &[usize],
    blocks: Vec<Block>,
) -> Result<(), Mismatch> {
    for Block { what, output, got, expected } in blocks {
        let master = masters.contains(&output);
        let dtype = if master { dev.master_dtype() } else { dev.compute_dtype() };
        check.compare(output, dtype, &got, &expected, &what)?;
    }
    for (output, values) in outputs.iter().enumerate() {
        if let Some(element) = values.iter().position(|x| !x.is_finite()) {
            let what = format!("element {element} of output {output} is {}", values[element]);
            return Err(check.wrong(what));
        }
    }
    Ok(())
}

/// [`Attention`](crate::ops::Attention).
pub(super) fn forward(dev: &dyn Device, scale: &Scale) -> Outcome {
    let (sizes, mut check) = (&scale.attention, Check::new(dev, "attention"));
    let values = draw(sizes);
    let mut operands = asked(&check, || Operands::of(dev, sizes, &values))?;
    for window in sizes.windows {
        check.case(sizes.case(window));
        let call = sizes.call(window);
        let [out, lse] = asked(&check, || {
            operands.forward(dev, call.at)?;
            Ok([dev.read_f64(operands.out.view())?, dev.read_f64(operands.lse.view())?])
        })?;
        let blocks: Vec<Block> = sizes
            .heads()
            .flat_map_iter(|(b, h)| {
                let head = sizes.head(&values, b, h);
                let got = sizes.of_head(&out, b, h);
                let lse = &lse[(b * sizes.h + h) * sizes.t..][..sizes.t];
                let blocks = sizes.blocks.iter().flat_map(|&first| {
                    let rows = first..first + sizes.rows;
                    let what = format!(", batch {b}, head {h}, queries {rows:?}");
                    let (outs, lses): (Vec<_>, Vec<_>) =
                        rows.clone().map(|t| call.forward(&head, t)).unzip();
                    let got = got[first * sizes.d..][..outs.len() * sizes.d].to_vec();
                    [
                        Block { what: what.clone(), output: 0, got, expected: outs.concat() },
                        Block { what, output: 1, got: lse[rows].to_vec(), expected: lses },
                    ]
                });
                blocks.collect::<Vec<_>>()
            })
            .collect();
        judge(&mut check, dev, &[out, lse], &[1], blocks)?;
    }
    Ok(check.worst)
}

/// [`AttentionBackward`](crate::ops::AttentionBackward).
pub(super) fn backward(dev: &dyn Device, scale: &Scale) -> Outcome {
    let (sizes, mut check) = (&scale.attention, Check::new(dev, "attention_backward"));
    let values = draw(sizes);
    let mut operands = asked(&check, || Operands::of(dev, sizes, &values))?;
    for window in sizes.windows {
        check.case(sizes.case(window));
        let call = sizes.call(window);
        let [dq, dk, dv, out, lse] = asked(&check, || {
            operands.forward(dev, call.at)?;
            operands.backward(dev, call.at)?;
            let Operands { dq, dk, dv, out, lse, .. } = &operands;
            let read = |tensor: &Tensor| dev.read_f64(tensor.view());
            Ok([read(dq)?, read(dk)?, read(dv)?, read(out)?, read(lse)?])
        })?;
        let blocks: Vec<Block> = sizes
            .heads()
            .flat_map_iter(|(b, h)| {
                let head = sizes.head(&values, b, h);
                let lse = &lse[(b * sizes.h + h) * sizes.t..][..sizes.t];
                let outs = sizes.of_head(&out, b, h);
                let delta = |t| dot(call.row(&head.dout, t), call.row(&outs, t));
                let statistics: Vec<_> =
                    lse.iter().enumerate().map(|(t, &lse)| (lse, delta(t))).collect();
                let got = [&dq, &dk, &dv].map(|x| sizes.of_head(x, b, h));
                let blocks = sizes.blocks.iter().flat_map(|&first| {
                    let rows = first..first + sizes.rows;
                    let what = format!(", batch {b}, head {h}, rows {rows:?}");
                    let dq: Vec<_> = rows.clone().map(|t| call.dq(&head, &statistics, t)).collect();
                    let (dk, dv): (Vec<_>, Vec<_>) =
                        rows.map(|s| call.dk_dv(&head, &statistics, s)).unzip();
                    let block = |output: usize, expected: Vec<Vec<f64>>| Block {
                        what: what.clone(),
                        output,
                        got: got[output][first * sizes.d..][..expected.len() * sizes.d].to_vec(),
                        expected: expected.concat(),
                    };
                    [block(0, dq), block(1, dk), block(2, dv)]
                });
                blocks.collect::<Vec<_>>()
            })
            .collect();
        judge(&mut check, dev, &[dq, dk, dv], &[], blocks)?;
    }
    Ok(check.worst)
}
