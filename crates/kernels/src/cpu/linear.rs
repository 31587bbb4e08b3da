//! Linear layers.

use super::gemm::Start;
use super::matrix::{Mat, MatMut};
use super::work::{Workers, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{Linear, LinearDims, LinearDw, LinearDx};

/// From this many rows of x on, w is transposed once rather than packed from its columns for every tile: up to 1.4 times as fast.
const TRANSPOSE_ROWS: usize = 128;
/// Above this many elements w is multiplied as it lies, so that scratch stays below 16 MiB.
const TRANSPOSE_ELEMENTS: usize = 1 << 22;

impl Cpu {
    pub(super) fn linear(&self, op: Linear<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&DTYPES)?;
        let Linear { y, x, w, accumulate } = op;
        let y = MatMut::new(y.slice()?, n, o);
        let (x, w) = (Mat::new(x.slice()?, n, i), Mat::new(w.slice()?, o, i));
        if n < TRANSPOSE_ROWS || o * i > TRANSPOSE_ELEMENTS {
            self.workers.multiply(y, start(accumulate), x, w.t());
            return Ok(());
        }
        self.workers.scratch(o * i, |transposed: &mut [f32]| {
            transpose(&self.workers, transposed, w);
            let w = Mat::new(transposed, i, o);
            self.workers.multiply(y, start(accumulate), x, w);
        });
        Ok(())
    }

    pub(super) fn linear_dx(&self, op: LinearDx<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&DTYPES)?;
        let LinearDx { dx, dy, w, accumulate } = op;
        let dx = MatMut::new(dx.slice()?, n, i);
        let (dy, w) = (Mat::new(dy.slice()?, n, o), Mat::new(w.slice()?, o, i));
        self.workers.multiply(dx, start(accumulate), dy, w);
        Ok(())
    }

    pub(super) fn linear_dw(&self, op: LinearDw<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&DTYPES)?;
        let LinearDw { dw, x, dy, accumulate } = op;
        let dw = MatMut::new(dw.slice()?, o, i);
        let (x, dy) = (Mat::new(x.slice()?, n, i), Mat::new(dy.slice()?, n, o));
        self.workers.multiply(dw, start(accumulate), dy.t(), x);
        Ok(())
    }
}

fn start(accumulate: bool) -> Start<'static> {
    if accumulate { Start::Old } else { Start::Zero }
}

/// to = fromᵀ, row-major.
fn transpose(workers: &Workers, to: &mut [f32], from: Mat<'_>) {
    // Squares of this side stay in the first-level cache, on both sides.
    const SIDE: usize = 32;
    if from.rows == 0 {
        return;
    }
    workers.blocks(from.cols, SIDE, rows(to, from.rows), |first, to| {
        for start in (0..from.rows).step_by(SIDE) {
            let span = start..from.rows.min(start + SIDE);
            for (col, to) in (first..).zip(to.data.chunks_exact_mut(from.rows)) {
                for (to, row) in to[span.clone()].iter_mut().zip(span.clone()) {
                    *to = from.row(row)[col];
                }
            }
        }
    });
}
