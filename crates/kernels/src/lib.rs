//! Tensors, and all the operations of a training step, written once and run on any device.
//!
//! A [`Tensor`] owns memory on a device. [`Ref`] and [`Mut`] are views of it and follow Rust's borrow rules. [`ops`] lists the operations: each is a value that names its
//! operands, and each comes with its formula and its definition. A [`Device`] runs them. There are three: [`mod@reference`] computes the definitions in f64, [`cpu`] computes in f32 on
//! all cores, and [`cuda`] launches our own kernels on a GPU or in an emulator.
//!
//! Some devices wrap another one: [`traced`] records what it did, [`rounded`] stores its activations in bf16, and [`planned`] only counts. [`conformance`] compares any device with
//! the definitions. Layers, optimizers and the meaning of parameters belong to other crates.

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
pub use device::{Device, Memory, Room};
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
