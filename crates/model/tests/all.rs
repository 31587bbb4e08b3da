//! All integration tests of this crate, in one program: they are linked once.
//! Apart: `allocations.rs`, which counts every allocation of its process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::needless_range_loop, reason = "loops are over the formula's letters")]
#![allow(clippy::print_stdout, reason = "the losses are there to be read")]
#![allow(clippy::print_stderr, reason = "errors are worth reading")]

mod batches;
mod checkpoints;
mod common;
mod compact;
mod formula;
mod golden;
mod golden_converted;
mod golden_gpt2;
mod golden_gradients;
mod gradients;
mod numerics;
mod precision;
mod recipe;
