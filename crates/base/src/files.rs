//! Writes files so that a crash cannot leave half of one. The content goes to a temporary file in the same folder, is synced and then renamed, and the folder is synced too. Afterwards there is
//! either the old file or the whole new one.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Hint;

/// The system refused something about a file or a folder.
#[derive(thiserror::Error)]
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

crate::debug_with_hint!(FileError);

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
        let mut file = File::create_new(&temporary);
        if file.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists) {
            // What a killed run left gives way; where somebody put a link there, it does, and not what it leads to.
            let removed = fs::remove_file(&temporary);
            file = removed.and_then(|()| File::create_new(&temporary));
        }
        let file = file.map_err(FileError::at("create", &temporary))?;
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

/// Opens a file to read, following links. What is no file and no folder is refused: a pipe would hold whoever opens it until somebody
/// writes, and a device may have no end.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] with what is there instead.
pub fn open(path: &Path) -> io::Result<File> {
    // Asked before it is opened, since opening a pipe waits.
    if let Some(other) = other_than_a_file(fs::metadata(path)?.file_type()) {
        let what = format!("it is {other}, where a file belongs");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    File::open(path)
}

/// The bytes of a file: see [`open`].
///
/// # Errors
/// Those of [`open`] and of reading.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a file: see [`open`].
///
/// # Errors
/// Those of [`open`] and of reading; [`io::ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// The bytes of a file that has at most `most` of them: see [`open`].
///
/// # Errors
/// Those of [`open`] and of reading; [`io::ErrorKind::FileTooLarge`] with both sizes.
pub fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let found = file.metadata()?.len();
    let mut bytes = Vec::new();
    // One more, to learn of a file that grows.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let found = found.max(bytes.len() as u64);
        let what = format!("it has {found} bytes, at most {most} are read");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn other_than_a_file(kind: fs::FileType) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    [
        (kind.is_fifo(), "a pipe"),
        (kind.is_char_device() || kind.is_block_device(), "a device"),
        (kind.is_socket(), "a socket"),
    ]
    .into_iter()
    .find_map(|(is, name)| is.then_some(name))
}

#[cfg(not(unix))]
fn other_than_a_file(_: fs::FileType) -> Option<&'static str> {
    None
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

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let linked = dir.path().join("linked");
        std::os::unix::fs::symlink(&pipe, &linked).unwrap();
        let socket = dir.path().join("socket");
        let _held = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let zeros = PathBuf::from("/dev/zero");
        for (path, what) in
            [(&pipe, "a pipe"), (&linked, "a pipe"), (&socket, "a socket"), (&zeros, "a device")]
        {
            for error in [
                open(path).unwrap_err(),
                read(path).unwrap_err(),
                read_to_string(path).unwrap_err(),
                read_at_most(path, 10).unwrap_err(),
            ] {
                assert_eq!(error.to_string(), format!("it is {what}, where a file belongs"));
            }
        }
        let file = dir.path().join("file");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read_at_most(&file, 5).unwrap(), read(&file).unwrap());
        let error = read_at_most(&file, 4).unwrap_err();
        assert_eq!(error.to_string(), "it has 5 bytes, at most 4 are read");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_where_a_temporary_file_belongs_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let (precious, path) = (dir.path().join("precious"), dir.path().join("a"));
        fs::write(&precious, "precious").unwrap();
        for target in [&precious, &dir.path().join("nowhere")] {
            std::os::unix::fs::symlink(target, temporary(&path)).unwrap();
            write(&path, &[b"new"]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::read(&precious).unwrap(), b"precious");
        }
        // The file itself is replaced, too, where it is a link.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        write(&path, &[b"newer"]).unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert_eq!(names(dir.path()), ["a", "precious"]);
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
