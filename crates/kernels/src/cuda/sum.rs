//! Sums over whole tensors, by a fixed tree.

use super::cross_entropy::kernel;
use super::driver::{Arg, Kernel};
use super::{Cuda, OnDevice};
use crate::ops::{Sum, SumSquares};
use crate::{Mut, Ref, Result};

static SUM_BLOCKS: Kernel = kernel("sum_blocks", 256);
static SUM_SQUARES_BLOCKS: Kernel = kernel("sum_squares_blocks", 256);
static SUM_PARTIALS: Kernel = kernel("sum_partials", 256);

/// Elements that a block sums at least. The number of blocks depends on the number of elements alone, so that a sum is the
/// same on every machine.
const SUM_ELEMENTS: usize = 4096;
/// The most blocks of a sum.
const SUM_BLOCKS_MOST: usize = 4096;

impl Cuda {
    /// Reads 4 bytes an element.
    pub(super) fn sum(&self, op: Sum<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Sum { out, x } = op;
        self.reduce(&SUM_BLOCKS, &out, x, n)
    }

    /// Reads 4 bytes an element.
    pub(super) fn sum_squares(&self, op: SumSquares<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let SumSquares { out, x } = op;
        self.reduce(&SUM_SQUARES_BLOCKS, &out, x, n)
    }

    /// out = the sum of what `blocks` leaves in the scratch for partial sums.
    fn reduce(&self, blocks: &'static Kernel, out: &Mut<'_>, x: Ref<'_>, n: usize) -> Result<()> {
        let partials = Arg::Address(self.partials.address);
        let grid = n.div_ceil(SUM_ELEMENTS).clamp(1, SUM_BLOCKS_MOST);
        self.launch(blocks, grid, &[partials, x.arg(), Arg::I64(n as i64)])?;
        self.launch(&SUM_PARTIALS, 1, &[out.arg(), partials, Arg::I32(grid as i32)])
    }
}
