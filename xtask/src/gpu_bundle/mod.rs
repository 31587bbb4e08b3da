//! `cargo xtask gpu-bundle`: what a machine with a GPU needs to test the `cuda` device, to measure a training step, and nanochat's beside
//! it, in one folder and one archive.
//!
//! That machine has no Rust, no CUDA toolkit and no network: executables are built here and packed with `run.sh`. Nothing here runs on a
//! GPU.

mod build;
mod nanochat;
mod pack;
#[cfg(test)]
mod script;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace;

/// What kind of cargo target a part of the bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Test,
    Example,
}

impl Kind {
    /// Cargo's name for it, in metadata and, after `--`, as a flag.
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Example => "example",
        }
    }
}

/// One executable of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    package: &'static str,
    kind: Kind,
    /// Of the target, and of the file in `bin/`, by which `run.sh` calls it.
    name: &'static str,
}

const KERNELS: &str = "farthing-kernels";
const PARTS: [Part; 5] = [
    // Every operation against the f64 reference.
    Part { package: KERNELS, kind: Kind::Example, name: "conform" },
    // Every launch on the GPU and in the emulator, compared bit for bit.
    Part { package: KERNELS, kind: Kind::Test, name: "same_bits" },
    // What the machine can do at best: copies, matrix products.
    Part { package: KERNELS, kind: Kind::Example, name: "ceilings" },
    // A training step, timed by kernel.
    Part { package: "farthing-optim", kind: Kind::Example, name: "gpu_step" },
    // NCCL, in a job of one rank.
    Part { package: "farthing-comm", kind: Kind::Example, name: "nccl_one" },
];
const RUN: &str = include_str!("run.sh");
/// The folder's, so that it fits through narrow doors.
const LIMIT_BYTES: u64 = 40_000_000;

/// Builds and packs; `out` stands in for `gpu-bundle` in cargo's target folder.
pub(crate) fn run(out: Option<PathBuf>) -> Result<()> {
    let folder = match out {
        Some(out) => std::path::absolute(out).context("cannot find the current folder")?,
        None => workspace::target()?.join("gpu-bundle"),
    };
    build::check_targets(&PARTS)?;
    let nanochat = nanochat::find()?;
    let built = build::executables(&PARTS)?;

    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    let mut files = pack::fill(&partial, RUN, &built)?;
    // Which PTX the binaries hold, for `cargo xtask gpu-doc`.
    let manifest = workspace::root().join("crates/kernels/ptx/MANIFEST.toml");
    let bytes = fs::copy(&manifest, partial.join("MANIFEST.toml"))
        .with_context(|| format!("cannot copy {}", manifest.display()))?;
    files.push(("MANIFEST.toml".to_owned(), bytes));
    let commit = partial.join("COMMIT");
    fs::write(&commit, format!("{}\n", workspace::commit()))
        .with_context(|| format!("cannot write {}", commit.display()))?;
    if let Ok(nanochat) = &nanochat {
        files.push(("nanochat/".to_owned(), nanochat.copy(&partial.join("nanochat"))?));
    }
    pack::check_size(&files, LIMIT_BYTES)?;
    if folder.exists() {
        pack::check_ours(&folder)?;
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(&partial, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let archive = pack::archive(&folder)?;

    for (name, bytes) in &files {
        println!("{:>8.1} MB  {name}", *bytes as f64 / 1e6);
    }
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!("{:>8.1} MB  in all", total as f64 / 1e6);
    match nanochat {
        Ok(nanochat) => println!("with {nanochat}"),
        Err(reason) => println!("without nanochat: {reason}"),
    }
    println!("copy {} or {}", folder.display(), archive.display());
    println!(
        "to a machine with a GPU; there, in the folder: ./run.sh RESULTS --seconds 540\nthen here: cargo xtask gpu-doc RESULTS"
    );
    Ok(())
}
