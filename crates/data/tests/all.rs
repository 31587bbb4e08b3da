//! All integration tests of this crate, in one program: they are linked once.
//! Apart: `hostile.rs`, which counts every allocation of its process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says why")]

mod checksums;
mod common;
mod formats;
mod hub;
mod loading;
mod packing;
mod python;
mod reading;
mod shared;
mod sources;
mod stages;
mod tokenizer;
mod tokenizer_identity;
mod tokenizer_training;
mod trust;
