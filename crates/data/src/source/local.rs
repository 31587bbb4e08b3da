//! Parquet files on this machine: a path, a folder or a glob.

use crate::{Error, Result};
use globset::GlobBuilder;
use std::fs;
use std::path::{Path, PathBuf};

/// The parquet files that a path, a directory or a glob names, in the order of their names.
pub(crate) fn find(pattern: &str, base: &Path) -> Result<Vec<PathBuf>> {
    let none = || Error::NoFiles { pattern: pattern.into(), base: base.into() };
    let path = base.join(pattern);
    let mut found = vec![];
    if path.is_file() {
        found.push(path);
    } else if path.is_dir() {
        walk(&path, &mut found)?;
        found.retain(|file| file.extension().is_some_and(|e| e == "parquet"));
    } else {
        let whole = path.to_string_lossy();
        let glob = GlobBuilder::new(&whole)
            .literal_separator(true)
            .build()
            .map_err(|_| none())?
            .compile_matcher();
        // The part before the first wildcard is where the search begins.
        let wild = whole.find(['*', '?', '[', '{']).ok_or_else(none)?;
        let root = PathBuf::from(&whole[..whole[..wild].rfind('/').map_or(0, |at| at + 1)]);
        if root.is_dir() {
            walk(&root, &mut found)?;
        }
        found.retain(|file| glob.is_match(file));
    }
    found.sort();
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let path = entry.path();
        // Links to directories are not followed, so that a loop cannot trap the search.
        if entry.file_type().map_err(Error::io("list", dir))?.is_dir() {
            walk(&path, found)?;
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_file(to).map_err(Error::io("replace", to))?;
    }
    // The target of a symbolic link, not the link: the list names contents.
    let from = fs::canonicalize(from).map_err(Error::io("open", from))?;
    // Not hard-linked: an edit of the source in place would change what was fetched. File systems that can, share the blocks.
    fs::copy(&from, to).map_err(Error::io("copy", &from))?;
    Ok(())
}
