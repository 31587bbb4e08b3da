//! Optimizers over slabs of equal shapes: AdamW and Muon with NorMuon's variance reduction; parameter groups matched by
//! name; schedules over the run; scaling rules from depth. Knows parameters' names and shapes, not what they mean.
//!
//! An [`Optimizer`] updates one slab ([`farthing_kernels::Slab`]): K parameters of one shape, stacked. [`Optimizers`]
//! is a whole model's: it resolves nothing itself but joins what the other parts say: [`OptimPreset`] and [`merge`] give the
//! groups, [`resolve`] the slabs, [`Scaling::plan`] the horizon and factors, [`Schedule`] the course over the run, and
//! [`Registry`] the rule behind each `uses`.
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
