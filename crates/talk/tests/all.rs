//! The crate's tests from outside, one program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod session;
