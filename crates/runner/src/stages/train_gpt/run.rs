//! The training loop with its screen and files: metrics, evaluations, checkpoints and resumption. What a step is, [`farthing_train`] knows.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use farthing_base::Hint;
use farthing_comm::Job;
use farthing_data::{Rows, Tokenizer};
use farthing_kernels::Device;
use farthing_model::GptConfig;
use farthing_optim::Registry;
use farthing_train::{
    Checkpoints, Error, EvalRecord, FinalRecord, Finetune, MODEL_FILE, Recipe, Record, RunRecord,
    Setup, Trainer, TrainerState,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::begin;
use super::config::{EvaluateConfig, MicroRows, Precision, TrainConfig, TrainExec};
use super::ranks::{Rank, Shared};
use super::room::Sizes;
use crate::crew;
use crate::progress::format::count;
use crate::stages::seat::{self, Seat};
use crate::stages::{self, TOKENIZER_FILE};
use crate::{Cancelled, Ctx, Extras, Lacking, PlanCtx, RankEngine, Resources, Result};

/// What is learned, as far as it fixes the model and its steps.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Learn {
    /// A model, from its beginning.
    Text(Recipe),
    /// More, by a model that exists.
    Chat(GptConfig, Finetune),
}

impl Learn {
    /// What is fixed before the first step.
    pub(crate) fn setup(&self, registry: &Registry, vocab: usize, seq_len: usize) -> Result<Setup> {
        Ok(match self {
            Self::Text(recipe) => Setup::new(recipe, registry, vocab, seq_len)?,
            Self::Chat(model, how) => Setup::finetune(model.clone(), how, registry)?,
        })
    }
}

/// What all ranks are told of a training; those in other processes have nothing else.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    learn: Learn,
    precision: Option<Precision>,
    /// Tokens of an evaluation.
    pub(super) tokens: u64,
    resources: Resources,
    micro_rows: MicroRows,
    /// Rows of the micro-batches before the checkpoint that is gone on from.
    again: Option<usize>,
    pub(super) seed: u64,
    train: PathBuf,
    val: PathBuf,
    bpe: PathBuf,
    pub(super) checkpoints: PathBuf,
    pub(super) keep_checkpoints: NonZeroUsize,
}

/// What a training on several ranks lacks before anything runs: GPUs, a launcher, libraries.
pub(crate) fn preflight(
    precision: Option<Precision>,
    resources: &Resources,
    ctx: &PlanCtx,
) -> Result<()> {
    let how = format!("precision {precision:?}");
    seat::preflight(resources, ctx, &how, |rank| super::device(precision, resources, rank))?;
    #[cfg(feature = "nvidia")]
    if resources.all_ranks() > 1 && resources.engine == RankEngine::Nccl {
        farthing_comm::Nccl::find().map_err(|e| Lacking(e.with_hint()))?;
    }
    Ok(())
}

pub(super) fn run(config: &TrainConfig, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
    let extras = Arc::clone(&ctx.extras);
    let registry = super::registry(&extras)?;
    let tokenizer = stages::tokenizer(ctx)?;
    keep_tokenizer(&tokenizer, &ctx.output("checkpoint"))?;
    let train = stages::rows(ctx, "train", &tokenizer)?;
    // With what it says of a length that the rows don't have.
    config.setup(registry, tokenizer.vocab_size(), train.row_tokens() - 1)?;
    let work = Work {
        val: stages::rows(ctx, "val", &tokenizer)?,
        train,
        learn: Learn::Text(config.recipe()),
        precision: config.precision,
        evaluate: config.evaluate,
        keep_best: config.keep_best,
        config: serde_json::to_value(config)?,
    };
    work.run(&tokenizer, exec, ctx)
}

/// What is trained on what, and when it is looked at.
pub(crate) struct Work {
    pub(crate) train: Rows,
    pub(crate) val: Rows,
    pub(crate) learn: Learn,
    pub(crate) precision: Option<Precision>,
    pub(crate) evaluate: EvaluateConfig,
    pub(crate) keep_best: bool,
    /// What the metrics know it by.
    pub(crate) config: Value,
}

