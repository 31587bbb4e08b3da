//! `files.json`: the list of parquet files that fetching leaves in a folder.

use crate::{Error, Result};
use farthing_base::files;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The list's name.
pub const FILES: &str = "files.json";

/// One file of a [`Files`] list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name beside the list.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

/// `files.json`: the parquet files of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// To train on, in order.
    pub train: Vec<FileEntry>,
    /// Held out.
    pub val: Vec<FileEntry>,
    /// The directory beside the list that holds tasks about the text (`tasks.json`), if the source has any.
    pub tasks: Option<String>,
}

impl Files {
    /// Reads `dir/files.json` and checks that its files are there in their sizes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Manifest`].
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join(FILES);
        let bytes = files::read(&path).map_err(Error::io("read", &path))?;
        let bad = |reason: String| Error::Manifest { path: path.clone(), reason };
        let files: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        for entry in files.train.iter().chain(&files.val) {
            if entry.file.contains(['/', '\\']) || entry.file == ".." {
                return Err(bad(format!("{:?} is not the name of a file beside it", entry.file)));
            }
            let file = dir.join(&entry.file);
            let found = fs::metadata(&file).map_err(Error::io("open", &file))?.len();
            if found != entry.bytes {
                return Err(bad(format!(
                    "{} has {found} bytes, expected {}",
                    entry.file, entry.bytes
                )));
            }
        }
        Ok(files)
    }

    /// Paths of the files to train on.
    pub fn train_paths(&self, dir: impl AsRef<Path>) -> Vec<PathBuf> {
        self.train.iter().map(|entry| dir.as_ref().join(&entry.file)).collect()
    }

    /// Paths of the files held out.
    pub fn val_paths(&self, dir: impl AsRef<Path>) -> Vec<PathBuf> {
        self.val.iter().map(|entry| dir.as_ref().join(&entry.file)).collect()
    }
}
