//! The training loop: batches in, steps out, with metrics, evaluation, checkpoints and resumption. What a step computes is the
//! model's and the optimizers' affair.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use farthing_data::{Batch, BatchReader, Order, Rows, Silent};
use farthing_eval::{BitsPerByte, GptScorer, batches, bits_per_byte};
use farthing_kernels::{DType, Device, Params, Tensor};
use farthing_model::{Mode, Workspace};
use farthing_optim::{Factors, Optimizers};
use serde_json::json;

use super::checkpoint::{self, TrainState};
use super::config::{TrainConfig, TrainExec};
use super::setup::Setup;
use crate::progress::format::count;
use crate::stages;
use crate::{Cancelled, Ctx, Metrics, Result};

/// Everything a step touches.
struct Trainer<'a> {
    dev: &'a dyn Device,
    setup: Setup,
    params: Params,
    optimizers: Optimizers,
    workspace: Workspace,
    reader: BatchReader,
    batch: Batch,
    /// One number on the device, for norms.
    number: Tensor,
    state: TrainState,
}

/// What one step gave.
struct StepResult {
    loss: f64,
    grad_norm: f64,
    factors: Factors,
}

pub(super) fn run(config: &TrainConfig, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
    let every = exec.checkpoint_interval()?;
    let extras = Arc::clone(&ctx.extras);
    let registry = super::registry(&extras)?;
    let tokenizer = stages::tokenizer(ctx)?;
    let train = stages::rows(ctx, "train", &tokenizer)?;
    let val = stages::rows(ctx, "val", &tokenizer)?;
    let seq_len = train.row_tokens() - 1;
    let setup = Setup::new(config, registry, tokenizer.vocab_size(), seq_len)?;
    let dev = super::device(config.precision, &ctx.resources)?;
    let dev = dev.as_ref();

    let micro_rows = setup.micro_batch_rows(exec.micro_batch_rows, &ctx.resources)?;
    let order = Order::new(train.len(), setup.rows, ctx.seed)?;
    let train_rows = train.len();
    let params = Params::new(dev, setup.slabs.clone())?;
    let mut optimizers =
        Optimizers::new(registry, dev, &setup.groups, &setup.plan, &setup.schedule, &params)?;
    let workspace = setup.gpt.workspace(dev, micro_rows, seq_len, Mode::Train)?;
    ctx.log(format!(
        "{} parameters in {} groups, {} steps of {} rows of {seq_len} tokens ({} micro-batches), {:.1} epochs of {train_rows} rows, on {}",
        count(setup.elements()),
        setup.summary.len(),
        count(setup.plan.steps),
        setup.rows,
        setup.rows / micro_rows,
        (setup.plan.steps * setup.rows as u64) as f64 / train_rows as f64,
        dev.name(),
    ));
    let memory_bytes = memory(dev, &setup, &mut optimizers, micro_rows)?;
    let mut trainer = Trainer {
        dev,
        batch: Batch::new(micro_rows, seq_len, tokenizer.vocab_size())?,
        reader: BatchReader::new(train, order)?,
        number: dev.master([1])?,
        state: TrainState::default(),
        setup,
        params,
        optimizers,
        workspace,
    };

    let scratch = ctx.scratch()?;
    let resumed = if ctx.resumed {
        checkpoint::load_newest(
            &scratch,
            dev,
            &trainer.setup.gpt,
            &mut trainer.params,
            &mut trainer.optimizers,
            |line| ctx.log(line),
        )?
    } else {
        None
    };
    let mut metrics = match resumed {
        Some(state) => {
            ctx.log(format!("resuming after step {} of {}", state.step, trainer.setup.plan.steps));
            let metrics = ctx.resume_metrics("metrics", state.step)?;
            trainer.state = state;
            metrics
        }
        None => {
            trainer.setup.gpt.initialize(dev, &mut trainer.params, ctx.seed)?;
            let mut metrics = ctx.metrics("metrics")?;
            metrics.write(&describe(config, &trainer.setup))?;
            metrics
        }
    };
    trainer.params.refresh_compute(dev)?;

    let token_bytes = tokenizer.token_bytes();
    let evaluate = |trainer: &Trainer<'_>, metrics: &mut Metrics| -> Result<BitsPerByte> {
        let result = trainer.evaluate(&val, &token_bytes, config.evaluate.tokens)?;
        metrics.write(&json!({
            "record": "eval", "step": trainer.state.step, "val_bpb": result.bits_per_byte, "val_loss": result.nats / result.targets as f64,
        }))?;
        Ok(result)
    };
    if trainer.state.step == 0 {
        ctx.progress(0, "tokens").message("evaluating the initial model");
        let start = evaluate(&trainer, &mut metrics)?;
        trainer.state.first_bpb = start.bits_per_byte;
        trainer.state.last_bpb = start.bits_per_byte;
        ctx.log(format!("before the first step: {:.4} bits per byte", start.bits_per_byte));
    }

    let steps = trainer.setup.plan.steps;
    let batch_tokens = trainer.setup.plan.batch_tokens;
    let progress = ctx.progress(steps, "steps");
    progress.set(trainer.state.step);
    let mut saved = Instant::now();
    let (begin, before) = (Instant::now(), trainer.state.seconds);
    while trainer.state.step < steps {
        let started = Instant::now();
        let step = trainer.state.step;
        let result = trainer.step(step)?;
        if !(result.loss.is_finite() && result.grad_norm.is_finite()) {
            let kept = checkpoint::newest_before(&scratch, step)?;
            bail!(diverged(step + 1, &result, kept.as_deref()));
        }
        let seconds = started.elapsed().as_secs_f64();
        trainer.state.step += 1;
        trainer.state.tokens += batch_tokens;
        trainer.state.last_loss = result.loss;
        trainer.state.train_seconds += seconds;
        trainer.state.seconds = before + begin.elapsed().as_secs_f64();
        metrics.write(&json!({
            "record": "step",
            "step": trainer.state.step,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": result.factors.lr,
            "momentum": result.factors.momentum,
            "weight_decay": result.factors.weight_decay,
            "tokens": trainer.state.tokens,
            "tokens_per_s": batch_tokens as f64 / seconds,
            "seconds": trainer.state.seconds,
        }))?;
        progress.advance(1);
        progress.figure("loss", format!("{:.4}", result.loss));
        progress.figure("tokens/s", format!("{:.0}", batch_tokens as f64 / seconds));
        let last = trainer.state.step == steps;
        if last || trainer.state.step.is_multiple_of(config.evaluate.every_steps) {
            let result = evaluate(&trainer, &mut metrics)?;
            trainer.state.last_bpb = result.bits_per_byte;
            if config.keep_best {
                trainer.note_best(&scratch, result.bits_per_byte)?;
            }
            progress.figure("val bpb", format!("{:.4}", result.bits_per_byte));
        }
        let cancelled = ctx.cancelled();
        let due =
            exec.checkpoint_every_steps.is_some_and(|n| trainer.state.step.is_multiple_of(n.get()));
        if !last && (cancelled || due || saved.elapsed() >= every) {
            let Trainer { dev, setup, params, optimizers, state, .. } = &mut trainer;
            checkpoint::save(
                &scratch,
                *dev,
                &setup.gpt,
                params,
                optimizers,
                state,
                exec.keep_checkpoints,
            )?;
            saved = Instant::now();
        }
        if cancelled && !last {
            return Err(Cancelled.into());
        }
    }

    for note in dev.notes() {
        ctx.log(note);
    }
    let state = &trainer.state;
    let rate = state.tokens as f64 / state.train_seconds.max(f64::MIN_POSITIVE);
    metrics.write(&json!({
        "record": "final",
        "step": state.step,
        "loss": state.last_loss,
        "bpb_start": state.first_bpb,
        "bpb_end": state.last_bpb,
        "tokens": state.tokens,
        "tokens_per_s": rate,
        "train_seconds": state.train_seconds,
        "memory_bytes": memory_bytes,
    }))?;
    if let Some((_, step)) = state.best {
        checkpoint::keep_best(&scratch, step, &ctx.output("best"))?;
    }
    let out = ctx.output("checkpoint");
    std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    checkpoint::save_final(&out, dev, &trainer.setup.gpt, &trainer.params, state.step)?;
    ctx.summary("bpb_start", state.first_bpb);
    ctx.summary("bpb_end", state.last_bpb);
    if let Some((best, _)) = state.best {
        ctx.summary("best_bpb", best);
    }
    ctx.summary("loss", state.last_loss);
    ctx.summary("tokens", state.tokens);
    ctx.summary("tokens_per_s", rate);
    ctx.summary("parameters", trainer.setup.elements());
    Ok(())
}