impl Work {
    /// Trains, on as many ranks as there are: what the ports `checkpoint`, `best` and `metrics` get.
    pub(crate) fn run(self, tokenizer: &Tokenizer, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
        let extras = Arc::clone(&ctx.extras);
        let registry = super::registry(&extras)?;
        let (vocab, seq_len) = (tokenizer.vocab_size(), self.train.row_tokens() - 1);
        let setup = self.learn.setup(registry, vocab, seq_len)?;
        let (checkpoints, kept) = (ctx.scratch()?, exec.keep_checkpoints);
        let again = ctx.resumed.then(|| Checkpoints::new(&checkpoints, kept).micro_batch_rows());
        let task = Task {
            learn: self.learn.clone(),
            precision: self.precision,
            tokens: self.evaluate.tokens,
            resources: ctx.resources.clone(),
            micro_rows: exec.micro_batch_rows(&setup, &ctx.resources)?,
            again: again.transpose()?.flatten(),
            seed: ctx.seed,
            train: self.train.dir().to_owned(),
            val: self.val.dir().to_owned(),
            bpe: ctx.input("bpe")?.to_owned(),
            checkpoints,
            keep_checkpoints: kept,
        };
        let shared = Shared::new(&task, self.train.clone(), self.val.clone(), tokenizer);
        let part = Part { task: &task, shared: &shared, registry, vocab };
        let mut lead = |rank: Rank<'_>, dev: &dyn Device, chosen: Option<String>| {
            if let Some(chosen) = chosen {
                ctx.log(chosen);
            }
            ctx.log(announcement(&rank, &shared.train, dev));
            train(rank, dev, &self, exec, tokenizer, ctx)
        };
        seat::everywhere(
            &task.resources,
            &extras,
            || crew::Order::Train(Box::new(task.clone())),
            |seat| part.on(seat, Some(&mut lead)),
            |seat| part.on(seat, None),
        )
    }
}

/// A rank in a process of its own, of a job that another process leads.
pub(crate) fn follow(task: &Task, job: &Job, extras: &Extras) -> Result<()> {
    let registry = super::registry(extras)?;
    let tokenizer = Tokenizer::load(&task.bpe)?;
    let open = |path: &Path| {
        let rows = Rows::open(path);
        rows.with_context(|| format!("rank {} reads what rank 0 has packed", job.launch().rank))
    };
    let shared = Shared::new(task, open(&task.train)?, open(&task.val)?, &tokenizer);
    let part = Part { task, shared: &shared, registry, vocab: tokenizer.vocab_size() };
    part.on(Seat::Process(job), None)
}

/// A rank's part of a training.
struct Part<'a> {
    task: &'a Task,
    shared: &'a Shared,
    registry: &'a Registry,
    vocab: usize,
}

/// What the first rank does, with a line on what was chosen for it; the others follow.
type Lead<'l> = &'l mut dyn FnMut(Rank<'_>, &dyn Device, Option<String>) -> Result<()>;

impl Part<'_> {
    fn on(&self, seat: Seat<'_>, lead: Option<Lead<'_>>) -> Result<()> {
        let Task { learn, precision, resources, micro_rows, again, .. } = self.task;
        let setup = learn.setup(self.registry, self.vocab, self.shared.train.row_tokens() - 1)?;
        let dev = super::device(*precision, resources, seat.local_rank())?;
        let comm = seat.comm(resources.engine, dev.as_ref()).map_err(Error::from)?;
        let (rows, chosen) = match *micro_rows {
            MicroRows::Exactly(rows) => (rows, None),
            MicroRows::AtMost(most) => {
                let sizes = Sizes::new(&setup, self.registry, *precision, resources);
                let (rows, line) = sizes.agree(dev.as_ref(), &*comm, most, *again)?;
                (rows, Some(line))
            }
        };
        let trainer = Trainer::on_ranks(dev.as_ref(), &*comm, setup, self.registry, rows)?;
        let rank = Rank::new(trainer, &*comm, self.shared);
        match lead {
            Some(lead) => lead(rank, dev.as_ref(), chosen),
            None => rank.follow(),
        }
    }
}

