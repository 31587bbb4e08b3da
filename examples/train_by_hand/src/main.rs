//! Trains a GPT of two layers on the processor. Run with `cargo run --release -p train-by-hand --bin train-by-hand -- by-hand/`.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::path::PathBuf;

use farthing_kernels::cpu::Cpu;
use farthing_model::{ModelConfig, Preset};
use farthing_optim::Registry;
use farthing_train::{Recipe, Setup, Trainer};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or("by-hand".into()));
    let rows = train_by_hand::rows(&dir)?;

    let mut recipe = Recipe::new(ModelConfig::new(Preset::Nanochat202607, 2));
    recipe.schedule.batch_tokens = Some(2_048);
    recipe.schedule.steps = Some(60);
    recipe.schedule.warmup_steps = Some(10);
    let registry = Registry::standard();
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
