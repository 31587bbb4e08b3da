//! Chores of this workspace, run as `cargo xtask CHORE`.
//!
//! What a chore makes is committed (PTX) or packed for another machine; the product itself builds without any of it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line's output")]

mod ptx;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Compile crates/kernels/cu/*.cu to the PTX that is committed beside it
    Ptx {
        /// Change nothing: compile into a temporary folder, and fail if what is committed differs
        #[arg(long)]
        check: bool,
        /// A CUDA toolkit to use in place of the pinned one that is fetched with pip; its version must be the pinned one
        #[arg(long, value_name = "DIR")]
        toolkit: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Ptx { check, toolkit } => ptx::run(check, toolkit.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
