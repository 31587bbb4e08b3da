//! Where fetched files are kept, so that nothing is fetched twice: Hugging Face's own cache for datasets of the Hub, shared
//! with Python, and a folder of ours for files from elsewhere. A file stands under the digest of its bytes, whole and verified;
//! what is under way is `….incomplete` beside it, and a lock keeps two processes from the same file.

use super::digest::{Digest, Found, Hasher};
use super::waits::sleep;
use crate::{Error, Result};
use farthing_base::files;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::BuildHasher;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The three places of one file.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Where it stands when it is whole; unknown before its digest is.
    pub(crate) blob: Option<PathBuf>,
    /// What has arrived so far.
    pub(crate) partial: PathBuf,
    pub(crate) lock: PathBuf,
}

/// Holds a file's lock until dropped; none where the file system has no locks.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] Option<File>);

impl Place {
    /// Takes the lock, waiting for another process; a system without locks gives a place that nobody else knows.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Stopped`].
    pub(crate) fn lock(&mut self, stop: &dyn Fn() -> bool) -> Result<Lock> {
        for path in [&self.lock, &self.partial] {
            let folder = path.parent().unwrap_or(path);
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&self.lock).map_err(Error::io("open", &self.lock))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(Some(file))),
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(100), stop)?,
                Err(TryLockError::Error(_)) => break,
            }
        }
        let unique = std::hash::RandomState::new().hash_one(std::process::id());
        let name = self.partial.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.partial.set_file_name(format!("{name}.{unique:016x}.incomplete"));
        Ok(Lock(None))
    }

    /// What is under way beside the bytes: which version of a URL they are of.
    pub(crate) fn version(&self) -> PathBuf {
        self.partial.with_extension("version")
    }
}

/// One dataset in Hugging Face's cache.
#[derive(Debug, Clone)]
pub(crate) struct HubCache {
    root: PathBuf,
    locks: PathBuf,
}

impl HubCache {
    /// The dataset `ORG/NAME` in a cache.
    pub(crate) fn new(cache: &Path, repo: &str) -> Self {
        let folder = format!("datasets--{}", repo.replace('/', "--"));
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    pub(crate) fn place(&self, digest: &Digest) -> Place {
        let blobs = self.root.join("blobs");
        Place {
            blob: Some(blobs.join(digest.hex())),
            partial: blobs.join(format!("{}.incomplete", digest.hex())),
            lock: self.locks.join(format!("{}.lock", digest.hex())),
        }
    }

    /// Makes a blob the file `path` of a commit, as Hugging Face's libraries do: a relative link.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn link(&self, commit: &str, path: &str, digest: &Digest) -> Result<()> {
        let pointer = self.root.join("snapshots").join(commit).join(path);
        if pointer.exists() {
            return Ok(());
        }
        let folder = pointer.parent().unwrap_or(&pointer);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let up = "../".repeat(path.split('/').count() + 1);
        let target = format!("{up}blobs/{}", digest.hex());
        // Made aside and moved into place: one that leads nowhere, of a cache that somebody cleaned, gives way, and of two
        // processes that do this at once none is in the other's way.
        let aside = unique(&pointer);
        link(Path::new(&target), &self.root.join("blobs").join(digest.hex()), &aside)
            .map_err(Error::io("link", &aside))?;
        fs::rename(&aside, &pointer).map_err(Error::io("link", &pointer))
    }

    /// Notes which commit a branch or tag is, unless somebody noted one before: that one may be newer than a pinned one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn note(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.root.join("refs").join(revision);
        if revision == commit || path.exists() {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        Ok(farthing_base::files::write_unique(&path, &[commit.as_bytes()])?)
    }
}

/// A name beside a file's that nobody else uses.
fn unique(path: &Path) -> PathBuf {
    let random = std::hash::RandomState::new().hash_one(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{random:016x}.tmp"))
}

#[cfg(unix)]
fn link(relative: &Path, _absolute: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, pointer)
}

/// Where links need a privilege, a second name does the same.
#[cfg(not(unix))]
fn link(_relative: &Path, absolute: &Path, pointer: &Path) -> std::io::Result<()> {
    fs::hard_link(absolute, pointer).or_else(|_| fs::copy(absolute, pointer).map(drop))
}

/// The place of a URL's file in our own folder.
pub(crate) fn web_place(downloads: &Path, url: &str, digest: Option<&Digest>) -> Place {
    let key = &blake3::hash(url.as_bytes()).to_hex()[..32];
    Place {
        blob: digest.map(|digest| downloads.join(digest.hex())),
        partial: downloads.join(format!("{key}.incomplete")),
        lock: downloads.join(format!("{key}.lock")),
    }
}

/// Reads a whole file into a hasher, telling how far it is.
///
/// # Errors
/// [`Error::Io`], [`Error::Stopped`].
pub(crate) fn hash(
    file: &mut impl Read,
    path: &Path,
    hasher: &mut Hasher,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        if stop() {
            return Err(Error::Stopped);
        }
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..n]);
        tell(hasher.bytes());
    }
}

/// What is found where a file should be.
pub(crate) enum Kept {
    /// The file, with the size and the digest that are wanted.
    Good(Found),
    /// Other bytes.
    Damaged,
    /// Nothing.
    Absent,
}

/// Looks for a file, by its size first and then by its digest.
///
/// # Errors
/// [`Error::Io`], [`Error::Stopped`].
pub(crate) fn kept(
    blob: &Path,
    bytes: u64,
    wanted: &Digest,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(u64),
) -> Result<Kept> {
    let Ok(mut file) = files::open(blob) else { return Ok(Kept::Absent) };
    let size = file.metadata().map_err(Error::io("read the size of", blob))?.len();
    if size != bytes {
        return Ok(Kept::Damaged);
    }
    let mut hasher = Hasher::new(Some(wanted), Some(bytes));
    hash(&mut file, blob, &mut hasher, stop, tell)?;
    let found = hasher.finish();
    Ok(if found.digest == *wanted { Kept::Good(found) } else { Kept::Damaged })
}

/// Moves a damaged file out of the way, where it can still be looked at. The caller holds its lock and has looked at it since, so
/// that nobody moves away what another process has mended.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn put_aside(blob: &Path) -> Result<()> {
    let mut aside = blob.as_os_str().to_owned();
    aside.push(".damaged");
    fs::rename(blob, &aside).map_err(Error::io("move aside", blob))
}
