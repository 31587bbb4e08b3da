//! Rotary embedding with RMS norm over the head dim.

use super::rms_norm::reciprocal_root;
use super::simd::{dot, vectorised};
use super::work::{block_rows, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{HeadDims, RotaryNorm, RotaryNormBackward};

impl Cpu {
    pub(super) fn rotary_norm(&self, op: RotaryNorm<'_>) -> Result<()> {
        let HeadDims { b, t, h, d } = op.check(&DTYPES)?;
        let RotaryNorm { x, rstd, cos, sin, gain } = op;
        let (x, rstd) = (x.slice::<f32>()?, rstd.slice::<f32>()?);
        let (cos, sin) = (cos.slice::<f32>()?, sin.slice::<f32>()?);
        if x.is_empty() {
            return Ok(());
        }
        let cut = (rows(x, h * d), rows(rstd, h));
        self.workers.blocks(b * t, block_rows(h * d), cut, |first, (x, rstd)| {
            let heads = x.data.chunks_exact_mut(h * d).zip(rstd.data.chunks_exact_mut(h));
            for (n, (x, rstd)) in (first..).zip(heads) {
                let angles = n % t * d / 2..(n % t + 1) * d / 2;
                let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                vectorised(
                    #[inline(always)]
                    || match d {
                        32 => forward_row::<16>(x, rstd, cos, sin, gain as f32),
                        64 => forward_row::<32>(x, rstd, cos, sin, gain as f32),
                        128 => forward_row::<64>(x, rstd, cos, sin, gain as f32),
                        _ => forward_row::<0>(x, rstd, cos, sin, gain as f32),
                    },
                );
            }
        });
        Ok(())
    }

    pub(super) fn rotary_norm_backward(&self, op: RotaryNormBackward<'_>) -> Result<()> {
        let HeadDims { b, t, h, d } = op.check(&DTYPES)?;
        let RotaryNormBackward { dx, y, rstd, cos, sin, gain } = op;
        let (dx, y, rstd) = (dx.slice::<f32>()?, y.slice::<f32>()?, rstd.slice::<f32>()?);
        let (cos, sin) = (cos.slice::<f32>()?, sin.slice::<f32>()?);
        if dx.is_empty() {
            return Ok(());
        }
        self.workers.blocks(b * t, block_rows(h * d), rows(dx, h * d), |first, dx| {
            for (n, dx) in (first..).zip(dx.data.chunks_exact_mut(h * d)) {
                let angles = n % t * d / 2..(n % t + 1) * d / 2;
                let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                let (y, rstd) = (&y[n * h * d..(n + 1) * h * d], &rstd[n * h..(n + 1) * h]);
                vectorised(
                    #[inline(always)]
                    || match d {
                        32 => backward_row::<16>(dx, y, rstd, cos, sin, gain as f32),
                        64 => backward_row::<32>(dx, y, rstd, cos, sin, gain as f32),
                        128 => backward_row::<64>(dx, y, rstd, cos, sin, gain as f32),
                        _ => backward_row::<0>(dx, y, rstd, cos, sin, gain as f32),
                    },
                );
            }
        });
        Ok(())
    }
}

/// The heads of one position, D/2 = `HALF`, or any when that is 0: with lengths known, a head is a few registers.
#[inline(always)]
fn forward_row<const HALF: usize>(
    x: &mut [f32],
    rstd: &mut [f32],
    cos: &[f32],
    sin: &[f32],
    gain: f32,
) {
    let half = if HALF > 0 { HALF } else { cos.len() };
    let (cos, sin) = (&cos[..half], &sin[..half]);
    for (x, rstd) in x.chunks_exact_mut(2 * half).zip(rstd) {
        let (low, high) = x.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (low[i], high[i]);
            low[i] = a * cos[i] + b * sin[i];
            high[i] = b * cos[i] - a * sin[i];
        }
        *rstd = reciprocal_root(x);
        let scale = gain * *rstd;
        for x in x {
            *x *= scale;
        }
    }
}

/// As [`forward_row`].
#[inline(always)]
fn backward_row<const HALF: usize>(
    dx: &mut [f32],
    y: &[f32],
    rstd: &[f32],
    cos: &[f32],
    sin: &[f32],
    gain: f32,
) {
    let half = if HALF > 0 { HALF } else { cos.len() };
    let (cos, sin) = (&cos[..half], &sin[..half]);
    let heads = dx.chunks_exact_mut(2 * half).zip(y.chunks_exact(2 * half));
    for ((dx, y), &rstd) in heads.zip(rstd) {
        // y = gain · norm, and the norm's gradient is rstd · (dnorm − norm · mean(dnorm·norm)).
        let along = dot(dx, y) / (2.0 * half as f32 * gain * gain);
        let scale = rstd * gain;
        let (low, high) = dx.split_at_mut(half);
        let (y_low, y_high) = y.split_at(half);
        for i in 0..half {
            let a = scale * (low[i] - y_low[i] * along);
            let b = scale * (high[i] - y_high[i] * along);
            low[i] = a * cos[i] - b * sin[i];
            high[i] = a * sin[i] + b * cos[i];
        }
    }
}
