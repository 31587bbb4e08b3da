//! The GPT: configuration, parameters, forward, backward, generation, checkpoints.
//!
//! [`Gpt`] is structure only; its weights live in [`farthing_kernels::Params`], in whatever slabs an optimizer wants them. Any
//! [`farthing_kernels::Device`] runs it. This crate never names an optimizer and reads no files but checkpoints.
#![doc = include_str!("../README.md")]

mod backward;
mod config;
mod error;
mod forward;
mod gpt;
mod params;
mod random;
mod workspace;

pub use config::{GptConfig, ModelConfig, Preset};
pub use error::{Error, Result};
pub use gpt::{Batch, Gpt, sort_positions};
pub use params::{Init, LayerIds, ParamIds, ParamSpec, SmearIds, ValueIds};
pub use random::Stream;
pub use workspace::{Mode, Workspace};
