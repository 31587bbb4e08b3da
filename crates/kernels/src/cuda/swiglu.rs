//! The product inside a SwiGLU MLP.
//!
//! Sums and everything between a load and a store are f32; a result is rounded to BF16 once, where it is stored. Each operation states the bytes
//! that it moves, for aligned views.

use super::driver::{Arg, Kernel};
use super::flat::flat;
use super::{Cuda, OnDevice};
use crate::Result;
use crate::ops::{Swiglu, SwigluBackward};

static SWIGLU: Kernel = flat("swiglu");
static SWIGLU_BACKWARD: Kernel = flat("swiglu_backward");

impl Cuda {
    /// Per element: reads 4 bytes, writes 2.
    pub(super) fn swiglu(&self, op: Swiglu<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Swiglu { y, gate, x } = op;
        self.launch_flat(&SWIGLU, n, &[y.arg(), gate.arg(), x.arg(), Arg::I64(n as i64)])
    }

    /// Per element: reads 6 bytes, writes 4.
    pub(super) fn swiglu_backward(&self, op: SwigluBackward<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let SwigluBackward { dx, dgate, gate, x } = op;
        self.launch_flat(
            &SWIGLU_BACKWARD,
            n,
            &[dx.arg(), dgate.arg(), gate.arg(), x.arg(), Arg::I64(n as i64)],
        )
    }
}
