//! The command line as its user sees it: every error screen, every other screen, and what the cache does.
#![allow(clippy::unwrap_used, reason = "tests")]

mod cache;
#[cfg(target_os = "linux")]
mod chaos;
#[cfg(target_os = "linux")]
mod crash;
mod errors;
mod extends;
mod harness;
mod house;
mod matrix;
mod screens;
mod side;
#[path = "../product/stderr.rs"]
mod stderr;
mod stop;
mod toys;
