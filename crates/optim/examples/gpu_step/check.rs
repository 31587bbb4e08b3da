//! Whether the device trains as a CPU does: thirty steps, every loss and every gradient's norm compared.
//!
//! The stored ones in `losses.json` are what `--check --device cpu --json FILE` wrote on an x86-64 with AVX-512: the `cpu` device with activations
//! in bf16, which rounds where a GPU stores. Weights and rates are those of the golden steps (`crates/optim/tests/golden_steps.rs`): no tensor
//! starts at zero, so that every kernel takes part from the first step on, and rates are those of steps of 2,048 tokens, at which rounding
//! does not decide where training goes.

#[path = "../../../model/tests/golden/mod.rs"]
mod golden;

use std::time::Instant;

use farthing_optim::Overrides;
use serde_json::{Value, json};

use self::golden::{Style, fill};
use crate::Result;
use crate::machine::Machine;
use crate::training::{Case, FULL, TOY, Training};

/// How far a loss may be from the stored one, nats, and a gradient's norm, as a share of the stored one. In the first steps a loss hardly moves; the
/// norm shows a wrong gradient at once.
const LOSS: f64 = 0.02;
const NORM: f64 = 0.03;

/// d12 in steps of four rows of 512 tokens.
const D12: Case = Case { depth: 12, rows: 4, tokens: 512, ..FULL };

/// Losses by case, with how they were made.
const STORED: &str = include_str!("losses.json");

pub(crate) fn run(machine: &Machine, toy: bool) -> Result<(bool, Value)> {
    let (name, case, steps) = if toy { ("toy", TOY, 6) } else { ("d12", D12, 30) };
    let stored: Value = serde_json::from_str(STORED)?;
    let of = |what: &str| serde_json::from_value::<Vec<f64>>(stored[name][what].clone());
    let (stored_losses, stored_norms) = (of("losses")?, of("norms")?);

    let batch_tokens = Some((case.rows * case.tokens) as u64);
    let given = Overrides { batch_tokens, steps: Some(steps) };
    let mut training = Training::new(machine.device(), case, given)?;
    fill("july-30", Style::Start, &training.gpt, machine.device(), &mut training.params);
    training.params.zero_grads(machine.device())?;
    let started = Instant::now();
    let (mut losses, mut norms) = (vec![], vec![]);
    let (mut worst_loss, mut worst_norm) = (0f64, 0f64);
    // What is not a number is infinitely far off.
    let further = |worst: f64, off: f64| if off.is_nan() { f64::INFINITY } else { worst.max(off) };
    for step in 0..steps {
        let tokens = training.tokens(step)?;
        training.micro_batch(&tokens)?;
        let loss = training.loss()?;
        let norm = training.update(step)?;
        losses.push(loss);
        norms.push(norm);
        let at = step as usize;
        let beside = match (stored_losses.get(at), stored_norms.get(at)) {
            (Some(stored_loss), Some(stored_norm)) => {
                worst_loss = further(worst_loss, (loss - stored_loss).abs());
                worst_norm = further(worst_norm, (norm / stored_norm - 1.0).abs());
                format!(" (a CPU: loss {stored_loss:.4}, norm {stored_norm:.4})")
            }
            _ => String::new(),
        };
        println!("step {step:>2}: loss {loss:.4}, gradient's norm {norm:.4}{beside}");
    }
    let complete =
        [&stored_losses, &stored_norms].iter().all(|stored| stored.len() == losses.len());
    if !complete {
        println!(
            "losses.json has {} losses of {name}, expected {steps}; --json writes these",
            stored_losses.len()
        );
    }
    let well = complete && worst_loss <= LOSS && worst_norm <= NORM;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{name}, {steps} steps in {seconds:.1} s: losses at most {worst_loss:.4} from a CPU's (allowed {LOSS}), norms {:.2}% (allowed {}%): {}",
        100.0 * worst_norm,
        100.0 * NORM,
        if well { "passed" } else { "FAILED" },
    );
    let figures = json!({
        "mode": "check", "device": machine.json(), "case": name, "passed": well, "worst_loss": worst_loss, "worst_norm": worst_norm,
        "losses": losses, "norms": norms,
    });
    Ok((well, figures))
}
