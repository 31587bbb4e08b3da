//! Times a step: a micro-batch and the optimizers apart, without and with events in between; a checkpoint; what the machine can do at best.

use std::collections::BTreeMap;
use std::time::Instant;

use farthing_kernels::cuda::watched::Recording;
use farthing_model::{Extra, STATE_PREFIX, save_model};
use farthing_optim::Overrides;
use serde_json::{Value, json};

use crate::Result;
use crate::machine::Machine;
use crate::table::{self, Ceilings, Part, Table};
use crate::training::{Case, Training};

/// Steps before anything is timed: kernels are compiled, algorithms chosen, clocks warm.
const WARM: u64 = 2;

/// The whole step's tokens on one GPU and, by arithmetic, on this many.
const GPUS: usize = 8;

/// Trains for one step, and times nothing.
pub(crate) fn once(machine: &Machine, case: &Case) -> Result<Value> {
    let mut training = started(machine, case)?;
    let tokens = training.tokens(0)?;
    training.micro_batch(&tokens)?;
    let loss = training.loss()?;
    let norm = training.update(0)?;
    println!("one step: loss {loss:.4}, gradient's norm {norm:.4}");
    Ok(json!({ "mode": "once", "device": machine.json(), "loss": loss, "grad_norm": norm }))
}

/// A model with the recipe's starting weights, as a step meets it.
fn started<'d>(machine: &'d Machine, case: &Case) -> Result<Training<'d>> {
    // Where the recipe's step is not a whole number of micro-batches, as in a toy, one micro-batch is the step.
    let mut training = Training::new(machine.device(), *case, Overrides::default())?;
    let tokens = (case.rows * case.tokens) as u64;
    if !training.plan.batch_tokens.is_multiple_of(tokens) {
        let given = Overrides { batch_tokens: Some(tokens), steps: Some(1000) };
        drop(training);
        training = Training::new(machine.device(), *case, given)?;
    }
    let begun = Instant::now();
    training.gpt.initialize(machine.device(), &mut training.params, 1337)?;
    training.params.zero_grads(machine.device())?;
    machine.device().synchronize()?;
    println!(
        "depth {}: {:.1} M parameters, initialised in {:.1} s",
        case.depth,
        training.gpt.param_count() as f64 / 1e6,
        begun.elapsed().as_secs_f64()
    );
    Ok(training)
}

/// Times `steps` steps, of which the median counts, then one in pieces.
pub(crate) fn run(machine: &Machine, case: &Case, steps: u64, checkpoint: bool) -> Result<Value> {
    let dev = machine.device();
    let ceilings = ceilings(machine, case)?;
    println!(
        "ceilings of this run: copies {:.0} GB/s read and written, a bf16 product of {}³ {:.1} TFLOP/s",
        ceilings.bytes_per_s / 1e9,
        ceilings.side,
        ceilings.flops_per_s / 1e12
    );
    let mut training = started(machine, case)?;
    machine.watched()?.forget_peak();
    let mut losses = vec![];
    for step in 0..WARM {
        let tokens = training.tokens(step)?;
        training.micro_batch(&tokens)?;
        losses.push(training.loss()?);
        training.update(step)?;
    }

    let (mut micro, mut update) = (vec![], vec![]);
    for step in WARM..WARM + steps {
        let tokens = training.tokens(step)?;
        dev.synchronize()?;
        let begun = Instant::now();
        training.micro_batch(&tokens)?;
        dev.synchronize()?;
        let between = Instant::now();
        training.update(step)?;
        dev.synchronize()?;
        micro.push((between - begun).as_secs_f64());
        update.push(between.elapsed().as_secs_f64());
        losses.push(training.loss()?);
        println!(
            "step {step}: micro-batch {:.2} ms, update {:.2} ms, loss {:.4}",
            micro[micro.len() - 1] * 1e3,
            update[update.len() - 1] * 1e3,
            losses[losses.len() - 1]
        );
    }
    let (micro_s, update_s) = (median(&mut micro), median(&mut update));
    let (_, peak_bytes) = machine.watched()?.bytes();

    let step = WARM + steps;
    let tokens = training.tokens(step)?;
    let (calls, recording) = machine.recorded(|| training.micro_batch(&tokens))?;
    let mut table = Table::new(&training, Part::MicroBatch, machine.opened(), &calls, &recording);
    let (calls, updating) = machine.recorded(|| training.update(step).map(drop))?;
    table.add(&training, Part::Update, machine.opened(), &calls, &updating);

    let figures = Figures { machine, training: &training, micro_s, update_s, peak_bytes, ceilings };
    figures.print(&recording, &updating);
    println!("\n{}", table.operations(&figures.ceilings));
    println!("\n{}", table.kernels(&figures.ceilings));
    let mut json = figures.json(&micro, &losses, &recording, &updating);
    json["table"] = table.json(&figures.ceilings);
    json["paper"] = table::paper(&table, micro_s, recording.gaps(), update_s);
    if checkpoint {
        json["checkpoint"] = stall(machine, &mut training)?;
    }
    Ok(json)
}

