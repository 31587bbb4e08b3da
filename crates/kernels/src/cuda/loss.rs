//! The loss, and reductions to few numbers.

use super::driver::{Arg, Kernel, Module};
use super::{Cuda, OnDevice};
use crate::shapes::RowDims;
use crate::{Loss, Mut, Ref, Result, shapes};

static LOSS: Module = Module { name: "loss", ptx: include_str!("../../ptx/sm80/loss.ptx") };

/// A kernel of [`LOSS`].
const fn kernel(name: &'static str, threads: u32) -> Kernel {
    Kernel { module: &LOSS, name, threads, shared_bytes: 0 }
}

static CROSS_ENTROPY: Kernel = kernel("cross_entropy", 512);
static CROSS_ENTROPY_GRADIENT: Kernel = kernel("cross_entropy_gradient", 512);
static ARGMAX: Kernel = kernel("argmax", 512);
static SUM_BLOCKS: Kernel = kernel("sum_blocks", 256);
static SUM_SQUARES_BLOCKS: Kernel = kernel("sum_squares_blocks", 256);
static SUM_PARTIALS: Kernel = kernel("sum_partials", 256);

/// Elements that a block sums at least. The number of blocks depends on the number of elements alone, so that a sum is the
/// same on every machine.
const SUM_ELEMENTS: usize = 4096;
/// The most blocks of a sum.
const SUM_BLOCKS_MOST: usize = 4096;

impl Loss for Cuda {
    /// One block to a row. Moves 6·V bytes a row, of which a third come from cache. A target outside the vocabulary makes the
    /// row's loss NaN.
    fn cross_entropy(
        &self,
        losses: Mut<'_>,
        logits: Mut<'_>,
        targets: Ref<'_>,
        vocab: usize,
        softcap: f64,
        grad: Option<f64>,
    ) -> Result<()> {
        let RowDims { n, c } =
            shapes::cross_entropy(&self.dtypes, &losses, &logits, &targets, vocab, softcap)?;
        let args = [
            losses.arg(),
            logits.arg(),
            targets.arg(),
            Arg::I64(c as i64),
            Arg::I32(vocab as i32),
            Arg::F32(softcap as f32),
            Arg::F32(grad.unwrap_or(0.0) as f32),
        ];
        match grad {
            None => self.launch(&CROSS_ENTROPY, n, &args[..6]),
            Some(_) => self.launch(&CROSS_ENTROPY_GRADIENT, n, &args),
        }
    }

    /// One block to a row; reads 2·vocab bytes a row.
    fn argmax(&self, out: Mut<'_>, logits: Ref<'_>, vocab: usize) -> Result<()> {
        let RowDims { n, c } = shapes::argmax(&self.dtypes, &out, &logits, vocab)?;
        let args = [out.arg(), logits.arg(), Arg::I64(c as i64), Arg::I32(vocab as i32)];
        self.launch(&ARGMAX, n, &args)
    }

    /// Reads 4 bytes an element.
    fn sum(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::sum(&self.dtypes, &out, &x)?;
        self.reduce(&SUM_BLOCKS, &out, x, n)
    }

    /// Reads 4 bytes an element.
    fn sum_squares(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::sum_squares(&self.dtypes, &out, &x)?;
        self.reduce(&SUM_SQUARES_BLOCKS, &out, x, n)
    }
}

impl Cuda {
    /// out = the sum of what `blocks` leaves in the scratch for partial sums.
    fn reduce(&self, blocks: &'static Kernel, out: &Mut<'_>, x: Ref<'_>, n: usize) -> Result<()> {
        let partials = Arg::Address(self.partials.address);
        let grid = n.div_ceil(SUM_ELEMENTS).clamp(1, SUM_BLOCKS_MOST);
        self.launch(blocks, grid, &[partials, x.arg(), Arg::I64(n as i64)])?;
        self.launch(&SUM_PARTIALS, 1, &[out.arg(), partials, Arg::I32(grid as i32)])
    }
}
