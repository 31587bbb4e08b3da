//! `Trainer`: everything that a step touches, allocated once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use farthing_comm::{Comm, One};
use farthing_data::{Batch, LoadedBatch, LoaderIter, Rows};
use farthing_eval::{GptScorer, batches_of, bits_per_byte_on_ranks};
use farthing_kernels::{Device, Params, Tensor};
use farthing_model::{Mode, Workspace};
use farthing_optim::{Optimizers, Registry, shard};
use serde::{Deserialize, Serialize};

use crate::checkpoints::{Parts, agreed};
use crate::ranks::{exchange, gather_weights, sum_small};
use crate::{Checkpoints, Error, EvalRecord, Result, RunRecord, Setup, StepRecord};

/// Micro-batches that are made ahead of the one in use.
const AHEAD: usize = 2;

/// Where micro-batches come from, in order: all of a step's, then the next one's.
pub trait Batches {
    /// The next micro-batch, with the order of its inputs, valid until the next call; `None` after the last.
    ///
    /// # Errors
    /// The batch could not be made.
    fn next_batch(&mut self) -> Option<Result<&Batch>>;
}

/// Micro-batches of rows, made ahead by another thread: [`Trainer::batches`].
#[derive(Debug)]
pub struct Loaded {
    batches: LoaderIter,
    current: Option<LoadedBatch>,
}

impl Batches for Loaded {
    fn next_batch(&mut self) -> Option<Result<&Batch>> {
        // Given back first, so that its memory is at hand for another one.
        self.current = None;
        let next = self.batches.next()?.map_err(Error::from);
        Some(next.map(|batch| &**self.current.insert(batch)))
    }
}

/// The training's own numbers after a step. They are part of its checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Steps done.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Loss of the last step, nats per token.
    pub last_loss: f64,
    /// Bits per byte before the first step.
    pub first_bpb: f64,
    /// Bits per byte at the last evaluation.
    pub last_bpb: f64,
    /// The fewest bits per byte so far and the step after which they were measured, where the best weights are kept.
    pub best: Option<(f64, u64)>,
    /// Seconds since the start, over all attempts.
    pub seconds: f64,
    /// Of them, seconds inside steps.
    pub train_seconds: f64,
    /// Rows of the micro-batches before the last checkpoint; in other ones gradients are summed in another order. Absent before the first checkpoint.
    #[serde(default)]
    pub micro_batch_rows: Option<usize>,
    /// Ranks before the last checkpoint, for the same reason.
    #[serde(default)]
    pub ranks: Option<usize>,
}

/// Bytes on the device, of this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Weights, their copies of the compute type where there are any, and gradients.
    pub weights: u64,
    /// Optimizers' state, without their scratch.
    pub state: u64,
    /// Activations of a micro-batch and their gradients. Evaluations use them too.
    pub activations: u64,
}

/// A model in training: weights, gradients, optimizers, activations.
///
/// On several ranks each has a trainer of its own, and all call the same methods in the same order: a step's rows are shared out, gradients are summed, each rank
/// updates its part of the weights, and everything that is returned or decided is the same on all of them.
pub struct Trainer<'a> {
    dev: &'a dyn Device,
    comm: &'a dyn Comm,
    setup: Setup,
    params: Params,
    optimizers: Optimizers,
    workspace: Workspace,
    micro_batch_rows: usize,
    /// Each micro-batch's sum of losses, then each slab's sum of squares of the gradient that this rank has, on the device: read once in a step.
    sums: Tensor,
    progress: TrainerState,
    /// Whether other ranks' weights are as they were before the last update: they come in under the next step.
    behind: bool,
    /// When this attempt began, and the seconds of those before.
    begun: (Instant, f64),
}

impl<'a> Trainer<'a> {
    /// Allocates everything for micro-batches of `micro_batch_rows` rows. Weights are zero until [`Trainer::initialize`] or [`Trainer::restore`].
    ///
    /// # Errors
    /// [`Error::Recipe`] unless a step is a whole number of micro-batches; [`Error::Kernel`] when there is not the memory.
    pub fn new(
        dev: &'a dyn Device,
        setup: Setup,
        registry: &Registry,
        micro_batch_rows: usize,
    ) -> Result<Self> {
        Self::on_ranks(dev, &One, setup, registry, micro_batch_rows)
    }

