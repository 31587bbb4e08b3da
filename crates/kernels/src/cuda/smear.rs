//! Smear.
//!
//! Sums and everything between a load and a store are f32; a result is rounded to BF16 once, where it is stored. Each operation states the bytes
//! that it moves, for aligned views.

use super::driver::{Arg, Kernel, Module};
use super::flat::{ROWS, kernel};
use super::{Cuda, OnDevice, PARTIALS, columns};
use crate::ops::{Smear, SmearBackward, SmearDims};
use crate::{Error, Result};

static SMEARS: Module = Module { name: "smear", ptx: include_str!("../../ptx/sm80/smear.ptx") };
static SMEAR: Kernel = kernel(&SMEARS, "smear");
static SMEAR_BACKWARD: Kernel = kernel(&SMEARS, "smear_backward");
static SMEAR_SUMS: Kernel = kernel(&SMEARS, "smear_sums");

/// Blocks that share the sums of smear's gradient, at most.
const SMEAR_SHARES: usize = 512;

/// B·T, T, C and G.
fn smear_args(op: &'static str, SmearDims { b, t, c, g }: SmearDims) -> Result<[Arg; 4]> {
    let n = i32::try_from(b * t).map_err(|_| {
        let what = format!("{} positions, at most {}", b * t, i32::MAX);
        Error::Argument { op, what }
    })?;
    Ok([Arg::I32(n), Arg::I32(t as i32), columns(op, c)?, Arg::I32(g as i32)])
}

impl Cuda {
    /// Per position: reads 4·C bytes, half of them from cache, and 4·G, writes 2·C + 4.
    pub(super) fn smear(&self, op: Smear<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let Smear { out, gate, x, prev, w, lambda } = op;
        let [n, t, c, g] = smear_args("smear", dims)?;
        let prev = prev.as_ref().map_or(Arg::Address(0), OnDevice::arg);
        let (out, gate, x) = (out.arg(), gate.arg(), x.arg());
        let args = [out, gate, x, prev, w.arg(), lambda.arg(), n, t, c, g];
        self.launch(&SMEAR, (dims.b * dims.t).div_ceil(ROWS), &args)
    }

    /// The sums are taken in f32 in an order that depends on B·T and G alone, as those of [`MixBackward`].
    ///
    /// Per position: reads 8·C bytes, half of them from cache, and 4·G + 8, writes 2·C.
    ///
    /// # Errors
    /// Also [`Error::Argument`] for a gate of more channels than the scratch of sums has room for.
    pub(super) fn smear_backward(&self, op: SmearBackward<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let SmearBackward { dx, dw, dlambda, dout, x, gate, w, lambda } = op;
        let [n, t, c, g] = smear_args("smear_backward", dims)?;
        let (positions, sums) = (dims.b * dims.t, dims.g + 1);
        if sums > PARTIALS {
            let what = format!("a gate of {} channels, at most {}", dims.g, PARTIALS - 1);
            return Err(Error::Argument { op: "smear_backward", what });
        }
        if positions == 0 {
            return Ok(());
        }
        let rows = positions.div_ceil(SMEAR_SHARES.min(PARTIALS / sums)).max(ROWS);
        let blocks = positions.div_ceil(rows);
        let partials = Arg::Address(self.partials.address);
        let (dout, x, gate) = (dout.arg(), x.arg(), gate.arg());
        let (rows, lambda) = (Arg::I32(rows as i32), lambda.arg());
        let args = [dx.arg(), partials, dout, x, gate, w.arg(), lambda, n, rows, t, c, g];
        self.launch(&SMEAR_BACKWARD, blocks, &args)?;
        let args = [dw.arg(), dlambda.arg(), partials, Arg::I32(blocks as i32), g];
        self.launch(&SMEAR_SUMS, sums, &args)
    }
}
