//! Calls of attention, what they should give, and what they should cost.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, Bf16, Device, Result};

use crate::common::{Draw, norm, tensor, values};

/// ‖Δ‖/‖ref‖ of `out`, half of what a single row may have: it and the probabilities are rounded to bf16.
pub(crate) const OUT: f64 = 3e-3;
/// The largest |Δ| of an lse, relative where it is beyond 10.
pub(crate) const LSE: f64 = 1e-5;

/// One call's sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) s: usize,
    pub(crate) h: usize,
    pub(crate) k: usize,
    pub(crate) d: usize,
    pub(crate) window: usize,
}

pub(crate) const fn call(
    (b, t, s): (usize, usize, usize),
    (h, k, d): (usize, usize, usize),
    window: usize,
) -> Call {
    Call { b, t, s, h, k, d, window }
}

/// ‖Δ‖/‖ref‖ of gradients, half of what a single row may have.
pub(crate) const GRADIENTS: f64 = 4e-3;

/// Queries, keys, values and a gradient that bf16 holds.
pub(crate) struct Inputs {
    pub(crate) q: Vec<f64>,
    pub(crate) k: Vec<f64>,
    pub(crate) v: Vec<f64>,
    pub(crate) dout: Vec<f64>,
}

impl Inputs {
    /// Integers for queries and keys: scores are exact in any type, and a softmax of large ones as sharp.
    pub(crate) fn rounded(mut self) -> Self {
        for x in self.q.iter_mut().chain(&mut self.k) {
            *x = x.round();
        }
        self
    }
}

/// The larger, or NaN.
fn larger(x: f64, y: f64) -> f64 {
    if y > x || y.is_nan() { y } else { x }
}

/// ‖Δ‖/‖expected‖, where the elements' root mean square is `floor` at least.
fn error(got: &[f64], expected: &[f64], floor: f64) -> f64 {
    if got == expected {
        return 0.0;
    }
    let difference: Vec<f64> = got.iter().zip(expected).map(|(x, y)| x - y).collect();
    norm(&difference) / norm(expected).max((got.len() as f64).sqrt() * floor)
}

/// The largest [`error`] of a row of `d` elements, each row's size being that of the average row at least: one key too many or too few
/// shows in its row, and not in the whole.
fn worst_row(got: &[f64], expected: &[f64], d: usize, floor: f64) -> f64 {
    let average = norm(expected) / (expected.len() as f64).sqrt();
    let rows = got.chunks(d).zip(expected.chunks(d));
    rows.map(|(x, y)| error(x, y, floor.max(average))).fold(0.0, larger)
}

/// What a call gave: out and lse.
pub(crate) type Results = (Vec<f64>, Vec<f64>);

impl Call {
    pub(crate) fn shape(&self) -> AttentionShape {
        AttentionShape { window: self.window, scale: 1.0 / (self.d as f64).sqrt() }
    }

    pub(crate) fn q(&self) -> [usize; 4] {
        [self.b, self.t, self.h, self.d]
    }

    pub(crate) fn kv(&self) -> [usize; 4] {
        [self.b, self.s, self.k, self.d]
    }

    pub(crate) fn lse(&self) -> [usize; 3] {
        [self.b, self.h, self.t]
    }

    /// Of standard deviation 1, queries of 2 for an uneven softmax.
    pub(crate) fn inputs(&self) -> Inputs {
        let mut draw = Draw::new((self.t * 1000 + self.s + self.d) as u64);
        let mut normal = |dims: [usize; 4], size: f64| -> Vec<f64> {
            let values = draw.normals(dims.iter().product());
            values.iter().map(|x| f64::from(Bf16::from_f64(size * x).to_f32())).collect()
        };
        let q = normal(self.q(), 2.0);
        let [k, v] = [(); 2].map(|()| normal(self.kv(), 1.0));
        Inputs { q, k, v, dout: normal(self.q(), 1.0) }
    }

    /// The call on a device, what it overwrites holding NaN before.
    pub(crate) fn run(
        &self,
        dev: &dyn Device,
        inputs: &Inputs,
        at: AttentionShape,
    ) -> Result<Results> {
        let q = tensor(dev, self.q(), &inputs.q);
        let [k, v] = [&inputs.k, &inputs.v].map(|x| tensor(dev, self.kv(), x));
        let mut out = tensor(dev, self.q(), &vec![f64::NAN; inputs.q.len()]);
        let mut lse = dev.master(self.lse())?;
        dev.write_f64(lse.view_mut(), &vec![f64::NAN; self.b * self.h * self.t])?;
        dev.attention(out.view_mut(), lse.view_mut(), q.view(), k.view(), v.view(), at)?;
        Ok((values(dev, &out), values(dev, &lse)))
    }

