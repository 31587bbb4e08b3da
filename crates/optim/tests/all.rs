//! All integration tests of this crate, in one program: they are linked once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the differences are there to be read")]
#![allow(clippy::print_stderr, reason = "why it is skipped")]
#![allow(clippy::approx_constant, reason = "1.414213562 stands in a table of printed figures")]

mod common;
mod foreign;
#[path = "../../model/tests/golden/mod.rs"]
mod golden;
mod golden_depths;
mod golden_schedules;
mod golden_steps;
mod gpu_step;
mod groups;
mod optimizers;
mod scaling;
mod schedule;
mod updates;
