//! Table look-ups.

use super::matrix::{Mat, MatMut};
use super::work::{block_rows, rows};
use super::{Cpu, DTYPES};
use crate::ops::{Embed, EmbedBackward, EmbedDims};
use crate::{Result, ops};

impl Cpu {
    pub(super) fn embed(&self, op: Embed<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = op.check(&DTYPES)?;
        let Embed { out, table, ids } = op;
        let (out, table) = (out.slice::<f32>()?, Mat::new(table.slice()?, v, c));
        let ids = ids.slice::<i32>()?;
        ops::indices("embed", ids, 0, v)?;
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

    pub(super) fn embed_backward(&self, op: EmbedBackward<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = op.check(&DTYPES)?;
        let EmbedBackward { dtable, dout, ids, order } = op;
        let (dtable, dout) = (MatMut::new(dtable.slice()?, v, c), Mat::new(dout.slice()?, n, c));
        let (ids, order) = (ids.slice::<i32>()?, order.slice::<i32>()?);
        ops::indices("embed_backward", ids, 0, v)?;
        ops::order("embed_backward", ids, order)?;
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
