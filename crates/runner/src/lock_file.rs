//! A pipeline's lock file records what its sources on a network were when they were first fetched. A rerun a year later then trains on the same bytes, or fails. Commit it together with the pipeline
//! file that it lies beside.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use farthing_base::files;
use farthing_base::shown::printable;
use farthing_data::Pin;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::hidden::Hidden;

/// Says how the file is laid out.
const FORMAT: u32 = 1;

/// Where the pins of a pipeline's sources are: `gpt2.lock` for `gpt2.toml`. The command line hands it to the stages as an extra;
/// without one a stage pins nothing.
#[derive(Clone, Debug)]
pub struct LockFile {
    pipeline: PathBuf,
    path: PathBuf,
    hidden: Hidden,
}

/// What a lock file has at most: a hundred thousand files are a tenth of it.
const MOST_BYTES: u64 = 64 << 20;

/// What a name in it has at most.
const MOST_NAME_BYTES: usize = 8_192;

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
        let (path, hidden) = (pipeline.with_extension("lock"), Hidden::default());
        Self { pipeline: pipeline.to_owned(), path, hidden }
    }

    /// The same, with names in place of these values.
    pub(crate) fn hiding(self, hidden: Hidden) -> Self {
        Self { hidden, ..self }
    }

    /// Where it is, or would be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is pinned; nothing where there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or is another one than [`LockFile::write`] leaves.
    pub fn read(&self) -> Result<Vec<Pin>> {
        let path = self.path.display();
        let bytes = match files::read_at_most(&self.path, MOST_BYTES) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("reading the lock file {path}"))?,
        };
        let text = crate::encoding::text(bytes)
            .map_err(|fault| anyhow!("the lock file {path} cannot be read: {fault}"))?;
        let hint =
            "hint: undo the change to it; or delete it, and what the sources hold now is pinned";
        let mut contents: Contents = toml::from_str(&text).map_err(|e| {
            anyhow!("{path} is no lock file of this version: {}\n{hint}", e.message())
        })?;
        if contents.format != FORMAT {
            let found = contents.format;
            return Err(anyhow!("{path} has format {found}, expected {FORMAT}\n{hint}"));
        }
        let names = |pin: &Pin| {
            let files = pin.files.iter().flat_map(|file| [file.path.clone(), file.digest.clone()]);
            files.chain([pin.source.clone()]).chain(pin.commit.clone()).collect::<Vec<_>>()
        };
        let odd = |name: &String| name.len() > MOST_NAME_BYTES || *name != printable(name);
        if let Some(name) = contents.pins.iter().flat_map(names).find(odd) {
            let start: String = name.chars().take(80).collect();
            let what = format!("{start:?} and so on, of {} bytes", name.len());
            return Err(anyhow!("{path} has a name that nobody gives: {what}\n{hint}"));
        }
        for pin in &mut contents.pins {
            pin.source = self.hidden.revealed(&pin.source);
            for file in &mut pin.files {
                file.path = self.hidden.revealed(&file.path);
            }
        }
        let mut sources = BTreeSet::new();
        if let Some(twice) = contents.pins.iter().find(|pin| !sources.insert(&pin.source)) {
            return Err(anyhow!("{path} pins `{}` twice\n{hint}", twice.source));
        }
        Ok(contents.pins)
    }

    /// Adds a pin and says whether it did. What is pinned already stands, as when another run was faster: of files on the web,
    /// which are pinned one by one, the new ones are added.
    ///
    /// # Errors
    /// Those of [`LockFile::read`] and [`LockFile::write`].
    pub fn add(&self, pin: Pin) -> Result<bool> {
        // Reading and writing are one step for other runs of this pipeline. Without a file to hold on to, or a file system with
        // locks, they are two.
        let turn = File::open(&self.pipeline).ok();
        let _ = turn.as_ref().map(File::lock);
        let pin = pin.without_queries();
        let read = self.read()?;
        let mut pins: Vec<Pin> = read.into_iter().map(Pin::without_queries).collect();
        match pins.iter_mut().find(|old| old.source == pin.source) {
            None => pins.push(pin),
            Some(old) if old.commit.is_none() && pin.commit.is_none() => {
                let mut new = pin.files;
                new.retain(|file| old.files.iter().all(|known| known.path != file.path));
                if new.is_empty() {
                    return Ok(false);
                }
                old.files.append(&mut new);
                old.files.sort_by(|a, b| a.path.cmp(&b.path));
            }
            Some(_) => return Ok(false),
        }
        pins.sort_by(|a, b| a.source.cmp(&b.source));
        self.write(&pins).map(|()| true)
    }

    /// Puts these pins in place of what was there, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, pins: &[Pin]) -> Result<()> {
        let mut pins: Vec<Pin> = pins.iter().cloned().map(Pin::without_queries).collect();
        for pin in &mut pins {
            pin.source = self.hidden.named(&pin.source).into_owned();
            for file in &mut pin.files {
                file.path = self.hidden.named(&file.path).into_owned();
            }
        }
        let contents = Contents { format: FORMAT, pins };
        let text = format!(
            "# What this pipeline's sources held when they were first asked for. Keep it with the pipeline file;\n\
             # delete it to train on what they hold now.\n{}",
            toml::to_string(&contents)?
        );
        files::write_unique(&self.path, &[text.as_bytes()]).map_err(|error| {
            anyhow!(
                "the lock file {} cannot be written: {}\n\
                 hint: a rerun could train on other bytes without it; make its folder writable",
                self.path.display(),
                error.source
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farthing_data::PinnedFile;
    use std::fs;

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
    fn what_is_pinned_stands_and_files_on_the_web_are_added() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gpt2.toml"), "").unwrap();
        let lock = lock(&dir);
        let hub = pin("hf://datasets/a/b");
        assert!(lock.add(hub.clone()).unwrap());
        let moved = Pin { commit: Some("2".repeat(40)), ..hub.clone() };
        assert!(!lock.add(moved).unwrap());

        let file =
            |path: &str, bytes| PinnedFile { path: path.into(), bytes, ..hub.files[0].clone() };
        let web = |files| Pin { source: "https://h/{1..3}".into(), commit: None, files };
        assert!(lock.add(web(vec![file("3", 1), file("2", 1)])).unwrap());
        assert!(lock.add(web(vec![file("1", 2), file("2", 2)])).unwrap());
        assert!(!lock.add(web(vec![file("2", 2)])).unwrap());
        let all = web(vec![file("1", 2), file("2", 1), file("3", 1)]);
        assert_eq!(lock.read().unwrap(), [hub, all]);
    }

    #[test]
    fn runs_at_once_lose_no_pin() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gpt2.toml"), "").unwrap();
        let lock = lock(&dir);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let lock = &lock;
                scope.spawn(move || lock.add(pin(&format!("hf://datasets/a/{i}"))).unwrap());
            }
        });
        assert_eq!(lock.read().unwrap().len(), 8);
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
