//! What `--plan` says about a training: parameters per group, tokens, FLOPs, memory, and how long it may take.

use std::time::Instant;

use farthing_kernels::{DType, Device};
use farthing_model::Mode;

use super::config::{Precision, TrainConfig, TrainExec};
use super::setup::Setup;
use crate::progress::format::{bytes, count, duration};
use crate::stages::device;
use crate::{Accelerator, PlanCtx, PlanLine, Resources, Result};

/// Dense bf16 rate of an H100 SXM in FLOP/s, from NVIDIA's data sheet, and the share of it that nanochat's d24 run reaches.
const H100: (f64, f64) = (989e12, 0.4);

pub(super) fn lines(
    config: &TrainConfig,
    exec: &TrainExec,
    resources: &Resources,
    ctx: &PlanCtx,
) -> Result<Vec<PlanLine>> {
    let Some(setup) = setup(config, ctx)? else {
        return Ok(vec![PlanLine::new("model", "known once its inputs are made")]);
    };
    let model = setup.gpt.config();
    let windows: String =
        (0..model.depth).map(|i| if model.window(i) < model.seq_len { 'S' } else { 'L' }).collect();
    let mut lines = vec![PlanLine::new(
        "model",
        format!(
            "{} layers, C {}, {} heads of {}, {} key/value heads, V {}, T {}, windows {windows} (S = {})",
            model.depth,
            model.model_dim,
            model.heads,
            model.head_dim,
            model.kv_heads,
            model.vocab_size,
            model.seq_len,
            model.short_window,
        ),
    )];
    for group in &setup.summary {
        lines.push(PlanLine::new("group", group.to_string()));
    }
    lines.push(PlanLine::new("parameters", format!("{} in all", count(setup.elements()))));
    for line in &setup.plan.explanation {
        lines.push(PlanLine::new("scaling", line.as_str()));
    }
    let micro = setup.micro_batch_rows(exec.micro_batch_rows, resources)?;
    lines.push(PlanLine::new(
        "steps",
        format!(
            "{} of {} rows of {} tokens in micro-batches of {micro}: {} tokens",
            count(setup.plan.steps),
            setup.rows,
            model.seq_len,
            count(setup.plan.trained_tokens())
        ),
    ));
    lines.push(PlanLine::new(
        "FLOPs",
        format!("{:.3e} per token, {:.3e} in all", model.flops_per_token(), setup.flops()),
    ));
    lines.push(PlanLine::new("memory", memory(&setup, config.precision, micro, resources)?));
    lines.push(PlanLine::new("time", time(&setup, resources)?));
    Ok(lines)
}

/// The run as far as the stages before it promise their outputs.
pub(super) fn setup(config: &TrainConfig, ctx: &PlanCtx) -> Result<Option<Setup>> {
    let registry = super::registry(ctx.extras())?;
    let (Some(vocab), Some(row_tokens)) =
        (ctx.promise("bpe", "vocab_size"), ctx.promise("train", "row_tokens"))
    else {
        return Ok(None);
    };
    Setup::new(config, registry, vocab as usize, row_tokens as usize).map(Some)
}

fn memory(
    setup: &Setup,
    precision: Option<Precision>,
    micro: usize,
    resources: &Resources,
) -> Result<String> {
    let narrow = resources.device != Accelerator::Cpu || precision == Some(Precision::Bf16);
    let compute = if narrow { DType::BF16 } else { DType::F32 };
    let tokens = setup.gpt.config().seq_len;
    let activations =
        setup.gpt.workspace_bytes(compute, DType::F32, micro, tokens, Mode::Train)? as f64;
    // Master weights, gradients, and up to two numbers of optimizer state per weight; the bf16 copy too, where there is one.
    let weights = setup.elements() as f64 * if narrow { 18.0 } else { 16.0 };
    Ok(format!(
        "{} for weights, gradients and optimizer state, {} for a micro-batch",
        bytes(weights),
        bytes(activations)
    ))
}

fn time(setup: &Setup, resources: &Resources) -> Result<String> {
    if resources.device == Accelerator::Cuda {
        let (peak, share) = H100;
        let gpus = f64::from(resources.gpus.max(1));
        let seconds = setup.flops() / (peak * share * gpus);
        return Ok(format!(
            "about {} if {gpus} × H100 reach {:.0}% of 989 TFLOP/s (an assumption, not a measurement)",
            duration(seconds),
            100.0 * share
        ));
    }
    let dev = device::open(resources)?;
    let rate = product_rate(dev.as_ref())?;
    // Products of a small model run below the rate of a square one, and the rest of a step is bound by memory.
    let (low, high) = (setup.flops() / (0.7 * rate), setup.flops() / (0.25 * rate));
    Ok(format!(
        "{} to {} at 25–70% of the {:.0} GFLOP/s that this processor's matrix products reach just now",
        duration(low),
        duration(high),
        rate / 1e9
    ))
}

/// FLOP/s of a 512³ product, measured for a twentieth of a second.
fn product_rate(dev: &dyn Device) -> Result<f64> {
    const N: usize = 512;
    let (x, w) = (dev.activations([N, N])?, dev.activations([N, N])?);
    let mut y = dev.activations([N, N])?;
    dev.linear(y.view_mut(), x.view(), w.view(), false)?;
    let (start, mut times) = (Instant::now(), 0);
    while times == 0 || start.elapsed().as_secs_f64() < 0.05 {
        dev.linear(y.view_mut(), x.view(), w.view(), false)?;
        times += 1;
    }
    dev.synchronize()?;
    Ok(2.0 * (N * N * N) as f64 * f64::from(times) / start.elapsed().as_secs_f64())
}
