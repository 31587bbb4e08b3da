//! RMS norm.

use super::simd::{dot, sum_of, vectorised};
use super::work::{block_rows, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{RmsNorm, RmsNormBackward, RowDims};

impl Cpu {
    pub(super) fn rms_norm(&self, op: RmsNorm<'_>) -> Result<()> {
        let RowDims { n, c } = op.check(&DTYPES)?;
        let RmsNorm { y, rstd, x } = op;
        let (y, rstd, x) = (y.slice::<f32>()?, rstd.slice::<f32>()?, x.slice::<f32>()?);
        if c == 0 {
            return Ok(());
        }
        self.workers.blocks(n, block_rows(c), (rows(y, c), rows(rstd, 1)), |first, (y, rstd)| {
            let each = y.data.chunks_exact_mut(c).zip(rstd.data);
            for ((y, rstd), x) in each.zip(x[first * c..].chunks_exact(c)) {
                vectorised(
                    #[inline(always)]
                    || {
                        *rstd = reciprocal_root(x);
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * *rstd);
                    },
                );
            }
        });
        Ok(())
    }

    pub(super) fn rms_norm_backward(&self, op: RmsNormBackward<'_>) -> Result<()> {
        let RowDims { n, c } = op.check(&DTYPES)?;
        let RmsNormBackward { dx, dy, y, rstd, accumulate } = op;
        let (dx, dy) = (dx.slice::<f32>()?, dy.slice::<f32>()?);
        let (y, rstd) = (y.slice::<f32>()?, rstd.slice::<f32>()?);
        if c == 0 {
            return Ok(());
        }
        self.workers.blocks(n, block_rows(c), rows(dx, c), |first, dx| {
            let given = dy[first * c..].chunks_exact(c).zip(y[first * c..].chunks_exact(c));
            let each = dx.data.chunks_exact_mut(c).zip(given).zip(&rstd[first..]);
            for ((dx, (dy, y)), &rstd) in each {
                vectorised(
                    #[inline(always)]
                    || {
                        let along = dot(dy, y) / c as f32;
                        let each = dx.iter_mut().zip(dy).zip(y);
                        if accumulate {
                            each.for_each(|((dx, dy), y)| *dx += rstd * (dy - y * along));
                        } else {
                            each.for_each(|((dx, dy), y)| *dx = rstd * (dy - y * along));
                        }
                    },
                );
            }
        });
        Ok(())
    }
}

/// 1/√(mean(x²) + 2⁻²³).
#[inline(always)]
pub(super) fn reciprocal_root(x: &[f32]) -> f32 {
    1.0 / (sum_of(
        x,
        #[inline(always)]
        |x| x * x,
    ) / x.len() as f32
        + f32::EPSILON)
        .sqrt()
}
