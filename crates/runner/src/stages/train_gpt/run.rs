//! The training loop with its screen and files: metrics, evaluations, checkpoints and resumption. What a step is, [`farthing_train`] knows.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use farthing_base::Hint;
use farthing_data::Rows;
use farthing_kernels::Device;
use farthing_train::{
    Checkpoints, Error, EvalRecord, FinalRecord, MODEL_FILE, Progress, Record, Setup, Trainer,
};

use super::config::{TrainConfig, TrainExec};
use crate::progress::format::count;
use crate::stages;
use crate::{Cancelled, Ctx, Result};

pub(super) fn run(config: &TrainConfig, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
    let every = exec.checkpoint_interval()?;
    let extras = Arc::clone(&ctx.extras);
    let registry = super::registry(&extras)?;
    let tokenizer = stages::tokenizer(ctx)?;
    let train = stages::rows(ctx, "train", &tokenizer)?;
    let val = stages::rows(ctx, "val", &tokenizer)?;
    let (vocab, seq_len) = (tokenizer.vocab_size(), train.row_tokens() - 1);
    let setup = config.setup(registry, vocab, seq_len)?;
    let dev = super::device(config.precision, &ctx.resources)?;
    let micro_rows = exec.micro_batch_rows(&setup, &ctx.resources)?;
    ctx.log(announcement(&setup, micro_rows, &train, dev.as_ref()));
    let mut trainer = Trainer::new(dev.as_ref(), setup, registry, micro_rows)?;

    let checkpoints = Checkpoints::new(ctx.scratch()?, exec.keep_checkpoints);
    let passed_over = |e: &Error| ctx.log(format!("passing over a checkpoint: {}", e.with_hint()));
    let resumed = ctx.resumed && trainer.restore(&checkpoints, passed_over)?;
    let mut metrics = if resumed {
        let (step, steps) = (trainer.progress().step, trainer.setup().plan.steps);
        ctx.log(format!("resuming after step {step} of {steps}"));
        if let Some(was) = trainer.progress().micro_batch_rows.filter(|was| *was != micro_rows) {
            ctx.log(format!(
                "micro-batches have {micro_rows} rows and had {was}: gradients are summed in another order, so that the last bits of the weights may differ"
            ));
        }
        ctx.resume_metrics("metrics", step)?
    } else {
        trainer.initialize(ctx.seed)?;
        let mut metrics = ctx.metrics("metrics")?;
        metrics.write(&Record::Run(trainer.describe(serde_json::to_value(config)?)))?;
        metrics
    };

    let token_bytes = tokenizer.token_bytes();
    let evaluate =
        |trainer: &mut Trainer<'_>| trainer.evaluate(&val, &token_bytes, config.evaluate.tokens);
    if trainer.progress().step == 0 {
        ctx.progress(0, "tokens").message("evaluating the initial model");
        let start = evaluate(&mut trainer)?;
        metrics.write(&Record::Eval(start))?;
        ctx.log(format!("before the first step: {:.4} bits per byte", bits(&start)));
    }

    let steps = trainer.setup().plan.steps;
    let mut batches = trainer.batches(train, ctx.seed)?;
    let out = ctx.output("checkpoint");
    let progress = ctx.progress(steps, "steps");
    progress.set(trainer.progress().step);
    let mut saved = Instant::now();
    while trainer.progress().step < steps {
        let record = trainer.step(&mut batches).map_err(|e| diverged(e, &checkpoints))?;
        metrics.write(&Record::Step(record))?;
        progress.advance(1);
        progress.figure("loss", format!("{:.4}", record.loss.unwrap_or(f64::NAN)));
        progress.figure("tokens/s", format!("{:.0}", record.tokens_per_s.unwrap_or(f64::NAN)));
        let last = record.step == steps;
        if last {
            save_weights(&mut trainer, &out)?;
        }
        if last || record.step.is_multiple_of(config.evaluate.every_steps) {
            let result = evaluate(&mut trainer)?;
            metrics.write(&Record::Eval(result))?;
            if config.keep_best {
                trainer.keep_best(&checkpoints)?;
            }
            progress.figure("val bpb", format!("{:.4}", bits(&result)));
        }
        let cancelled = ctx.cancelled();
        let due = exec.checkpoint_every_steps.is_some_and(|n| record.step.is_multiple_of(n.get()));
        if !last && (cancelled || due || saved.elapsed() >= every) {
            trainer.save(&checkpoints)?;
            saved = Instant::now();
        }
        if cancelled && !last {
            return Err(Cancelled.into());
        }
    }
    if !out.join(MODEL_FILE).exists() {
        save_weights(&mut trainer, &out)?;
    }
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
        std::fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
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

/// What is about to be trained, in one line.
fn announcement(setup: &Setup, micro_rows: usize, train: &Rows, dev: &dyn Device) -> String {
    let (steps, rows) = (setup.plan.steps, setup.rows);
    format!(
        "{} parameters in {} groups, {} steps of {rows} rows of {} tokens ({} micro-batches), {:.1} epochs of {} rows, on {}",
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

/// The weights, where the stage's output belongs: before the last evaluation, which costs nobody the training if it is cut off.
fn save_weights(trainer: &mut Trainer<'_>, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    Ok(trainer.save_weights(&out.join(MODEL_FILE))?)
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
