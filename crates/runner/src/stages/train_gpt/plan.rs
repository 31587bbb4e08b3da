//! What `--plan` says about a training: parameters per group, tokens, FLOPs, memory, and how long it may take.

use std::time::Instant;

use farthing_comm::{PlannedComm, Sent};
use farthing_kernels::Device;
use farthing_kernels::planned::{Calls, Planned};
use farthing_optim::Registry;
use farthing_train::{Bytes, Setup};

use super::config::{MicroRows, Precision, TrainConfig, TrainExec};
use super::dry;
use super::room::{Sizes, usable};
use crate::progress::format::{bytes, count, duration};
use crate::stages::device;
use crate::{Accelerator, Estimate, PlanCtx, PlanLine, Resources, Result};

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
    super::begin::preflight(&setup, ctx)?;
    let begins = super::begin::line(ctx).into_iter().collect();
    lines_of(setup, begins, "", config.precision, exec, resources, ctx)
}

/// What there is to say of a training: of its model, then `begins`, then of its groups and steps. `about` stands before the number of steps where that is a guess.
pub(crate) fn lines_of(
    setup: Setup,
    begins: Vec<PlanLine>,
    about: &str,
    precision: Option<Precision>,
    exec: &TrainExec,
    resources: &Resources,
    ctx: &PlanCtx,
) -> Result<Vec<PlanLine>> {
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
    lines.extend(begins);
    for group in &setup.summary {
        lines.push(PlanLine::new("group", group.to_string()));
    }
    lines.push(PlanLine::new("parameters", format!("{} in all", count(setup.elements()))));
    for line in &setup.plan.explanation {
        lines.push(PlanLine::new("scaling", line.as_str()));
    }
    let (registry, ranks) = (super::registry(ctx.extras())?, resources.all_ranks());
    let (micro, by_memory) = match (exec.micro_batch_rows(&setup, resources)?, resources.device) {
        (MicroRows::AtMost(most), Accelerator::Cuda) => {
            let sizes = Sizes::new(&setup, registry, precision, resources);
            let (rows, line) = by_memory(&sizes, most)?;
            (rows, Some(line))
        }
        (rows, _) => (rows.most(), None),
    };
    let of_each = match (ranks, resources.gpus) {
        (1, _) => String::new(),
        (_, 0) => format!(" on each of {ranks} ranks"),
        _ => format!(" on each of {ranks} GPUs"),
    };
    lines.push(PlanLine::new(
        "steps",
        format!(
            "{about}{} of {} rows of {} tokens in micro-batches of {micro}{of_each}: {} tokens",
            count(setup.plan.steps),
            setup.rows,
            model.seq_len,
            count(setup.plan.trained_tokens())
        ),
    ));
    lines.extend(by_memory);
    lines.push(PlanLine::new(
        "FLOPs",
        format!("{:.3e} per token, {:.3e} in all", model.flops_per_token(), setup.flops()),
    ));
    let time = time(&setup, resources, ctx)?;
    let gpu_hours = gpu_hours(&setup, resources, ctx)?;
    let comm = PlannedComm::new(ranks);
    let counted =
        memory_and_traffic(setup, registry, precision, micro, resources, &comm, &of_each)?;
    lines.extend(counted);
    if ranks > 1 {
        lines.push(communication(comm.sent()));
    }
    lines.push(PlanLine::new("time", time));
    if let Some(hours) = gpu_hours {
        lines.push(PlanLine::new("cost", cost(hours)));
    }
    Ok(lines)
}

/// Bytes of the GPUs that a plan chooses micro-batches for; what else it says is said for the second.
const GPUS: [u64; 2] = [24_000_000_000, 80_000_000_000];

/// Rows of a micro-batch on a GPU, which depend on what is free there: those that the plan goes on with, and what there is to say.
fn by_memory(sizes: &Sizes<'_>, most: usize) -> Result<(usize, PlanLine)> {
    let [small, large] =
        GPUS.map(|all| Ok::<_, anyhow::Error>((all, sizes.largest(most, usable(all, all))?)));
    let (small, large) = (small?, large?);
    let say = |(all, (rows, takes)): (u64, (usize, u64))| {
        let [all, takes] = [all, takes].map(|n| bytes(n as f64));
        match rows {
            0 => format!("none on one of {all}, since one row takes {takes}"),
            _ => format!("{rows} on one of {all}, which takes {takes}"),
        }
    };
    let line = format!(
        "as many rows as the memory that is free on the GPU has room for, chosen when it starts: {}, {}; the plan is for the latter",
        say(small),
        say(large)
    );
    Ok((large.1.0.max(1), PlanLine::new("micro-batch", line)))
}