    /// The same as one of the ranks that `comm` joins, each with a device of its own. Slabs are divided among them as [`shard`] says.
    ///
    /// # Errors
    /// As [`Trainer::new`]; [`Error::Recipe`] unless each rank has a whole number of micro-batches of a step.
    pub fn on_ranks(
        dev: &'a dyn Device,
        comm: &'a dyn Comm,
        setup: Setup,
        registry: &Registry,
        micro_batch_rows: usize,
    ) -> Result<Self> {
        let (rows, rank, ranks) = (setup.rows, comm.rank(), comm.ranks());
        if !rows.is_multiple_of(ranks) {
            return Err(Error::Recipe {
                what: format!("a step of {rows} rows on {ranks} ranks"),
                hint: format!("use a number of ranks that divides {rows}"),
            });
        }
        let own_rows = rows / ranks;
        if micro_batch_rows == 0 || !own_rows.is_multiple_of(micro_batch_rows) {
            let of = if ranks == 1 { "a step has" } else { "each rank's part of a step has" };
            return Err(Error::Recipe {
                what: format!("micro-batches of {micro_batch_rows} rows, but {of} {own_rows} rows"),
                hint: format!("use a divisor of {own_rows}"),
            });
        }
        let blocks = shard(registry, &setup.groups, &setup.slabs, rank, ranks)?;
        let params = Params::sharded(dev, setup.slabs.clone(), &blocks)?;
        let optimizers =
            Optimizers::new(registry, dev, &setup.groups, &setup.plan, &setup.schedule, &params)?;
        let tokens = setup.gpt.config().seq_len;
        let workspace = setup.gpt.workspace(dev, micro_batch_rows, tokens, Mode::Train)?;
        let sums = dev.master([own_rows / micro_batch_rows + setup.slabs.len()])?;
        let (progress, begun) = (TrainerState::default(), (Instant::now(), 0.0));
        Ok(Self {
            dev,
            comm,
            setup,
            params,
            optimizers,
            workspace,
            micro_batch_rows,
            sums,
            progress,
            behind: false,
            begun,
        })
    }

