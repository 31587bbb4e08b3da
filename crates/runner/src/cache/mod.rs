//! The content-keyed cache of stage outputs: `store/stages/KEY/` is whole or absent, `KEY.partial/` is work under way
//! or cut off, and `stage.json` inside an entry says what it is made of.

pub(crate) mod digest;
pub(crate) mod files;
pub(crate) mod gc;
pub(crate) mod identity;
mod lock;
mod sources;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use crate::ctx::SCRATCH;
use crate::hidden::Hidden;
use crate::progress::Screen;
use crate::{Cancel, Figure, Port, Result};
use digest::OutputDigest;
use files::{read_json, sync, sync_tree, write_json, write_json_unique};
use identity::Identity;
pub(crate) use lock::Lock;

const RECORD: &str = "stage.json";

/// How the names of locks of children end.
const CHILD: &str = "child";

/// The `stage.json` of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: String,
    /// The stage that made the entry; others may find it by its key.
    pub(crate) stage: String,
    pub(crate) identity: Identity,
    pub(crate) outputs: BTreeMap<String, OutputDigest>,
    /// Why it ran.
    pub(crate) reason: String,
    pub(crate) seconds: f64,
    pub(crate) summary: Vec<(String, Figure)>,
    /// Of outputs that are copies, what each is a copy of: `train/00000-a.parquet` of `text/a.parquet`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) origins: BTreeMap<String, String>,
}

/// What the cache has under a key.
pub(crate) enum Lookup {
    /// Nothing.
    Missing,
    /// Work that was cut off.
    Partial,
    /// A whole entry.
    Whole(Box<Record>),
    /// An entry that is not what its record says, in words.
    Damaged(String),
}

/// A store on disk.
pub(crate) struct Cache {
    root: PathBuf,
    sources: sources::Memory,
    /// Where it is said that much is read.
    screen: Screen,
}

impl Cache {
    /// A store to look into; nothing is created.
    pub(crate) fn at(root: &Path, screen: Screen) -> Self {
        let sources = sources::Memory::at(root.join("sources.json"));
        Self { root: root.to_owned(), sources, screen }
    }

    /// Whether there is a store at all, and so anything that could be cached.
    pub(crate) fn is_there(&self) -> bool {
        self.root.join("stages").is_dir()
    }

    /// Creates the store where it is not there, and makes sure that it can be written.
    ///
    /// # Errors
    /// It cannot; the message says what to do.
    pub(crate) fn prepare(&self) -> Result<()> {
        let probe = self.root.join(format!(".probe-{}", std::process::id()));
        let try_all = || {
            for folder in ["stages", "locks", "last"] {
                fs::create_dir_all(self.root.join(folder))?;
            }
            // Not through a link that somebody put there.
            if fs::symlink_metadata(&probe).is_ok() {
                fs::remove_file(&probe)?;
            }
            fs::File::create_new(&probe)?;
            fs::remove_file(&probe)
        };
        try_all().map_err(|error| {
            let root = self.root.display();
            anyhow!(
                "the cache {root} cannot be written: {error}\n\
                 hint: make {root} a writable folder, or name another one with --store DIR"
            )
        })
    }

