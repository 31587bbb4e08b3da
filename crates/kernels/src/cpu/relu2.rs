//! relu².

use super::simd::vectorised;
use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{Relu2, Relu2Backward};

impl Cpu {
    pub(super) fn relu2(&self, op: Relu2<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let Relu2 { y, x } = op;
        let (y, x) = (y.slice::<f32>()?, x.slice::<f32>()?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(y, 1), |first, y| {
            vectorised(
                #[inline(always)]
                || {
                    for (y, &x) in y.data.iter_mut().zip(&x[first..]) {
                        *y = positive(x) * positive(x);
                    }
                },
            );
        });
        Ok(())
    }

    pub(super) fn relu2_backward(&self, op: Relu2Backward<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let Relu2Backward { dx, x } = op;
        let (dx, x) = (dx.slice::<f32>()?, x.slice::<f32>()?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(dx, 1), |first, dx| {
            vectorised(
                #[inline(always)]
                || {
                    for (dx, &x) in dx.data.iter_mut().zip(&x[first..]) {
                        *dx *= 2.0 * positive(x);
                    }
                },
            );
        });
        Ok(())
    }
}

/// max(x, 0), but NaN for NaN.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}
