#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(clippy::inline_always, reason = "what one lane does has to vanish into the loop over 32")]
#![allow(
    clippy::unnecessary_box_returns,
    reason = "a fault is large and rare; a step's result is small"
)]
#![allow(
    clippy::items_after_statements,
    reason = "a row's loop stands beside the form that uses it"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over the 32 lanes index several rows at once"
)]

mod access;
mod asynchronous;
mod block;
mod cfg;
mod collective;
mod counters;
mod decode;
mod decode_instruction;
mod decode_memory;
mod decode_operand;
mod decode_warp;
mod error;
mod exactness;
mod float;
mod lanes;
mod launch;
mod matrix;
mod memory;
mod module;
mod parse;
mod program;
mod shared;
mod syntax;
mod tensor_map;
mod token;
mod warp;
mod wgmma;

pub use counters::{Class, Counters, Traffic};
pub use error::{Error, Fault, FaultKind, Result};
pub use exactness::{Contraction, Exactness, exactness};
pub use launch::{Arg, Options};
pub use memory::{Element, Memory, Pointer};
pub use module::{Kernel, Module};
pub use tensor_map::{Swizzle, TensorMap};
