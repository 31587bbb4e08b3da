//! `train-gpt`: trains a GPT on packed rows, with [`farthing_train`].
//!
//! `config` has the keys and `plan` what `--plan` prints, which `dry` counts; by it `room` chooses micro-batches. `run` is the loop with its screen and files, `ranks` lets it lead other ranks, and `begin` handles training that
//! starts from an existing model.

mod begin;
mod config;
mod dry;
mod plan;
mod ranks;
mod room;
mod run;

pub(crate) use begin::{model_of, promises, promises_of};
pub use config::{EvaluateConfig, Precision, TrainConfig, TrainExec};
pub use farthing_train::MODEL_FILE;
pub(crate) use plan::{estimate, lines_of, memory_of};
pub(crate) use run::{Learn, Task, Work, follow, keep_tokenizer, preflight};

use farthing_kernels::rounded::Rounded;
use farthing_kernels::{DType, Device};
use farthing_optim::Registry;

use crate::failure;
use crate::stages::device;
use crate::{
    Before, Ctx, Estimate, Extras, Given, PlanCtx, PlanLine, Port, Promise, Resources, Result,
    Stage, port,
};

/// Trains a GPT.
pub struct TrainGpt;

impl Stage for TrainGpt {
    type Config = TrainConfig;
    type Exec = TrainExec;
    const KIND: &'static str = "train-gpt";
    const ABOUT: &'static str = "trains a GPT on packed rows";
    const VERSION: u32 = 5;
    const COMPUTES: bool = true;
    const RANKS: bool = true;
    const INPUTS: &'static [Port] = &[
        port("train", "packed rows"),
        port("val", "packed rows"),
        port("bpe", "tokenizer"),
        port("model", "checkpoint").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[
        port("checkpoint", "checkpoint"),
        port("best", "checkpoint").optional(),
        port("metrics", "metrics"),
    ];
    const FIGURES: &'static [&'static str] =
        &["bpb_start", "bpb_end", "loss", "tokens", "tokens_per_s", "parameters", "best_bpb"];

    fn written(config: &TrainConfig) -> Result<serde_json::Value> {
        config.written()
    }

    fn key(config: &TrainConfig, extras: &Extras) -> Result<Option<serde_json::Value>> {
        config.canonical(registry(extras)?)
    }

    fn check(config: &TrainConfig, extras: &Extras) -> Result<()> {
        config.check(registry(extras)?)
    }

    fn promises(config: &TrainConfig, given: &Given<'_>) -> Vec<Promise> {
        begin::own_promises(config, given)
    }

    fn instead(config: &TrainConfig, before: &Before<'_>) -> Vec<PlanLine> {
        begin::instead(config, before)
    }

    fn plan(
        config: &TrainConfig,
        exec: &TrainExec,
        resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<Vec<PlanLine>> {
        plan::lines(config, exec, resources, ctx)
    }

    fn estimate(
        config: &TrainConfig,
        resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<Option<Estimate>> {
        let setup = plan::known(config, ctx)?;
        setup.map(|setup| plan::estimate(setup, resources, ctx)).transpose()
    }

    fn memory(
        config: &TrainConfig,
        exec: &TrainExec,
        resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<Option<u64>> {
        plan::memory(config, exec, resources, ctx)
    }

    fn preflight(
        config: &TrainConfig,
        exec: &TrainExec,
        resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<()> {
        let of_setup = || {
            let Some(setup) = plan::known(config, ctx)? else { return Ok(()) };
            failure::all_of([
                exec.micro_batch_rows(setup, resources).map(drop),
                begin::preflight(setup, ctx),
            ])
        };
        failure::all_of([
            exec.checkpoint_interval(std::time::Duration::ZERO).map(drop),
            of_setup(),
            run::preflight(config.precision, resources, ctx),
        ])
    }

    fn run(config: TrainConfig, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
        run::run(&config, exec, ctx)
    }
}

/// The device to train on: that of the resources, made to round where it is to be bf16 and does not do that by itself.
fn device(
    precision: Option<Precision>,
    resources: &Resources,
    local_rank: usize,
) -> Result<Box<dyn Device>> {
    let dev = device::open_of(resources, local_rank)?;
    match (precision, dev.compute_dtype()) {
        (Some(Precision::Bf16), DType::F32) => Ok(Box::new(Rounded::new(dev)?)),
        (Some(Precision::F32), DType::BF16) => anyhow::bail!(
            "`precision` is \"f32\", and {} stores activations in bf16\n\
             hint: leave `precision` out, or take `resources` out to compute on this processor",
            dev.name()
        ),
        _ => Ok(dev),
    }
}

/// The optimizers that the application registered.
pub(crate) fn registry(extras: &Extras) -> Result<&Registry> {
    extras.get().ok_or_else(|| {
        anyhow::anyhow!(
            "the application has no optimizers\nhint: start from `App::standard()`, or add \
             `.extra(farthing_optim::Registry::standard())`"
        )
    })
}
