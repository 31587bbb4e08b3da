//! Checkpoints that survive a kill: weights, optimizer state and the trainer's own numbers. A checkpoint is written under another name and renamed when it is complete. The last few are kept; if
//! the newest is damaged, the one before it is used.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use farthing_base::tensors::TensorFile;
use farthing_comm::Comm;
use farthing_kernels::{Blocks, Device, Params};
use farthing_model::{Checkpoint, CheckpointWriter, Gpt, STATE_PREFIX};
use farthing_optim::{Optimizers, Plan, State};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ranks::Collector;
use crate::{Error, Result, TrainerState};

/// The name of a trained model's file.
pub const MODEL_FILE: &str = "model.safetensors";

/// The metadata that has the training's own numbers.
const STATE: &str = "farthing.train";
/// The metadata that has the plan in words; absent in checkpoints of older versions.
const PLAN: &str = "farthing.plan";
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

    /// Rows of the micro-batches before the newest checkpoint that can be read: what to go on with, where nothing is said. None where there is no checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn micro_batch_rows(&self) -> Result<Option<usize>> {
        let progress = |path: PathBuf| -> Option<TrainerState> {
            serde_json::from_str(TensorFile::peek(&path).ok()?.metadata(STATE)?).ok()
        };
        Ok(self.newest_first()?.find_map(progress).and_then(|progress| progress.micro_batch_rows))
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

/// What a training is made of, for its checkpoints.
pub(crate) struct Parts<'a> {
    pub(crate) dev: &'a dyn Device,
    pub(crate) comm: &'a dyn Comm,
    pub(crate) gpt: &'a Gpt,
    pub(crate) params: &'a mut Params,
    pub(crate) optimizers: &'a mut Optimizers,
    pub(crate) plan: &'a Plan,
}

/// What a checkpoint says of the plan that it is of.
fn words(plan: &Plan) -> String {
    format!("{} steps of {} tokens", plan.steps, plan.batch_tokens)
}

/// A state tensor's name, elements, and elements of a block: what other ranks must know of it.
type Listed = (String, usize, usize);

