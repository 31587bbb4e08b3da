//! relu².
//!
//! Sums and everything between a load and a store are f32; a result is rounded to BF16 once, where it is stored. Each operation states the bytes
//! that it moves, for aligned views.

use super::driver::{Arg, Kernel};
use super::flat::flat;
use super::{Cuda, OnDevice};
use crate::Result;
use crate::ops::{Linear, LinearDx, LinearDxRelu2, LinearRelu2, Relu2, Relu2Backward};

static RELU2: Kernel = flat("relu2");
static RELU2_BACKWARD: Kernel = flat("relu2_backward");

impl Cuda {
    /// Per element: reads 2 bytes, writes 2.
    pub(super) fn relu2(&self, op: Relu2<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Relu2 { y, x } = op;
        self.launch_flat(&RELU2, n, &[y.arg(), x.arg(), Arg::I64(n as i64)])
    }

    /// Per element: reads 4 bytes, writes 2.
    pub(super) fn relu2_backward(&self, op: Relu2Backward<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Relu2Backward { dx, y } = op;
        self.launch_flat(&RELU2_BACKWARD, n, &[dx.arg(), y.arg(), Arg::I64(n as i64)])
    }

    /// The product, then relu² in its place: what libraries multiply has no such end.
    pub(super) fn linear_relu2(&self, op: LinearRelu2<'_>) -> Result<()> {
        op.check(&self.dtypes)?;
        let LinearRelu2 { mut y, x, w } = op;
        self.linear(Linear { y: y.reborrow(), x, w, accumulate: false })?;
        let n = y.shape().elements();
        self.launch_flat(&RELU2, n, &[y.arg(), y.arg(), Arg::I64(n as i64)])
    }

    /// The product, then the slope times it in its place.
    pub(super) fn linear_dx_relu2(&self, op: LinearDxRelu2<'_>) -> Result<()> {
        op.check(&self.dtypes)?;
        let LinearDxRelu2 { mut dx, dy, w, x } = op;
        self.linear_dx(LinearDx { dx: dx.reborrow(), dy, w, accumulate: false })?;
        self.relu2_backward(Relu2Backward { dx, y: x })
    }
}
