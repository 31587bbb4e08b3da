//! Files that appear whole or not at all, written under a temporary name, synced, renamed; and files' digests.

use crate::many::{AsOne, Part, side_by_side};
use crate::{Error, Progress, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// What is read and hashed at a time.
const PIECE_BYTES: usize = 1 << 17;

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

/// The digest of each file, as [`digest_file`] gives it. Each is read by one thread, piece by piece, which is less work than to map it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Stopped`].
pub(crate) fn digest_files<P: AsRef<Path>>(
    files: &[P],
    progress: &mut dyn Progress,
) -> Result<Vec<String>> {
    let known = files.iter().map(|path| {
        let path = path.as_ref();
        let meta = fs::metadata(path).map_err(Error::io("read", path))?;
        Ok(Known { path, bytes: meta.len() })
    });
    let files = known.collect::<Result<Vec<_>>>()?;
    let threads = rayon::current_num_threads();
    let mut progress = AsOne { what: "reading digests", progress };
    side_by_side(&files, threads, &mut progress, |file, stopped, far| {
        let mut open = File::open(file.path).map_err(Error::io("read", file.path))?;
        let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
        let mut piece = vec![0; PIECE_BYTES];
        while !stopped() {
            let read = match open.read(&mut piece) {
                Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(Error::io("read", file.path))?,
            };
            hasher.update(&piece[..read]);
            done += read as u64;
            far(done);
        }
        Err(Error::Stopped)
    })
}

/// A file of known size.
struct Known<'a> {
    path: &'a Path,
    bytes: u64,
}

impl Part for Known<'_> {
    fn name(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
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
