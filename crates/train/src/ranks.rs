//! What the ranks of a training send each other: gradients to their owners, weights back to everyone, and tensors to the first rank, which writes the checkpoints.

use std::ops::Range;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farthing_comm::Comm;
use farthing_kernels::{Arrival, Blocks, Bucket, Device, Leaving, Params, Place, Ref, Weights};
use farthing_model::{CheckpointWriter, PIECE};

use crate::{Error, Result};

/// Runs `compute`, all of a step's micro-batches, while weights come in from the ranks that updated them, where `gather` says that they are to, and gradients leave for those
/// that will: each bucket as soon as it may. Gradients of slabs that are on every rank are summed afterwards.
pub(crate) fn exchange<'p>(
    dev: &'p dyn Device,
    comm: &'p dyn Comm,
    params: &'p mut Params,
    gather: bool,
    compute: impl FnOnce(Weights<'_>, &mut Leaving<'p>) -> Result<()>,
) -> Result<()> {
    // A GPU's work is launched by one thread; and one rank alone has nobody to talk to.
    if comm.ranks() == 1 || comm.in_stream() || matches!(dev.place(), Place::Cuda(_)) {
        return in_line(dev, comm, params, gather, compute);
    }
    let (send, buckets) = channel::<Bucket<'p>>();
    // Who takes it no more has a reason, and tells it.
    let leave = move |bucket| drop(send.send(bucket));
    let (coming, arrivals, mut leaving) = params.exchange(gather, leave)?;
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

/// The same on the thread that computes: collectives are begun where they may, and the device waits for weights when they are asked for, for gradients at the end. An engine that can't begin anything
/// does each at once.
fn in_line<'p>(
    dev: &'p dyn Device,
    comm: &'p dyn Comm,
    params: &'p mut Params,
    gather: bool,
    compute: impl FnOnce(Weights<'_>, &mut Leaving<'p>) -> Result<()>,
) -> Result<()> {
    let (begun, sums) = channel();
    // After one that failed nobody answers.
    let mut failed = false;
    let sum = move |Bucket { grad, own_grad, block }| {
        if !failed {
            let sum = comm.begin_reduce_scatter(dev, own_grad, grad, block);
            failed = sum.is_err();
            let _ = begun.send(sum);
        }
    };
    // Why weights did not come.
    let missed = Arc::new(Mutex::new(None));
    let (coming, arrivals, mut leaving) = params.exchange(gather, sum)?;
    for arrival in arrivals {
        coming.on_the_way(arrival, |weights, block| {
            let (missed, gathered) =
                (Arc::clone(&missed), comm.begin_all_gather(dev, weights, block)?);
            Ok::<_, Error>(move || {
                gathered.wait().map_err(|error| *lock(&missed) = Some(error)).ok()
            })
        })?;
    }
    let computed = compute(coming.weights(), &mut leaving);
    let computed = computed.and_then(|()| Ok(leaving.send_rest()?));
    let summed = sums.into_iter().try_for_each(|sum| sum?.wait().map(drop));
    // A rank that is lost is why the rest went wrong, if anything did.
    lock(&missed).take().map_or(Ok(()), Err).and(summed).map_err(Error::from).and(computed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    let (_, arrivals, _) = params.exchange(true, drop)?;
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
