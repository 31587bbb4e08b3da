//! The CUDA compiler: a pinned one, fetched once, or one that is named. Its version is the same either way, because another writes other PTX.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::{self, Packages};

/// nvcc's and ptxas' version; `crates/kernels/cu/requirements.txt` pins the packages that have it.
const VERSION: &str = "13.0.88";

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
            None => packages::fetch(&Packages {
                name: &format!("cuda-{VERSION}"),
                what: &format!("the CUDA {VERSION} compiler"),
                megabytes: 105,
                requirements,
                instead: &format!("name a CUDA {VERSION} toolkit with --toolkit DIR"),
            })?,
        };
        let bin = [folder.join("bin"), folder.join(packages::INSIDE).join("bin")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;
    use std::fs;

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
    fn a_folder_without_a_toolkit_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        let error = Toolkit::find(Some(empty.path()), Path::new("unused")).err().unwrap();
        assert!(error.to_string().contains("hint: --toolkit"), "{error}");
    }
}
