//! relu².
//!
//! Sums and everything between a load and a store are f32; a result is rounded to BF16 once, where it is stored. Each operation states the bytes
//! that it moves, for aligned views.

use super::driver::{Arg, Kernel};
use super::flat::flat;
use super::{Cuda, OnDevice};
use crate::Result;
use crate::ops::{Relu2, Relu2Backward};

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
        let Relu2Backward { dx, x } = op;
        self.launch_flat(&RELU2_BACKWARD, n, &[dx.arg(), x.arg(), Arg::I64(n as i64)])
    }
}
