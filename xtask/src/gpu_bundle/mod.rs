//! `cargo xtask gpu-bundle`: what a machine with a GPU needs to test the `cuda` device and to measure itself, in one folder and one archive.
//!
//! That machine has no Rust, no CUDA toolkit and no network: test binaries and examples are built here and packed with `run.sh`. Nothing
//! here runs on a GPU.

mod build;
mod pack;

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

/// One executable of the bundle, of the package `farthing-kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    kind: Kind,
    /// Of the target, and of the file in `bin/`, by which `run.sh` calls it.
    name: &'static str,
}

const PACKAGE: &str = "farthing-kernels";
const PARTS: [Part; 3] = [
    // Every operation against the f64 reference.
    Part { kind: Kind::Test, name: "conformance" },
    // Every launch on the GPU and in the emulator, compared bit for bit.
    Part { kind: Kind::Test, name: "same_bits" },
    // What the machine can do at best: copies, matrix products.
    Part { kind: Kind::Example, name: "ceilings" },
];
const RUN: &str = include_str!("run.sh");
/// The folder's, so that it fits through narrow doors.
const LIMIT_BYTES: u64 = 60_000_000;

/// Builds and packs; `out` stands in for `gpu-bundle` in cargo's target folder.
pub(crate) fn run(out: Option<PathBuf>) -> Result<()> {
    let folder = match out {
        Some(out) => std::path::absolute(out).context("cannot find the current folder")?,
        None => workspace::target()?.join("gpu-bundle"),
    };
    build::check_targets(&PARTS)?;
    let built = build::executables(&PARTS)?;

    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    let files = pack::fill(&partial, RUN, &built, LIMIT_BYTES)?;
    // Which PTX the binaries hold, for `cargo xtask gpu-doc`.
    let manifest = workspace::root().join("crates/kernels/ptx/MANIFEST.toml");
    fs::copy(&manifest, partial.join("MANIFEST.toml"))
        .with_context(|| format!("cannot copy {}", manifest.display()))?;
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
    println!("{}", folder.display());
    println!("{}", archive.display());
    println!("on a machine with a GPU: ./run.sh [RESULTS]");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_script_calls_every_part_and_no_other() {
        for part in PARTS {
            assert!(
                RUN.contains(&format!("$bin/{}", part.name)),
                "run.sh does not call {}",
                part.name
            );
        }
        let called = RUN.matches("$bin/").count();
        let known: usize =
            PARTS.iter().map(|part| RUN.matches(&format!("$bin/{}", part.name)).count()).sum();
        assert_eq!(called, known, "run.sh calls something that is not bundled");
    }

    /// A script that another thread's fork still holds open cannot be run, so that tests which run scripts take turns.
    static TURN: Mutex<()> = Mutex::new(());

    #[test]
    fn without_a_gpu_the_script_says_so_and_fails() {
        let _turn = TURN.lock().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let executable = |name: &str, script: &str| build::Built {
            name: name.to_owned(),
            path: {
                let path = folder.path().join(name);
                fs::write(&path, script).unwrap();
                path
            },
        };
        // What the real test binary does without a device, and one that must not be reached.
        let built = [
            executable(
                "same_bits",
                "#!/bin/sh\necho 'no CUDA driver: libcuda.so.1 is not there' >&2\nexit 101\n",
            ),
            executable("conformance", "#!/bin/sh\ntouch \"$(dirname \"$0\")/reached\"\n"),
            executable("ceilings", "#!/bin/sh\ntouch \"$(dirname \"$0\")/reached\"\n"),
        ];
        let bundle = folder.path().join("bundle");
        pack::fill(&bundle, RUN, &built, LIMIT_BYTES).unwrap();
        fs::write(bundle.join("MANIFEST.toml"), "").unwrap();
        let output = std::process::Command::new(bundle.join("run.sh")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("no usable GPU") && said.contains("libcuda.so.1 is not there"),
            "{said}"
        );
        assert!(!bundle.join("bin/reached").exists(), "went on without a GPU");
    }

    #[test]
    fn a_failed_part_fails_the_run_but_not_the_others() {
        let _turn = TURN.lock().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let script = |name: &str, script: &str| {
            let path = folder.path().join(name);
            fs::write(&path, script).unwrap();
            build::Built { name: name.to_owned(), path }
        };
        let built = [
            script("same_bits", "#!/bin/sh\necho \"device: H200\"\n"),
            script(
                "conformance",
                "#!/bin/sh\n[ \"$FARTHING_TEST_DEVICES\" = cuda:0 ] || exit 3\necho 'test cast ... FAILED'\nexit 101\n",
            ),
            script(
                "ceilings",
                "#!/bin/sh\nprintf '{\\n  \"copy_bytes_per_s\": 1\\n}\\n| what | figure |\\n| --- | --- |\\n'\n",
            ),
        ];
        let bundle = folder.path().join("bundle");
        pack::fill(&bundle, RUN, &built, LIMIT_BYTES).unwrap();
        fs::write(bundle.join("MANIFEST.toml"), "").unwrap();
        let results = folder.path().join("results");
        let output =
            std::process::Command::new(bundle.join("run.sh")).arg(&results).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let summary = fs::read_to_string(results.join("summary.md")).unwrap();
        for part in
            ["conformance | FAILED", "same_bits | passed", "ceilings | passed", "| what | figure |"]
        {
            assert!(summary.contains(part), "{summary}");
        }
        assert_eq!(
            fs::read_to_string(results.join("ceilings.json")).unwrap(),
            "{\n  \"copy_bytes_per_s\": 1\n}\n"
        );
    }
}
