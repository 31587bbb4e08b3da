//! Small things that several of the other crates need: safe files, tensor files, random numbers, spelling suggestions, hints beside errors. Nothing here knows about devices, models or
//! command lines; [`Batch`] is what data, model and evaluation share.
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
