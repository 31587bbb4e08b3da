//! Linear layers and table look-ups.

use super::gemm::Start;
use super::matrix::{Mat, MatMut};
use super::work::{Workers, block_rows, rows};
use super::{Cpu, DTYPES};
use crate::shapes::{EmbedDims, LinearDims};
use crate::{Dense, Mut, Ref, Result, shapes};

/// From this many rows of x on, w is transposed once rather than packed from its columns for every tile: up to 1.4 times as fast.
const TRANSPOSE_ROWS: usize = 128;
/// Above this many elements w is multiplied as it lies, so that scratch stays below 16 MiB.
const TRANSPOSE_ELEMENTS: usize = 1 << 22;

impl Dense for Cpu {
    fn linear(&self, y: Mut<'_>, x: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear(&DTYPES, &y, &x, &w)?;
        let y = MatMut::new(y.slice()?, n, o);
        let (x, w) = (Mat::new(x.slice()?, n, i), Mat::new(w.slice()?, o, i));
        if n < TRANSPOSE_ROWS || o * i > TRANSPOSE_ELEMENTS {
            self.workers.multiply(y, start(accumulate), x, w.t());
            return Ok(());
        }
        self.workers.scratch(o * i, |transposed: &mut [f32]| {
            transpose(&self.workers, transposed, w);
            let w = Mat::new(transposed, i, o);
            self.workers.multiply(y, start(accumulate), x, w);
        });
        Ok(())
    }

    fn linear_dx(&self, dx: Mut<'_>, dy: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dx(&DTYPES, &dx, &dy, &w)?;
        let dx = MatMut::new(dx.slice()?, n, i);
        let (dy, w) = (Mat::new(dy.slice()?, n, o), Mat::new(w.slice()?, o, i));
        self.workers.multiply(dx, start(accumulate), dy, w);
        Ok(())
    }

    fn linear_dw(&self, dw: Mut<'_>, x: Ref<'_>, dy: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dw(&DTYPES, &dw, &x, &dy)?;
        let dw = MatMut::new(dw.slice()?, o, i);
        let (x, dy) = (Mat::new(x.slice()?, n, i), Mat::new(dy.slice()?, n, o));
        self.workers.multiply(dw, start(accumulate), dy.t(), x);
        Ok(())
    }

    fn embed(&self, out: Mut<'_>, table: Ref<'_>, ids: Ref<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = shapes::embed(&DTYPES, &out, &table, &ids)?;
        let (out, table) = (out.slice::<f32>()?, Mat::new(table.slice()?, v, c));
        let ids = ids.slice::<i32>()?;
        shapes::indices("embed", ids, 0, v)?;
        if c == 0 {
            return Ok(());
        }
        self.workers.blocks(n, block_rows(c), rows(out, c), |first, out| {
            for (out, &id) in out.data.chunks_exact_mut(c).zip(&ids[first..]) {
                out.copy_from_slice(table.row(id as usize));
            }
        });
        Ok(())
    }

    fn embed_backward(
        &self,
        dtable: Mut<'_>,
        dout: Ref<'_>,
        ids: Ref<'_>,
        order: Ref<'_>,
    ) -> Result<()> {
        let EmbedDims { n, v, c } = shapes::embed_backward(&DTYPES, &dtable, &dout, &ids, &order)?;
        let (dtable, dout) = (MatMut::new(dtable.slice()?, v, c), Mat::new(dout.slice()?, n, c));
        let (ids, order) = (ids.slice::<i32>()?, order.slice::<i32>()?);
        shapes::indices("embed_backward", ids, 0, v)?;
        shapes::order("embed_backward", ids, order)?;
        let id_at = |i: usize| ids[order[i] as usize] as usize;
        let (block, dtable) = (block_rows(c), dtable.share());
        self.workers.tasks(n.div_ceil(block), |task| {
            // A block takes the runs that begin in it, to their ends.
            let end = n.min((task + 1) * block);
            let mut i = task * block;
            while i > 0 && i < end && id_at(i) == id_at(i - 1) {
                i += 1;
            }
            while i < end {
                let id = id_at(i);
                // SAFETY: order is sorted by id, so that an id is one run, and the run is this task's alone.
                let mut row = unsafe { dtable.part(id..id + 1, 0..c) };
                let row = row.row(0);
                while i < n && id_at(i) == id {
                    row.iter_mut().zip(dout.row(order[i] as usize)).for_each(|(t, d)| *t += d);
                    i += 1;
                }
            }
        });
        Ok(())
    }
}

fn start(accumulate: bool) -> Start<'static> {
    if accumulate { Start::Old } else { Start::Zero }
}

/// to = fromᵀ, row-major.
fn transpose(workers: &Workers, to: &mut [f32], from: Mat<'_>) {
    // Squares of this side stay in the first-level cache, on both sides.
    const SIDE: usize = 32;
    if from.rows == 0 {
        return;
    }
    workers.blocks(from.cols, SIDE, rows(to, from.rows), |first, to| {
        for start in (0..from.rows).step_by(SIDE) {
            let span = start..from.rows.min(start + SIDE);
            for (col, to) in (first..).zip(to.data.chunks_exact_mut(from.rows)) {
                for (to, row) in to[span.clone()].iter_mut().zip(span.clone()) {
                    *to = from.row(row)[col];
                }
            }
        }
    });
}
