//! Digests of what a stage wrote: BLAKE3 over the sorted relative names and the contents. Dates and places do not count, nor do the files that systems and editors leave behind in a folder that
//! somebody has opened.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One file of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileDigest {
    /// Relative to the output, with `/`; empty where the output is itself a file.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) digest: String,
}

impl FileDigest {
    /// Whether it is no output, though it was taken for a part of one.
    pub(crate) fn is_stray(&self) -> bool {
        self.path.split('/').any(is_stray)
    }

    /// Where the file is if the output is at `path`.
    pub(crate) fn under(&self, path: &Path) -> PathBuf {
        if self.path.is_empty() { path.to_owned() } else { path.join(&self.path) }
    }
}

/// One output port: the digest of the whole and its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutputDigest {
    pub(crate) digest: String,
    pub(crate) files: Vec<FileDigest>,
}

/// Reads and digests a file or a folder.
///
/// # Errors
/// Something cannot be read.
pub(crate) fn output(path: &Path) -> io::Result<OutputDigest> {
    let mut files = Vec::new();
    for (name, _) in sizes(path)? {
        let file = if name.is_empty() { path.to_owned() } else { path.join(&name) };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(farthing_base::files::open(&file)?)?;
        let digest = hasher.finalize().to_hex().to_string();
        files.push(FileDigest { path: name, bytes: hasher.count(), digest });
    }
    Ok(OutputDigest { digest: of(&files), files })
}

/// The digest of an output of these files.
pub(crate) fn of(files: &[FileDigest]) -> String {
    parts_digest(files.iter().flat_map(|f| [f.path.as_bytes(), f.digest.as_bytes()]))
}

/// Every file under a path with its size, sorted by relative name.
///
/// # Errors
/// Something cannot be listed.
pub(crate) fn sizes(path: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    walk(path, String::new(), &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(path: &Path, name: String, found: &mut Vec<(String, u64)>) -> io::Result<()> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_dir() {
        found.push((name, meta.len()));
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let Ok(last) = entry.file_name().into_string() else {
            let text = format!("the name of {} is not UTF-8", entry.path().display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        if is_stray(&last) {
            continue;
        }
        let inner = if name.is_empty() { last } else { format!("{name}/{last}") };
        walk(&entry.path(), inner, found)?;
    }
    Ok(())
}

/// Whether a name is one that file managers, network disks and editors give to files of their own.
pub(crate) fn is_stray(name: &str) -> bool {
    let named =
        [".DS_Store", ".localized", ".directory", "Thumbs.db", "desktop.ini", "Desktop.ini"];
    let begun = ["._", ".nfs", ".#", ".fuse_hidden", ".smbdelete", ".Trash", ".~lock."];
    let hidden_swap = |end| name.starts_with('.') && name.ends_with(end);
    named.contains(&name)
        || begun.iter().any(|start| name.starts_with(start))
        || [".swp", ".swo", ".swn", ".swx"].into_iter().any(hidden_swap)
        || name.ends_with('~')
        || ["@eaDir", "lost+found", "__MACOSX"].contains(&name)
}

/// The digest of one recorded file of an output at `path`.
///
/// # Errors
/// It cannot be read.
pub(crate) fn file(recorded: &FileDigest, path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(farthing_base::files::open(&recorded.under(path))?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// BLAKE3 over parts, each preceded by its length, so that no two lists of parts give the same bytes.
pub(crate) fn parts_digest<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_count_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let write = |folder: &str, name: &str, text: &str| {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join(name), text).unwrap();
        };
        let digest = |folder: &str| output(&dir.path().join(folder)).unwrap().digest;
        write("a", "x", "1");
        write("a", "y", "2");
        write("b", "y", "2");
        write("b", "x", "1");
        assert_eq!(digest("a"), digest("b"), "order of creation");
        write("c", "x", "12");
        write("c", "y", "");
        assert_ne!(digest("a"), digest("c"), "where one file ends");
        write("d/x", "x", "1");
        write("d", "y", "2");
        assert_ne!(digest("a"), digest("d"), "names");
        let before = digest("a");
        for stray in [".DS_Store", "._x", ".nfs0001", ".x.swp", "x~", "Thumbs.db"] {
            write("a", stray, "3");
        }
        assert_eq!(digest("a"), before, "what a file manager leaves");
        write("a", ".hidden", "3");
        assert_ne!(digest("a"), before, "what a stage may have written");
    }

    #[test]
    fn parts_keep_their_borders() {
        let digest = |parts: [&str; 2]| parts_digest(parts.map(str::as_bytes));
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
    }
}
