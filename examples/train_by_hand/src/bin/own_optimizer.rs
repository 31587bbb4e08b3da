//! The same with an optimizer of one's own for the matrices: the sign of the momentum. Run with `cargo run --release -p train-by-hand --bin own_optimizer -- by-hand/`.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::path::PathBuf;

use farthing_kernels::cpu::Cpu;
use farthing_kernels::{Device, Expr, Slab, SlabSpec, Tensor};
use farthing_model::{ModelConfig, Preset};
use farthing_optim::{Hyper, Optimizer, OptimizerKind, Registry};
use farthing_train::{Recipe, Setup, Trainer};
use serde::{Deserialize, Serialize};

/// Its keys in a group, beside `lr` and the others that every group has.
#[derive(Serialize, Deserialize)]
struct SignKeys {
    beta: f64,
}

/// m = m + (1 − β)·(g − m), then p = p − lr·sign(m), on any device.
struct Sign {
    beta: f64,
    momentum: Tensor,
    rule: [Expr; 2],
}

impl OptimizerKind for Sign {
    type Config = SignKeys;

    fn build(
        keys: SignKeys,
        dev: &dyn Device,
        spec: &SlabSpec,
    ) -> farthing_optim::Result<Box<dyn Optimizer>> {
        let [p, m, g] = [Expr::old(0), Expr::old(1), Expr::input(0)];
        let [lr, toward] = [0, 1].map(Expr::scalar);
        let moved = m.clone() + toward * (g - m);
        let rule = [p - lr * moved.clone().sign(), moved];
        Ok(Box::new(Sign { beta: keys.beta, momentum: dev.master(spec.stacked())?, rule }))
    }
}

impl Optimizer for Sign {
    fn step(
        &mut self,
        dev: &dyn Device,
        slab: &mut Slab<'_>,
        hyper: &Hyper,
    ) -> farthing_optim::Result<()> {
        let mut out = [slab.weight.reborrow(), self.momentum.view_mut()];
        let scalars = [hyper.lr, 1.0 - self.beta];
        Ok(dev.map(&self.rule, &mut out, &[slab.grad.view()], &scalars)?)
    }

    fn state(&mut self) -> Vec<(String, &mut Tensor)> {
        vec![("momentum".into(), &mut self.momentum)]
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or("by-hand".into()));
    let rows = train_by_hand::rows(&dir)?;

    let registry = Registry::standard().register::<Sign>("sign");
    let mut recipe = Recipe::new(ModelConfig::new(Preset::Nanochat202607, 2));
    recipe.schedule.batch_tokens = Some(2_048);
    recipe.schedule.steps = Some(60);
    recipe.schedule.warmup_steps = Some(10);
    // What a pipeline's `[train.optim.matrices]` would say.
    let matrices = serde_json::json!({"uses": "sign", "lr": 0.002, "beta": 0.9});
    recipe.optim.insert("matrices".into(), serde_json::from_value(matrices)?);
    let setup = Setup::new(&recipe, &registry, rows.vocab(), rows.row_tokens() - 1)?;
    let (steps, micro_batch_rows) = (setup.plan.steps, setup.micro_batch_rows(1_024, 1));

    let cpu = Cpu::new(0)?;
    let mut trainer = Trainer::new(&cpu, setup, &registry, micro_batch_rows)?;
    trainer.initialize(1337)?;
    let mut batches = trainer.batches(&rows, 1337);
    for _ in 0..steps {
        let step = trainer.step(&mut batches)?;
        println!("step {:2}: loss {:.4}", step.step, step.loss.unwrap_or(f64::NAN));
    }
    Ok(trainer.save_weights(&dir.join("model.safetensors"))?)
}