    /// Holds the store as one that is used, until dropped, so that nothing is deleted from it; waits while somebody does. Where a file system has no
    /// locks, nobody can tell.
    pub(crate) fn in_use(&self) -> Option<fs::File> {
        let lock = self.users_lock().ok()?;
        if matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)) {
            self.screen.line("waits for `runner gc`, which deletes from this store");
            lock.lock_shared().ok()?;
        }
        Some(lock)
    }

    /// The file that whoever uses the store holds on to.
    fn users_lock(&self) -> std::io::Result<fs::File> {
        lock::open(&self.root.join("locks").join("users"))
    }

    /// The folder of a whole entry.
    pub(crate) fn entry(&self, key: &str) -> PathBuf {
        self.root.join("stages").join(key)
    }

    fn partial(&self, key: &str) -> PathBuf {
        self.root.join("stages").join(format!("{key}.partial"))
    }

    /// What is not written down.
    pub(crate) fn hidden(&self) -> &Hidden {
        &self.screen.hidden
    }

    /// Looks up the work that an identity is, under its key, and what it wrote to `ports`; sizes are compared with the record every time,
    /// contents if `verify` says so. The record is a file that others can write to: it is believed only as far as it agrees with all that.
    pub(crate) fn lookup(
        &self,
        key: &str,
        identity: &Identity,
        ports: &[Port],
        verify: bool,
    ) -> Lookup {
        let entry = self.entry(key);
        if fs::symlink_metadata(&entry).is_err() {
            let partial = fs::symlink_metadata(self.partial(key));
            return if partial.is_ok() { Lookup::Partial } else { Lookup::Missing };
        }
        let Some(mut record) = read_json::<Record>(&entry.join(RECORD)) else {
            return Lookup::Damaged(format!("its {RECORD} cannot be read"));
        };
        if record.key != key {
            return Lookup::Damaged(format!("its {RECORD} has the key of another entry"));
        }
        // Older versions wrote down what is hidden now.
        self.hidden().hide(&mut record.identity.config);
        if !record.identity.is_of(identity) {
            return Lookup::Damaged(format!("its {RECORD} is of other work than its key"));
        }
        match foreign(&record, ports).or_else(|| damage(&entry, &record, verify)) {
            Some(what) => Lookup::Damaged(what),
            None => Lookup::Whole(Box::new(record)),
        }
    }

    /// Takes the lock of a key.
    ///
    /// # Errors
    /// See [`Lock::take`].
    pub(crate) fn lock(
        &self,
        key: &str,
        cancel: &Cancel,
        waiting: impl FnOnce(&str),
    ) -> Result<Lock> {
        let lock = Lock::take(&self.lock_path(key, "lock"), cancel, waiting)?;
        // The child of a process that was killed may be there for a moment still.
        if self.lock_path(key, CHILD).exists() {
            drop(Lock::take(&self.lock_path(key, CHILD), cancel, |_| {})?);
        }
        Ok(lock)
    }

    /// Takes the lock that a child has beside its parent's.
    ///
    /// # Errors
    /// See [`Lock::take`].
    #[cfg(unix)]
    pub(crate) fn lock_of_child(&self, key: &str, cancel: &Cancel) -> Result<Lock> {
        Lock::take(&self.lock_path(key, CHILD), cancel, |_| {})
    }

    fn lock_path(&self, key: &str, end: &str) -> PathBuf {
        self.root.join("locks").join(format!("{key}.{end}"))
    }

    /// The folder of the store.
    #[cfg(unix)]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder to work in, and whether an earlier attempt left it; `fresh` starts from nothing, and so does what holds links to
    /// elsewhere: whoever works in it would write there.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(crate) fn begin(&self, key: &str, fresh: bool) -> Result<(PathBuf, bool)> {
        let partial = self.partial(key);
        let make = || {
            let there = match fs::symlink_metadata(&partial) {
                Ok(meta) => Some(meta.is_dir() && !leads_out(&partial, true)?),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if there == Some(false) {
                let name = partial.display();
                self.screen.line(&format!("{name} has links to elsewhere; the stage starts anew"));
            }
            if there == Some(false) || there == Some(true) && fresh {
                remove_any(&partial)?;
            }
            fs::create_dir_all(&partial)?;
            Ok(there == Some(true) && !fresh)
        };
        let resumed = make().with_context(|| format!("making {}", partial.display()))?;
        Ok((partial, resumed))
    }

    /// Digests the outputs of finished work, makes them durable and moves them into place under the key.
    ///
    /// # Errors
    /// An output is missing, or the disk refuses.
    pub(crate) fn seal(&self, ports: &[Port], mut record: Record) -> Result<Record> {
        let partial = self.partial(&record.key);
        let about = || format!("sealing {}", partial.display());
        for port in ports {
            let path = partial.join(port.name);
            if path.exists() {
                let digest = digest::output(&path).with_context(about)?;
                record.outputs.insert(port.name.to_owned(), digest);
                sync_tree(&path).with_context(about)?;
            } else if !port.optional {
                return Err(anyhow!(
                    "the stage ended without its output `{}` ({})\nhint: this is a fault of stage kind `{}`",
                    port.name,
                    port.kind,
                    record.identity.kind
                ));
            }
        }
        write_json(&partial.join(RECORD), &record, self.hidden()).with_context(about)?;
        sync(&partial).with_context(about)?;
        let entry = self.entry(&record.key);
        let aside = self.root.join("stages").join(format!("{}.old", record.key));
        if fs::symlink_metadata(&entry).is_ok() {
            remove_any(&aside).with_context(about)?;
            fs::rename(&entry, &aside).with_context(about)?;
        }
        fs::rename(&partial, &entry).with_context(about)?;
        sync(&self.root.join("stages")).with_context(about)?;
        remove_any(&aside).with_context(about)?;
        self.tidy(&record.key);
        Ok(record)
    }

    /// Deletes what only a resumed attempt would have needed. This comes after the entry is in place, so that a crash
    /// while sealing costs no checkpoint. Where the disk refuses, as a network disk does while somebody has a file open, the entry is
    /// whole all the same, and the next run tries again.
    pub(crate) fn tidy(&self, key: &str) {
        let entry = self.entry(key);
        // An entry that was moved elsewhere, with a link in its place, is read; nothing is deleted there.
        if fs::symlink_metadata(&entry).is_ok_and(|meta| meta.is_symlink()) {
            return;
        }
        let scratch = entry.join(SCRATCH);
        if let Err(error) = remove_any(&scratch) {
            self.screen.line(&format!("{} is left over and stays: {error}", scratch.display()));
        }
    }

    /// Moves a damaged entry out of the way, where it can still be looked at.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn put_aside(&self, key: &str) -> Result<PathBuf> {
        let aside = self.root.join("stages").join(format!("{key}.damaged"));
        let entry = self.entry(key);
        let about = || format!("moving {} aside", entry.display());
        remove_any(&aside).with_context(about)?;
        fs::rename(&entry, &aside).with_context(about)?;
        Ok(aside)
    }

    /// The content of files from outside, as one digest; `None` for no files. What was read before is remembered.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn sources_digest(&self, files: &[PathBuf]) -> Result<Option<String>> {
        self.sources.digest(files, self.hidden(), &|line| self.screen.line(line))
    }

    /// What a stage of a pipeline was the last time.
    pub(crate) fn last(&self, pipeline: &str, stage: &str) -> Option<Identity> {
        read_json(&self.last_path(pipeline, stage))
    }

    /// Remembers what a stage is this time.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn remember(&self, pipeline: &str, stage: &str, identity: &Identity) -> Result<()> {
        if self.last(pipeline, stage).as_ref() == Some(identity) {
            return Ok(());
        }
        let path = self.last_path(pipeline, stage);
        let write = || {
            fs::create_dir_all(self.root.join("last").join(pipeline))?;
            write_json_unique(&path, identity, self.hidden())
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    fn last_path(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.root.join("last").join(pipeline).join(format!("{stage}.json"))
    }
}

