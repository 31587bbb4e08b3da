//! Linear layers, through the machine's matrix product, and table look-ups.

use super::gemm::{Matrix, Product};
use super::{Cuda, OnDevice};
use crate::shapes::LinearDims;
use crate::{DType, Dense, Mut, Ref, Result, shapes};

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
    /// c = a·b, or c += a·b, where memory has as many elements as the dimensions say.
    fn multiply(
        &self,
        [m, n, k]: [usize; 3],
        c: Matrix,
        a: Matrix,
        b: Matrix,
        accumulate: bool,
    ) -> Result<()> {
        if m * n == 0 || (k == 0 && accumulate) {
            return Ok(());
        }
        if k == 0 {
            return self.driver.zero(c.address, m * n * c.dtype.bytes());
        }
        self.gemm.multiply(&Product { m, n, k, a, b, c, accumulate })
    }
}

impl Dense for Cuda {
    fn linear(&self, y: Mut<'_>, x: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear(&self.dtypes, &y, &x, &w)?;
        let compute = self.dtypes.compute;
        let (y, x, w) = (matrix(&y, compute), matrix(&x, compute), matrix(&w, compute));
        self.multiply([n, o, i], y, x, w.t(), accumulate)
    }

    fn linear_dx(&self, dx: Mut<'_>, dy: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dx(&self.dtypes, &dx, &dy, &w)?;
        let compute = self.dtypes.compute;
        let (dx, dy, w) = (matrix(&dx, compute), matrix(&dy, compute), matrix(&w, compute));
        self.multiply([n, i, o], dx, dy, w, accumulate)
    }

    fn linear_dw(&self, dw: Mut<'_>, x: Ref<'_>, dy: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dw(&self.dtypes, &dw, &x, &dy)?;
        let compute = self.dtypes.compute;
        let (x, dy) = (matrix(&x, compute), matrix(&dy, compute));
        self.multiply([o, i, n], matrix(&dw, self.dtypes.master), dy.t(), x, accumulate)
    }

    fn embed(&self, out: Mut<'_>, table: Ref<'_>, ids: Ref<'_>) -> Result<()> {
        shapes::embed(&self.dtypes, &out, &table, &ids)?;
        Err(self.missing("embed"))
    }

    fn embed_backward(
        &self,
        dtable: Mut<'_>,
        dout: Ref<'_>,
        ids: Ref<'_>,
        order: Ref<'_>,
    ) -> Result<()> {
        shapes::embed_backward(&self.dtypes, &dtable, &dout, &ids, &order)?;
        Err(self.missing("embed_backward"))
    }
}
