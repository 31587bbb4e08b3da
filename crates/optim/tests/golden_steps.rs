//! Whole training steps against nanochat's own in f32 on a CPU, every group active: model, groups, rates, schedules, updates.
//!
//! Thirty steps start from weights of which no tensor is zero, at rates scaled down by a batch of 2,048 tokens: from the recipe's own
//! initialisation nanochat does not agree with itself when it sums in another order. From that one there is one step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../model/tests/golden/mod.rs"]
mod golden;

use farthing_kernels::cpu::Cpu;
use farthing_kernels::{Device, Params};
use farthing_model::{Batch, Gpt, Mode, ModelConfig, sort_positions};
use farthing_optim::{
    Listed, Optimizers, Overrides, Preset, REFERENCE_DEPTH, Registry, Size, resolve,
};
use golden::exact::{batch, norm};
use golden::{Golden, Style, TOKENS, VOCAB, fill, model};

const LOSS: f64 = 1e-5;
const WEIGHTS: f64 = 1e-4;
/// Rows of a step, and of a micro-batch: gradients are summed over two.
const ROWS: usize = 4;
const MICRO: usize = 2;

/// Runs a case's steps as the runner does; compares the loss before each and after the last, and the final weights.
fn check(case: &str, style: Style, steps: u64) {
    let mut golden = Golden::open(env!("CARGO_MANIFEST_DIR"), case);
    let dev = Cpu::new(0).unwrap();
    let dev: &dyn Device = &dev;
    let preset = Preset::ALL[usize::from(case.starts_with("july"))];
    let config = model(case, 4, 32, None);
    let reference = ModelConfig { depth: REFERENCE_DEPTH, ..config.clone() };
    let gpt = Gpt::new(config.resolve(VOCAB, TOKENS).unwrap()).unwrap();
    let size = Size {
        scaling_params: gpt.config().scaling_params(),
        reference_scaling_params: reference.resolve(VOCAB, TOKENS).unwrap().scaling_params(),
        model_dim: gpt.config().model_dim,
        depth: gpt.config().depth,
    };
    let batch_tokens = Some((ROWS * TOKENS) as u64);
    let plan =
        preset.scaling().plan(&size, &Overrides { batch_tokens, steps: Some(steps) }).unwrap();
    assert_eq!(plan.lr_scale, 0.0625);
    let groups = preset.groups();
    let listed: Vec<Listed<'_>> =
        gpt.params().iter().map(|p| (p.name.as_str(), p.shape, p.id)).collect();
    let mut params = Params::new(dev, resolve(&groups, &listed).unwrap()).unwrap();
    fill(case, style, &gpt, dev, &mut params);
    let read = |params: &Params| -> Vec<Vec<f64>> {
        let weights = params.weights();
        gpt.params().iter().map(|p| dev.read_f64(weights.master(p.id).unwrap()).unwrap()).collect()
    };
    let first = read(&params);
    let registry = Registry::standard();
    let mut optimizers =
        Optimizers::new(&registry, dev, &groups, &plan, &preset.schedule(), &params).unwrap();
    let mut ws = gpt.workspace(dev, MICRO, TOKENS, Mode::Train).unwrap();

    let theirs = golden.values("losses");
    assert_eq!(theirs.len() as u64, steps + 1);
    let scale = 1.0 / (ROWS * TOKENS) as f64;
    let mut order = vec![0; MICRO * TOKENS];
    let mut worst = vec![];
    for (step, &theirs) in theirs.iter().enumerate() {
        let (inputs, targets) = batch(&format!("{case}/step-{step}"), ROWS, TOKENS, VOCAB, false);
        params.zero_grads(dev).unwrap();
        let mut loss = 0.0;
        let pairs = inputs.chunks(MICRO * TOKENS).zip(targets.chunks(MICRO * TOKENS));
        for (inputs, targets) in pairs {
            sort_positions(inputs, &mut order);
            let micro = Batch::new(TOKENS, inputs, targets).with_order(&order);
            let (weights, mut grads) = params.split();
            gpt.forward_backward(dev, weights, &mut grads, &mut ws, &micro, scale).unwrap();
            loss += ws.loss_sum(dev).unwrap() * scale;
        }
        let error = (loss - theirs).abs() / theirs;
        let name = format!("loss {step}");
        worst.push((name.clone(), error, LOSS));
        golden.row(&name, error, theirs, format!("{loss:.7}"));
        if (step as u64) < steps {
            optimizers.step(dev, &mut params, step as u64).unwrap();
            params.refresh_compute(dev).unwrap();
        }
    }
    for ((spec, ours), first) in gpt.params().iter().zip(read(&params)).zip(first) {
        let name = format!("final.{}", spec.name);
        let moved: Vec<f64> = ours.iter().zip(&first).map(|(a, b)| a - b).collect();
        let part = norm(&moved) / norm(&ours);
        let error = golden.compare(&name, &ours, format!("moved by {part:.1e}"));
        worst.push((name, error, WEIGHTS));
    }
    golden.finish();
    for (name, error, tolerance) in worst {
        assert!(error < tolerance, "{case}: {name} is off by {error:e}");
    }
}

#[test]
fn thirty_steps_of_january() {
    check("january-30", Style::Start, 30);
}

#[test]
fn thirty_steps_of_july() {
    check("july-30", Style::Start, 30);
}

#[test]
fn one_step_of_january_from_its_initialisation() {
    check("january-1", Style::Real, 1);
}

#[test]
fn one_step_of_july_from_its_initialisation() {
    check("july-1", Style::Real, 1);
}