impl Parts<'_> {
    /// Writes the state after `progress.step` steps, and deletes all but the newest checkpoints. Every rank sends what it has, rank 0 writes: the file is the same
    /// whatever the number of ranks.
    pub(crate) fn save(&mut self, to: &Checkpoints, progress: &TrainerState) -> Result<()> {
        let path = to.dir.join(format!("{PREFIX}{:010}{SUFFIX}", progress.step));
        let numbers = serde_json::to_string(progress)
            .map_err(|e| Error::NoTraining { path: path.clone(), what: e.to_string() })?;
        let metadata =
            BTreeMap::from([(STATE.to_owned(), numbers), (PLAN.to_owned(), words(self.plan))]);
        self.write(&path, progress.step, true, &metadata)?;
        if self.comm.rank() != 0 {
            return Ok(());
        }
        let old = to.list(PREFIX)?.into_iter().rev().skip(to.keep.get());
        // The best so far stays; an earlier best is needed no more once a checkpoint knows of this one.
        let best = progress.best.map(|(_, step)| step);
        let worse = to.list(BEST)?.into_iter().filter(|(step, _)| Some(*step) != best);
        for (_, old) in old.chain(worse) {
            std::fs::remove_file(&old).map_err(io("deleting", &old))?;
        }
        Ok(())
    }

    /// Writes the weights, and the optimizers' state where that is wanted.
    pub(crate) fn write(
        &mut self,
        path: &Path,
        step: u64,
        with_state: bool,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        let Self { dev, comm, gpt, params, optimizers, .. } = self;
        let states = if with_state { optimizers.state() } else { vec![] };
        let listed: Vec<Listed> = states
            .iter()
            .map(|s| (s.name.clone(), s.blocks.elements(), s.blocks.block()))
            .collect();
        let listed: Vec<Listed> = agreed(*comm, listed)?;
        let writer = if comm.rank() == 0 {
            let names: Vec<String> =
                states.iter().map(|s| format!("{STATE_PREFIX}{}", s.name)).collect();
            let extra: Vec<_> = names
                .iter()
                .zip(&states)
                .map(|(name, s)| (name.as_str(), s.tensor.dtype(), s.shape))
                .collect();
            let dtype = dev.master_dtype();
            Some(CheckpointWriter::create(path, gpt, dtype, step, &extra, metadata)?)
        } else {
            None
        };
        let mut all = Collector { dev: *dev, comm: *comm, writer };
        for spec in gpt.params() {
            let (slab, range) = params.place(spec.id)?;
            all.write(params.blocks(slab), range, Some(params.own_master(slab)?))?;
        }
        for (name, elements, block) in listed {
            let blocks = Blocks::of(elements, block, comm.rank(), comm.ranks());
            let own = states.iter().find(|s| s.name == name).map(|s| s.tensor.view());
            let own = own.map(|own| own.reshape([own.shape().elements()])).transpose()?;
            all.write(blocks, 0..elements, own)?;
        }
        all.writer.map_or(Ok(()), |writer| Ok(writer.finish()?))
    }

    /// Restores what this rank has of weights and optimizer state; returns the training's own numbers. Whatever is refused is refused before
    /// anything is written.
    pub(crate) fn load(&mut self, path: &Path) -> Result<TrainerState> {
        let Self { dev, gpt, params, optimizers, plan, .. } = self;
        let checkpoint = Checkpoint::open(path)?;
        let lacks = |what: String| Error::NoTraining { path: path.to_owned(), what };
        let numbers =
            checkpoint.metadata(STATE).ok_or_else(|| lacks("holds no training state".into()))?;
        let progress: TrainerState = serde_json::from_str(numbers)
            .map_err(|e| lacks(format!("the training state cannot be read: {e}")))?;
        let other = |what: String| Error::OtherTraining { path: path.to_owned(), what };
        if checkpoint.config() != gpt.config() {
            // Which tensor, where that tells them apart.
            checkpoint.check(gpt)?;
            return Err(other("it is of a model of another configuration".into()));
        }
        let (here, there) = (words(plan), checkpoint.metadata(PLAN));
        if let Some(there) = there.filter(|there| *there != here) {
            return Err(other(format!("it is of a training of {there}, this one is of {here}")));
        }
        if progress.step > plan.steps || progress.step != checkpoint.step() {
            let what = format!(
                "its state is of step {}, its weights are of step {}, and the training has {}",
                progress.step,
                checkpoint.step(),
                plan.steps
            );
            return Err(other(what));
        }
        for State { name, shape, .. } in optimizers.state() {
            checkpoint.check_state(&format!("{STATE_PREFIX}{name}"), shape)?;
        }
        checkpoint.load(gpt, *dev, params)?;
        for State { name, shape, blocks, tensor } in optimizers.state() {
            let name = format!("{STATE_PREFIX}{name}");
            let own = if blocks.is_whole() { blocks.elements() } else { blocks.own() };
            let (mut at, mut tensor) = (0, tensor.view_mut().reshape([own])?);
            for range in blocks.own_blocks() {
                let dst = tensor.reborrow().rows(at..at + range.len())?;
                at += range.len();
                checkpoint.load_state_part(&name, shape, range, *dev, dst)?;
            }
        }
        Ok(progress)
    }
}

/// Rank 0's value, on every rank.
pub(crate) fn agreed<T: Serialize + DeserializeOwned>(comm: &dyn Comm, own: T) -> Result<T> {
    if comm.ranks() == 1 {
        return Ok(own);
    }
    let unreadable = |e: serde_json::Error| Error::Message { what: e.to_string() };
    let bytes = serde_json::to_vec(&own).map_err(unreadable)?;
    serde_json::from_slice(&comm.broadcast(&bytes)?).map_err(unreadable)
}
