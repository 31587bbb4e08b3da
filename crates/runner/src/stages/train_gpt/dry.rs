//! A training's beginning on a device: what it allocates, moves and computes. On [`Planned`](farthing_kernels::planned::Planned) that takes a moment and no memory.

use farthing_comm::Comm;
use farthing_data::Batch;
use farthing_kernels::Device;
use farthing_optim::Registry;
use farthing_train::{Batches, Bytes, Setup, Trainer};

use crate::Result;

/// Where a dry run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// Everything is allocated.
    Allocated,
    /// A micro-batch is about to be asked for.
    Batch,
    /// The step is done.
    Stepped,
}

/// Makes a trainer and takes one step of at most two micro-batches, all of one token. `at` is called on the way.
pub(super) fn step(
    dev: &dyn Device,
    comm: &dyn Comm,
    mut setup: Setup,
    registry: &Registry,
    micro_batch_rows: usize,
    mut at: impl FnMut(At),
) -> Result<Bytes> {
    setup.rows = setup.rows.min(2 * micro_batch_rows * comm.ranks());
    let config = setup.gpt.config();
    let batch = Batch::zeroed(micro_batch_rows, config.seq_len)?.with_order();
    let mut trainer = Trainer::on_ranks(dev, comm, setup, registry, micro_batch_rows)?;
    at(At::Allocated);
    trainer.step(&mut Same { batch, at: &mut at })?;
    // What comes in under the next step.
    trainer.params()?;
    at(At::Stepped);
    Ok(trainer.bytes())
}

/// One batch, again and again.
struct Same<'a> {
    batch: Batch,
    at: &'a mut dyn FnMut(At),
}

impl Batches for Same<'_> {
    fn next_batch(&mut self) -> Option<farthing_train::Result<&Batch>> {
        (self.at)(At::Batch);
        Some(Ok(&self.batch))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use farthing_comm::PlannedComm;
    use farthing_kernels::cuda::Cuda;
    use farthing_kernels::cuda::emulated::Emulator;
    use farthing_kernels::cuda::gemm::HostGemm;
    use farthing_kernels::cuda::watched::Watched;
    use farthing_kernels::planned::Planned;
    use farthing_model::{ModelConfig, Preset};
    use farthing_train::Recipe;

    use super::*;

    #[test]
    fn what_is_planned_is_what_the_allocator_hands_out() {
        for (preset, ranks) in
            [(Preset::Nanochat202601, 1), (Preset::Nanochat202607, 1), (Preset::Nanochat202607, 2)]
        {
            let comm = PlannedComm::new(ranks);
            let model = ModelConfig {
                aspect_ratio: Some(16),
                head_dim: Some(16),
                ..ModelConfig::new(preset, 2)
            };
            let mut recipe = Recipe::new(model);
            recipe.schedule.batch_tokens = Some(128);
            recipe.schedule.steps = Some(3);
            let registry = Registry::standard();
            let setup = || Setup::new(&recipe, &registry, 96, 32).unwrap();

            let planned = Planned::cuda();
            let mut counted = Vec::new();
            let bytes = step(&planned, &comm, setup(), &registry, 1, |at| {
                counted.push((at, planned.bytes(), planned.peak_bytes()));
            });
            let bytes = bytes.unwrap();
            let sent = comm.sent();
            assert_eq!((sent.gradients > 0, sent.weights > 0), (ranks > 1, ranks > 1), "{sent:?}");

            let emulator = Arc::new(Emulator::new());
            let watched = Watched::new(emulator.clone());
            let gemm = watched.gemm(Box::new(HostGemm::new(emulator).unwrap()));
            let dev = Cuda::new(watched.clone(), gemm).unwrap();
            let own = watched.bytes().0 as u64;
            let mut handed_out = Vec::new();
            let of_device = step(&dev, &comm, setup(), &registry, 1, |at| {
                let (now, peak) = watched.bytes();
                handed_out.push((at, now as u64 - own, peak as u64 - own));
            });
            assert_eq!(counted, handed_out, "{preset:?}, {ranks} ranks");
            assert_eq!(bytes, of_device.unwrap());
            // A step allocates nothing; beyond what the trainer names there is only optimizers' scratch, and the sums of a step.
            let all = counted[0].1;
            let steady = counted.iter().all(|(_, now, peak)| (*now, *peak) == (all, all));
            assert!(steady, "{counted:?}");
            assert!(all > bytes.weights + bytes.state + bytes.activations, "{bytes:?}");
        }
    }
}
