//! Sums over whole tensors, in f64.

use super::simd::{self, vectorised};
use super::work::{BLOCK_ELEMENTS, Partials};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{Sum, SumSquares};

impl Cpu {
    pub(super) fn sum(&self, op: Sum<'_>) -> Result<()> {
        op.check(&DTYPES)?;
        let Sum { out, x } = op;
        self.total(
            out.slice()?,
            x.slice()?,
            #[inline(always)]
            |x| x,
        );
        Ok(())
    }

    pub(super) fn sum_squares(&self, op: SumSquares<'_>) -> Result<()> {
        op.check(&DTYPES)?;
        let SumSquares { out, x } = op;
        self.total(
            out.slice()?,
            x.slice()?,
            #[inline(always)]
            |x| x * x,
        );
        Ok(())
    }

    /// out = Σ f(x), in f64.
    fn total(&self, out: &mut [f32], x: &[f32], f: impl Fn(f64) -> f64 + Copy + Sync) {
        let len = Partials::len(x.len(), BLOCK_ELEMENTS, 1);
        self.workers.scratch(len, |partials: &mut [f64]| {
            let cut = Partials::new(partials, 1, BLOCK_ELEMENTS);
            self.workers.blocks(x.len(), BLOCK_ELEMENTS, cut, |first, part| {
                let x = &x[first..x.len().min(first + BLOCK_ELEMENTS)];
                part.data[0] = vectorised(
                    #[inline(always)]
                    || simd::sum_f64(x, f),
                );
            });
            out[0] = partials.iter().sum::<f64>() as f32;
        });
    }
}
