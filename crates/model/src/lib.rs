//! The GPT: configuration, parameters, forward, backward, generation, checkpoints.
//!
//! [`Gpt`] is structure only; its weights live in [`farthing_kernels::Params`], in whatever slabs an optimizer wants them. Any
//! [`farthing_kernels::Device`] runs it. This crate never names an optimizer and reads no files but checkpoints.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod backward;
mod cache;
mod checkpoint;
mod compact;
mod config;
mod error;
mod export;
mod forward;
mod generate;
mod gpt;
mod gpt2;
mod layout;
mod params;
mod preset;
mod sampling;
mod tensors;
mod workspace;

pub use checkpoint::{
    Checkpoint, CheckpointWriter, Extra, PIECE, STATE_PREFIX, load_model, load_weights, save_model,
};
pub use compact::compact;
pub use config::{GptConfig, Mlp, ModelConfig};
pub use error::{Error, Result};
pub use farthing_base::Batch;
pub use generate::{BatchGenerator, Generator};
pub use gpt::Gpt;
pub use gpt2::{Gpt2, Gpt2Config, Scored};
pub use layout::Layout;
pub use params::{Init, LayerIds, ParamIds, ParamSpec, SmearIds, ValueIds};
pub use preset::Preset;
pub use sampling::{Sampler, Sampling};
pub use workspace::{Mode, Workspace};
