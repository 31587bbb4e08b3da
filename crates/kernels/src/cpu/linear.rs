//! Linear layers.

use super::gemm::Start;
use super::matrix::{Mat, MatMut};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{Linear, LinearDims, LinearDw, LinearDx};

impl Cpu {
    pub(super) fn linear(&self, op: Linear<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&DTYPES)?;
        let Linear { y, x, w, accumulate } = op;
        let y = MatMut::new(y.slice()?, n, o);
        let (x, w) = (Mat::new(x.slice()?, n, i), Mat::new(w.slice()?, o, i));
        self.workers.multiply(y, start(accumulate), x, w.t());
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
