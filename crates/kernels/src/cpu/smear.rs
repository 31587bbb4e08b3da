//! Smear, which mixes each position with the one before it, forward and backward.

use super::simd::{dot, vectorised, with_math};
use super::work::{Partials, Workers, add_partials, block_rows, rows};
use super::{Cpu, DTYPES};
use crate::ops::{Smear, SmearBackward, SmearDims};
use crate::{Ref, Result};

impl Cpu {
    pub(super) fn smear(&self, op: Smear<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let Smear { out, gate, x, prev, w, lambda } = op;
        let (out, gate) = (out.slice()?, gate.slice()?);
        let prev = prev.map(Ref::slice).transpose()?;
        let (x, w, lambda) = (x.slice()?, w.slice()?, lambda.slice::<f32>()?[0]);
        forward(&self.workers, dims, lambda, out, gate, x, prev, w);
        Ok(())
    }

    pub(super) fn smear_backward(&self, op: SmearBackward<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let SmearBackward { dx, dw, dlambda, dout, x, gate, w, lambda } = op;
        let (dx, dw, dlambda) = (dx.slice()?, dw.slice()?, dlambda.slice()?);
        let (dout, x, gate, w) = (dout.slice()?, x.slice()?, gate.slice()?, w.slice()?);
        let lambda = lambda.slice::<f32>()?[0];
        backward(&self.workers, dims, lambda, dx, dw, dlambda, dout, x, gate, w);
        Ok(())
    }
}

/// See [`Smear`](crate::ops::Smear).
fn forward(
    workers: &Workers,
    dims: SmearDims,
    lambda: f32,
    out: &mut [f32],
    gate: &mut [f32],
    x: &[f32],
    prev: Option<&[f32]>,
    w: &[f32],
) {
    let SmearDims { b, t, c, g } = dims;
    if c == 0 {
        return;
    }
    let row = |i: usize| &x[i * c..(i + 1) * c];
    let cut = (rows(out, c), rows(gate, 1));
    workers.blocks(b * t, block_rows(c), cut, |first, (out, gate)| {
        let each = out.data.chunks_exact_mut(c).zip(gate.data);
        for (n, (out, gate)) in (first..).zip(each) {
            let before = match prev {
                _ if n % t > 0 => row(n - 1),
                Some(prev) => &prev[n / t * c..(n / t + 1) * c],
                None => {
                    *gate = 0.0;
                    out.copy_from_slice(row(n));
                    continue;
                }
            };
            let x = row(n);
            with_math(
                #[inline(always)]
                |math| {
                    *gate = math.sigmoid(dot(&x[..g], w));
                    let scale = lambda * *gate;
                    for ((out, x), before) in out.iter_mut().zip(x).zip(before) {
                        *out = x + scale * before;
                    }
                },
            );
        }
    });
}

/// See [`SmearBackward`](crate::ops::SmearBackward).
fn backward(
    workers: &Workers,
    dims: SmearDims,
    lambda: f32,
    dx: &mut [f32],
    dw: &mut [f32],
    dlambda: &mut [f32],
    dout: &[f32],
    x: &[f32],
    gate: &[f32],
    w: &[f32],
) {
    let SmearDims { b, t, c, g } = dims;
    if c == 0 {
        return;
    }
    let x = |i: usize| &x[i * c..(i + 1) * c];
    let dout = |i: usize| &dout[i * c..(i + 1) * c];
    let (n, block) = (b * t, block_rows(c));
    let blocks = n.div_ceil(block);
    // A block's parts of dlambda and of dw.
    workers.scratch(blocks * (1 + g), |partials: &mut [f64]| {
        partials.fill(0.0);
        let (lambda_parts, w_parts) = partials.split_at_mut(blocks);
        let parts = (Partials::new(lambda_parts, 1, block), Partials::new(w_parts, g, block));
        workers.blocks(n, block, (rows(dx, c), parts), |first, (dx, (dlambda, dw))| {
            for (n, dx) in (first..).zip(dx.data.chunks_exact_mut(c)) {
                vectorised(
                    #[inline(always)]
                    || {
                        dx.copy_from_slice(dout(n));
                        if n % t + 1 < t {
                            let scale = lambda * gate[n + 1];
                            dx.iter_mut().zip(dout(n + 1)).for_each(|(dx, d)| *dx += scale * d);
                        }
                        if n % t > 0 {
                            let (gate, along) = (gate[n], dot(dout(n), x(n - 1)));
                            dlambda.data[0] += f64::from(gate * along);
                            let dlogit = lambda * along * gate * (1.0 - gate);
                            dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dlogit * w);
                            let dw = dw.data.iter_mut().zip(&x(n)[..g]);
                            dw.for_each(|(dw, x)| *dw += f64::from(dlogit * x));
                        }
                    },
                );
            }
        });
        add_partials(dlambda, lambda_parts);
        add_partials(dw, w_parts);
    });
}