impl Trainer<'_> {
    /// Keeps the weights if they are the best so far. After a cut-off they may be on the disk already, from a step that the
    /// checkpoint did not know of: they are written again, the same.
    fn note_best(&mut self, scratch: &Path, bits_per_byte: f64) -> Result<()> {
        if self.state.best.is_none_or(|(best, _)| bits_per_byte < best) {
            let step = self.state.step;
            checkpoint::save_best(scratch, self.dev, &self.setup.gpt, &self.params, step)?;
            self.state.best = Some((bits_per_byte, step));
        }
        Ok(())
    }

    /// One optimizer step on the rows that `step` draws, in micro-batches.
    fn step(&mut self, step: u64) -> Result<StepResult> {
        let Self { dev, setup, params, optimizers, workspace, reader, batch, number, .. } = self;
        params.zero_grads(*dev)?;
        let scale = 1.0 / setup.plan.batch_tokens as f64;
        let mut loss = 0.0;
        for first in (0..setup.rows).step_by(batch.rows()) {
            reader.read(step, first..first + batch.rows(), batch)?;
            let (weights, mut grads) = params.split();
            let micro = farthing_model::Batch::new(batch.tokens(), batch.inputs(), batch.targets())
                .with_order(batch.sorted());
            setup.gpt.forward_backward(*dev, weights, &mut grads, workspace, &micro, scale)?;
            loss += workspace.loss_sum(*dev)? * scale;
        }
        let mut squares = 0.0;
        for slab in 0..params.specs().len() {
            dev.sum_squares(number.view_mut(), params.slab(slab).grad.view())?;
            squares += dev.read_f64(number.view())?.iter().sum::<f64>();
        }
        let grad_norm = squares.sqrt();
        if !(loss.is_finite() && grad_norm.is_finite()) {
            // Nothing is updated: the last checkpoint stays the truth.
            let factors = setup.schedule.at(step, setup.plan.steps);
            return Ok(StepResult { loss, grad_norm, factors });
        }
        let factors = optimizers.step(*dev, params, step)?;
        params.refresh_compute(*dev)?;
        Ok(StepResult { loss, grad_norm, factors })
    }

    /// Bits per byte over the first held-out rows.
    fn evaluate(&self, val: &Rows, token_bytes: &[u32], tokens: u64) -> Result<BitsPerByte> {
        let mut scorer = GptScorer::new(&self.setup.gpt, self.dev, &self.params);
        let budget = tokens.min(val.len() * (val.row_tokens() as u64 - 1));
        let rows = batches(val, self.batch.rows());
        Ok(bits_per_byte(&mut scorer, rows, token_bytes, budget, &mut Silent)?)
    }
}

