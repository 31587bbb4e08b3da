//! Calls of attention, what they should give, and what they should cost.
#![allow(dead_code, reason = "each test file uses some of it")]

use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, Bf16, Device, Result};

use crate::common::{Draw, relative, tensor, values};

/// ‖Δ‖/‖ref‖ of `out`: it and the probabilities are rounded to bf16.
pub(crate) const OUT: f64 = 4e-3;
/// The largest |Δ| of an lse, relative where it is beyond 10.
pub(crate) const LSE: f64 = 1e-4;

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

/// Queries, keys and values that bf16 holds.
pub(crate) struct Inputs {
    pub(crate) q: Vec<f64>,
    pub(crate) k: Vec<f64>,
    pub(crate) v: Vec<f64>,
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
        Inputs { q: normal(self.q(), 2.0), k: normal(self.kv(), 1.0), v: normal(self.kv(), 1.0) }
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
        let expected = self.run(&Reference::new(), inputs, at).ok()?;
        let out = relative(&got.0, &expected.0);
        let off = |(x, y): (&f64, &f64)| (x - y).abs() / (y.abs() / 10.0).max(1.0);
        let largest = |x: f64, y: f64| if x >= y { x } else { y };
        let lse = got.1.iter().zip(&expected.1).map(off).fold(0.0, largest);
        let right = out <= OUT && lse <= LSE;
        (!right).then(|| format!("{self:?}: out is off by {out:e}, lse by {lse:e}"))
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
