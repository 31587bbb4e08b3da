//! What the ranks of a training send each other: gradients to their owners, weights back to everyone, and tensors to the first rank, which writes the checkpoints.

use std::ops::Range;
use std::sync::mpsc::channel;

use farthing_comm::Comm;
use farthing_kernels::{Arrival, Blocks, Bucket, Device, Leaving, Params, Place, Ref, Weights};
use farthing_model::{CheckpointWriter, PIECE};

use crate::{Error, Result};

/// Runs `compute`, all of a step's micro-batches, while weights come in from the ranks that updated them, where `gather` says that they are to, and gradients leave for those
/// that will: each bucket as soon as it may. Gradients of slabs that are on every rank are summed afterwards.
pub(crate) fn exchange<'p>(
    dev: &dyn Device,
    comm: &dyn Comm,
    params: &'p mut Params,
    gather: bool,
    compute: impl FnOnce(Weights<'_>, &mut Leaving<'p>) -> Result<()>,
) -> Result<()> {
    let (send, buckets) = channel::<Bucket<'p>>();
    let (coming, arrivals, mut leaving) = params.exchange(gather, send)?;
    let receive = |arrivals: Vec<Arrival<'p>>| -> Result<()> {
        for mut arrival in arrivals {
            comm.all_gather(dev, arrival.weights.reborrow(), arrival.block)?;
            coming.arrived(arrival)?;
        }
        Ok(())
    };
    let sum = |Bucket { grad, own_grad, block }| {
        Ok::<_, Error>(comm.reduce_scatter(dev, own_grad, grad, block)?)
    };
    let compute = || {
        compute(coming.weights(), &mut leaving)?;
        Ok::<_, Error>(leaving.send_rest()?)
    };
    // A GPU's memory is reached from the thread that opened it; and one rank alone has nobody to talk to.
    if comm.ranks() == 1 || comm.in_stream() || matches!(dev.place(), Place::Cuda(_)) {
        receive(arrivals)?;
        compute()?;
        return buckets.into_iter().try_for_each(sum);
    }
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let received = receive(arrivals).inspect_err(|_| coming.give_up());
            received.and_then(|()| buckets.into_iter().try_for_each(sum))
        });
        let computed = compute();
        let sent = sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A rank that is lost is why the rest went wrong, if anything did.
        sent.and(computed)
    })
}

/// Sums the gradients of slabs that are on every rank.
pub(crate) fn sum_small(dev: &dyn Device, comm: &dyn Comm, params: &mut Params) -> Result<()> {
    for slab in 0..params.specs().len() {
        if params.blocks(slab).is_whole() {
            comm.all_reduce(dev, params.grad_mut(slab))?;
        }
    }
    Ok(())
}

/// Gives every rank the weights that the others have updated.
pub(crate) fn gather_weights(dev: &dyn Device, comm: &dyn Comm, params: &mut Params) -> Result<()> {
    let (_, arrivals, _) = params.exchange(true, channel().0)?;
    for Arrival { mut weights, block, .. } in arrivals {
        comm.all_gather(dev, weights.reborrow(), block)?;
    }
    Ok(())
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
