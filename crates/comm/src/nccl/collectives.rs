//! NCCL's collectives as [`Comm`] has them: which of its functions are called, for which places in memory.

use farthing_kernels::cuda::driver::Event;
use farthing_kernels::{Device, Mut, Ref};

use super::Nccl;
use super::api::{Api, IN_PROGRESS, SUCCESS, SUM, type_of};
use crate::comm::{own_block, place};
use crate::{Comm, Control, Error, Pending, Result};

/// Where a collective ends; nothing where there was nothing to send.
type End = Option<Event>;

impl Nccl<'_> {
    /// One `ncclReduceScatter` where all blocks are whole; else an `ncclReduce` for each block, in one group.
    fn launch_reduce_scatter(
        &self,
        dev: &dyn Device,
        own: &mut Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> Result<End> {
        let (during, dtype, n) = ("reduce_scatter", all.dtype(), all.shape().elements());
        let range = own_block(self, during, n, block, Some(own.shape().elements()))?;
        self.same_device(dev, during)?;
        if n == 0 {
            return Ok(None);
        }
        let (from, to, of) = (all.address(), own.address(), type_of(during, dtype)?);
        let ranks = self.ranks();
        let end = self.launch(during, |api, comm, stream| {
            if n == block * ranks {
                // SAFETY: `all` has as many elements and `own` a block of them, both of the communicator's device, in the order of its stream.
                return unsafe {
                    (api.reduce_scatter)(from.cast(), to.cast(), block, of, SUM, comm, stream)
                };
            }
            grouped(
                api,
                (0..ranks).filter_map(|root| {
                    let at = place(root, n, block);
                    (!at.is_empty()).then(|| {
                        // Who is no root has no result; its address is not looked at.
                        let to = if at == range { to } else { std::ptr::null_mut() };
                        // SAFETY: as above, a block for each root.
                        unsafe {
                            let from = from.add(at.start * dtype.bytes());
                            let (to, root) = (to.cast(), root as i32);
                            (api.reduce)(from.cast(), to, at.len(), of, SUM, root, comm, stream)
                        }
                    })
                }),
            )
        });
        end.map(Some)
    }

    /// One `ncclAllGather` where all blocks are whole; else an `ncclBroadcast` for each block, in one group. In place either way.
    fn launch_all_gather(&self, dev: &dyn Device, all: &mut Mut<'_>, block: usize) -> Result<End> {
        let (during, dtype, n) = ("all_gather", all.dtype(), all.shape().elements());
        own_block(self, during, n, block, None)?;
        self.same_device(dev, during)?;
        if n == 0 {
            return Ok(None);
        }
        let (base, of, width) = (all.address(), type_of(during, dtype)?, dtype.bytes());
        let (rank, ranks) = (self.rank(), self.ranks());
        let end = self.launch(during, |api, comm, stream| {
            if n == block * ranks {
                // SAFETY: the own block is where NCCL has it for a gathering in place.
                return unsafe {
                    let own = base.add(rank * block * width);
                    (api.all_gather)(own.cast(), base.cast(), block, of, comm, stream)
                };
            }
            grouped(
                api,
                (0..ranks).filter_map(|root| {
                    let at = place(root, n, block);
                    (!at.is_empty()).then(|| {
                        // SAFETY: a block within `all`, the same at its owner and everywhere.
                        unsafe {
                            let at_block = base.add(at.start * width);
                            let root = root as i32;
                            let (from, to) = (at_block.cast_const().cast(), at_block.cast());
                            (api.broadcast)(from, to, at.len(), of, root, comm, stream)
                        }
                    })
                }),
            )
        });
        end.map(Some)
    }

    /// Has the device wait for a collective.
    fn join(&self, end: End) -> Result<()> {
        Ok(end.map_or(Ok(()), |end| self.beside.join(end))?)
    }

    fn same_device(&self, dev: &dyn Device, during: &'static str) -> Result<()> {
        if dev.place() == self.dev.place() {
            return Ok(());
        }
        let what =
            format!("arrays on {}, the communicator's are on {}", dev.name(), self.dev.name());
        Err(Error::Argument { during, what })
    }
}

impl Comm for Nccl<'_> {
    fn in_stream(&self) -> bool {
        true
    }

    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        mut own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> Result<()> {
        let end = self.launch_reduce_scatter(dev, &mut own, all, block)?;
        self.join(end)
    }

    fn all_gather(&self, dev: &dyn Device, mut all: Mut<'_>, block: usize) -> Result<()> {
        let end = self.launch_all_gather(dev, &mut all, block)?;
        self.join(end)
    }

    fn begin_reduce_scatter<'a>(
        &'a self,
        dev: &'a dyn Device,
        mut own: Mut<'a>,
        all: Ref<'a>,
        block: usize,
    ) -> Result<Pending<'a, Mut<'a>>> {
        let end = self.launch_reduce_scatter(dev, &mut own, all, block)?;
        Ok(Pending::new(move || self.join(end).map(|()| own)))
    }

    fn begin_all_gather<'a>(
        &'a self,
        dev: &'a dyn Device,
        mut all: Mut<'a>,
        block: usize,
    ) -> Result<Pending<'a, Mut<'a>>> {
        let end = self.launch_all_gather(dev, &mut all, block)?;
        Ok(Pending::new(move || self.join(end).map(|()| all)))
    }

    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> Result<()> {
        let (during, dtype, n) = ("all_reduce", values.dtype(), values.shape().elements());
        self.same_device(dev, during)?;
        if n == 0 {
            return Ok(());
        }
        let (at, of) = (values.address(), type_of(during, dtype)?);
        let end = self.launch(during, |api, comm, stream| {
            // SAFETY: as many elements, in place.
            unsafe { (api.all_reduce)(at.cast_const().cast(), at.cast(), n, of, SUM, comm, stream) }
        })?;
        self.join(Some(end))
    }
}

/// Calls between a group's start and end; the first status that is not "done".
fn grouped(api: &Api, calls: impl Iterator<Item = i32>) -> i32 {
    // SAFETY: a start for each end, on one thread.
    let start = unsafe { (api.group_start)() };
    if start != SUCCESS {
        return start;
    }
    let mut first = SUCCESS;
    for status in calls {
        if first == SUCCESS && status != IN_PROGRESS {
            first = status;
        }
    }
    // SAFETY: likewise.
    let end = unsafe { (api.group_end)() };
    if first == SUCCESS { end } else { first }
}