/// The median, and the values sorted.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The best rates of a large copy and of a large product.
fn ceilings(machine: &Machine, case: &Case) -> Result<Ceilings> {
    let dev = machine.device();
    // Far beyond what a GPU's cache holds, and so little that the emulator gets through it.
    let large = case.vocab >= crate::training::FULL.vocab;
    let (elements, side) = if large { (1 << 28, 8192) } else { (1 << 12, 64) };
    let pieces = |what: &dyn Fn() -> Result<()>| -> Result<f64> {
        what()?;
        let (_, recording) = machine.recorded(|| (0..5).try_for_each(|_| what()))?;
        let seconds =
            recording.pieces.iter().map(|piece| piece.seconds).fold(f64::INFINITY, f64::min);
        Ok(seconds.max(f64::MIN_POSITIVE))
    };
    let copy = {
        let from = dev.activations([elements])?;
        let to = std::cell::RefCell::new(dev.activations([elements])?);
        pieces(&|| Ok(dev.copy(to.borrow_mut().view_mut(), from.view())?))?
    };
    let product = {
        let (mut x, mut w) = (dev.activations([side, side])?, dev.activations([side, side])?);
        // What a GPU draws, and so how fast it runs, depends on the values.
        let stream = farthing_base::random::Stream::new(1, "ceilings");
        let values: Vec<f64> = (0..side as u64).map(|i| stream.normal(i)).collect();
        for row in 0..side {
            let turned = [&values[row..], &values[..row]].concat();
            dev.write_f64(x.view_mut().rows(row..row + 1)?, &turned)?;
            dev.write_f64(w.view_mut().rows(row..row + 1)?, &turned)?;
        }
        let y = std::cell::RefCell::new(dev.activations([side, side])?);
        pieces(&|| Ok(dev.linear(y.borrow_mut().view_mut(), x.view(), w.view(), false)?))?
    };
    Ok(Ceilings {
        bytes_per_s: (2 * 2 * elements) as f64 / copy,
        flops_per_s: 2.0 * (side as f64).powi(3) / product,
        side,
    })
}

/// Writes a checkpoint as training does, and says how long that took.
fn stall(machine: &Machine, training: &mut Training<'_>) -> Result<Value> {
    let path = std::env::temp_dir().join(format!("gpu-step-{}.safetensors", std::process::id()));
    let begun = Instant::now();
    let tensors = training.optimizers.state();
    let extra: Vec<Extra<'_>> = tensors
        .iter()
        .map(|s| Extra { name: format!("{STATE_PREFIX}{}", s.name), tensor: s.tensor.view() })
        .collect();
    let weights = training.params.weights();
    let saved =
        save_model(&path, &training.gpt, machine.device(), weights, 1, &extra, &BTreeMap::new());
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&path).map(|file| file.len());
    // Also what a failed attempt left.
    let _ = std::fs::remove_file(&path);
    saved?;
    let bytes = bytes?;
    println!(
        "a checkpoint of {:.2} GB stops training for {seconds:.2} s ({:.2} GB/s)",
        bytes as f64 / 1e9,
        bytes as f64 / 1e9 / seconds
    );
    Ok(json!({ "bytes": bytes, "seconds": seconds }))
}

/// What was measured of whole steps.
struct Figures<'a, 'd> {
    machine: &'a Machine,
    training: &'a Training<'d>,
    micro_s: f64,
    update_s: f64,
    peak_bytes: usize,
    ceilings: Ceilings,
}

