//! Puts executables and `run.sh` into a folder, without debug information, and the folder into an archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::build::Built;

/// Fills the folder `bundle`, which does not exist; returns each file's name and size.
pub(super) fn fill(bundle: &Path, run: &str, built: &[Built]) -> Result<Vec<(String, u64)>> {
    let bin = bundle.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let script = bundle.join("run.sh");
    fs::write(&script, run).with_context(|| format!("cannot write {}", script.display()))?;
    make_executable(&script)?;
    let mut files = vec![("run.sh".to_owned(), run.len() as u64)];
    for part in built {
        let target = bin.join(&part.name);
        fs::copy(&part.path, &target)
            .with_context(|| format!("cannot copy {}", part.path.display()))?;
        make_executable(&target)?;
        strip(&target)?;
        let bytes = fs::metadata(&target)
            .with_context(|| format!("cannot read {}", target.display()))?
            .len();
        files.push((format!("bin/{}", part.name), bytes));
    }
    Ok(files)
}

/// Refuses a bundle that is larger than it may be.
pub(super) fn check_size(files: &[(String, u64)], limit_bytes: u64) -> Result<()> {
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    if total > limit_bytes {
        let list: Vec<String> =
            files.iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
        bail!("the bundle has {total} bytes, {limit_bytes} are allowed: {}", list.join(", "));
    }
    Ok(())
}

/// Takes debug information out of an executable; names of functions stay, for backtraces. A script is left as it is.
fn strip(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let status =
        Command::new("strip").arg("--strip-debug").arg(file).status().map_err(|error| {
            anyhow!("cannot run strip: {error}\n  hint: it comes with the linker, in binutils")
        })?;
    if !status.success() {
        bail!("strip failed on {}", file.display());
    }
    Ok(())
}

#[cfg(unix)]
pub(super) fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", file.display()))
}

#[cfg(not(unix))]
pub(super) fn make_executable(file: &Path) -> Result<()> {
    bail!("{}: a bundle is for Linux and is made there", file.display())
}

/// Refuses to remove a folder that is not an earlier bundle.
pub(super) fn check_ours(folder: &Path) -> Result<()> {
    if folder.join("run.sh").is_file() && folder.join("bin").is_dir() {
        return Ok(());
    }
    bail!("{} is there and is no bundle\n  hint: name another folder with --out", folder.display())
}

/// Packs the folder beside itself as `FOLDER.tar.gz`.
pub(super) fn archive(folder: &Path) -> Result<PathBuf> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        bail!("{} has no parent folder", folder.display())
    };
    let archive = folder.with_extension("tar.gz");
    let partial = folder.with_extension("tar.gz.partial");
    let status = Command::new("tar")
        .args(["--create", "--gzip", "--file"])
        .arg(&partial)
        .arg("--directory")
        .arg(parent)
        .arg(name)
        .status()
        .context("cannot run tar")?;
    if !status.success() {
        bail!("tar failed on {}", folder.display());
    }
    fs::rename(&partial, &archive).with_context(|| format!("cannot make {}", archive.display()))?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_over_the_limit_is_refused_with_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big");
        fs::write(&path, vec![0; 1000]).unwrap();
        let built = [Built { name: "big".into(), path }];
        let files = fill(&folder.path().join("bundle"), "#!/bin/sh\n", &built).unwrap();
        let error = check_size(&files, 1009).unwrap_err();
        assert!(
            error.to_string().contains("1010 bytes, 1009 are allowed")
                && error.to_string().contains("bin/big 1000"),
            "{error}"
        );
        assert!(check_size(&files, 1010).is_ok());
    }

    #[test]
    fn a_folder_of_someone_elses_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_ours(folder.path()).is_err());
    }
}