/// The loop, on the first rank.
fn train(
    mut rank: Rank<'_>,
    dev: &dyn Device,
    work: &Work,
    exec: TrainExec,
    tokenizer: &Tokenizer,
    ctx: &mut Ctx,
) -> Result<()> {
    let mut every = exec.checkpoint_interval(Duration::ZERO)?;
    let passed_over = |e: &Error| ctx.log(format!("passing over a checkpoint: {}", e.with_hint()));
    let resumed = ctx.resumed && rank.restore(passed_over)?;
    let mut metrics = if resumed {
        let (step, steps) = (rank.trainer.progress().step, rank.trainer.setup().plan.steps);
        ctx.log(format!("resuming after step {step} of {steps}"));
        if let Some(was) = summed_otherwise(&rank) {
            ctx.log(was);
        }
        ctx.resume_metrics("metrics", step)?
    } else {
        match begin::file(ctx, rank.trainer.setup().gpt.config(), tokenizer)? {
            Some((path, step)) => {
                ctx.log(format!("beginning with the weights of a model of {} steps", count(step)));
                rank.load_weights(&path)?;
            }
            None => rank.initialize()?,
        }
        let mut metrics = ctx.metrics("metrics")?;
        let run = rank.trainer.describe(work.config.clone());
        metrics.write(&Record::Run(RunRecord { seed: Some(ctx.seed), ..run }))?;
        metrics
    };

    if rank.trainer.progress().step == 0 {
        ctx.progress(0, "tokens").message("evaluating the initial model");
        let start = rank.evaluate()?;
        metrics.write(&Record::Eval(start))?;
        ctx.log(format!("before the first step: {:.4} bits per byte", bits(&start)));
    }

    let steps = rank.trainer.setup().plan.steps;
    let out = ctx.output("checkpoint");
    let progress = ctx.progress(steps, "steps");
    progress.set(rank.trainer.progress().step);
    let mut saved = Instant::now();
    while rank.trainer.progress().step < steps {
        let record = rank.step()?.map_err(|e| diverged(e, &rank.shared.checkpoints))?;
        metrics.write(&Record::Step(record))?;
        progress.advance(1);
        progress.figure("loss", format!("{:.4}", record.loss.unwrap_or(f64::NAN)));
        progress.figure("tokens/s", format!("{:.0}", record.tokens_per_s.unwrap_or(f64::NAN)));
        let last = record.step == steps;
        if last {
            save_weights(&mut rank, &out)?;
        }
        if last || record.step.is_multiple_of(work.evaluate.every_steps) {
            let result = rank.evaluate()?;
            metrics.write(&Record::Eval(result))?;
            if work.keep_best {
                rank.keep_best()?;
            }
            progress.figure("val bpb", format!("{:.4}", bits(&result)));
        }
        let cancelled = ctx.cancelled();
        let due = exec.checkpoint_every_steps.is_some_and(|n| record.step.is_multiple_of(n.get()));
        if !last && (cancelled || due || saved.elapsed() >= every) {
            let begun = Instant::now();
            rank.save()?;
            saved = Instant::now();
            every = exec.checkpoint_interval(saved - begun)?;
        }
        if cancelled && !last {
            rank.end()?;
            return Err(Cancelled.into());
        }
    }
    if !out.join(MODEL_FILE).exists() {
        save_weights(&mut rank, &out)?;
    }
    rank.end()?;
    let Rank { mut trainer, shared: Shared { checkpoints, .. }, .. } = rank;
    for note in dev.notes() {
        ctx.log(note);
    }
    let held = trainer.bytes();
    let TrainerState { step, tokens, last_loss, first_bpb, last_bpb, best, train_seconds, .. } =
        *trainer.progress();
    let rate = tokens as f64 / train_seconds.max(f64::MIN_POSITIVE);
    metrics.write(&Record::Final(FinalRecord {
        step: Some(step),
        loss: Some(last_loss),
        bpb_start: Some(first_bpb),
        bpb_end: Some(last_bpb),
        tokens: Some(tokens),
        tokens_per_s: Some(rate),
        train_seconds: Some(train_seconds),
        memory_bytes: Some(held.weights + held.state + held.activations),
    }))?;
    ctx.summary("bpb_start", first_bpb);
    ctx.summary("bpb_end", last_bpb);
    if let Some((best, step)) = best {
        let (from, to) = (checkpoints.best(step), ctx.output("best"));
        keep_tokenizer(tokenizer, &to)?;
        std::fs::copy(&from, to.join(MODEL_FILE))
            .with_context(|| format!("copying {}", from.display()))?;
        ctx.summary("best_bpb", best);
    }
    ctx.summary("loss", last_loss);
    ctx.summary("tokens", tokens);
    ctx.summary("tokens_per_s", rate);
    ctx.summary("parameters", trainer.setup().elements());
    Ok(())
}

