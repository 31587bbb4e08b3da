//! The CUDA compiler: a pinned one, fetched with pip into cargo's target folder once, or one that is named. Its version is the same either way,
//! because another writes other PTX.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// nvcc's and ptxas' version; `crates/kernels/cu/requirements.txt` pins the packages that have it.
const VERSION: &str = "13.0.88";
/// Where the pinned packages put the toolkit, below the folder that pip installs into.
const IN_PACKAGES: &str = "nvidia/cu13";

/// A CUDA compiler of the pinned version.
pub(crate) struct Toolkit {
    bin: PathBuf,
}

impl Toolkit {
    /// The one in the folder `given`, or else the pinned one, fetched if it is not there yet.
    pub(crate) fn find(given: Option<&Path>, requirements: &Path) -> Result<Self> {
        let folder = match given {
            Some(folder) => {
                folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?
            }
            None => fetched(&workspace::target()?, requirements)?,
        };
        let bin = [folder.join("bin"), folder.join(IN_PACKAGES).join("bin")]
            .into_iter()
            .find(|bin| bin.join("nvcc").is_file())
            .with_context(|| {
                format!(
                    "no bin/nvcc in {}\n  hint: --toolkit names the folder that has bin/, include/ and nvvm/",
                    folder.display()
                )
            })?;
        let toolkit = Self { bin };
        for tool in [toolkit.nvcc(), toolkit.ptxas()] {
            let version = version_of(&tool)?;
            if version != VERSION {
                bail!(
                    "{} is version {version}, the committed PTX is made with {VERSION}\n  \
                     hint: leave out --toolkit, and the right one is fetched with pip",
                    tool.display()
                );
            }
        }
        Ok(toolkit)
    }

    pub(crate) fn nvcc(&self) -> PathBuf {
        self.bin.join("nvcc")
    }

    pub(crate) fn ptxas(&self) -> PathBuf {
        self.bin.join("ptxas")
    }

    /// For the manifest.
    pub(crate) fn versions() -> BTreeMap<String, String> {
        ["nvcc", "ptxas"].into_iter().map(|tool| (tool.to_owned(), VERSION.to_owned())).collect()
    }
}

/// What `tool --version` says after the V.
fn version_of(tool: &Path) -> Result<String> {
    let output = Command::new(tool)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", tool.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    parse_version(&said)
        .with_context(|| format!("{} --version said: {}", tool.display(), said.trim()))
}

fn parse_version(said: &str) -> Option<String> {
    let line = said.lines().find(|line| line.starts_with("Cuda compilation tools"))?;
    Some(line.rsplit_once(", V")?.1.trim().to_owned())
}

/// The pinned toolkit in cargo's target folder. It appears there by rename once it is whole, under a lock that two runs do not share.
fn fetched(target: &Path, requirements: &Path) -> Result<PathBuf> {
    let folder = target.join(format!("cuda-{VERSION}"));
    let pins = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let ours = || fs::read_to_string(folder.join("requirements.txt")).is_ok_and(|was| was == pins);
    if ours() {
        return Ok(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "the pinned CUDA compiler is for Linux on x86-64\n  hint: name a CUDA {VERSION} toolkit with --toolkit DIR"
        );
    }
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    let lock_path = target.join(format!("cuda-{VERSION}.lock"));
    let lock = fs::File::create(&lock_path)
        .with_context(|| format!("cannot make {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if ours() {
        return Ok(folder);
    }

    let partial = target.join(format!("cuda-{VERSION}.partial"));
    for leftover in [&partial, &folder] {
        if leftover.exists() {
            fs::remove_dir_all(leftover)
                .with_context(|| format!("cannot remove {}", leftover.display()))?;
        }
    }
    eprintln!("fetching the CUDA {VERSION} compiler with pip, once: 105 MB");
    let packages = partial.join("packages");
    pip_install(requirements, &packages, &partial)?;
    fs::write(packages.join("requirements.txt"), &pins)
        .and_then(|()| fs::rename(&packages, &folder))
        .and_then(|()| fs::remove_dir_all(&partial))
        .with_context(|| format!("cannot finish {}", folder.display()))?;
    Ok(folder)
}

/// Installs `into` a folder, with what a killed pip would leave behind in `scratch`.
fn pip_install(requirements: &Path, into: &Path, scratch: &Path) -> Result<()> {
    fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",
            "--no-deps",
        ])
        .args(["--only-binary=:all:", "--require-hashes", "--target"])
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
                "no python3 to fetch the CUDA compiler with\n  hint: install Python 3 with pip, or name a CUDA {VERSION} toolkit with --toolkit DIR"
            )
        }
        Err(error) => return Err(error).context("cannot run python3"),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("pip could not fetch the CUDA compiler\n{}\n  hint: {}", said.trim_end(), hint(&said))
}

/// What to do about pip's failure.
fn hint(said: &str) -> String {
    if said.contains("No module named pip") {
        "install pip (the package python3-pip, or `python3 -m ensurepip`)".to_owned()
    } else if said.contains("DO NOT MATCH THE HASHES") {
        "the index gave other files than those pinned in crates/kernels/cu/requirements.txt: do not use them".to_owned()
    } else if ["connection", "Connection", "resolution", "timed out", "ProxyError"]
        .iter()
        .any(|word| said.contains(word))
    {
        format!(
            "this needs the network once; without one, name a CUDA {VERSION} toolkit with --toolkit DIR"
        )
    } else if said.contains("No matching distribution") {
        format!(
            "pip's index cannot be reached, or has no such package for this platform; a CUDA {VERSION} toolkit can be named with --toolkit DIR"
        )
    } else {
        format!(
            "the packages are in crates/kernels/cu/requirements.txt; a CUDA {VERSION} toolkit can be named with --toolkit DIR"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_tools_own_words() {
        let said = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler\n";
        assert_eq!(parse_version(said).unwrap(), "13.0.88");
        assert!(parse_version("gcc 12").is_none());
    }

    #[test]
    fn the_pinned_packages_have_the_version() {
        let pins = fs::read_to_string(workspace::root().join("crates/kernels/cu/requirements.txt"))
            .unwrap();
        for package in ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm"] {
            assert!(
                pins.contains(&format!("{package}=={VERSION} \\\n    --hash=sha256:")),
                "{package}"
            );
        }
    }

    #[test]
    fn each_failure_of_pip_has_its_hint() {
        for (said, what) in [
            ("/usr/bin/python3: No module named pip", "python3-pip"),
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE",
                "do not use them",
            ),
            ("Failed to establish a new connection: [Errno -2]", "network"),
            ("ERROR: No matching distribution found for nvidia-nvvm==13.0.88", "platform"),
            ("something else", "requirements.txt"),
        ] {
            assert!(hint(said).contains(what), "{said}: {}", hint(said));
        }
    }

    #[test]
    fn a_folder_without_a_toolkit_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        let error = Toolkit::find(Some(empty.path()), Path::new("unused")).err().unwrap();
        assert!(error.to_string().contains("hint: --toolkit"), "{error}");
    }
}
