//! Tensors, and every operation of a training step, as values that any device runs.
//!
//! A [`Tensor`] owns memory on a device; [`Ref`] and [`Mut`] are views of it with Rust's borrow rules. [`ops`] has the operations, each with its
//! formula, operands and definition; a [`Device`] runs them. [`mod@reference`] computes the definitions in f64, [`cpu`] computes in f32 on all
//! cores, [`cuda`] with kernels of our own on a GPU or in the emulator. Wrappers: [`traced`] writes down what a device did, [`rounded`] stores activations in bf16, and
//! [`planned`] only counts. [`conformance`] holds any device to the definitions. This crate knows no layers, no parameters' meaning and no optimizer.

mod bf16;
mod blocks;
pub mod conformance;
pub mod cpu;
pub mod cuda;
mod device;
mod error;
mod exchange;
mod expr;
mod open;
pub mod ops;
mod params;
pub mod planned;
pub mod reference;
pub mod rounded;
mod shape;
mod tensor;
pub mod traced;

pub use bf16::Bf16;
pub use blocks::Blocks;
pub use device::{Device, Memory};
pub use error::{Error, Result};
pub use exchange::{Arrival, Bucket, Coming, Leaving};
pub use expr::{Binary, Expr, Unary};
pub use open::{DeviceKind, open};
pub use ops::{AdamWHyper, AttentionShape, Coef, Op};
pub use params::{Grads, ParamId, Params, Part, Slab, SlabSpec, Weights};
pub use shape::Shape;
pub use tensor::{Allocation, DType, Element, HostAllocation, Mut, Place, Ref, Tensor};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