impl Figures<'_, '_> {
    fn micro_tokens(&self) -> f64 {
        (self.training.case.rows * self.training.case.tokens) as f64
    }

    /// Seconds of a whole step on so many GPUs, each with a copy of the optimizers, communication not counted.
    fn step_s(&self, gpus: usize) -> f64 {
        let micro_batches = self.training.plan.batch_tokens as f64 / self.micro_tokens();
        micro_batches / gpus as f64 * self.micro_s + self.update_s
    }

    fn tokens_per_s(&self, gpus: usize) -> f64 {
        self.training.plan.batch_tokens as f64 / self.step_s(gpus)
    }

    /// Of the GPUs' peak, by nanochat's count of FLOPs.
    fn mfu(&self, gpus: usize) -> Option<f64> {
        let flops = self.training.gpt.config().flops_per_token() * self.tokens_per_s(gpus);
        self.machine.peak_flops().map(|peak| flops / (peak * gpus as f64))
    }

    fn print(&self, recording: &Recording, updating: &Recording) {
        let percent = |x: f64| format!("{:.1}%", 100.0 * x);
        let mfu = |gpus| {
            self.mfu(gpus).map_or("unknown, no peak is known of this machine".into(), percent)
        };
        let ms = |s: f64| s * 1e3;
        println!(
            "\nmicro-batch {:.2} ms (median), of {} tokens",
            ms(self.micro_s),
            self.micro_tokens()
        );
        println!(
            "  with events in between {:.2} ms, of which {:.2} ms are gaps",
            ms(recording.seconds),
            ms(recording.gaps())
        );
        println!(
            "update {:.2} ms; with events {:.2} ms, gaps {:.2} ms",
            ms(self.update_s),
            ms(updating.seconds),
            ms(updating.gaps())
        );
        println!("step of {} tokens:", self.training.plan.batch_tokens);
        println!(
            "  1 GPU {:.1} ms, {:.0} tokens/s, MFU {}",
            ms(self.step_s(1)),
            self.tokens_per_s(1),
            mfu(1)
        );
        println!(
            "  {GPUS} GPUs, by arithmetic (every GPU updates all weights, communication not counted) {:.1} ms, {:.0} tokens/s, MFU {}",
            ms(self.step_s(GPUS)),
            self.tokens_per_s(GPUS),
            mfu(GPUS)
        );
        println!(
            "peak memory {:.2} GB, what libraries take for themselves not counted",
            self.peak_bytes as f64 / 1e9
        );
    }

    fn json(
        &self,
        micro: &[f64],
        losses: &[f64],
        recording: &Recording,
        updating: &Recording,
    ) -> Value {
        let ms = |s: f64| (s * 1e6).round() / 1e3;
        let case = &self.training.case;
        let on = |gpus| json!({ "step_ms": ms(self.step_s(gpus)), "tokens_per_s": self.tokens_per_s(gpus), "mfu": self.mfu(gpus) });
        json!({
            "mode": "step",
            "device": self.machine.json(),
            "depth": case.depth,
            "rows": case.rows,
            "tokens": case.tokens,
            "vocab": case.vocab,
            "parameters": self.training.gpt.param_count(),
            "batch_tokens": self.training.plan.batch_tokens,
            "flops_per_token": self.training.gpt.config().flops_per_token(),
            "micro_ms": ms(self.micro_s),
            "micro_ms_range": [ms(micro[0]), ms(micro[micro.len() - 1])],
            "optimizer_ms": ms(self.update_s),
            "with_events": {
                "micro_ms": ms(recording.seconds), "micro_gaps_ms": ms(recording.gaps()),
                "optimizer_ms": ms(updating.seconds), "optimizer_gaps_ms": ms(updating.gaps()),
            },
            "tokens_per_s_without_optimizer": self.micro_tokens() / self.micro_s,
            "gpus_1": on(1),
            "gpus_8_by_arithmetic": on(GPUS),
            "peak_bytes": self.peak_bytes,
            "ceilings": { "copy_gb_per_s": self.ceilings.bytes_per_s / 1e9, "product_tflops": self.ceilings.flops_per_s / 1e12 },
            "losses": losses,
        })
    }
}
