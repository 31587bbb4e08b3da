//! The crate's integration tests, in one program.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

#[path = "../../model/tests/golden/mod.rs"]
mod golden;
mod golden_chat;
mod late;
mod ranks;
mod training;
