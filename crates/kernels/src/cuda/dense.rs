//! Linear layers, by matrix products, and table look-ups.

use super::driver::{Arg, Kernel, Module};
use super::gemm::{Matrix, Product};
use super::{Cuda, OnDevice, columns};
use crate::shapes::{EmbedDims, LinearDims};
use crate::{DType, Dense, Error, Mut, Ref, Result, shapes};

static EMBEDDING: Module =
    Module { name: "embedding", ptx: include_str!("../../ptx/sm80/embedding.ptx") };
static EMBED: Kernel = look_up("embed");
static EMBED_BACKWARD: Kernel = look_up("embed_backward");

const WARPS: usize = 8;
/// Rows that a warp of `embed` copies.
const EMBED_ROWS: usize = 8;
/// Places of the order that a warp of `embed_backward` looks for runs in, and columns that it adds to.
const PLACES: usize = 32;
const COLUMNS: usize = 128;

const fn look_up(name: &'static str) -> Kernel {
    Kernel { module: &EMBEDDING, name, threads: 32 * WARPS as u32, shared_bytes: 0 }
}

/// A view as an operand.
fn matrix(view: &impl OnDevice, dtype: DType) -> Matrix {
    Matrix { address: view.device_address(), dtype, transposed: false }
}

impl Matrix {
    fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// N, V and C. A table without rows has nothing to clamp an id to.
fn table_args(op: &'static str, n: usize, v: usize, c: usize) -> Result<[Arg; 3]> {
    let rows = i32::try_from(v).ok().filter(|_| v > 0 || n == 0).ok_or_else(|| {
        Error::Argument { op, what: format!("a table of {v} rows, expected 1 to {}", i32::MAX) }
    })?;
    if i32::try_from(n).is_err() {
        let what = format!("{n} ids, at most {}", i32::MAX);
        return Err(Error::Argument { op, what });
    }
    Ok([Arg::I64(n as i64), Arg::I32(rows), columns(op, c)?])
}

impl Dense for Cuda {
    fn linear(&self, y: Mut<'_>, x: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear(&self.dtypes, &y, &x, &w)?;
        let compute = self.dtypes.compute;
        let (y, x, w) = (matrix(&y, compute), matrix(&x, compute), matrix(&w, compute));
        self.multiply(&Product { m: n, n: o, k: i, a: x, b: w.t(), c: y, accumulate })
    }

    fn linear_dx(&self, dx: Mut<'_>, dy: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dx(&self.dtypes, &dx, &dy, &w)?;
        let compute = self.dtypes.compute;
        let (dx, dy, w) = (matrix(&dx, compute), matrix(&dy, compute), matrix(&w, compute));
        self.multiply(&Product { m: n, n: i, k: o, a: dy, b: w, c: dx, accumulate })
    }

    fn linear_dw(&self, dw: Mut<'_>, x: Ref<'_>, dy: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dw(&self.dtypes, &dw, &x, &dy)?;
        let compute = self.dtypes.compute;
        let (x, dy) = (matrix(&x, compute), matrix(&dy, compute));
        let dw = matrix(&dw, self.dtypes.master);
        self.multiply(&Product { m: o, n: i, k: n, a: dy.t(), b: x, c: dw, accumulate })
    }

    /// An id outside of the table is clamped into it.
    ///
    /// Per row: reads 2·C + 4 bytes, writes 2·C.
    fn embed(&self, out: Mut<'_>, table: Ref<'_>, ids: Ref<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = shapes::embed(&self.dtypes, &out, &table, &ids)?;
        if c == 0 {
            return Ok(());
        }
        let [n_arg, v, c] = table_args("embed", n, v, c)?;
        let args = [out.arg(), table.arg(), ids.arg(), n_arg, v, c];
        self.launch(&EMBED, n.div_ceil(WARPS * EMBED_ROWS), &args)
    }

    /// An id outside of the table is clamped into it, and so is a place outside of the order.
    ///
    /// Reads 2·C bytes for each id, 4·C for each distinct id, and 16 to 32 for each id and 128 columns; writes 4·C for each distinct id.
    /// An id's rows are added one after another, so that the time is at least that of the most frequent id.
    fn embed_backward(
        &self,
        dtable: Mut<'_>,
        dout: Ref<'_>,
        ids: Ref<'_>,
        order: Ref<'_>,
    ) -> Result<()> {
        let dims = shapes::embed_backward(&self.dtypes, &dtable, &dout, &ids, &order)?;
        let EmbedDims { n, v, c } = dims;
        let warps = n.div_ceil(PLACES) * c.div_ceil(COLUMNS);
        if warps > i32::MAX as usize {
            let what = format!("{n} ids of {c} columns are more than a launch takes");
            return Err(Error::Argument { op: "embed_backward", what });
        }
        let [_, v, c] = table_args("embed_backward", n, v, c)?;
        let n = Arg::I32(n as i32);
        let args = [dtable.arg(), dout.arg(), ids.arg(), order.arg(), n, v, c];
        self.launch(&EMBED_BACKWARD, warps.div_ceil(WARPS), &args)
    }
}
