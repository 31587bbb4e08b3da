//! Tensors, and every operation of a training step behind one object-safe trait.
//!
//! A [`Tensor`] owns memory on a device; [`Ref`] and [`Mut`] are views of it with Rust's borrow rules. [`Device`] lists
//! what a training step computes, each operation with its formula and shapes. Two devices are here: [`mod@reference`], the
//! definition in plain f64 loops, and [`cpu`], f32 on all cores. [`traced`] wraps any device and records what it did; [`rounded`]
//! wraps any device and stores activations in bf16; [`conformance`] holds any device to the definition. This crate knows no layers, no parameters' meaning and no optimizer.

mod bf16;
pub mod conformance;
pub mod cpu;
pub mod cuda;
mod device;
mod error;
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
pub use device::{Device, Memory};
pub use error::{Error, Result};
pub use expr::{Binary, Expr, Unary};
pub use open::{DeviceKind, open};
pub use ops::{AdamW, AttentionShape, Coef, Op};
pub use params::{Grads, ParamId, Params, Slab, SlabSpec, Weights};
pub use shape::Shape;
pub use tensor::{Allocation, DType, Element, HostAllocation, Mut, Place, Ref, Tensor};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
