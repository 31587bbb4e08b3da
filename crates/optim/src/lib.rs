//! Optimizers: AdamW, and Muon with NorMuon's variance reduction. Also parameter groups matched by name, schedules over a run, and rules that scale them with a model's depth.
//!
//! An [`Optimizer`] updates one slab ([`farthing_kernels::Slab`]), a stack of K parameters of equal shape. [`Optimizers`] drives all slabs of a model. It is put together from independent
//! parts: [`OptimPreset`] and [`merge`] give the parameter groups, [`resolve`] finds the slabs, [`Scaling::plan`] the number of steps and the scaling factors, [`Schedule`] the course of rates, and
//! [`Registry`] looks up the rule that a group's `uses` names. Parameters are known by name and shape; what they mean is up to the model.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod adamw;
mod error;
mod group;
mod keys;
mod muon;
mod optimizer;
mod optimizers;
mod patterns;
mod preset;
mod registry;
mod resolve;
mod scaling;
mod schedule;
mod sharding;

pub use adamw::{AdamW, AdamWConfig};
pub use error::{Error, Result};
pub use group::{Group, GroupKeys, Origin, Scale, ScaleKeys, merge};
pub use muon::{Muon, MuonConfig, NorMuon, NorMuonConfig, POLAR_EXPRESS};
pub use optimizer::{Grain, Hyper, Optimizer, OptimizerKind};
pub use optimizers::{GroupSummary, Optimizers, State, summarize};
pub use patterns::Patterns;
pub use preset::OptimPreset;
pub use registry::Registry;
pub use resolve::{Listed, resolve};
pub use scaling::{
    BatchRule, Overrides, Plan, REFERENCE_BATCH_TOKENS, REFERENCE_DEPTH, Scaling, Size,
    WeightDecayRule,
};
pub use schedule::{Decay, Factors, Momentum, MomentumKeys, Schedule, ScheduleKeys};
pub use sharding::shard;
