//! relu², and what is squared or multiplied as soon as a product's element is summed.

use std::ops::Range;

use super::gemm::Start;
use super::matrix::{Mat, MatMut};
use super::simd::vectorised;
use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{LinearDims, LinearDxRelu2, LinearRelu2, Relu2, Relu2Backward};

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
        let Relu2Backward { dx, y } = op;
        let (dx, y) = (dx.slice::<f32>()?, y.slice::<f32>()?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(dx, 1), |first, dx| {
            vectorised(
                #[inline(always)]
                || {
                    for (dx, &y) in dx.data.iter_mut().zip(&y[first..]) {
                        *dx *= slope(y);
                    }
                },
            );
        });
        Ok(())
    }

    pub(super) fn linear_relu2(&self, op: LinearRelu2<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&DTYPES)?;
        let LinearRelu2 { y, x, w } = op;
        let y = MatMut::new(y.slice()?, n, o);
        let (x, w) = (Mat::new(x.slice()?, n, i), Mat::new(w.slice()?, o, i));
        self.workers.multiply_then(y, Start::Zero, x, w.t(), Then::Relu2);
        Ok(())
    }

    pub(super) fn linear_dx_relu2(&self, op: LinearDxRelu2<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&DTYPES)?;
        let LinearDxRelu2 { dx, dy, w, x } = op;
        let dx = MatMut::new(dx.slice()?, n, i);
        let (dy, w) = (Mat::new(dy.slice()?, n, o), Mat::new(w.slice()?, o, i));
        let then = Then::Relu2Slope(Mat::new(x.slice()?, n, i));
        self.workers.multiply_then(dx, Start::Zero, dy, w, then);
        Ok(())
    }
}

/// What is done with an element of a product once it is summed.
#[derive(Clone, Copy)]
pub(super) enum Then<'a> {
    Keep,
    /// max(x, 0)².
    Relu2,
    /// x · 2√y, y being the element there of a matrix of the result's size.
    Relu2Slope(Mat<'a>),
}

impl Then<'_> {
    pub(super) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        match self {
            Self::Relu2Slope(of) => Self::Relu2Slope(of.part(rows, cols)),
            then => then,
        }
    }

    /// Does it, on this thread.
    pub(super) fn apply(self, dst: &mut MatMut<'_>) {
        if let Self::Keep = self {
            return;
        }
        vectorised(
            #[inline(always)]
            || {
                for r in 0..dst.rows {
                    match self {
                        Self::Keep => {}
                        Self::Relu2 => {
                            for x in dst.row(r) {
                                *x = positive(*x) * positive(*x);
                            }
                        }
                        Self::Relu2Slope(of) => {
                            for (x, &y) in dst.row(r).iter_mut().zip(of.row(r)) {
                                *x *= slope(y);
                            }
                        }
                    }
                }
            },
        );
    }
}

/// max(x, 0), but NaN for NaN.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// The slope of relu² where its result is y. √y is what was squared, to the bit, since both are rounded to nearest.
#[inline(always)]
fn slope(y: f32) -> f32 {
    2.0 * y.sqrt()
}
