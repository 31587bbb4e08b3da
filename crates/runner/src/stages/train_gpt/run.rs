//! The training loop with its screen and files: metrics, evaluations, checkpoints and resumption. What a step is, [`farthing_train`] knows.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use farthing_base::Hint;
use farthing_comm::{Comm, One, Threads};
use farthing_data::{Rows, Tokenizer};
use farthing_kernels::Device;
use farthing_train::{
    Checkpoints, Error, EvalRecord, FinalRecord, MODEL_FILE, Progress, Record, Setup, Trainer,
};
use serde_json::Value;

use super::begin;
use super::config::{EvaluateConfig, Precision, TrainConfig, TrainExec};
use super::ranks::{Rank, Shared, first_cause};
use crate::progress::format::count;
use crate::stages::{self, TOKENIZER_FILE};
use crate::{Cancelled, Ctx, Result};

pub(super) fn run(config: &TrainConfig, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
    let extras = Arc::clone(&ctx.extras);
    let registry = super::registry(&extras)?;
    let tokenizer = stages::tokenizer(ctx)?;
    keep_tokenizer(&tokenizer, &ctx.output("checkpoint"))?;
    let train = stages::rows(ctx, "train", &tokenizer)?;
    let (vocab, seq_len) = (tokenizer.vocab_size(), train.row_tokens() - 1);
    let job = Job {
        val: stages::rows(ctx, "val", &tokenizer)?,
        train,
        setup: &|| config.setup(registry, vocab, seq_len),
        precision: config.precision,
        evaluate: config.evaluate,
        keep_best: config.keep_best,
        config: serde_json::to_value(config)?,
    };
    job.run(&tokenizer, exec, ctx)
}

/// What is trained on what, and when it is looked at.
pub(crate) struct Job<'a> {
    pub(crate) train: Rows,
    pub(crate) val: Rows,
    /// What is fixed before the first step, for each rank.
    pub(crate) setup: &'a (dyn Fn() -> Result<Setup> + Sync),
    pub(crate) precision: Option<Precision>,
    pub(crate) evaluate: EvaluateConfig,
    pub(crate) keep_best: bool,
    /// What the metrics know it by.
    pub(crate) config: Value,
}

impl Job<'_> {
    /// Trains, on as many ranks as there are: what the ports `checkpoint`, `best` and `metrics` get.
    pub(crate) fn run(self, tokenizer: &Tokenizer, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
        let job = &self;
        let extras = Arc::clone(&ctx.extras);
        let registry = super::registry(&extras)?;
        let shared = Shared {
            train: job.train.clone(),
            val: job.val.clone(),
            token_bytes: tokenizer.token_bytes(),
            tokens: job.evaluate.tokens,
            seed: ctx.seed,
            checkpoints: Checkpoints::new(ctx.scratch()?, exec.keep_checkpoints),
        };
        let resources = ctx.resources.clone();
        let on_rank = |comm: &dyn Comm, lead: Option<&mut Ctx>| {
            let setup = (job.setup)()?;
            let micro_rows = exec.micro_batch_rows(&setup, &resources)?;
            let dev = super::device(job.precision, &resources)?;
            if let Some(ctx) = &lead {
                let ranks = comm.ranks();
                ctx.log(announcement(&setup, micro_rows, &shared.train, dev.as_ref(), ranks));
            }
            let trainer = Trainer::on_ranks(dev.as_ref(), comm, setup, registry, micro_rows)?;
            let rank = Rank::new(trainer, comm, &shared);
            match lead {
                Some(ctx) => train(rank, dev.as_ref(), job, exec, tokenizer, ctx),
                None => rank.follow(),
            }
        };
        if ctx.resources.ranks == 1 {
            return on_rank(&One, Some(ctx));
        }
        let mut ends = Threads::new(ctx.resources.ranks).into_iter();
        let first = ends.next().context("a job has at least one rank")?;
        let results = std::thread::scope(|scope| {
            let on_rank = &on_rank;
            let mut others = Vec::new();
            for end in ends {
                let thread = std::thread::Builder::new().name(format!("rank {}", end.rank()));
                let spawned = thread.spawn_scoped(scope, move || on_rank(&end, None));
                others.push(spawned.context("starting the thread of a rank")?);
            }
            let led = on_rank(&first, Some(ctx));
            // Whoever still waits for the first rank hears that it is gone.
            drop(first);
            let joined = others.into_iter().map(|rank| match rank.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            Ok::<_, anyhow::Error>([led].into_iter().chain(joined).collect::<Vec<_>>())
        })?;
        first_cause(results)
    }
}

/// The loop, on the first rank.
fn train(
    mut rank: Rank<'_>,
    dev: &dyn Device,
    job: &Job<'_>,
    exec: TrainExec,
    tokenizer: &Tokenizer,
    ctx: &mut Ctx,
) -> Result<()> {
    let every = exec.checkpoint_interval()?;
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
        metrics.write(&Record::Run(rank.trainer.describe(job.config.clone())))?;
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
        if last || record.step.is_multiple_of(job.evaluate.every_steps) {
            let result = rank.evaluate()?;
            metrics.write(&Record::Eval(result))?;
            if job.keep_best {
                rank.keep_best()?;
            }
            progress.figure("val bpb", format!("{:.4}", bits(&result)));
        }
        let cancelled = ctx.cancelled();
        let due = exec.checkpoint_every_steps.is_some_and(|n| record.step.is_multiple_of(n.get()));
        if !last && (cancelled || due || saved.elapsed() >= every) {
            rank.save()?;
            saved = Instant::now();
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
    let Progress { step, tokens, last_loss, first_bpb, last_bpb, best, train_seconds, .. } =
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
fn announcement(
    setup: &Setup,
    micro_rows: usize,
    train: &Rows,
    dev: &dyn Device,
    ranks: usize,
) -> String {
    let (steps, rows) = (setup.plan.steps, setup.rows);
    let on = if ranks == 1 { String::new() } else { format!("{ranks} ranks of ") };
    format!(
        "{} parameters in {} groups, {} steps of {rows} rows of {} tokens ({} micro-batches), {:.1} epochs of {} rows, on {on}{}",
        count(setup.elements()),
        setup.summary.len(),
        count(steps),
        setup.gpt.config().seq_len,
        rows / micro_rows,
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