/// The run as far as the stages before it promise their outputs.
pub(super) fn setup(config: &TrainConfig, ctx: &PlanCtx) -> Result<Option<Setup>> {
    let registry = super::registry(ctx.extras())?;
    let (Some(vocab), Some(row_tokens)) =
        (ctx.promise("bpe", "vocab_size"), ctx.promise("train", "row_tokens"))
    else {
        return Ok(None);
    };
    config.setup(registry, vocab as usize, row_tokens as usize).map(Some)
}

/// The same, worked out once: a sweep asks every variant several times.
pub(super) fn known<'c>(config: &TrainConfig, ctx: &'c PlanCtx) -> Result<Option<&'c Setup>> {
    Ok(ctx.kept(|| setup(config, ctx))?.and_then(Option::as_ref))
}

/// A device like the one that is computed on, that only counts.
pub(super) fn planned(resources: &Resources, precision: Option<Precision>) -> Planned {
    match (resources.device, precision) {
        (Accelerator::Cpu, Some(Precision::Bf16)) => Planned::rounded(),
        (Accelerator::Cpu, _) => Planned::cpu(),
        _ => Planned::cuda(),
    }
}

/// Bytes that the training holds beside the processor, on all its ranks; `None` where a GPU holds them, or its inputs are not known yet.
pub(super) fn memory(
    config: &TrainConfig,
    exec: &TrainExec,
    resources: &Resources,
    ctx: &PlanCtx,
) -> Result<Option<u64>> {
    memory_of(|| setup(config, ctx), config.precision, exec, resources, ctx)
}

/// The same of any training.
pub(crate) fn memory_of(
    setup: impl FnOnce() -> Result<Option<Setup>>,
    precision: Option<Precision>,
    exec: &TrainExec,
    resources: &Resources,
    ctx: &PlanCtx,
) -> Result<Option<u64>> {
    if resources.device == Accelerator::Cuda {
        return Ok(None);
    }
    let Some(setup) = setup()? else { return Ok(None) };
    let micro = exec.micro_batch_rows(&setup, resources)?.most();
    let (ranks, registry) = (resources.all_ranks(), super::registry(ctx.extras())?);
    let planned = planned(resources, precision);
    dry::step(&planned, &PlannedComm::new(ranks), setup, registry, micro, |_| {})?;
    Ok(Some(planned.peak_bytes() * ranks as u64))
}

/// What the training's own code asks of a device that only counts.
fn memory_and_traffic(
    setup: Setup,
    registry: &Registry,
    precision: Option<Precision>,
    micro: usize,
    resources: &Resources,
    comm: &PlannedComm,
    of_each: &str,
) -> Result<[PlanLine; 2]> {
    let planned = planned(resources, precision);
    let micro_batches = (setup.rows / micro / resources.all_ranks()) as u64;
    // Calls up to the first micro-batch, in each micro-batch, and after the last: the last part is the update, and the norm.
    let mut parts: Vec<Vec<Calls>> = Vec::new();
    let mut most_bytes = 0;
    let held = dry::step(&planned, comm, setup, registry, micro, |_| {
        parts.push(planned.calls());
        most_bytes = most_bytes.max(planned.peak_bytes());
        planned.clear();
    })?;
    // What follows the first request for a micro-batch, up to the second, is one micro-batch.
    let more = micro_batches.saturating_sub(2);
    let mut step: Vec<Calls> = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let times = if i == FIRST_MICRO_BATCH && micro_batches > 1 { 1 + more } else { 1 };
        for calls in part {
            let cost = calls.cost.times(times);
            match step.iter_mut().find(|step| step.op == calls.op) {
                Some(step) => step.cost += cost,
                None => step.push(Calls { cost, ..*calls }),
            }
        }
    }
    step.sort_by_key(|calls| std::cmp::Reverse(calls.cost.moved()));
    let moved = |calls: &[Calls]| bytes(calls.iter().map(|c| c.cost.moved()).sum::<u64>() as f64);
    let (most, rest) = step.split_at(step.len().min(LISTED));
    let each: Vec<String> =
        most.iter().map(|c| format!("{} {}", c.op, moved(std::slice::from_ref(c)))).collect();
    let flops: u64 = step.iter().map(|calls| calls.cost.flops).sum();
    // What the trainer does not name is optimizers' scratch.
    let (all, Bytes { weights, activations, .. }) = (most_bytes, held);
    let optimizers = all - weights - activations;
    let [weights, optimizers, activations, all] =
        [weights, optimizers, activations, all].map(|n| bytes(n as f64));
    Ok([
        PlanLine::new(
            "memory",
            format!(
                "{all}: {weights} for weights and gradients, {optimizers} for optimizers, {activations} for a micro-batch{of_each}"
            ),
        ),
        PlanLine::new(
            "traffic",
            format!(
                "a step moves {}{of_each} and has products of {:.3e} FLOPs: {}, others {}",
                moved(&step),
                flops as f64,
                each.join(", "),
                moved(rest),
            ),
        ),
    ])
}

