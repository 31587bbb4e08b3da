//! Weighted sums of two streams.
//!
//! Sums and everything between a load and a store are f32; a result is rounded to BF16 once, where it is stored. Each operation states the bytes
//! that it moves, for aligned views. A parameter of a [`Coef`] adds 4 bytes, read by each warp.

use super::driver::{Arg, Kernel};
use super::flat::{EACH, flat};
use super::rms_norm::{RowKernels, row_args};
use super::{Cuda, OnDevice};
use crate::ops::{Mix, MixBackward, MixNorm};
use crate::{Coef, Mut, Ref, Result};

static MIX_NORM: RowKernels = RowKernels::of("mix_norm_warp", "mix_norm_block");
static MIX: Kernel = flat("mix");
static MIX_BACKWARD: Kernel = flat("mix_backward");
static ADD_PARTIALS: Kernel = flat("add_partials");

/// Blocks that share a sum over a whole tensor, at most: few enough for one block to add up their shares, and as many on every
/// machine, so that the sum has the same bits on every machine.
const SHARES: usize = 1024;

/// A factor as kernels take it: the parameter's address or null, and the host's number.
fn factor(coef: &Coef<'_>) -> [Arg; 2] {
    let parameter = coef.parameter.as_ref().map_or(Arg::Address(0), OnDevice::arg);
    [parameter, Arg::F32(coef.times as f32)]
}

impl Cuda {
    /// Per element: reads 4 bytes, writes 2.
    pub(super) fn mix(&self, op: Mix<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Mix { out, x, a, y, b } = op;
        let ([a, a_times], [b, b_times]) = (factor(&a), factor(&b));
        let args = [out.arg(), x.arg(), a, a_times, y.arg(), b, b_times, Arg::I64(n as i64)];
        self.launch_flat(&MIX, n, &args)
    }

    /// The norm is that of `out` as it is stored, so that the result is [`Mix`]'s followed by [`RmsNorm`]'s, to the bit.
    ///
    /// Per row: reads 4·C bytes, writes 4·C + 4.
    pub(super) fn mix_norm(&self, op: MixNorm<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let MixNorm { out, normed, rstd, x, a, y, b } = op;
        let (kernel, blocks) = MIX_NORM.choose(dims);
        let [n, c, inverse] = row_args(kernel, dims)?;
        let ([a, a_times], [b, b_times]) = (factor(&a), factor(&b));
        let (out, normed, rstd) = (out.arg(), normed.arg(), rstd.arg());
        let (x, y) = (x.arg(), y.arg());
        let args = [out, normed, rstd, x, a, a_times, y, b, b_times, n, c, inverse];
        self.launch(kernel, blocks, &args)
    }

    /// The sums are taken in f32 by a tree that depends on the number of elements alone: each block leaves its share in scratch, a second
    /// launch adds the shares.
    ///
    /// Per element: reads 4 bytes and 2 for each of da and db that is given, writes 4.
    pub(super) fn mix_backward(&self, op: MixBackward<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let MixBackward { dx, dy, da, db, x, a, y, b } = op;
        let address = |given: Option<&Mut<'_>>| given.map_or(Arg::Address(0), OnDevice::arg);
        let given = (da.is_some(), db.is_some());
        let (da, db) = (address(da.as_ref()), address(db.as_ref()));
        let ([a, a_times], [b, b_times]) = (factor(&a), factor(&b));
        // A sum that no one asks for is not computed, and its operand not read.
        let summed = |x: Ref<'_>, wanted| if wanted { x.arg() } else { Arg::Address(0) };
        let (x, y) = (summed(x, given.0), summed(y, given.1));
        let blocks = n.div_ceil(EACH).min(SHARES);
        let partials = Arg::Address(self.partials.address);
        let n = Arg::I64(n as i64);
        let args = [dx.arg(), dy.arg(), x, a, a_times, y, b, b_times, partials, n];
        self.launch(&MIX_BACKWARD, blocks, &args)?;
        if blocks == 0 || given == (false, false) {
            return Ok(());
        }
        let args = [da, a_times, db, b_times, partials, Arg::I32(blocks as i32)];
        self.launch(&ADD_PARTIALS, 2, &args)
    }
}
