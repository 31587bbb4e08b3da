//! Where things are: the root of the sources, and cargo's target folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The part of cargo's metadata that is read here.
#[derive(serde::Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// The root of the workspace that this program was built from.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that runs this program, or the one in the path.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Cargo's description of the workspace, as JSON.
pub(crate) fn metadata() -> Result<Vec<u8>> {
    let output = Command::new(cargo())
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .with_context(|| format!("cannot run {}", cargo().display()))?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Cargo's target folder, wherever the environment or a configuration file has put it.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata: Metadata =
        serde_json::from_slice(&metadata()?).context("cannot read cargo metadata")?;
    Ok(metadata.target_directory)
}

/// The commit of the sources, and whether they differ from it; `unknown` where there is no git.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    match git(&["status", "--porcelain"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A crate that lists its tests in `tests/all.rs` loses none: every file beside it is a `mod` there, or a test of its own in `Cargo.toml`.
    #[test]
    fn no_file_of_tests_is_left_out() {
        let mut crates = 0;
        for entry in fs::read_dir(root().join("crates")).unwrap() {
            let folder = entry.unwrap().path();
            let Ok(all) = fs::read_to_string(folder.join("tests/all.rs")) else { continue };
            crates += 1;
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            for file in fs::read_dir(folder.join("tests")).unwrap() {
                let file = file.unwrap().path();
                let name = file.file_stem().unwrap().to_str().unwrap();
                if file.extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                let known = all.lines().any(|line| line == format!("mod {name};"))
                    || manifest.contains(&format!("[[test]]\nname = \"{name}\"\n"));
                assert!(known, "{} is in no test program", file.display());
            }
        }
        assert!(crates >= 5, "{crates} crates with tests/all.rs");
    }
}
