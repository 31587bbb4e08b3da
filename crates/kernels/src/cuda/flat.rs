//! What kernels over rows and over flat elements have in common.
//!
//! Reciprocal roots and exponentials are the hardware's approximations, with relative errors below 2⁻²² and about (2 + 1.2·|x|)·2⁻²³ for exp(x),
//! where a BF16 is off by up to 2⁻⁹. `tests/cuda_pointwise.rs` shows each element within the tolerance of its type.

use super::Cuda;
use super::driver::{Arg, Kernel, Module};
use crate::Result;

static POINTWISE: Module =
    Module { name: "pointwise", ptx: include_str!("../../ptx/sm80/pointwise.ptx") };

const THREADS: u32 = 256;
/// Rows of a block that gives each a warp.
pub(super) const ROWS: usize = THREADS as usize / 32;
/// Elements that a block of a flat kernel moves with one 16-byte access of each thread.
pub(super) const EACH: usize = 8 * THREADS as usize;

pub(super) const fn kernel(module: &'static Module, name: &'static str) -> Kernel {
    Kernel { module, name, threads: THREADS, shared_bytes: 0 }
}

pub(super) const fn flat(name: &'static str) -> Kernel {
    kernel(&POINTWISE, name)
}

impl Cuda {
    /// Launches a kernel over flat elements.
    pub(super) fn launch_flat(
        &self,
        kernel: &'static Kernel,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        self.launch(kernel, self.blocks_for(n, EACH), args)
    }
}