    /// Draws the first weights, each a function of (seed, name, index) alone.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn initialize(&mut self, seed: u64) -> Result<()> {
        self.setup.gpt.initialize(self.dev, &mut self.params, seed)?;
        gather_weights(self.dev, self.comm, &mut self.params)
    }

    /// Takes the first weights from a model's file instead, of the same sizes.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn load_weights(&mut self, path: &Path) -> Result<()> {
        let checkpoint = farthing_model::Checkpoint::open(path)?;
        checkpoint.load(&self.setup.gpt, self.dev, &mut self.params)?;
        gather_weights(self.dev, self.comm, &mut self.params)
    }

    /// This rank's micro-batches of the steps that are left, from rows in an order that depends on the seed and the step alone, made ahead by another thread.
    ///
    /// What is wrong with the rows, such as another length than the recipe's, comes in place of the first batch.
    pub fn batches(&self, rows: &Rows, seed: u64) -> Loaded {
        let config = self.setup.gpt.config();
        let batches = rows
            .batches(self.setup.rows)
            .seed(seed)
            .from_step(self.progress.step)
            .until_step(self.setup.plan.steps)
            .rank(self.comm.rank(), self.comm.ranks())
            .micro_batches(self.micro_batch_rows)
            .context(config.seq_len)
            .vocab(config.vocab_size)
            .sorted()
            .ahead(AHEAD);
        Loaded { batches: batches.into_iter(), current: None }
    }

    /// One update from the next micro-batches, as many as this rank has of a step.
    ///
    /// # Numerics
    /// The loss is the mean over the step's targets that are learned, over all of its micro-batches and ranks: all tokens, unless batches say otherwise ([`Batch::learned_in_step`]). A step without any
    /// changes no weight; gradients are summed micro-batch by micro-batch and then in the order of ranks, the norm slab by slab in f64. The same
    /// number of ranks and rows gives the same bits; another one sums in another order.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the loss or the gradient's norm is no number; then nothing was updated. [`Error::BatchesEnded`]; what the batches, the model
    /// and the device say.
    ///
    /// # Cost
    /// The host waits for the device once, before the update.
    /// [`flops_per_token`](farthing_model::GptConfig::flops_per_token) for each token and what the optimizers do. Nothing is allocated on the device.
    pub fn step(&mut self, batches: &mut dyn Batches) -> Result<StepRecord> {
        let started = Instant::now();
        let (t, batch_tokens) = (self.progress.step, self.setup.plan.batch_tokens);
        let (loss, grad_norm, learns) = self.gradients(batches)?;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(Error::NotFinite { step: t + 1, loss, grad_norm });
        }
        let factors = if learns {
            let factors = self.optimizers.step(self.dev, &mut self.params, t)?;
            self.params.refresh_compute(self.dev)?;
            self.behind = self.comm.ranks() > 1;
            factors
        } else {
            self.setup.schedule.at(t, self.setup.plan.steps)
        };
        let seconds = started.elapsed().as_secs_f64();
        let progress = &mut self.progress;
        progress.step += 1;
        progress.tokens += batch_tokens;
        progress.last_loss = loss;
        progress.train_seconds += seconds;
        progress.seconds = self.begun.1 + self.begun.0.elapsed().as_secs_f64();
        Ok(StepRecord {
            step: progress.step,
            loss: Some(loss),
            grad_norm: Some(grad_norm),
            lr: Some(factors.lr),
            momentum: Some(factors.momentum),
            weight_decay: Some(factors.weight_decay),
            tokens: Some(progress.tokens),
            tokens_per_s: Some(batch_tokens as f64 / seconds),
            seconds: Some(progress.seconds),
        })
    }

    /// Gathers the weights that other ranks have updated.
    fn catch_up(&mut self) -> Result<()> {
        if std::mem::take(&mut self.behind) {
            gather_weights(self.dev, self.comm, &mut self.params)?;
        }
        Ok(())
    }

    /// The gradient of the next micro-batches' mean loss; returns the loss, the gradient's norm, and whether any target is learned.
    fn gradients(&mut self, batches: &mut dyn Batches) -> Result<(f64, f64, bool)> {
        let Self { dev, comm, setup, params, workspace, sums, micro_batch_rows, .. } = self;
        let (dev, comm) = (*dev, *comm);
        params.zero_grads(dev)?;
        let mut targets = setup.plan.batch_tokens;
        let scale_of = |targets: u64| if targets == 0 { 0.0 } else { 1.0 / targets as f64 };
        let wanted = setup.rows / comm.ranks() / *micro_batch_rows;
        let gather = std::mem::take(&mut self.behind);
        exchange(dev, comm, params, gather, |weights, leaving| {
            for got in 0..wanted {
                let step = self.progress.step + 1;
                let batch =
                    batches.next_batch().ok_or(Error::BatchesEnded { step, got, wanted })??;
                if batch.rows() != *micro_batch_rows {
                    return Err(Error::Recipe {
                        what: format!(
                            "a micro-batch of {} rows, expected {micro_batch_rows}",
                            batch.rows()
                        ),
                        hint: "make batches of the trainer's `micro_batch_rows`".into(),
                    });
                }
                if got + 1 == wanted {
                    leaving.last();
                }
                targets = batch.learned_in_step().unwrap_or(setup.plan.batch_tokens);
                let (grads, scale) = (&mut leaving.grads(), scale_of(targets));
                setup.gpt.forward_backward(dev, weights, grads, workspace, batch, scale)?;
                workspace.sum_losses(dev, sums.view_mut().rows(got..got + 1)?)?;
            }
            Ok(())
        })?;
        sum_small(dev, comm, params)?;
        let slabs = params.specs().len();
        for slab in 0..slabs {
            // What every rank has is counted once.
            let counted = params.blocks(slab).is_whole() && comm.rank() == 0
                || !params.blocks(slab).is_whole() && params.blocks(slab).own() > 0;
            if counted {
                let square = sums.view_mut().rows(wanted + slab..wanted + slab + 1)?;
                dev.sum_squares(square, params.slab(slab).grad.view())?;
            }
        }
        // The only time in a step that the host waits for the device.
        let sums = comm.exchange(&dev.read_f64(sums.view())?)?;
        let ranks: Vec<(&[f64], &[f64])> =
            sums.chunks_exact(wanted + slabs).map(|rank| rank.split_at(wanted)).collect();
        let scale = scale_of(targets);
        let losses = ranks.iter().flat_map(|(losses, _)| *losses);
        let loss = losses.fold(0.0, |loss, sum| loss + sum * scale);
        let square = |slab: usize| ranks.iter().map(|(_, squares)| squares[slab]).sum::<f64>();
        Ok((loss, (0..slabs).map(square).sum::<f64>().sqrt(), targets > 0))
    }

    /// Bits per byte of the first held-out rows, at most `tokens` tokens of them, in the activations' memory. `token_bytes` has each token's raw bytes, 0 for special tokens.
    ///
    /// # Errors
    /// [`Error::Eval`].
    ///
    /// # Cost
    /// A forward pass over the tokens, which the ranks share. Nothing is allocated on the device, unless rows are longer than those that are trained on.
    pub fn evaluate(
        &mut self,
        held_out: &Rows,
        token_bytes: &[u32],
        tokens: u64,
    ) -> Result<EvalRecord> {
        self.catch_up()?;
        let Self { dev, comm, setup, params, workspace, micro_batch_rows, .. } = self;
        let mut scorer = GptScorer::within(&setup.gpt, *dev, params, workspace);
        let row = (held_out.row_tokens() as u64).saturating_sub(1).max(1);
        let rows = held_out.len().min(tokens / row);
        let result = bits_per_byte_on_ranks(
            *comm,
            &mut scorer,
            batches_of(held_out, 0..rows, *micro_batch_rows),
            token_bytes,
            tokens,
            &mut farthing_data::Silent,
        )?;
        let progress = &mut self.progress;
        progress.last_bpb = result.bits_per_byte;
        if progress.step == 0 {
            progress.first_bpb = result.bits_per_byte;
        }
        let val_loss = result.nats / result.targets as f64;
        let (val_bpb, val_loss) = (Some(result.bits_per_byte), Some(val_loss));
        Ok(EvalRecord { step: progress.step, val_bpb, val_loss })
    }

    /// Writes a checkpoint to go on from, and deletes older ones as `to` says. It appears whole or not at all, and goes on on any number of ranks.
    ///
    /// # Errors
    /// [`Error::Model`] when it cannot be written, [`Error::Io`] when an old one cannot be deleted.
    pub fn save(&mut self, to: &Checkpoints) -> Result<()> {
        self.progress.micro_batch_rows = Some(self.micro_batch_rows);
        self.progress.ranks = Some(self.comm.ranks());
        let progress = self.progress;
        self.parts().save(to, &progress)
    }

    fn parts(&mut self) -> Parts<'_> {
        let Self { dev, comm, setup, params, optimizers, .. } = self;
        Parts { dev: *dev, comm: *comm, gpt: &setup.gpt, params, optimizers, plan: &setup.plan }
    }

    /// Goes on from the newest checkpoint that is whole; says whether there was one. Those passed over are renamed to `.refused`, each with a word to `log`.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read.
    pub fn restore(&mut self, from: &Checkpoints, mut log: impl FnMut(&Error)) -> Result<bool> {
        let mut found = None;
        if self.comm.rank() == 0 {
            for path in from.newest_first()? {
                match self.parts().load(&path) {
                    Ok(progress) => {
                        found = Some((path, progress));
                        break;
                    }
                    Err(e) => {
                        log(&e);
                        Checkpoints::refuse(&path)?;
                    }
                }
            }
        }
        // Rank 0 chooses, and has read the file already.
        let chosen = agreed(self.comm, found.as_ref().map(|(path, _)| path.clone()))?;
        let Some(chosen) = chosen else { return Ok(false) };
        let progress = match found {
            Some((_, progress)) => progress,
            None => self.parts().load(&chosen)?,
        };
        self.behind = false;
        gather_weights(self.dev, self.comm, &mut self.params)?;
        self.progress = progress;
        self.begun = (Instant::now(), progress.seconds);
        Ok(true)
    }

    /// Writes the weights alone.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn save_weights(&mut self, path: &Path) -> Result<()> {
        let step = self.progress.step;
        self.parts().write(path, step, false, &BTreeMap::new())
    }

    /// Keeps the weights with `kept`, if the last evaluation found the fewest bits per byte so far. After a cut-off they may be there already, from a step that the
    /// checkpoint did not know of: they are written again, the same.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn keep_best(&mut self, kept: &Checkpoints) -> Result<()> {
        let TrainerState { step, last_bpb, best, .. } = self.progress;
        if best.is_none_or(|(best, _)| last_bpb < best) {
            self.save_weights(&kept.best(step))?;
            self.progress.best = Some((last_bpb, step));
        }
        Ok(())
    }

    /// What is about to be trained, for the metrics; `config` is whatever the caller knows it by.
    pub fn describe(&self, config: serde_json::Value) -> RunRecord {
        let setup = &self.setup;
        let model = setup.gpt.config();
        RunRecord {
            config,
            model: serde_json::to_value(model).unwrap_or_default(),
            parameters: setup.summary.iter().map(|g| (g.name.clone(), g.elements)).collect(),
            lr: setup.summary.iter().map(|g| (g.name.clone(), g.lr)).collect(),
            seed: None,
            tokens: Some(setup.plan.trained_tokens()),
            steps: Some(setup.plan.steps),
            batch_tokens: Some(setup.plan.batch_tokens),
            flops_per_token: Some(model.flops_per_token()),
        }
    }

    /// What is trained.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The weights; those of other ranks come here first.
    ///
    /// # Errors
    /// [`Error::Comm`](crate::Error::Comm).
    pub fn params(&mut self) -> Result<&Params> {
        self.catch_up()?;
        Ok(&self.params)
    }

    /// The training's own numbers.
    pub fn progress(&self) -> &TrainerState {
        &self.progress
    }

    /// Rows of a micro-batch.
    pub fn micro_batch_rows(&self) -> usize {
        self.micro_batch_rows
    }

    /// Bytes of all tensors on the device.
    pub fn bytes(&mut self) -> Bytes {
        let of = |tensor: &Tensor| tensor.bytes() as u64;
        Bytes {
            weights: self.params.bytes() as u64,
            state: self.optimizers.state().iter().map(|state| of(state.tensor)).sum(),
            activations: self.workspace.bytes() as u64,
        }
    }
}
