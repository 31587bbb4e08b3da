//! A training's first step on a device: what it allocates, moves and computes. On [`Planned`](farthing_kernels::planned::Planned) that takes a moment and no memory.

use farthing_eval::{GptScorer, LanguageModel, Scores};
use farthing_kernels::{Device, Params};
use farthing_model::{Batch, Mode};
use farthing_optim::{Optimizers, Registry};

use super::setup::Setup;
use crate::Result;

/// Bytes of tensors, as `held` says them at each point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bytes {
    /// Weights, where need be in both types, and gradients.
    pub(super) weights: u64,
    /// Optimizers' state and scratch.
    pub(super) state: u64,
    /// Activations of a micro-batch, and their gradients.
    pub(super) activations: u64,
    /// All of these and an evaluation's activations.
    pub(super) all: u64,
}

/// Allocates as a training does, computes one micro-batch, one update and one batch of an evaluation. `held` says how many bytes tensors have; `after` is called
/// after the micro-batch, after the update and after the evaluation.
pub(super) fn step(
    dev: &dyn Device,
    setup: &Setup,
    registry: &Registry,
    micro: usize,
    held: impl Fn() -> u64,
    mut after: impl FnMut(&str),
) -> Result<Bytes> {
    let before = held();
    let mut params = Params::new(dev, setup.slabs.clone())?;
    let with_weights = held();
    let mut optimizers =
        Optimizers::new(registry, dev, &setup.groups, &setup.plan, &setup.schedule, &params)?;
    let with_state = held();
    let tokens = setup.gpt.config().seq_len;
    let mut workspace = setup.gpt.workspace(dev, micro, tokens, Mode::Train)?;
    let _number = dev.master([1])?;
    let with_activations = held();

    let ids = vec![0; micro * tokens];
    let order: Vec<i32> = (0..ids.len() as i32).collect();
    let batch = Batch::new(tokens, &ids, &ids).with_order(&order);
    params.refresh_compute(dev)?;
    let (weights, mut grads) = params.split();
    setup.gpt.forward_backward(dev, weights, &mut grads, &mut workspace, &batch, 1.0)?;
    workspace.loss_sum(dev)?;
    after("micro-batch");
    optimizers.step(dev, &mut params, 0)?;
    after("update");
    let mut scorer = GptScorer::new(&setup.gpt, dev, &params);
    let batch = farthing_eval::Batch::new(ids.clone(), ids, micro, tokens)?;
    scorer.score(&batch, false, &mut Scores::default())?;
    after("evaluation");
    Ok(Bytes {
        weights: with_weights - before,
        state: with_state - with_weights,
        activations: with_activations - with_state,
        all: held() - before,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use farthing_kernels::cuda::Cuda;
    use farthing_kernels::cuda::emulated::Emulator;
    use farthing_kernels::cuda::gemm::HostGemm;
    use farthing_kernels::cuda::watched::Watched;
    use farthing_kernels::planned::Planned;

    use super::*;

    #[test]
    fn what_is_planned_is_what_the_allocator_hands_out() {
        let config = serde_json::json!({
            "kind": "train-gpt", "model": {"depth": 2, "aspect_ratio": 16, "head_dim": 16},
            "schedule": {"batch_tokens": 64, "steps": 3},
        });
        for preset in ["nanochat-2026-07", "nanochat-2026-01"] {
            let mut config = config.clone();
            config["preset"] = preset.into();
            let config = serde_json::from_value(config).unwrap();
            let registry = Registry::standard();
            let setup = Setup::new(&config, &registry, 96, 32).unwrap();
            let planned = Planned::cuda();
            let none = |_: &str| ();
            let counted = step(&planned, &setup, &registry, 1, || planned.bytes(), none).unwrap();
            let emulator = Arc::new(Emulator::new());
            let watched = Watched::new(emulator.clone());
            let gemm = watched.gemm(Box::new(HostGemm::new(emulator).unwrap()));
            let dev = Cuda::new(watched.clone(), gemm).unwrap();
            let handed_out =
                step(&dev, &setup, &registry, 1, || watched.bytes().0 as u64, none).unwrap();
            assert_eq!(counted, handed_out, "{preset}");
            assert_eq!(planned.peak_bytes(), counted.all, "nothing is held for a while only");
        }
    }
}