/// The first record of the metrics: what is about to be trained.
fn describe(config: &TrainConfig, setup: &Setup) -> serde_json::Value {
    let groups: serde_json::Map<_, _> =
        setup.summary.iter().map(|g| (g.name.clone(), json!(g.elements))).collect();
    json!({
        "record": "run",
        "config": config,
        "model": setup.gpt.config(),
        "parameters": groups,
        "tokens": setup.plan.trained_tokens(),
        "steps": setup.plan.steps,
        "batch_tokens": setup.plan.batch_tokens,
        "flops_per_token": setup.gpt.config().flops_per_token(),
    })
}

/// Bytes of weights, gradients, optimizer state and a micro-batch's activations.
fn memory(
    dev: &dyn Device,
    setup: &Setup,
    optimizers: &mut Optimizers,
    micro_rows: usize,
) -> Result<usize> {
    let (compute, seq_len) = (dev.compute_dtype(), setup.gpt.config().seq_len);
    let activations =
        setup.gpt.workspace_bytes(compute, DType::F32, micro_rows, seq_len, Mode::Train)?;
    let bytes = |t: &Tensor| t.shape().elements() * t.dtype().bytes();
    let state: usize = optimizers.state().iter().map(|(_, t)| bytes(t)).sum();
    let weights = 2 * setup.elements() as usize * DType::F32.bytes();
    Ok(activations + state + weights)
}

/// Why training stopped by itself.
fn diverged(step: u64, result: &StepResult, checkpoint: Option<&Path>) -> String {
    let what = if result.loss.is_finite() {
        format!(
            "the gradient's norm is {} at step {step}, loss {:.4}",
            result.grad_norm, result.loss
        )
    } else {
        format!("the loss is {} at step {step}", result.loss)
    };
    let kept = match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "there is no good checkpoint yet".to_owned(),
    };
    format!(
        "{what}; {kept}\nhint: lower the learning rates (`lr` of the groups under `optim`), or raise \
         `schedule.warmup_steps`; the metrics up to here are kept"
    )
}
