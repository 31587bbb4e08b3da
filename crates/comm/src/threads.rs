//! `Threads`: N ranks as threads of one process.

use std::sync::Arc;

use farthing_kernels::{Device, Mut, Place, Ref};

use crate::comm::{host_bytes, own_block, place};
use crate::group::{Call, Group, Met};
use crate::sum::in_order;
use crate::{Comm, Control, Result};

/// A rank that is a thread among others of one process, on any device: arrays that are not in this process's memory pass through it.
///
/// When it is dropped, the others' collectives end with [`Error::Lost`](crate::Error::Lost).
pub struct Threads {
    group: Arc<Group>,
    rank: usize,
}

impl Threads {
    /// The ends of `ranks` ranks, at least one, each for a thread of its own.
    #[allow(clippy::new_ret_no_self, reason = "one end alone would wait for ever")]
    pub fn new(ranks: usize) -> Vec<Self> {
        let group = Arc::new(Group::new(ranks.max(1)));
        (0..group.ranks()).map(|rank| Self { group: Arc::clone(&group), rank }).collect()
    }

    fn meet<'a>(&'a self, call: Call, shown: &'a [u8]) -> Result<Met<'a>> {
        // SAFETY: the slice is borrowed, so that nobody writes it, for as long as what is returned.
        unsafe { self.group.meet(self.rank, call, shown.as_ptr(), shown.len()) }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.group.lose(self.rank);
    }
}

fn flat(array: Mut<'_>) -> Result<Mut<'_>> {
    let n = array.shape().elements();
    Ok(array.reshape([n])?)
}

impl Control for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.group.ranks()
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let met = self.meet(Call { during: "gather", array: None }, own)?;
        let seen = if self.rank == 0 { 0..self.ranks() } else { 0..0 };
        Ok(seen.map(|rank| met.of(rank).to_vec()).collect())
    }

    fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let met = self.meet(Call { during: "broadcast", array: None }, bytes)?;
        Ok(met.of(0).to_vec())
    }

    fn watch(&self, during: &'static str) -> Result<()> {
        self.group.watch(self.rank, during)
    }
}

impl Comm for Threads {
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> Result<()> {
        let (during, dtype, n) = ("reduce_scatter", all.dtype(), all.shape().elements());
        let range = own_block(self, during, n, block, Some(own.shape().elements()))?;
        let bytes = range.start * dtype.bytes()..range.end * dtype.bytes();
        let shown = host_bytes(dev, all)?;
        let met = self.meet(Call { during, array: Some((n, block, dtype)) }, &shown)?;
        let parts: Vec<&[u8]> = (0..self.ranks()).map(|r| &met.of(r)[bytes.clone()]).collect();
        if own.place() == Place::Host {
            return in_order(during, dtype, own.host_bytes()?, &parts);
        }
        let mut sum = vec![0; bytes.len()];
        in_order(during, dtype, &mut sum, &parts)?;
        Ok(dev.write(own, &sum)?)
    }

    fn all_gather(&self, dev: &dyn Device, all: Mut<'_>, block: usize) -> Result<()> {
        let (during, dtype) = ("all_gather", all.dtype());
        let mut all = flat(all)?;
        let n = all.shape().elements();
        let range = own_block(self, during, n, block, None)?;
        // The others write around it: the own block is neither theirs nor ours to write, so that it may be shown as it is.
        let (before, rest) = all.reborrow().split_rows(range.start)?;
        let (own, after) = rest.split_rows(range.len())?;
        let shown = host_bytes(dev, own.into_ref())?;
        let met = self.meet(Call { during, array: Some((n, block, dtype)) }, &shown)?;
        let (mut before, mut after) = (before, after);
        for rank in (0..self.ranks()).filter(|&rank| rank != self.rank) {
            let of = place(rank, n, block);
            let dst = if rank < self.rank {
                before.reborrow().rows(of)?
            } else {
                after.reborrow().rows(of.start - range.end..of.end - range.end)?
            };
            if dst.place() == Place::Host {
                dst.host_bytes()?.copy_from_slice(met.of(rank));
            } else if !met.of(rank).is_empty() {
                dev.write(dst, met.of(rank))?;
            }
        }
        Ok(())
    }

    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> Result<()> {
        let (during, dtype, n) = ("all_reduce", values.dtype(), values.shape().elements());
        let mut sum = vec![0; n * dtype.bytes()];
        {
            let shown = host_bytes(dev, values.view())?;
            let met = self.meet(Call { during, array: Some((n, n, dtype)) }, &shown)?;
            let parts: Vec<&[u8]> = (0..self.ranks()).map(|rank| met.of(rank)).collect();
            in_order(during, dtype, &mut sum, &parts)?;
        }
        Ok(dev.write(values, &sum)?)
    }
}
