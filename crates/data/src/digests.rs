//! Digests of files. Files are read, not mapped: a mapped file counts as this process's memory, however large it is.

use crate::side_by_side::{AsOne, Part, side_by_side};
use crate::{Error, Progress, Result};
use farthing_base::files;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// What is read and hashed at a time.
const PIECE_BYTES: usize = 1 << 17;

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
        let mut open = files::open(file.path).map_err(Error::io("read", file.path))?;
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

/// What of one file is read at a time and hashed on all cores.
const SHARED_BYTES: usize = 1 << 24;

/// The BLAKE3 digest of a file's bytes, in hex.
///
/// # Cost
/// 16 MiB at a time are hashed on all cores of the caller's thread pool, gigabytes per second each.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn digest_file(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let refused = |error| Error::io("read", path)(error);
    let mut file = files::open(path).map_err(refused)?;
    let bytes = file.metadata().map_err(refused)?.len();
    let mut hasher = blake3::Hasher::new();
    let mut piece =
        Vec::with_capacity(SHARED_BYTES.min(usize::try_from(bytes).unwrap_or(SHARED_BYTES)) + 1);
    loop {
        piece.clear();
        if file.by_ref().take(SHARED_BYTES as u64).read_to_end(&mut piece).map_err(refused)? == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update_rayon(&piece);
    }
}