/// Bytes per second each way at which a step's communication is timed: NVLink of an H100, 8 × 400 Gb/s InfiniBand, one of them, 100 Gb/s Ethernet.
const LINKS: [f64; 4] = [900e9, 400e9, 50e9, 12.5e9];

/// What a step sends: counted by the collectives that the trainer calls.
fn communication(sent: Sent) -> PlanLine {
    let Sent { collectives, gradients, weights } = sent;
    let all = (gradients + weights) as f64;
    let times: Vec<String> = LINKS
        .iter()
        .map(|link| format!("{:.1} ms at {} GB/s", 1e3 * all / link, link / 1e9))
        .collect();
    let [gradients, weights] = [gradients, weights].map(|n| bytes(n as f64));
    PlanLine::new(
        "sends",
        format!(
            "each sends and receives {gradients} of gradients and {weights} of weights a step, in {collectives} collectives: {} (on paper)",
            times.join(", ")
        ),
    )
}

/// The part of a dry run that is one micro-batch: allocation, what comes before the first, then it.
const FIRST_MICRO_BATCH: usize = 2;

/// Operations that the plan names, those that move most.
const LISTED: usize = 6;

/// The share of the rate of a large product that a training reaches on a processor. Products of a small model run below it, and the rest of a step is
/// bound by memory.
const OF_RATE: [f64; 2] = [0.25, 0.7];

/// FLOP/s of this processor's products on all ranks.
fn rate(resources: &Resources, ctx: &PlanCtx) -> Result<f64> {
    let Resources { device, threads, ranks, .. } = resources;
    let measure = || product_rate(device::open(resources)?.as_ref());
    Ok(ctx.once(&format!("products, {device}, {threads} threads"), measure)? * *ranks as f64)
}

/// From the FLOPs: for GPUs an assumption, for the processor what its products reach just now.
pub(crate) fn estimate(setup: &Setup, resources: &Resources, ctx: &PlanCtx) -> Result<Estimate> {
    if resources.device == Accelerator::Cuda {
        let (peak, share) = H100;
        let seconds = setup.flops() / (peak * share * f64::from(resources.gpus.max(1)));
        return Ok(Estimate { low_s: seconds, high_s: seconds });
    }
    let seconds = setup.flops() / rate(resources, ctx)?;
    let [least, most] = OF_RATE;
    Ok(Estimate { low_s: seconds / most, high_s: seconds / least })
}

/// Of all GPUs; `None` on a processor.
fn gpu_hours(setup: &Setup, resources: &Resources, ctx: &PlanCtx) -> Result<Option<f64>> {
    if resources.device != Accelerator::Cuda {
        return Ok(None);
    }
    let seconds = estimate(setup, resources, ctx)?.low_s * f64::from(resources.gpus.max(1));
    Ok(Some(seconds / 3_600.0))
}

/// What a GPU's hour costs: about what providers ask for an H100.
const DOLLARS_PER_GPU_HOUR: f64 = 3.0;

/// Dollars, beside what a model of GPT-2's grade has cost others.
fn cost(gpu_hours: f64) -> String {
    format!(
        "about ${:.0} at ${DOLLARS_PER_GPU_HOUR} for each of {gpu_hours:.1} GPU-hours; GPT-2 was $43,000 in 2019, nanochat $73 in January 2026 and $48 in March",
        gpu_hours * DOLLARS_PER_GPU_HOUR,
    )
}

fn time(setup: &Setup, resources: &Resources, ctx: &PlanCtx) -> Result<String> {
    let Estimate { low_s, high_s } = estimate(setup, resources, ctx)?;
    if resources.device == Accelerator::Cuda {
        let gpus = resources.gpus.max(1);
        return Ok(format!(
            "about {} if {gpus} × H100 reach {:.0}% of 989 TFLOP/s (an assumption, not a measurement)",
            duration(low_s),
            100.0 * H100.1
        ));
    }
    Ok(format!(
        "{} to {} at 25–70% of the {:.0} GFLOP/s that this processor's matrix products reach just now",
        duration(low_s),
        duration(high_s),
        rate(resources, ctx)? / 1e9
    ))
}

/// FLOP/s of a 512³ product: the fastest of those that 4 ms have room for, of two at least. No longer, since a plan of 200 trainings takes about 100.
fn product_rate(dev: &dyn Device) -> Result<f64> {
    const N: usize = 512;
    let (x, w) = (dev.activations([N, N])?, dev.activations([N, N])?);
    let mut y = dev.activations([N, N])?;
    let (start, mut times, mut fastest) = (Instant::now(), 0, f64::INFINITY);
    while times < 2 || start.elapsed().as_secs_f64() < 0.004 {
        let began = Instant::now();
        dev.linear(y.view_mut(), x.view(), w.view(), false)?;
        dev.synchronize()?;
        fastest = fastest.min(began.elapsed().as_secs_f64());
        times += 1;
    }
    Ok(2.0 * (N * N * N) as f64 / fastest)
}