/// Puts the tokenizer into a model's folder, so that whoever has the folder can talk to the model.
pub(crate) fn keep_tokenizer(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(tokenizer.save(folder.join(TOKENIZER_FILE))?)
}

/// What is about to be trained, in one line.
fn announcement(rank: &Rank<'_>, train: &Rows, dev: &dyn Device) -> String {
    let (setup, ranks) = (rank.trainer.setup(), rank.comm.ranks());
    let (steps, rows) = (setup.plan.steps, setup.rows);
    let on = if ranks == 1 { String::new() } else { format!("{ranks} ranks of ") };
    format!(
        "{} parameters in {} groups, {} steps of {rows} rows of {} tokens ({} micro-batches), {:.1} epochs of {} rows, on {on}{}",
        count(setup.elements()),
        setup.summary.len(),
        count(steps),
        setup.gpt.config().seq_len,
        rows / rank.trainer.micro_batch_rows(),
        (steps * rows as u64) as f64 / train.len() as f64,
        train.len(),
        dev.name(),
    )
}

/// Why the last bits of the weights may differ from a run that was not cut off, if they may.
fn summed_otherwise(rank: &Rank<'_>) -> Option<String> {
    let (was, trainer) = (rank.trainer.progress(), &rank.trainer);
    let (rows, ranks) = (trainer.micro_batch_rows(), rank.comm.ranks());
    let mut changed = Vec::new();
    if let Some(was) = was.micro_batch_rows.filter(|was| *was != rows) {
        changed.push(format!("micro-batches have {rows} rows and had {was}"));
    }
    if let Some(was) = was.ranks.filter(|was| *was != ranks) {
        changed.push(format!("there are {ranks} ranks and were {was}"));
    }
    let what = (!changed.is_empty()).then(|| changed.join(", "))?;
    Some(format!(
        "{what}: gradients are summed in another order, so that the last bits of the weights may differ"
    ))
}

/// The weights, where the stage's output belongs: before the last evaluation, which costs nobody the training if it is cut off.
fn save_weights(rank: &mut Rank<'_>, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    rank.save_weights(&out.join(MODEL_FILE))
}

fn bits(result: &EvalRecord) -> f64 {
    result.val_bpb.unwrap_or(f64::NAN)
}

/// Why training stopped by itself, with the last good checkpoint: nothing was updated, so that it stays the truth.
fn diverged(e: Error, checkpoints: &Checkpoints) -> anyhow::Error {
    let Error::NotFinite { step, .. } = e else { return e.into() };
    let kept = match checkpoints.newest_before(step - 1) {
        Ok(Some(path)) => format!("the last good checkpoint is {}", path.display()),
        Ok(None) => "there is no good checkpoint yet".to_owned(),
        Err(e) => e.to_string(),
    };
    let said = format!("{e}; {kept}");
    match e.hint() {
        Some(hint) => anyhow!("{said}\nhint: {hint}"),
        None => anyhow!(said),
    }
}
