//! Softcapped cross-entropy, and argmax.

use super::simd::{self, Lanes, Math, vectorised, with_math};
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
            let each = losses.data.iter_mut().zip(logits.data.chunks_exact_mut(c));
            for ((loss, row), &target) in each.zip(&targets[first..]) {
                let (row, padding) = row.split_at_mut(vocab);
                padding.fill(0.0);
                let target = usize::try_from(target).ok();
                *loss = with_math(
                    #[inline(always)]
                    |math| cross_entropy_row(math, row, target, softcap, grad),
                );
            }
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

/// Elements that are looked at together: where none of them is near the cap, tanh is a polynomial.
const TOGETHER: usize = 256;

/// One row: turns logits into z or into the gradient, returns the loss.
#[inline(always)]
fn cross_entropy_row(
    math: Math,
    row: &mut [f32],
    target: Option<usize>,
    softcap: f32,
    grad: Option<f32>,
) -> f32 {
    let inverse = 1.0 / softcap;
    let Some(target) = target else {
        match grad {
            Some(_) => row.fill(0.0),
            None => {
                for x in row {
                    *x = softcap * math.tanh(*x * inverse);
                }
            }
        }
        return 0.0;
    };
    // What exp is taken of is at most 0: z = softcap · t is less than the cap, which will do where exp(−2·cap) is far from the smallest number; else, since z grows
    // with the logit, less than that of the largest logit.
    let largest = if softcap <= 40.0 { 1.0 } else { math.tanh(simd::max(row) * inverse) };
    let (at_target, shift) = (math.tanh(row[target] * inverse), softcap * largest);
    let mut sums = Lanes::ZERO;
    for part in row.chunks_mut(TOGETHER) {
        // Two loops, of which neither asks anything of an element.
        if simd::max_of(part, magnitude) * inverse < Math::TANH_NEAR {
            softmax::<true>(math, part, &mut sums, [inverse, softcap, shift], grad.is_some());
        } else {
            softmax::<false>(math, part, &mut sums, [inverse, softcap, shift], grad.is_some());
        }
    }
    let sum = sums.add_up();
    if let Some(grad) = grad {
        let scale = grad / sum;
        for x in &mut *row {
            *x *= scale;
        }
        row[target] -= grad * (1.0 - at_target * at_target);
    }
    sum.ln() + softcap * (largest - at_target)
}

#[inline(always)]
fn magnitude(x: f32) -> f32 {
    x.abs()
}

/// Turns logits into z = softcap · t, t being tanh of `inverse` times them, or into exp(z − shift) times z's slope 1 − t²; adds exp(z − shift) to `sums`. `NEAR`: none of
/// them reaches the cap.
#[inline(always)]
fn softmax<const NEAR: bool>(
    math: Math,
    part: &mut [f32],
    sums: &mut Lanes,
    [inverse, softcap, shift]: [f32; 3],
    slopes: bool,
) {
    sums.add_each(
        part,
        #[inline(always)]
        |x| {
            let x = x * inverse;
            let t = if NEAR { math.tanh_near(x) } else { math.tanh(x) };
            let exp = math.exp_negative(math.mul_add(softcap, t, -shift));
            let kept = if slopes { exp * math.mul_add(-t, t, 1.0) } else { softcap * t };
            (kept, exp)
        },
    );
}
