//! Weighted sums of two streams.

use super::rms_norm::reciprocal_root;
use super::simd::{dot, vectorised};
use super::work::{BLOCK_ELEMENTS, Partials, block_rows, rows};
use super::{Cpu, DTYPES};
use crate::ops::{Mix, MixBackward, MixNorm, RowDims};
use crate::{Coef, Result};

impl Cpu {
    pub(super) fn mix(&self, op: Mix<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let Mix { out, x, a, y, b } = op;
        let (out, x, y) = (out.slice::<f32>()?, x.slice::<f32>()?, y.slice::<f32>()?);
        let (a, b) = (value(a)?, value(b)?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(out, 1), |first, out| {
            vectorised(
                #[inline(always)]
                || mix_row(out.data, &x[first..], a, &y[first..], b),
            );
        });
        Ok(())
    }

    pub(super) fn mix_norm(&self, op: MixNorm<'_>) -> Result<()> {
        let RowDims { n, c } = op.check(&DTYPES)?;
        let MixNorm { out, normed, rstd, x, a, y, b } = op;
        let (out, normed, rstd) = (out.slice::<f32>()?, normed.slice::<f32>()?, rstd.slice()?);
        let (x, y) = (x.slice::<f32>()?, y.slice::<f32>()?);
        let (a, b) = (value(a)?, value(b)?);
        if c == 0 {
            return Ok(());
        }
        let cut = (rows(out, c), rows(normed, c), rows(rstd, 1));
        self.workers.blocks(n, block_rows(c), cut, |first, (out, normed, rstd)| {
            let written = out.data.chunks_exact_mut(c).zip(normed.data.chunks_exact_mut(c));
            let given = x[first * c..].chunks_exact(c).zip(y[first * c..].chunks_exact(c));
            for (((out, normed), rstd), (x, y)) in written.zip(rstd.data).zip(given) {
                vectorised(
                    #[inline(always)]
                    || {
                        mix_row(out, x, a, y, b);
                        *rstd = reciprocal_root(out);
                        normed.iter_mut().zip(out).for_each(|(y, x)| *y = *x * *rstd);
                    },
                );
            }
        });
        Ok(())
    }

    pub(super) fn mix_backward(&self, op: MixBackward<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let MixBackward { dx, dy, da, db, x, a, y, b } = op;
        let (dx, dy) = (dx.slice::<f32>()?, dy.slice::<f32>()?);
        let (x, y) = (x.slice::<f32>()?, y.slice::<f32>()?);
        let (a_value, b_value) = (value(a)?, value(b)?);
        let (want_a, want_b) = (da.is_some(), db.is_some());
        let len = Partials::len(n, BLOCK_ELEMENTS, 2);
        self.workers.scratch(len, |partials: &mut [f64]| {
            partials.fill(0.0);
            let cut = (rows(dx, 1), rows(dy, 1), Partials::new(partials, 2, BLOCK_ELEMENTS));
            self.workers.blocks(n, BLOCK_ELEMENTS, cut, |first, (dx, dy, sums)| {
                let (x, y) = (&x[first..], &y[first..]);
                vectorised(
                    #[inline(always)]
                    || {
                        let len = dx.data.len();
                        if want_a {
                            sums.data[0] = f64::from(dot(dx.data, &x[..len]));
                        }
                        if want_b {
                            sums.data[1] = f64::from(dot(dx.data, &y[..len]));
                        }
                        for (dx, dy) in dx.data.iter_mut().zip(dy.data) {
                            *dy += b_value * *dx;
                            *dx *= a_value;
                        }
                    },
                );
            });
            for (i, (gradient, times)) in [(da, a.times), (db, b.times)].into_iter().enumerate() {
                if let Some(gradient) = gradient {
                    let gradient = &mut gradient.slice::<f32>()?[0];
                    let sum: f64 = partials.iter().skip(i).step_by(2).sum();
                    *gradient = (f64::from(*gradient) + times * sum) as f32;
                }
            }
            Ok(())
        })
    }
}

/// A coefficient's value.
fn value(coef: Coef<'_>) -> Result<f32> {
    let parameter = match coef.parameter {
        Some(parameter) => f64::from(parameter.slice::<f32>()?[0]),
        None => 1.0,
    };
    Ok((coef.times * parameter) as f32)
}

#[inline(always)]
fn mix_row(out: &mut [f32], x: &[f32], a: f32, y: &[f32], b: f32) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = a * x + b * y;
    }
}
