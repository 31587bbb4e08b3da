//! RMS norm.
//!
//! Sums and everything between a load and a store are f32; a result is rounded to BF16 once, where it is stored. Each operation states the bytes
//! that it moves, for aligned views.

use super::driver::{Arg, Kernel, Module};
use super::flat::{ROWS, kernel};
use super::{Cuda, OnDevice, columns};
use crate::Result;
use crate::ops::{RmsNorm, RmsNormBackward, RowDims};

static NORM: Module = Module { name: "norm", ptx: include_str!("../../ptx/sm80/norm.ptx") };

static RMS_NORM: RowKernels = RowKernels::of("rms_norm_warp", "rms_norm_block");
static RMS_NORM_BACKWARD: RowKernels =
    RowKernels::of("rms_norm_backward_warp", "rms_norm_backward_block");

/// A kernel over rows in two versions: a warp for each row, eight rows to a block, and a block for each row.
pub(super) struct RowKernels {
    warp: Kernel,
    block: Kernel,
}

impl RowKernels {
    /// The widest row that a warp keeps in its registers: eight 16-byte pieces of each of 32 threads.
    const WARP_COLUMNS: usize = 8 * 32 * 8;

    pub(super) const fn of(warp: &'static str, block: &'static str) -> Self {
        Self { warp: kernel(&NORM, warp), block: kernel(&NORM, block) }
    }

    /// The version for rows of `c` elements, and its blocks for `n` of them.
    pub(super) fn choose(&'static self, RowDims { n, c }: RowDims) -> (&'static Kernel, usize) {
        if c <= Self::WARP_COLUMNS { (&self.warp, n.div_ceil(ROWS)) } else { (&self.block, n) }
    }
}

/// N, C and 1/C.
pub(super) fn row_args(kernel: &Kernel, RowDims { n, c }: RowDims) -> Result<[Arg; 3]> {
    let inverse = Arg::F32((1.0 / c as f64) as f32);
    Ok([Arg::I64(n as i64), columns(kernel.name, c)?, inverse])
}

impl Cuda {
    /// Per row: reads 2·C bytes, writes 2·C + 4.
    pub(super) fn rms_norm(&self, op: RmsNorm<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let RmsNorm { y, rstd, x } = op;
        let (kernel, blocks) = RMS_NORM.choose(dims);
        let [n, c, inverse] = row_args(kernel, dims)?;
        self.launch(kernel, blocks, &[y.arg(), rstd.arg(), x.arg(), n, c, inverse])
    }

    /// Per row: reads 4·C bytes and the 4 of rstd by each warp, and 2·C more to add to dx; writes 2·C.
    pub(super) fn rms_norm_backward(&self, op: RmsNormBackward<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let RmsNormBackward { dx, dy, y, rstd, accumulate } = op;
        let (kernel, blocks) = RMS_NORM_BACKWARD.choose(dims);
        let [n, c, inverse] = row_args(kernel, dims)?;
        let accumulate = Arg::U32(u32::from(accumulate));
        let args = [dx.arg(), dy.arg(), y.arg(), rstd.arg(), n, c, inverse, accumulate];
        self.launch(kernel, blocks, &args)
    }
}
