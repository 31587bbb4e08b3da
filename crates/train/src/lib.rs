//! Trains a [`Gpt`](farthing_model::Gpt) on any device with any optimizers: steps, evaluation, metrics, checkpoints. It knows no TOML and no screen.
//!
//! A [`Recipe`] and two facts of the data make a [`Setup`]: the model, its groups, the horizon, rates. A [`Trainer`] holds everything that a step touches,
//! allocated once: [`Trainer::step`] takes micro-batches and gives a [`StepRecord`], [`Trainer::evaluate`] gives bits per byte of held-out rows,
//! [`Trainer::save`] and [`Trainer::restore`] let training that was cut off go on, bit-equal on a CPU.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod checkpoints;
mod error;
mod metrics;
mod ranks;
mod setup;
mod trainer;

pub use checkpoints::{Checkpoints, MODEL_FILE};
pub use error::{Error, Result};
pub use metrics::{EvalRecord, FinalRecord, Record, RunRecord, StepRecord};
pub use setup::{Finetune, Recipe, Setup, listed};
pub use trainer::{Batches, Bytes, Loaded, Trainer, TrainerState};
