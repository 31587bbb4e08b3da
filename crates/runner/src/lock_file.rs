//! The lock file of a pipeline: what its sources on a network were when they were first asked for, so that a rerun a year
//! later trains on the same bytes. It lies beside the pipeline file and belongs under version control with it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use farthing_data::Pin;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Says how the file is laid out.
const FORMAT: u32 = 1;

/// Where the pins of a pipeline's sources are: `gpt2.lock` for `gpt2.toml`. The command line hands it to the stages as an extra;
/// without one a stage pins nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockFile(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    #[serde(default, rename = "pin")]
    pins: Vec<Pin>,
}

impl LockFile {
    /// The lock file of a pipeline file.
    pub fn of(pipeline: &Path) -> Self {
        Self(pipeline.with_extension("lock"))
    }

    /// Where it is, or would be.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is pinned; nothing where there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or is another one than [`LockFile::write`] leaves.
    pub fn read(&self) -> Result<Vec<Pin>> {
        let path = self.0.display();
        let text = match fs::read_to_string(&self.0) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("reading the lock file {path}"))?,
        };
        let hint =
            "hint: undo the change to it; or delete it, and what the sources hold now is pinned";
        let contents: Contents = toml::from_str(&text).map_err(|e| {
            anyhow!("{path} is no lock file of this version: {}\n{hint}", e.message())
        })?;
        if contents.format != FORMAT {
            let found = contents.format;
            return Err(anyhow!("{path} has format {found}, expected {FORMAT}\n{hint}"));
        }
        let mut sources: Vec<&str> = contents.pins.iter().map(|p| p.source.as_str()).collect();
        sources.sort_unstable();
        if let Some(twice) = sources.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(anyhow!("{path} pins `{}` twice\n{hint}", twice[0]));
        }
        Ok(contents.pins)
    }

    /// Puts these pins in place of what was there, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, pins: &[Pin]) -> Result<()> {
        let contents = Contents { format: FORMAT, pins: pins.to_vec() };
        let text = format!(
            "# What this pipeline's sources held when they were first asked for. Keep it with the pipeline file;\n\
             # delete it to train on what they hold now.\n{}",
            toml::to_string(&contents)?
        );
        let temporary = self.0.with_extension(format!("lock.{}.tmp", std::process::id()));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.0)
        };
        write().map_err(|error| {
            anyhow!(
                "the lock file {} cannot be written: {error}\n\
                 hint: a rerun could train on other bytes without it; make its folder writable",
                self.0.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farthing_data::PinnedFile;

    fn lock(dir: &tempfile::TempDir) -> LockFile {
        LockFile::of(&dir.path().join("gpt2.toml"))
    }

    fn pin(source: &str) -> Pin {
        let file = PinnedFile {
            path: "a \"b\".parquet".into(),
            bytes: 7,
            digest: format!("sha256:{}", "0".repeat(64)),
        };
        Pin { source: source.into(), commit: Some("1".repeat(40)), files: vec![file.clone(), file] }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock(&dir);
        assert_eq!(lock.path(), dir.path().join("gpt2.lock"));
        assert_eq!(lock.read().unwrap(), []);
        let web = Pin { commit: None, ..pin("https://h/a.parquet") };
        for pins in [vec![], vec![pin("hf://datasets/a/b"), web]] {
            lock.write(&pins).unwrap();
            assert_eq!(lock.read().unwrap(), pins);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock(&dir);
        lock.write(&[pin("hf://datasets/a/b"), pin("hf://datasets/a/b")]).unwrap();
        let twice = fs::read_to_string(lock.path()).unwrap();
        for (text, what) in [
            (twice.as_str(), "pins `hf://datasets/a/b` twice"),
            ("format = 2", "has format 2, expected 1"),
            ("version = 4\n[[package]]\nname = 'x'", "is no lock file of this version: "),
            ("<<<<<<< HEAD", "is no lock file of this version: "),
        ] {
            fs::write(lock.path(), text).unwrap();
            let error = lock.read().unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("\nhint: undo the change"), "{error}");
        }
        let nowhere = LockFile::of(&dir.path().join("no/gpt2.toml"));
        let error = nowhere.write(&[]).unwrap_err().to_string();
        assert!(error.contains("cannot be written: ") && error.contains("\nhint: "), "{error}");
    }
}
