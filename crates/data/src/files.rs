//! Files that appear whole or not at all: written under a temporary name, synced, renamed.

use crate::{Error, Result};
use rayon::prelude::*;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name under which a file is written before it is whole.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Writes `parts`, one after another, as the file `path`: temporary name, fsync, rename, fsync of the directory.
pub(crate) fn write_atomic(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let tmp = temporary(path);
    let mut file = File::create(&tmp).map_err(Error::io("create", &tmp))?;
    for part in parts {
        file.write_all(part).map_err(Error::io("write", &tmp))?;
    }
    finish(&file, &tmp, path)
}

/// The second half of [`write_atomic`], for a file that something else has written.
pub(crate) fn finish(file: &File, tmp: &Path, path: &Path) -> Result<()> {
    file.sync_all().map_err(Error::io("sync", tmp))?;
    fs::rename(tmp, path).map_err(Error::io("rename", tmp))?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // A directory cannot be opened as a file everywhere; where it can, the rename is made durable.
    if let Ok(handle) = File::open(dir) {
        handle.sync_all().map_err(Error::io("sync", dir))?;
    }
    Ok(())
}

/// The digest of each file, as [`digest_file`] gives it.
///
/// # Cost
/// Where there are as many files as threads, each is read by one thread, piece by piece: less work than to map it.
///
/// # Errors
/// The first [`Error::Io`] in the order of the files.
pub(crate) fn digest_files<P: AsRef<Path> + Sync>(files: &[P]) -> Result<Vec<String>> {
    if files.len() < rayon::current_num_threads() {
        return files.iter().map(digest_file).collect();
    }
    let digest = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(hasher.finalize().to_hex().to_string())
    };
    let all: Vec<Result<String>> = files
        .par_iter()
        .map(|path| digest(path.as_ref()).map_err(Error::io("read", path.as_ref())))
        .collect();
    all.into_iter().collect()
}

/// The BLAKE3 digest of a file's bytes, in hex.
///
/// # Cost
/// Large files are mapped and hashed on all cores of the caller's thread pool, gigabytes per second each.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn digest_file(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(Error::io("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}
