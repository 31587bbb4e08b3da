//! Where the files of a bundle are: in a folder, or in a zip.

use super::archive::Archive;
use crate::{Error, Result};
use farthing_base::files;
use std::path::{Path, PathBuf};

/// A folder, or a zip and the folder in it.
#[derive(Debug, Clone)]
pub(crate) enum Files {
    /// This folder.
    Folder(PathBuf),
    /// Files whose names in the zip begin with the prefix, which ends in `/` or is empty.
    Zip(Archive, String),
}

impl Files {
    /// Opens a folder or a zip in which one of `lists` is, the first that is found being returned too. In a zip it may be in one folder.
    ///
    /// # Errors
    /// [`Error::Read`] where there is nothing; [`Error::Tasks`] where there is no list; those of a zip.
    pub(crate) fn open(path: &Path, lists: &[&'static str]) -> Result<(Self, &'static str)> {
        let hint = "a bundle is a folder, or a zip, with a core.yaml or a tasks.json and the files that it names";
        let none = || Error::Tasks {
            path: path.into(),
            reason: format!("there is no {} in it", lists.join(" and no ")),
            hint: hint.into(),
        };
        let unread = |source| Error::Read { path: path.into(), source, hint };
        if std::fs::metadata(path).map_err(unread)?.is_dir() {
            let list = lists.iter().find(|list| path.join(list).exists()).ok_or_else(none)?;
            return Ok((Self::Folder(path.into()), list));
        }
        let zip = Archive::open(path)?;
        let found = lists.iter().find_map(|list| {
            let prefix = zip.names().filter_map(|name| {
                let prefix = name.strip_suffix(list)?;
                let depth = prefix.matches('/').count();
                let whole = prefix.is_empty() || prefix.ends_with('/');
                (whole && depth <= 1).then(|| (depth, prefix.to_owned()))
            });
            Some((prefix.min()?.1, *list))
        });
        let (prefix, list) = found.ok_or_else(none)?;
        Ok((Self::Zip(zip, prefix), list))
    }

    /// The folder or the zip.
    pub(crate) fn place(&self) -> &Path {
        match self {
            Self::Folder(root) => root,
            Self::Zip(zip, _) => zip.path(),
        }
    }

    /// The text of a file.
    ///
    /// # Errors
    /// [`Error::Read`], also where it is not UTF-8; those of a zip.
    pub(crate) fn read(&self, name: &Path, hint: &'static str) -> Result<String> {
        let refused = |source| Error::Read { path: self.shown(name), source, hint };
        match self {
            Self::Folder(root) => inside(root, name)
                .and_then(|()| files::read_to_string(&root.join(name)))
                .map_err(refused),
            Self::Zip(zip, prefix) => {
                let bytes = zip.read(&in_zip(prefix, name))?;
                let no_text = |e| std::io::Error::new(std::io::ErrorKind::InvalidData, e);
                String::from_utf8(bytes).map_err(|e| refused(no_text(e)))
            }
        }
    }

    /// A file's path as messages name it; inside of a zip, behind the zip's.
    pub(crate) fn shown(&self, name: &Path) -> PathBuf {
        match self {
            Self::Folder(root) => root.join(name),
            Self::Zip(zip, prefix) => zip.path().join(in_zip(prefix, name)),
        }
    }

    /// The file on the disk that holds `name`.
    pub(crate) fn source(&self, name: &Path) -> PathBuf {
        match self {
            Self::Folder(root) => root.join(name),
            Self::Zip(zip, _) => zip.path().into(),
        }
    }
}

/// Whether a file is in a folder where links are followed, too.
fn inside(root: &Path, name: &Path) -> std::io::Result<()> {
    let (root, file) = (root.canonicalize()?, root.join(name).canonicalize()?);
    if file.starts_with(&root) {
        return Ok(());
    }
    let what = format!("it is a link that leads out of the bundle, to {}", file.display());
    Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, what))
}

/// A name in a zip, which has `/` between its parts on every system.
fn in_zip(prefix: &str, name: &Path) -> String {
    let parts: Vec<_> = name.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    format!("{prefix}{}", parts.join("/"))
}
