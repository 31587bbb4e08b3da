//! The crate's integration tests, in one program.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod conformance;
mod faults;
#[cfg(unix)]
mod mpi;
#[cfg(target_os = "linux")]
mod nccl;
mod peers;
