//! The crate's tests, from outside, in one program.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod answers;
mod client;
mod doors;
