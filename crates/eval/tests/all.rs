//! All integration tests of this crate, in one program: they are linked once.

mod bpb;
mod common;
mod core;
mod core_published;
#[path = "../../model/tests/golden/mod.rs"]
mod golden;
mod golden_bits;
mod gpt;
mod world;
