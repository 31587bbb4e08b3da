//! Damaged and lying files: an error that names the file and the fault, never a panic, never a large allocation.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

#[path = "hostile/parquet.rs"]
mod parquet_files;
#[path = "hostile/shards.rs"]
mod shards;
