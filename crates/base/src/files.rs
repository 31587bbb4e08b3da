//! Files that appear by rename: written under a temporary name beside their place, synced, renamed, and the folder synced. After a crash the
//! place holds what was there before, or the whole file.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Hint;

/// The system refused something about a file or a folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried: "open", "write", "map", …
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's own reason.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`.
    pub fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { action, path, source }
    }
}

impl Hint for FileError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(
            "check that the path exists, that its permissions allow this, and that the disk is not full"
                .into(),
        )
    }
}

/// A file on its way. Dropped before [`NewFile::finish`], it leaves nothing; killed with its process, it leaves its temporary name.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    whole: bool,
}

impl NewFile {
    /// Begins the file `path` as `path.tmp`: always that name, so that what a killed run left is overwritten by the next one. For one writer
    /// at a time.
    ///
    /// # Errors
    /// The temporary file cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        Self::at(temporary(&path), path)
    }

    /// Begins the file `path` under a name that no other writer uses, in this process or another: of several at once, the last to finish stands.
    /// For small files, since what killed runs left piles up.
    ///
    /// # Errors
    /// The temporary file cannot be created.
    pub fn create_unique(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        let path = path.into();
        let number = WRITERS.fetch_add(1, Ordering::Relaxed);
        Self::at(beside(&path, &format!(".{}.{number}.tmp", std::process::id())), path)
    }

    fn at(temporary: PathBuf, path: PathBuf) -> Result<Self, FileError> {
        let file = File::create(&temporary).map_err(FileError::at("create", &temporary))?;
        Ok(Self { path, temporary, file, whole: false })
    }

    /// The place where it will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for a library that writes to one itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Names the temporary file in an error.
    pub fn refused(&self, action: &'static str) -> impl FnOnce(io::Error) -> FileError + use<> {
        FileError::at(action, self.temporary.clone())
    }

    /// Syncs it and gives it its name.
    ///
    /// # Errors
    /// It cannot be synced or renamed, or its folder cannot be synced.
    pub fn finish(mut self) -> Result<(), FileError> {
        put(&self.file, &self.temporary, &self.path)?;
        self.whole = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for NewFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.whole {
            // Nothing can be done about a failure here.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The name under which [`NewFile::create`] writes, for those who clean up.
pub fn temporary(path: &Path) -> PathBuf {
    beside(path, ".tmp")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    path.with_file_name(name)
}

/// Writes `parts`, one after another, as the file `path`, by [`NewFile::create`].
///
/// # Errors
/// Those of [`NewFile`], and that of writing.
pub fn write(path: &Path, parts: &[&[u8]]) -> Result<(), FileError> {
    write_to(NewFile::create(path)?, parts)
}

/// The same by [`NewFile::create_unique`], for a file that several may write at once.
///
/// # Errors
/// Those of [`write()`].
pub fn write_unique(path: &Path, parts: &[&[u8]]) -> Result<(), FileError> {
    write_to(NewFile::create_unique(path)?, parts)
}

fn write_to(mut file: NewFile, parts: &[&[u8]]) -> Result<(), FileError> {
    for part in parts {
        file.write_all(part).map_err(file.refused("write"))?;
    }
    file.finish()
}

/// Gives `path` to a file that was written as `temporary`: sync, rename, sync of the folder. For those who keep the temporary file when
/// they fail, such as a download that goes on later.
///
/// # Errors
/// One of the three was refused.
pub fn put(file: &File, temporary: &Path, path: &Path) -> Result<(), FileError> {
    file.sync_all().map_err(FileError::at("sync", temporary))?;
    fs::rename(temporary, path).map_err(FileError::at("rename", temporary))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A folder cannot be opened as a file everywhere; where it can, a rename is on disk only when the folder is.
    match File::open(folder) {
        Ok(open) => open.sync_all().map_err(FileError::at("sync", folder)),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_when_it_is_finished_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.b");
        let mut new = NewFile::create(&path).unwrap();
        new.write_all(b"half").unwrap();
        assert_eq!(names(dir.path()), ["a.b.tmp"]);
        drop(new);
        assert!(names(dir.path()).is_empty());

        write(&path, &[b"one ", b"two"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        fs::write(temporary(&path), "left by a killed run, and longer").unwrap();
        write(&path, &[b"three"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(names(dir.path()), ["a.b"]);
    }

    #[test]
    fn writers_at_once_leave_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::thread::scope(|scope| {
            for i in 0..8u8 {
                let path = &path;
                scope.spawn(move || write_unique(path, &[&[i; 1000], &[i; 1000]]).unwrap());
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 2000 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&dir.path().join("no/a"), &[]).unwrap_err();
        assert_eq!((error.action, error.path.ends_with("no/a.tmp")), ("create", true));
        assert!(error.to_string().starts_with("cannot create "), "{error}");
        fs::create_dir(dir.path().join("folder")).unwrap();
        let error = write(&dir.path().join("folder"), &[b"x"]).unwrap_err();
        assert_eq!(error.action, "rename");
        assert_eq!(names(dir.path()), ["folder"]);
    }
}
