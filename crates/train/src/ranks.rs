//! What the ranks of a training send each other: gradients to who owns them, weights back to everybody, and tensors to the first rank, which writes them.

use std::ops::Range;

use farthing_comm::Comm;
use farthing_kernels::{Blocks, Device, Params, Ref, Sharded};
use farthing_model::{CheckpointWriter, PIECE};

use crate::Result;

/// Sums every rank's gradients: of sharded slabs where they belong, of the others everywhere.
pub(crate) fn send_gradients(dev: &dyn Device, comm: &dyn Comm, params: &mut Params) -> Result<()> {
    for slab in 0..params.specs().len() {
        if params.blocks(slab).is_whole() {
            comm.all_reduce(dev, params.grad_mut(slab))?;
        } else if let Some(Sharded { blocks, grad, mut own_grad, .. }) =
            params.sharded_slab(slab)?
        {
            for (all, own) in blocks.buckets() {
                let own = own_grad.reborrow().rows(own)?;
                comm.reduce_scatter(dev, own, grad.rows(all)?, blocks.block())?;
            }
        }
    }
    Ok(())
}

/// Gives every rank the weights that the others have updated.
pub(crate) fn gather_weights(dev: &dyn Device, comm: &dyn Comm, params: &mut Params) -> Result<()> {
    for slab in 0..params.specs().len() {
        if let Some(Sharded { blocks, mut compute, .. }) = params.sharded_slab(slab)? {
            for (all, _) in blocks.buckets() {
                comm.all_gather(dev, compute.reborrow().rows(all)?, blocks.block())?;
            }
        }
    }
    Ok(())
}

/// Rank `rank`'s share of `n` things, as even as can be.
pub(crate) fn share(n: u64, rank: usize, ranks: usize) -> Range<u64> {
    let (rank, ranks) = (rank as u64, ranks as u64);
    // In u128, so that no product overflows.
    let at = |rank: u64| (u128::from(n) * u128::from(rank) / u128::from(ranks)) as u64;
    at(rank)..at(rank + 1)
}

/// Brings tensors together from all ranks: at rank 0, in a file; elsewhere there is no writer.
pub(crate) struct Collector<'a> {
    pub(crate) dev: &'a dyn Device,
    pub(crate) comm: &'a dyn Comm,
    pub(crate) writer: Option<CheckpointWriter>,
}

impl Collector<'_> {
    /// The elements `range` of an array that is divided as `blocks` say; `own` is what this rank has of the array, flat.
    pub(crate) fn write(
        &mut self,
        blocks: Blocks,
        range: Range<usize>,
        own: Option<Ref<'_>>,
    ) -> Result<()> {
        let rank = self.comm.rank();
        for (owner, local) in blocks.places(range) {
            for start in local.clone().step_by(PIECE) {
                let piece = start..local.end.min(start + PIECE);
                let mine = own.filter(|_| rank == owner).map(|own| own.rows(piece)).transpose()?;
                match (owner, mine, &mut self.writer) {
                    (0, Some(mine), Some(writer)) => writer.write_view(self.dev, mine)?,
                    (0, ..) => {}
                    (_, mine, writer) => {
                        let bytes = mine.map(|mine| read(self.dev, mine)).transpose()?;
                        let all = self.comm.gather(&bytes.unwrap_or_default())?;
                        if let (Some(writer), Some(bytes)) = (writer, all.get(owner)) {
                            writer.write(bytes)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn read(dev: &dyn Device, view: Ref<'_>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; view.shape().elements() * view.dtype().bytes()];
    dev.read(&mut bytes, view)?;
    Ok(bytes)
}
