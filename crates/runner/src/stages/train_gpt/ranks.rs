//! Lets one rank lead and the others follow. The first rank announces every call to its trainer before making it, and each of the others makes the same call. Only the first rank needs a loop and a
//! screen, and every decision is made once.

use std::path::{Path, PathBuf};

use anyhow::Context;
use farthing_comm::Comm;
use farthing_data::{Rows, Tokenizer};
use farthing_train::{Checkpoints, Error, EvalRecord, Loaded, StepRecord, Trainer};
use serde::{Deserialize, Serialize};

use super::run::Task;
use crate::Result;

/// What the first rank calls next.
#[derive(Serialize, Deserialize)]
enum Call {
    Restore,
    Initialize,
    LoadWeights(PathBuf),
    Step,
    Evaluate,
    Save,
    SaveWeights(PathBuf),
    KeepBest,
    End,
}

/// What every rank is given.
pub(super) struct Shared {
    pub(super) train: Rows,
    pub(super) val: Rows,
    pub(super) token_bytes: Vec<u32>,
    /// Tokens of an evaluation.
    pub(super) tokens: u64,
    pub(super) seed: u64,
    pub(super) checkpoints: Checkpoints,
}

impl Shared {
    pub(super) fn new(task: &Task, train: Rows, val: Rows, tokenizer: &Tokenizer) -> Self {
        Self {
            train,
            val,
            token_bytes: tokenizer.token_bytes(),
            tokens: task.tokens,
            seed: task.seed,
            checkpoints: Checkpoints::new(task.checkpoints.clone(), task.keep_checkpoints),
        }
    }
}

/// A trainer, and what joins it to those of other ranks.
pub(super) struct Rank<'a> {
    pub(super) trainer: Trainer<'a>,
    pub(super) comm: &'a dyn Comm,
    pub(super) shared: &'a Shared,
    batches: Option<Loaded>,
}

/// The calls of the first rank. Those of a job of one rank are announced to nobody.
impl<'a> Rank<'a> {
    pub(super) fn new(trainer: Trainer<'a>, comm: &'a dyn Comm, shared: &'a Shared) -> Self {
        Self { trainer, comm, shared, batches: None }
    }

    fn announce(&self, call: &Call) -> Result<()> {
        if self.comm.ranks() > 1 {
            self.comm.broadcast(&serde_json::to_vec(call)?).map_err(Error::from)?;
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, log: impl FnMut(&Error)) -> Result<bool> {
        self.announce(&Call::Restore)?;
        Ok(self.trainer.restore(&self.shared.checkpoints, log)?)
    }

    pub(super) fn initialize(&mut self) -> Result<()> {
        self.announce(&Call::Initialize)?;
        Ok(self.trainer.initialize(self.shared.seed)?)
    }

    pub(super) fn load_weights(&mut self, path: &Path) -> Result<()> {
        self.announce(&Call::LoadWeights(path.to_owned()))?;
        Ok(self.trainer.load_weights(path)?)
    }

    /// Also what stops a training by itself, which the caller tells from other failures.
    pub(super) fn step(&mut self) -> Result<Result<StepRecord, Error>> {
        self.announce(&Call::Step)?;
        let Shared { train, seed, .. } = self.shared;
        let batches = self.batches.take().unwrap_or_else(|| self.trainer.batches(train, *seed));
        Ok(self.trainer.step(self.batches.insert(batches)))
    }

    pub(super) fn evaluate(&mut self) -> Result<EvalRecord> {
        self.announce(&Call::Evaluate)?;
        let Shared { val, token_bytes, tokens, .. } = self.shared;
        Ok(self.trainer.evaluate(val, token_bytes, *tokens)?)
    }

    pub(super) fn save(&mut self) -> Result<()> {
        self.announce(&Call::Save)?;
        Ok(self.trainer.save(&self.shared.checkpoints)?)
    }

    pub(super) fn save_weights(&mut self, path: &Path) -> Result<()> {
        self.announce(&Call::SaveWeights(path.to_owned()))?;
        Ok(self.trainer.save_weights(path)?)
    }

    pub(super) fn keep_best(&mut self) -> Result<()> {
        self.announce(&Call::KeepBest)?;
        Ok(self.trainer.keep_best(&self.shared.checkpoints)?)
    }

    /// Lets the others go.
    pub(super) fn end(&self) -> Result<()> {
        self.announce(&Call::End)
    }

    /// Does as the first rank says, until it is done or gone.
    pub(super) fn follow(mut self) -> Result<()> {
        loop {
            let said = self.comm.broadcast(&[]).map_err(Error::from)?;
            let call = serde_json::from_slice(&said).context("reading what rank 0 said")?;
            let comm = std::mem::replace(&mut self.comm, &farthing_comm::One);
            // With nobody to announce to, the calls are the first rank's own.
            let done = match call {
                Call::Restore => self.restore(|_| {}).map(drop),
                Call::Initialize => self.initialize(),
                Call::LoadWeights(path) => self.load_weights(&path),
                Call::Step => self.step().and_then(|step| Ok(step.map(drop)?)),
                Call::Evaluate => self.evaluate().map(drop),
                Call::Save => self.save(),
                Call::SaveWeights(path) => self.save_weights(&path),
                Call::KeepBest => self.keep_best(),
                Call::End => return Ok(()),
            };
            self.comm = comm;
            done?;
        }
    }
}
