//! All integration tests of this crate, in one program: they are linked once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says why")]
#![allow(clippy::print_stdout, reason = "the figures are there to be read")]

mod bpb;
mod common;
mod core;
mod core_published;
#[path = "../../model/tests/golden/mod.rs"]
mod golden;
mod golden_bits;
mod gpt;
mod ranks;
mod world;
mod zips;
