#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod access;
mod asynchronous;
mod block;
mod cfg;
mod collective;
mod counters;
mod decode;
mod decode_memory;
mod decode_warp;
mod error;
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
pub use launch::{Arg, Options};
pub use memory::{Element, Memory, Pointer};
pub use module::{Kernel, Module};
pub use tensor_map::{Swizzle, TensorMap};
