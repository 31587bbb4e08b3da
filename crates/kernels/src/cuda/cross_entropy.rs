//! Softcapped cross-entropy, and argmax.

use super::driver::{Arg, Kernel, Module};
use super::{Cuda, OnDevice};
use crate::Result;
use crate::ops::{Argmax, CrossEntropy, RowDims};

static LOSS: Module = Module { name: "loss", ptx: include_str!("../../ptx/sm80/loss.ptx") };

/// A kernel of [`LOSS`].
pub(super) const fn kernel(name: &'static str, threads: u32) -> Kernel {
    Kernel { module: &LOSS, name, threads, shared_bytes: 0 }
}

static CROSS_ENTROPY: Kernel = kernel("cross_entropy", 512);
static CROSS_ENTROPY_GRADIENT: Kernel = kernel("cross_entropy_gradient", 512);
static ARGMAX: Kernel = kernel("argmax", 512);

impl Cuda {
    /// One block to a row. Moves 6·V bytes a row, of which a third come from cache. A target outside the vocabulary makes the
    /// row's loss NaN.
    pub(super) fn cross_entropy(&self, op: CrossEntropy<'_>) -> Result<()> {
        let RowDims { n, c } = op.check(&self.dtypes)?;
        let CrossEntropy { losses, logits, targets, vocab, softcap, grad } = op;
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
    pub(super) fn argmax(&self, op: Argmax<'_>) -> Result<()> {
        let RowDims { n, c } = op.check(&self.dtypes)?;
        let Argmax { out, logits, vocab } = op;
        let args = [out.arg(), logits.arg(), Arg::I64(c as i64), Arg::I32(vocab as i32)];
        self.launch(&ARGMAX, n, &args)
    }
}