/// The first way in which an entry is not what its record says. Other files beside those that it names take nothing from them: whoever
/// reads an output goes by the record.
fn damage(entry: &Path, record: &Record, verify: bool) -> Option<String> {
    for (port, output) in &record.outputs {
        let path = entry.join(port);
        let shown = |name: &str| {
            if name.is_empty() { port.clone() } else { format!("{port}/{name}") }
        };
        for file in output.files.iter().filter(|file| !file.is_stray()) {
            let found = match fs::metadata(file.under(&path)) {
                Ok(meta) if !meta.is_dir() => meta.len(),
                Ok(_) => return Some(format!("{} is a folder", shown(&file.path))),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Some(format!("{} is gone", shown(&file.path)));
                }
                Err(error) => return Some(format!("{}: {error}", shown(&file.path))),
            };
            if found != file.bytes {
                let (name, expected) = (shown(&file.path), file.bytes);
                return Some(format!("{name} has {found} bytes, expected {expected}"));
            }
            if verify {
                match digest::file(file, &path) {
                    Ok(digest) if digest == file.digest => {}
                    Ok(_) => return Some(format!("the bytes of {} changed", shown(&file.path))),
                    Err(error) => return Some(format!("{}: {error}", shown(&file.path))),
                }
            }
        }
    }
    None
}

/// What a record says that cannot be of this work, whatever lies beside it.
fn foreign(record: &Record, ports: &[Port]) -> Option<String> {
    let lacks = |port: &&Port| !port.optional && !record.outputs.contains_key(port.name);
    if let Some(port) = ports.iter().find(lacks) {
        return Some(format!("its {RECORD} has no output `{}`", port.name));
    }
    for (port, output) in &record.outputs {
        if !ports.iter().any(|known| known.name == port) {
            return Some(format!("its {RECORD} has an output `{port}`, which the stage has not"));
        }
        let inside = |file: &&digest::FileDigest| {
            file.path.is_empty()
                || Path::new(&file.path)
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)))
        };
        if let Some(file) = output.files.iter().find(|file| !inside(file)) {
            return Some(format!("its {RECORD} names `{}`, outside of it", file.path));
        }
        if output.digest != digest::of(&output.files) {
            return Some(format!("the digest of {port} is not that of its files"));
        }
    }
    None
}

/// Whether a folder has a link that a stage which writes there would follow out of it: one at its top, or one to a folder or to nothing.
/// Links to files further down are how fetched files are shared with a cache; whatever replaces one replaces the link.
fn leads_out(folder: &Path, top: bool) -> std::io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_symlink() {
            if top || !fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
                return Ok(true);
            }
        } else if kind.is_dir() && leads_out(&path, false)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes a file, a folder or a link, and nothing that a link leads to.
fn remove_any(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
