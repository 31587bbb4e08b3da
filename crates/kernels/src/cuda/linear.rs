//! Linear layers, by matrix products.

use super::gemm::{Matrix, Product};
use super::{Cuda, OnDevice};
use crate::ops::{Linear, LinearDims, LinearDw, LinearDx};
use crate::{DType, Result};

/// A view as an operand.
fn matrix(view: &impl OnDevice, dtype: DType) -> Matrix {
    Matrix { address: view.device_address(), dtype, transposed: false }
}

impl Matrix {
    fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

impl Cuda {
    pub(super) fn linear(&self, op: Linear<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&self.dtypes)?;
        let Linear { y, x, w, accumulate } = op;
        let compute = self.dtypes.compute;
        let (y, x, w) = (matrix(&y, compute), matrix(&x, compute), matrix(&w, compute));
        self.multiply(&Product { m: n, n: o, k: i, a: x, b: w.t(), c: y, accumulate })
    }

    pub(super) fn linear_dx(&self, op: LinearDx<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&self.dtypes)?;
        let LinearDx { dx, dy, w, accumulate } = op;
        let compute = self.dtypes.compute;
        let (dx, dy, w) = (matrix(&dx, compute), matrix(&dy, compute), matrix(&w, compute));
        self.multiply(&Product { m: n, n: i, k: o, a: dy, b: w, c: dx, accumulate })
    }

    pub(super) fn linear_dw(&self, op: LinearDw<'_>) -> Result<()> {
        let LinearDims { n, i, o } = op.check(&self.dtypes)?;
        let LinearDw { dw, x, dy, accumulate } = op;
        let compute = self.dtypes.compute;
        let (x, dy) = (matrix(&x, compute), matrix(&dy, compute));
        let dw = matrix(&dw, self.dtypes.master);
        self.multiply(&Product { m: o, n: i, k: n, a: dy.t(), b: x, c: dw, accumulate })
    }
}
