//! All integration tests of this crate, in one program: they are linked once.
//! Apart: `allocations.rs`, which counts every allocation of its process.

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
