//! All integration tests of this crate, in one program: they are linked once.
//! Apart: `allocations.rs`, which counts every allocation of its process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batches;
mod checkpoints;
mod common;
mod formula;
mod golden;
mod golden_converted;
mod golden_gradients;
mod gradients;
mod numerics;
mod precision;
mod recipe;
