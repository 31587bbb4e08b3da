//! Rotary embedding with RMS norm over the head dim, and the operations of [`Attention`].

use super::pointwise::reciprocal_root;
use super::simd::{dot, vectorised};
use super::work::{block_rows, rows};
use super::{Cpu, DTYPES, attention, value_gate};
use crate::shapes::HeadDims;
use crate::{Attention, AttentionShape, Mut, Ref, Result, shapes};

impl Attention for Cpu {
    fn rotary_norm(
        &self,
        x: Mut<'_>,
        rstd: Mut<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()> {
        let HeadDims { b, t, h, d } = shapes::rotary_norm(&DTYPES, &x, &rstd, &cos, &sin)?;
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

    fn rotary_norm_backward(
        &self,
        dx: Mut<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()> {
        let HeadDims { b, t, h, d } =
            shapes::rotary_norm_backward(&DTYPES, &dx, &y, &rstd, &cos, &sin)?;
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

    fn value_gate(
        &self,
        v: Mut<'_>,
        gate: Mut<'_>,
        ve: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()> {
        let dims = shapes::value_gate(&DTYPES, &v, &gate, &ve, &x, &w)?;
        let (v, gate) = (v.slice()?, gate.slice()?);
        let (ve, x, w) = (ve.slice()?, x.slice()?, w.slice()?);
        value_gate::forward(&self.workers, dims, max as f32, v, gate, ve, x, w);
        Ok(())
    }

    fn value_gate_backward(
        &self,
        dve: Mut<'_>,
        dw: Mut<'_>,
        dx: Mut<'_>,
        dv: Ref<'_>,
        ve: Ref<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()> {
        let dims = shapes::value_gate_backward(&DTYPES, &dve, &dw, &dx, &dv, &ve, &gate, &x, &w)?;
        let (dve, dw, dx) = (dve.slice()?, dw.slice()?, dx.slice()?);
        let (dv, ve, gate, x, w) =
            (dv.slice()?, ve.slice()?, gate.slice()?, x.slice()?, w.slice()?);
        value_gate::backward(&self.workers, dims, max as f32, dve, dw, dx, dv, ve, gate, x, w);
        Ok(())
    }

    fn attention(
        &self,
        out: Mut<'_>,
        lse: Mut<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()> {
        let dims = shapes::attention(&DTYPES, &out, &lse, &q, &k, &v)?;
        let (out, lse) = (out.slice()?, lse.slice()?);
        let (q, k, v) = (q.slice()?, k.slice()?, v.slice()?);
        attention::forward(&self.workers, dims, at, out, lse, q, k, v);
        Ok(())
    }

    fn attention_backward(
        &self,
        dq: Mut<'_>,
        dk: Mut<'_>,
        dv: Mut<'_>,
        delta: Mut<'_>,
        dout: Ref<'_>,
        out: Ref<'_>,
        lse: Ref<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()> {
        let dims = shapes::attention_backward(
            &DTYPES, &dq, &dk, &dv, &delta, &dout, &out, &lse, &q, &k, &v,
        )?;
        let (dq, dk, dv, delta) = (dq.slice()?, dk.slice()?, dv.slice()?, delta.slice()?);
        let (dout, out, lse) = (dout.slice()?, out.slice()?, lse.slice()?);
        let (q, k, v) = (q.slice()?, k.slice()?, v.slice()?);
        attention::backward(&self.workers, dims, at, dq, dk, dv, delta, dout, out, lse, q, k, v);
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
