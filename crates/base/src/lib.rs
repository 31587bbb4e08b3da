//! The ground floor: what several crates need and none of them is about. It knows no tensors of a device, no model and no command line; what data, model and evaluation share is [`Batch`].
#![doc = include_str!("../README.md")]

mod batch;
pub mod files;
mod hint;
pub mod names;
pub mod random;
pub mod shown;
pub mod tensors;
pub mod unique;

pub use batch::{Batch, BatchError, IGNORE};
pub use files::FileError;
pub use hint::Hint;
