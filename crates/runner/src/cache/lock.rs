//! A lock per key that dies with its process: the operating system holds it on an open file, so nothing stale is ever
//! left behind.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::{Cancel, Result};

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, waiting for another process if it must; `waiting` is told once, with that process's id.
    ///
    /// # Errors
    /// The file cannot be opened, or Ctrl-C was pressed while waiting.
    pub(crate) fn take(path: &Path, cancel: &Cancel, waiting: impl FnOnce(&str)) -> Result<Self> {
        let about = || format!("locking {}", path.display());
        let mut file = open(path).with_context(about)?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error).with_context(about),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(tell) = waiting.take() {
                let mut holder = String::new();
                // The id is for the reader alone; where it cannot be read, the wait is the same.
                let _ = (&mut file).take(32).read_to_string(&mut holder);
                tell(holder.trim());
            }
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        file.set_len(0).with_context(about)?;
        file.rewind().with_context(about)?;
        write!(file, "{}", std::process::id()).with_context(about)?;
        Ok(Self { _file: file })
    }
}

/// Opens a lock's file, or makes it. What lies there and is no file of its own, such as a link to another one, is refused: it would be
/// emptied.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    for _ in 0..3 {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => {
                let file = options.open(path)?;
                // Nobody has put another one there in between.
                if is_same(&file.metadata()?, &meta) {
                    return Ok(file);
                }
            }
            Ok(_) => {
                let what = "it is a link, a folder or a device, where a file belongs; delete it";
                return Err(io::Error::new(ErrorKind::InvalidInput, what));
            }
            // This follows no link either.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match options.clone().create_new(true).open(path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    other => return other,
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::Interrupted, "somebody puts other files there all the time"))
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_lock_is_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (precious, lock) = (dir.path().join("precious"), dir.path().join("lock"));
        fs::write(&precious, "precious").unwrap();
        let nowhere = dir.path().join("nowhere");
        for target in [precious.as_path(), nowhere.as_path(), dir.path(), Path::new("/dev/null")] {
            symlink(target, &lock).unwrap();
            let error = Lock::take(&lock, &Cancel::default(), |_| {}).unwrap_err();
            assert!(format!("{error:#}").contains("it is a link"), "{error:#}");
            fs::remove_file(&lock).unwrap();
        }
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert!(!nowhere.exists());
        fs::create_dir(&lock).unwrap();
        Lock::take(&lock, &Cancel::default(), |_| {}).unwrap_err();
        fs::remove_dir(&lock).unwrap();
        // Made, and taken again when it is there.
        for _ in 0..2 {
            drop(Lock::take(&lock, &Cancel::default(), |_| {}).unwrap());
            assert_eq!(fs::read_to_string(&lock).unwrap(), std::process::id().to_string());
        }
    }
}
