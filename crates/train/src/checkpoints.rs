//! What survives a kill: checkpoints of weights, optimizer state and the training's own numbers. Each appears whole, by rename; the
//! last few are kept, and one that is damaged is passed over for the one before it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use farthing_kernels::{Device, Params};
use farthing_model::{Checkpoint, Extra, Gpt, STATE_PREFIX, save_model};
use farthing_optim::Optimizers;

use crate::{Error, Progress, Result};

/// The name of a trained model's file.
pub const MODEL_FILE: &str = "model.safetensors";

/// The metadata that has the training's own numbers.
const STATE: &str = "farthing.train";
const PREFIX: &str = "step-";
const BEST: &str = "best-";
const SUFFIX: &str = ".safetensors";

/// A folder of a training's checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: NonZeroUsize,
}

impl Checkpoints {
    /// A folder that is there, of which the newest `keep` checkpoints are kept.
    pub fn new(dir: impl Into<PathBuf>, keep: NonZeroUsize) -> Self {
        Self { dir: dir.into(), keep }
    }

    /// Where the best weights are, those after `step` steps.
    pub fn best(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{BEST}{step:010}{SUFFIX}"))
    }

    /// The newest checkpoint of fewer than `steps` steps, unopened. Weights are known to be good once a step has begun with them
    /// and its loss was a number.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn newest_before(&self, steps: u64) -> Result<Option<PathBuf>> {
        let all = self.list(PREFIX)?;
        Ok(all.into_iter().rev().find(|(step, _)| *step < steps).map(|(_, path)| path))
    }

    pub(crate) fn newest_first(&self) -> Result<impl Iterator<Item = PathBuf> + use<>> {
        Ok(self.list(PREFIX)?.into_iter().rev().map(|(_, path)| path))
    }

    /// Puts a checkpoint aside, so that it does not count as the newest when old ones are deleted.
    pub(crate) fn refuse(path: &Path) -> Result<()> {
        let aside = path.with_extension("refused");
        std::fs::rename(path, aside).map_err(io("renaming", path))
    }

    /// The files of a prefix, by step.
    fn list(&self, prefix: &str) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(io("listing", &self.dir))? {
            let path = entry.map_err(io("listing", &self.dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let step = name.strip_prefix(prefix).and_then(|n| n.strip_suffix(SUFFIX));
            if let Some(step) = step.and_then(|s| s.parse().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Writes the state after `progress.step` steps, and deletes all but the newest checkpoints.
pub(crate) fn save(
    to: &Checkpoints,
    dev: &dyn Device,
    gpt: &Gpt,
    params: &Params,
    optimizers: &mut Optimizers,
    progress: &Progress,
) -> Result<()> {
    let tensors = optimizers.state();
    let extra: Vec<Extra<'_>> = tensors
        .iter()
        .map(|(name, t)| Extra { name: format!("{STATE_PREFIX}{name}"), tensor: t.view() })
        .collect();
    let path = to.dir.join(format!("{PREFIX}{:010}{SUFFIX}", progress.step));
    let numbers = serde_json::to_string(progress)
        .map_err(|e| Error::NoTraining { path: path.clone(), what: e.to_string() })?;
    let metadata = BTreeMap::from([(STATE.to_owned(), numbers)]);
    save_model(&path, gpt, dev, params.weights(), progress.step, &extra, &metadata)?;
    let old = to.list(PREFIX)?.into_iter().rev().skip(to.keep.get());
    // The best so far stays; an earlier best is needed no more once a checkpoint knows of this one.
    let best = progress.best.map(|(_, step)| step);
    let worse = to.list(BEST)?.into_iter().filter(|(step, _)| Some(*step) != best);
    for (_, old) in old.chain(worse) {
        std::fs::remove_file(&old).map_err(io("deleting", &old))?;
    }
    Ok(())
}

/// Restores weights and optimizer state; returns the training's own numbers.
pub(crate) fn load(
    path: &Path,
    dev: &dyn Device,
    gpt: &Gpt,
    params: &mut Params,
    optimizers: &mut Optimizers,
) -> Result<Progress> {
    let checkpoint = Checkpoint::open(path)?;
    let lacks = |what: String| Error::NoTraining { path: path.to_owned(), what };
    let numbers =
        checkpoint.metadata(STATE).ok_or_else(|| lacks("holds no training state".into()))?;
    let progress = serde_json::from_str(numbers)
        .map_err(|e| lacks(format!("the training state cannot be read: {e}")))?;
    checkpoint.load(gpt, dev, params)?;
    for (name, tensor) in optimizers.state() {
        checkpoint.load_state(&format!("{STATE_PREFIX}{name}"), dev, tensor.view_mut())?;
    }
    Ok(progress)
}
