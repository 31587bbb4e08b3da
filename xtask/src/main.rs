//! Chores of this workspace, run as `cargo xtask CHORE`.
//!
//! What a chore makes is committed (PTX) or packed for another machine; the product itself builds without any of it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line's output")]

mod dist;
mod gpu_bundle;
mod gpu_doc;
mod outside;
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
    /// Print the machine code that a committed kernel is assembled to, and count its instructions
    Sass {
        /// The kernel's name
        kernel: String,
        /// What to assemble it for, as ptxas names it
        #[arg(long, default_value = "sm_90a", value_name = "SM")]
        arch: String,
        /// A CUDA toolkit to use in place of the pinned one that is fetched with pip; its version must be the pinned one
        #[arg(long, value_name = "DIR")]
        toolkit: Option<PathBuf>,
    },
    /// Pack what tests and measures the cuda device on a machine that has a GPU and nothing else
    GpuBundle {
        /// The folder to make; default: gpu-bundle in cargo's target folder. DIR.tar.gz is made beside it
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Package the crates that are of use alone, and check programs outside of the workspace against them, with few features and with all
    Outside,
    /// Build the runner for people without Rust: dynamic, stripped, for an old C library, with checksums; needs cargo-zigbuild and zig
    Dist {
        /// Where the binaries go; default: farthing in cargo's target folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// cargo's target folder for them, which takes about 2 GB; default: dist-build in its usual one
        #[arg(long, value_name = "DIR")]
        build: Option<PathBuf>,
    },
    /// Enter into docs/gpu.md what each kernel passed on a GPU, and into docs/performance.md what a step took
    GpuDoc {
        /// The folder that the bundle's run.sh was given
        results: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Ptx { check, toolkit } => ptx::run(check, toolkit.as_deref()),
        Chore::Sass { kernel, arch, toolkit } => ptx::sass(&kernel, &arch, toolkit.as_deref()),
        Chore::GpuBundle { out } => gpu_bundle::run(out),
        Chore::Outside => outside::run(),
        Chore::Dist { out, build } => dist::run(out, build),
        Chore::GpuDoc { results } => gpu_doc::record(&results),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
