//! Trains a [`Gpt`](farthing_model::Gpt) on any device with any optimizers: steps, evaluation, metrics, checkpoints. It has no TOML and no screen; those are the runner's.
//!
//! Start with a [`Recipe`]. Together with the vocabulary and the row length of your data it makes a [`Setup`], which fixes the model, its parameter groups, the number of steps and the rates. A
//! [`Trainer`] then allocates everything once. [`Trainer::step`] takes micro-batches and returns a [`StepRecord`]; [`Trainer::evaluate`] returns bits per byte on held-out rows;
//! [`Trainer::save`] and [`Trainer::restore`] continue a training that was interrupted, bit-equal on a CPU.
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
