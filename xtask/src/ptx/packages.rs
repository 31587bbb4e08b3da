//! NVIDIA's tools from a Python package index: pinned by version and hash, fetched with pip into cargo's target folder once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Where the packages put a toolkit, below the folder that pip installs into.
pub(super) const INSIDE: &str = "nvidia/cu13";

/// Packages that are fetched together.
pub(super) struct Packages<'a> {
    /// The folder in cargo's target folder.
    pub(super) name: &'a str,
    /// What they are, for messages.
    pub(super) what: &'a str,
    /// Of download.
    pub(super) megabytes: u32,
    /// pip's file with versions and hashes.
    pub(super) requirements: &'a Path,
    /// What to do where they cannot be fetched.
    pub(super) instead: &'a str,
}

/// The folder with the packages. It appears by rename once it is whole, under a lock that two runs do not share.
pub(super) fn fetch(packages: &Packages<'_>) -> Result<PathBuf> {
    let Packages { name, what, megabytes, requirements, instead } = packages;
    let target = workspace::target()?;
    let folder = target.join(name);
    let pins = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let ours = || fs::read_to_string(folder.join("requirements.txt")).is_ok_and(|was| was == pins);
    if ours() {
        return Ok(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("{what}, as pinned, is for Linux on x86-64\n  hint: {instead}");
    }
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let lock_path = target.join(format!("{name}.lock"));
    let lock = fs::File::create(&lock_path)
        .with_context(|| format!("cannot make {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if ours() {
        return Ok(folder);
    }

    let partial = target.join(format!("{name}.partial"));
    for leftover in [&partial, &folder] {
        if leftover.exists() {
            fs::remove_dir_all(leftover)
                .with_context(|| format!("cannot remove {}", leftover.display()))?;
        }
    }
    eprintln!("fetching {what} with pip, once: {megabytes} MB");
    let whole = partial.join("packages");
    pip_install(packages, &whole, &partial)?;
    fs::write(whole.join("requirements.txt"), &pins)
        .and_then(|()| fs::rename(&whole, &folder))
        .and_then(|()| fs::remove_dir_all(&partial))
        .with_context(|| format!("cannot finish {}", folder.display()))?;
    Ok(folder)
}

/// Installs `into` a folder, with what a killed pip would leave behind in `scratch`.
fn pip_install(packages: &Packages<'_>, into: &Path, scratch: &Path) -> Result<()> {
    let Packages { what, requirements, instead, .. } = packages;
    fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--target"])
        .arg(into)
        .arg("-r")
        .arg(requirements)
        .env("TMPDIR", scratch)
        // A user's own settings for installs into their home do not go together with --target.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "no python3 to fetch {what} with\n  hint: install Python 3 with pip, or {instead}"
            )
        }
        Err(error) => return Err(error).context("cannot run python3"),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("pip could not fetch {what}\n{}\n  hint: {}", said.trim_end(), hint(packages, &said))
}

/// What to do about pip's failure.
fn hint(packages: &Packages<'_>, said: &str) -> String {
    let Packages { requirements, instead, .. } = packages;
    let pins = requirements.display();
    let network = ["connection", "Connection", "resolution", "timed out", "ProxyError"]
        .iter()
        .any(|word| said.contains(word));
    if said.contains("No module named pip") {
        "install pip (the package python3-pip, or `python3 -m ensurepip`)".to_owned()
    } else if said.contains("DO NOT MATCH THE HASHES") {
        format!("the index gave other files than those pinned in {pins}: do not use them")
    } else if network {
        format!("this needs the network once; without one, {instead}")
    } else if said.contains("No matching distribution") {
        format!(
            "pip's index cannot be reached, or has no such package for this platform; {instead}"
        )
    } else {
        format!("the packages are in {pins}; without them, {instead}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_pip_has_its_hint() {
        let packages = Packages {
            name: "tools",
            what: "tools",
            megabytes: 1,
            requirements: Path::new("cu/requirements.txt"),
            instead: "bring your own",
        };
        for (said, what) in [
            ("/usr/bin/python3: No module named pip", "python3-pip"),
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE",
                "pinned in cu/requirements.txt: do not use them",
            ),
            ("Failed to establish a new connection: [Errno -2]", "network"),
            ("ERROR: No matching distribution found for nvidia-nvvm==13.0.88", "platform"),
            ("something else", "bring your own"),
        ] {
            let hint = hint(&packages, said);
            assert!(hint.contains(what), "{said}: {hint}");
        }
    }
}
