//! What survives a kill: checkpoints of weights, optimizer state and the loop's own numbers. Each appears whole, by rename; the
//! last few are kept, and one that is damaged is passed over for the one before it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use farthing_kernels::{Device, Params};
use farthing_model::{Checkpoint, Extra, Gpt, STATE_PREFIX, save_model};
use farthing_optim::Optimizers;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The file of a trained model in a checkpoint port.
pub const MODEL_FILE: &str = "model.safetensors";

const STATE: &str = "farthing.train";
const PREFIX: &str = "step-";
const BEST: &str = "best-";
const SUFFIX: &str = ".safetensors";

/// The loop's own numbers after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainState {
    /// Steps done.
    pub(super) step: u64,
    /// Tokens trained on.
    pub(super) tokens: u64,
    /// Loss of the last step, nats per token.
    pub(super) last_loss: f64,
    /// Bits per byte before the first step.
    pub(super) first_bpb: f64,
    /// Bits per byte at the last evaluation.
    pub(super) last_bpb: f64,
    /// The fewest bits per byte so far and the step after which they were measured, where the best weights are kept.
    pub(super) best: Option<(f64, u64)>,
    /// Seconds since the start, over all attempts.
    pub(super) seconds: f64,
    /// Of them, seconds inside steps.
    pub(super) train_seconds: f64,
}

/// Writes the state after `state.step` steps, and deletes all but the newest `keep` checkpoints.
pub(super) fn save(
    dir: &Path,
    dev: &dyn Device,
    gpt: &Gpt,
    params: &Params,
    optimizers: &mut Optimizers,
    state: &TrainState,
    keep: NonZeroUsize,
) -> Result<()> {
    let tensors = optimizers.state();
    let extra: Vec<Extra<'_>> = tensors
        .iter()
        .map(|(name, t)| Extra { name: format!("{STATE_PREFIX}{name}"), tensor: t.view() })
        .collect();
    let metadata = BTreeMap::from([(STATE.to_owned(), serde_json::to_string(state)?)]);
    let path = dir.join(format!("{PREFIX}{:010}{SUFFIX}", state.step));
    save_model(&path, gpt, dev, params.weights(), state.step, &extra, &metadata)?;
    let old = list(dir, PREFIX)?.into_iter().rev().skip(keep.get());
    // The best so far stays; an earlier best is needed no more once a checkpoint knows of this one.
    let best = state.best.map(|(_, step)| step);
    let worse = list(dir, BEST)?.into_iter().filter(|(step, _)| Some(*step) != best);
    for (_, old) in old.chain(worse) {
        std::fs::remove_file(&old).with_context(|| format!("deleting {}", old.display()))?;
    }
    Ok(())
}

/// Writes the weights alone, as the best so far.
pub(super) fn save_best(
    dir: &Path,
    dev: &dyn Device,
    gpt: &Gpt,
    params: &Params,
    step: u64,
) -> Result<()> {
    let path = dir.join(format!("{BEST}{step:010}{SUFFIX}"));
    Ok(save_model(&path, gpt, dev, params.weights(), step, &[], &BTreeMap::new())?)
}

/// Copies the best weights, those of `step`, to where the stage's output belongs.
pub(super) fn keep_best(dir: &Path, step: u64, out: &Path) -> Result<()> {
    let from = dir.join(format!("{BEST}{step:010}{SUFFIX}"));
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    std::fs::copy(&from, out.join(MODEL_FILE))
        .with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// Writes the trained weights alone.
pub(super) fn save_final(
    dir: &Path,
    dev: &dyn Device,
    gpt: &Gpt,
    params: &Params,
    step: u64,
) -> Result<()> {
    let path = dir.join(MODEL_FILE);
    Ok(save_model(&path, gpt, dev, params.weights(), step, &[], &BTreeMap::new())?)
}

/// Restores the newest checkpoint that is whole; `None` when there is none. Those passed over are renamed to `.refused`.
pub(super) fn load_newest(
    dir: &Path,
    dev: &dyn Device,
    gpt: &Gpt,
    params: &mut Params,
    optimizers: &mut Optimizers,
    log: impl Fn(String),
) -> Result<Option<TrainState>> {
    for (_, path) in list(dir, PREFIX)?.into_iter().rev() {
        match load(&path, dev, gpt, params, optimizers) {
            Ok(state) => return Ok(Some(state)),
            Err(e) => {
                log(format!("passing over a checkpoint: {}", crate::failure::in_full(&e)));
                // It must not count as the newest when old ones are deleted.
                let aside = path.with_extension("refused");
                std::fs::rename(&path, &aside)
                    .with_context(|| format!("renaming {}", path.display()))?;
            }
        }
    }
    Ok(None)
}

/// The newest checkpoint of fewer than `steps` steps, unopened. Weights are known to be good once a step has begun with them
/// and its loss was a number.
pub(super) fn newest_before(dir: &Path, steps: u64) -> Result<Option<PathBuf>> {
    Ok(list(dir, PREFIX)?.into_iter().rev().find(|(step, _)| *step < steps).map(|(_, path)| path))
}

fn load(
    path: &Path,
    dev: &dyn Device,
    gpt: &Gpt,
    params: &mut Params,
    optimizers: &mut Optimizers,
) -> Result<TrainState> {
    let checkpoint = Checkpoint::open(path)?;
    let state = checkpoint
        .metadata(STATE)
        .with_context(|| format!("{} holds no training state", path.display()))?;
    let state: TrainState = serde_json::from_str(state)
        .with_context(|| format!("the training state in {}", path.display()))?;
    checkpoint.load(gpt, dev, params)?;
    for (name, tensor) in optimizers.state() {
        checkpoint.load_state(&format!("{STATE_PREFIX}{name}"), dev, tensor.view_mut())?;
    }
    Ok(state)
}

/// The files of a prefix in a folder, by step.
fn list(dir: &Path, prefix: &str) -> Result<Vec<(u64, PathBuf)>> {
    let about = || format!("listing {}", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(about)? {
        let path = entry.with_context(about)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let step = name.strip_prefix(prefix).and_then(|n| n.strip_suffix(SUFFIX));
        if let Some(step) = step.and_then(|s| s.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}
