//! All integration tests of this crate, in one program: they are linked once.
//! Apart: `hostile.rs`, which counts every allocation of its process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod conformance;
mod conversions;
mod faults;
mod matrices;
mod memory;
mod mutations;
mod nvcc;
mod opcodes;
