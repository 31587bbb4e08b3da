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
