//! nanochat for the bundle, where a checkout of it is: its Python package and the script that times it. Nothing of it is committed here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Of which commit the figures beside ours are.
const COMMIT: &str = "92d63d4";
const SCRIPT: &str = "gpu_nanochat.py";

/// Where it is.
#[derive(Debug)]
pub(super) struct Nanochat {
    checkout: PathBuf,
    script: PathBuf,
}

/// What the environment and the folders around the checkout have, or why there is nothing.
pub(super) fn find() -> Result<std::result::Result<Nanochat, String>> {
    let named = std::env::var_os("FARTHING_SHARED").map(PathBuf::from);
    let near = ["../shared", "../../shared"].map(|up| workspace::root().join(up));
    let shared: Vec<PathBuf> = named.into_iter().chain(near).collect();
    search(std::env::var_os("NANOCHAT_DIR").map(PathBuf::from), &shared)
}

fn search(
    checkout: Option<PathBuf>,
    shared: &[PathBuf],
) -> Result<std::result::Result<Nanochat, String>> {
    let Some(checkout) = checkout else {
        return Ok(Err(format!("NANOCHAT_DIR names no checkout of nanochat (commit {COMMIT})")));
    };
    let Some(script) =
        shared.iter().map(|folder| folder.join("bench").join(SCRIPT)).find(|file| file.is_file())
    else {
        return Ok(Err(format!(
            "bench/{SCRIPT} is absent; FARTHING_SHARED names the folder that holds `bench`"
        )));
    };
    let commit = git(&checkout, &["rev-parse", "HEAD"])?;
    if !commit.starts_with(COMMIT) {
        bail!(
            "NANOCHAT_DIR, {}, is at commit {commit}; figures are compared with {COMMIT}\n  hint: git -C {0} checkout {COMMIT}",
            checkout.display()
        );
    }
    let changed =
        git(&checkout, &["status", "--porcelain", "--untracked-files=no", "--", "nanochat"])?;
    if !changed.is_empty() {
        bail!(
            "NANOCHAT_DIR, {}, is not as commit {COMMIT} has it: {changed}\n  hint: git -C {0} stash",
            checkout.display()
        );
    }
    Ok(Ok(Nanochat { checkout, script }))
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!(
            "NANOCHAT_DIR, {}, is no checkout: {}",
            folder.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Nanochat {
    /// Copies the package's Python files, the licence and the script into `target`; returns the bytes.
    pub(super) fn copy(&self, target: &Path) -> Result<u64> {
        let mut bytes = copy_python(&self.checkout.join("nanochat"), &target.join("nanochat"))?;
        bytes += copy_file(&self.script, &target.join(SCRIPT))?;
        let licence = self.checkout.join("LICENSE");
        if licence.is_file() {
            bytes += copy_file(&licence, &target.join("LICENSE"))?;
        }
        Ok(bytes)
    }
}

impl std::fmt::Display for Nanochat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nanochat at commit {COMMIT} of {}", self.checkout.display())
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<u64> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn copy_python(from: &Path, to: &Path) -> Result<u64> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut bytes = 0;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", from.display()))?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            if name != "__pycache__" {
                bytes += copy_python(&path, &to.join(name))?;
            }
        } else if path.extension().is_some_and(|extension| extension == "py") {
            bytes += copy_file(&path, &to.join(name))?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_checkout_or_the_script_the_reason_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let none = search(None, &[]).unwrap().unwrap_err();
        assert!(none.contains("NANOCHAT_DIR"), "{none}");
        let no_script = search(Some(folder.path().to_owned()), &[folder.path().to_owned()]);
        assert!(no_script.unwrap().unwrap_err().contains("FARTHING_SHARED"));
    }

    #[test]
    fn another_commit_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = folder.path().join("checkout");
        fs::create_dir_all(folder.path().join("bench")).unwrap();
        fs::write(folder.path().join("bench").join(SCRIPT), "").unwrap();
        fs::create_dir(&checkout).unwrap();
        let shared = [folder.path().to_owned()];
        let look = || search(Some(checkout.clone()), &shared).unwrap_err().to_string();
        // Not a checkout at all, wherever the temporary folder is.
        let ours = |arguments: &[&str]| git(&checkout, arguments).unwrap();
        ours(&["init", "--quiet"]);
        assert!(look().contains("is no checkout"), "{}", look());
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"];
        ours(&[&identity[..], &["commit", "--quiet", "--allow-empty", "--message=a"]].concat());
        let commit = ours(&["rev-parse", "HEAD"]);
        assert!(look().contains(&commit) && look().contains("checkout 92d63d4"), "{}", look());
    }

    #[test]
    fn the_package_is_copied_without_what_is_no_source() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("nanochat");
        for (file, text) in [
            ("gpt.py", "model"),
            ("ui.html", "no"),
            ("sub/a.py", "a"),
            ("__pycache__/gpt.py", "no"),
            ("../.git/config.py", "no"),
        ] {
            let file = package.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let script = folder.path().join("s.py");
        fs::write(&script, "script").unwrap();
        let target = folder.path().join("target");
        let nanochat = Nanochat { checkout: folder.path().to_owned(), script };
        assert_eq!(nanochat.copy(&target).unwrap(), 5 + 1 + 6);
        assert!(target.join(SCRIPT).is_file() && target.join("nanochat/sub/a.py").is_file());
        assert!(!target.join("nanochat/__pycache__").exists() && !target.join(".git").exists());
    }
}