    /// What is wrong with a result, held to the reference's.
    pub(crate) fn wrong(
        &self,
        inputs: &Inputs,
        at: AttentionShape,
        got: &Results,
    ) -> Option<String> {
        let expected = self.run(&Reference::new(), inputs, at).unwrap();
        let out = error(&got.0, &expected.0, 0.0);
        let row = worst_row(&got.0, &expected.0, self.d, 0.0);
        let off = |(x, y): (&f64, &f64)| (x - y).abs() / (y.abs() / 10.0).max(1.0);
        let lse = got.1.iter().zip(&expected.1).map(off).fold(0.0, larger);
        let right = out <= OUT && row <= 2.0 * OUT && lse <= LSE;
        (!right)
            .then(|| format!("{self:?}: out is off by {out:e}, a row by {row:e}, lse by {lse:e}"))
    }

    /// What the forward pass leaves, as bf16 and f32 hold it.
    pub(crate) fn saved(&self, inputs: &Inputs, at: AttentionShape) -> Results {
        let (out, lse) = self.run(&Reference::new(), inputs, at).unwrap();
        let out = out.iter().map(|&x| f64::from(Bf16::from_f64(x).to_f32())).collect();
        (out, lse.iter().map(|&x| f64::from(x as f32)).collect())
    }

    /// dq, dk and dv, which hold NaN before.
    pub(crate) fn gradients(
        &self,
        dev: &dyn Device,
        inputs: &Inputs,
        saved: &Results,
        at: AttentionShape,
    ) -> Result<[Vec<f64>; 3]> {
        let of_queries = [&inputs.q, &inputs.dout, &saved.0].map(|x| tensor(dev, self.q(), x));
        let [k, v] = [&inputs.k, &inputs.v].map(|x| tensor(dev, self.kv(), x));
        let [q, dout, out] = &of_queries;
        let mut statistics = [dev.master(self.lse())?, dev.master(self.lse())?];
        let [lse, delta] = &mut statistics;
        dev.write_f64(lse.view_mut(), &saved.1)?;
        dev.write_f64(delta.view_mut(), &vec![f64::NAN; saved.1.len()])?;
        let mut grads = [self.q(), self.kv(), self.kv()]
            .map(|shape| tensor(dev, shape, &vec![f64::NAN; shape.iter().product()]));
        let [dq, dk, dv] = &mut grads;
        dev.attention_backward(
            dq.view_mut(),
            dk.view_mut(),
            dv.view_mut(),
            delta.view_mut(),
            dout.view(),
            out.view(),
            lse.view(),
            q.view(),
            k.view(),
            v.view(),
            at,
        )?;
        Ok(grads.map(|grad| values(dev, &grad)))
    }

    /// What is wrong with gradients, held to others.
    pub(crate) fn wrong_gradients(
        &self,
        expected: &[Vec<f64>; 3],
        got: &[Vec<f64>; 3],
    ) -> Option<String> {
        // With one key per query dq and dk are 0, and what rounding leaves has no relative size.
        let floor = if self.window == 0 || self.t == 1 { 1.0 } else { 0.0 };
        let errors = [0, 1, 2].map(|i| error(&got[i], &expected[i], floor));
        let rows = [0, 1, 2].map(|i| worst_row(&got[i], &expected[i], self.d, floor));
        let right = errors.iter().all(|&error| error <= GRADIENTS)
            && rows.iter().all(|&error| error <= 2.0 * GRADIENTS);
        (!right).then(|| format!("{self:?}: dq, dk, dv are off by {errors:?}, a row by {rows:?}"))
    }

    /// Bytes that the backward pass's kernels of queries and of keys load, as their docs state them; four lanes ask for each of a
    /// query's two statistics.
    pub(crate) fn loaded_backward_bytes(&self) -> (u64, u64) {
        let queries =
            self.b * self.t * self.h * (4 * self.d + 4 * 8) + self.key_rows() * self.d * 4;
        let tile = if self.d > 64 { 32 } else { 64 };
        let block = |first_key: usize| {
            let seen = (self.t - first_key).min(self.window.min(self.t) + 64);
            (self.t - first_key).min(seen.div_ceil(tile) * tile)
        };
        let query_rows = self.b * self.h * (0..self.t).step_by(64).map(block).sum::<usize>();
        let keys = self.b * self.t * self.k * self.d * 4 + query_rows * (4 * self.d + 8);
        (queries as u64, keys as u64)
    }

    /// Rows of keys that blocks of 64 queries read, summed over blocks and heads: from the first of their tiles of 64, aligned to the
    /// block's first position, that a window reaches, to its last position.
    fn key_rows(&self) -> usize {
        let block = |first_query: usize| {
            let position = self.s - self.t + first_query;
            let tiles = self.window.min(position).div_ceil(64);
            self.s.min(position + 64) - position.saturating_sub(tiles * 64)
        };
        self.b * self.h * (0..self.t).step_by(64).map(block).sum::<usize>()
    }

    /// Bytes that the tensor-core kernel loads, as its docs state them.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        let q = self.b * self.t * self.h * self.d * 2;
        (q + self.key_rows() * self.d * 4) as u64
    }

    /// Bytes of out and of lse.
    pub(crate) fn stored_bytes(&self) -> (u64, u64) {
        let rows = (self.b * self.t * self.h) as u64;
        (rows * self.d as u64 * 2, rows * 4)
    }
}
