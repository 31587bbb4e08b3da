//! Damaged and lying files: an error that names the file and the fault, never a panic, never a large allocation.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "--nocapture shows what was counted and measured")]

mod common;

#[path = "hostile/corpus.rs"]
mod corpus;
#[path = "hostile/document.rs"]
mod document;
#[path = "hostile/flips.rs"]
mod flips;
#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library of its own, of which tests use a part")]
mod fuzz;
#[path = "hostile/long.rs"]
mod long;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/parquet.rs"]
mod parquet_files;
#[path = "hostile/random.rs"]
mod random;
#[path = "hostile/shards.rs"]
mod shards;
