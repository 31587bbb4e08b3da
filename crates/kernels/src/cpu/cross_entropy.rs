//! Softcapped cross-entropy, and argmax.

use super::simd::{self, Math, vectorised, with_math};
use super::work::{block_rows, rows};
use super::{Cpu, DTYPES};
use crate::ops::{Argmax, CrossEntropy, RowDims};
use crate::{Result, ops};

impl Cpu {
    pub(super) fn cross_entropy(&self, op: CrossEntropy<'_>) -> Result<()> {
        let RowDims { n, c } = op.check(&DTYPES)?;
        let CrossEntropy { losses, logits, targets, vocab, softcap, grad } = op;
        let (losses, logits) = (losses.slice::<f32>()?, logits.slice::<f32>()?);
        let targets = targets.slice::<i32>()?;
        ops::indices("cross_entropy", targets, -1, vocab)?;
        let (softcap, grad) = (softcap as f32, grad.map(|g| g as f32));
        let cut = (rows(losses, 1), rows(logits, c));
        self.workers.blocks(n, block_rows(c), cut, |first, (losses, logits)| {
            self.workers.scratch(vocab, |exps: &mut [f32]| {
                let each = losses.data.iter_mut().zip(logits.data.chunks_exact_mut(c));
                for ((loss, row), &target) in each.zip(&targets[first..]) {
                    let (row, padding) = row.split_at_mut(vocab);
                    padding.fill(0.0);
                    let target = usize::try_from(target).ok();
                    *loss = with_math(
                        #[inline(always)]
                        |math| cross_entropy_row(math, row, exps, target, softcap, grad),
                    );
                }
            });
        });
        Ok(())
    }

    pub(super) fn argmax(&self, op: Argmax<'_>) -> Result<()> {
        let RowDims { n, c } = op.check(&DTYPES)?;
        let Argmax { out, logits, vocab } = op;
        let (out, logits) = (out.slice::<i32>()?, logits.slice::<f32>()?);
        self.workers.blocks(n, block_rows(c), rows(out, 1), |first, out| {
            for (out, row) in out.data.iter_mut().zip(logits.chunks_exact(c).skip(first)) {
                let row = &row[..vocab];
                let max = vectorised(
                    #[inline(always)]
                    || simd::max(row),
                );
                *out = row.iter().position(|&x| x == max).unwrap_or(0) as i32;
            }
        });
        Ok(())
    }
}

/// One row: turns logits into z or into the gradient, returns the loss. Overwrites `exps`.
#[inline(always)]
fn cross_entropy_row(
    math: Math,
    row: &mut [f32],
    exps: &mut [f32],
    target: Option<usize>,
    softcap: f32,
    grad: Option<f32>,
) -> f32 {
    let inverse = 1.0 / softcap;
    let Some(target) = target else {
        match grad {
            Some(_) => row.fill(0.0),
            None => cap(math, row, softcap, inverse),
        }
        return 0.0;
    };
    cap(math, row, softcap, inverse);
    let max = simd::max(row);
    for (exp, z) in exps.iter_mut().zip(&*row) {
        *exp = math.exp_negative(z - max);
    }
    let sum = simd::sum_of(
        exps,
        #[inline(always)]
        |x| x,
    );
    let at_target = row[target];
    if let Some(grad) = grad {
        let scale = grad / sum;
        for (z, exp) in row.iter_mut().zip(&*exps) {
            *z = scale * exp * slope(*z, inverse);
        }
        row[target] -= grad * slope(at_target, inverse);
    }
    sum.ln() + (max - at_target)
}

/// z = softcap · tanh(logit / softcap).
#[inline(always)]
fn cap(math: Math, row: &mut [f32], softcap: f32, inverse: f32) {
    for x in row {
        *x = softcap * math.tanh(*x * inverse);
    }
}

/// ∂z/∂logit = 1 − tanh², where z = softcap·tanh.
#[inline(always)]
fn slope(z: f32, inverse_softcap: f32) -> f32 {
    1.0 - (z * inverse_softcap) * (z * inverse_softcap)
}
