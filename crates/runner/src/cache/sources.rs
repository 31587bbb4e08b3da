//! Digests of files from outside the store. A file is read once; after that it is recognised by its path, size and times of change, which makes a plan over a hundred gigabytes as quick as asking
//! for their sizes. Besides the modification time, which programs can set, the system's own change time is compared where there is one. A file that was replaced by another of the same size and age is
//! noticed that way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::digest::parts_digest;
use super::files::{read_json, write_json_unique};
use crate::Result;
use crate::hidden::Hidden;
use crate::progress::format::amount;

/// A file that changed less than this long ago may change again without its time showing it, so it is not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// What is remembered of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified_ns: u128,
    /// When the system saw it change.
    #[serde(default)]
    changed_ns: i128,
    digest: String,
}

/// More than this is not read in silence.
const MUCH_BYTES: u64 = 256 << 20;

/// What is remembered of all files, read from the disk once.
pub(super) struct Memory {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<BTreeMap<String, Known>>,
    /// Files that were learnt and are not written down.
    new: usize,
}

impl Memory {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// One digest over the contents of files in their order, whatever they are called; `None` for no files.
    ///
    /// # Errors
    /// A file cannot be read. A memory that cannot be read or written costs time and is no error.
    pub(super) fn digest(
        &self,
        files: &[PathBuf],
        hidden: &Hidden,
        tell: &dyn Fn(&str),
    ) -> Result<Option<String>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { known, new } = &mut *state;
        let known = known.get_or_insert_with(|| read_json(&self.path).unwrap_or_default());
        digest(&self.path, known, new, files, hidden, tell)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let (Some(known), 1..) = (&state.known, state.new) {
            remember(&self.path, known);
        }
    }
}

/// Without a store yet, as before a first plan, there is nowhere to remember.
fn remember(memory: &Path, known: &BTreeMap<String, Known>) {
    if memory.parent().is_some_and(Path::is_dir) {
        let _ = write_json_unique(memory, known, &Hidden::default());
    }
}

fn digest(
    memory: &Path,
    known: &mut BTreeMap<String, Known>,
    new_files: &mut usize,
    files: &[PathBuf],
    hidden: &Hidden,
    tell: &dyn Fn(&str),
) -> Result<Option<String>> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut places = Vec::new();
    for path in files {
        let about = || format!("reading {}", path.display());
        let path = fs::canonicalize(path).with_context(about)?;
        let before = stamp(&path).with_context(about)?;
        places.push((path, before));
    }
    let is_known = |known: &BTreeMap<String, Known>, path: &Path, stamp: &Stamp| {
        let k = known.get(&*hidden.named(path.to_str()?))?;
        let same = Some(k.modified_ns) == stamp.modified_ns
            && (k.bytes, k.changed_ns) == (stamp.bytes, stamp.changed_ns);
        same.then(|| k.digest.clone())
    };
    let unknown = places.iter().filter(|(path, stamp)| is_known(known, path, stamp).is_none());
    let (n, bytes) = unknown.fold((0, 0), |(n, sum), (_, stamp)| (n + 1, sum + stamp.bytes));
    if bytes > MUCH_BYTES {
        let (s, bytes) = (if n == 1 { "" } else { "s" }, amount(bytes, "bytes"));
        tell(&format!("reading {n} source file{s}, {bytes}, which are new or changed; once"));
    }
    let mut since = 0;
    let mut digests = Vec::new();
    for (path, before) in places {
        let about = || format!("reading {}", path.display());
        if let Some(digest) = is_known(known, &path, &before) {
            digests.push(digest);
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(farthing_base::files::open(&path).with_context(about)?)
            .with_context(about)?;
        let digest = hasher.finalize().to_hex().to_string();
        let after = stamp(&path).with_context(about)?;
        // A name that is no text could be taken for another one.
        if let (Some(name), Some(modified_ns)) = (path.to_str(), after.modified_ns)
            && before == after
            && settled(modified_ns)
        {
            let Stamp { bytes, changed_ns, .. } = after;
            let digest = digest.clone();
            let new = Known { bytes, modified_ns, changed_ns, digest };
            known.insert(hidden.named(name).into_owned(), new);
            *new_files += 1;
            since += bytes;
            // Whoever is cut off goes on from here. Not after each of many files, since all are written every time.
            if since > MUCH_BYTES || *new_files * 8 >= known.len() {
                remember(memory, known);
                (*new_files, since) = (0, 0);
            }
        }
        digests.push(digest);
    }
    Ok(Some(parts_digest(digests.iter().map(String::as_bytes))))
}

/// By what a file is known again without reading it, as far as the system knows it.
#[derive(Clone, Debug, PartialEq)]
struct Stamp {
    bytes: u64,
    modified_ns: Option<u128>,
    changed_ns: i128,
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok();
    let modified_ns = meta.modified().ok().and_then(since).map(|t| t.as_nanos());
    Ok(Stamp { bytes: meta.len(), modified_ns, changed_ns: changed(&meta) })
}

/// When the system saw a file change; always the same where it does not say.
#[cfg(unix)]
fn changed(meta: &fs::Metadata) -> i128 {
    use std::os::unix::fs::MetadataExt;
    i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec())
}

#[cfg(not(unix))]
fn changed(_: &fs::Metadata) -> i128 {
    0
}

fn settled(modified_ns: u128) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() >= modified_ns + SETTLED.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn contents_count_and_settled_files_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("sources.json");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let old = SystemTime::now() - Duration::from_mins(1);
        let write = |path: &Path, text: &str, time: SystemTime| {
            fs::write(path, text).unwrap();
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        let digest = |files: &[&PathBuf]| {
            let files: Vec<PathBuf> = files.iter().map(|p| (*p).clone()).collect();
            Memory::at(memory.clone()).digest(&files, &Hidden::default(), &|_| {}).unwrap()
        };
        assert_eq!(digest(&[]), None);
        write(&a, "one", old);
        write(&b, "two", old);
        let first = digest(&[&a, &b]);
        assert_ne!(first, digest(&[&b, &a]), "order");
        assert_eq!(read_json::<BTreeMap<String, Known>>(&memory).unwrap().len(), 2);
        assert_eq!(first, digest(&[&a, &b]));

        // Same size, another time: read again.
        write(&a, "eno", old + Duration::from_secs(1));
        assert_ne!(first, digest(&[&a, &b]));
        // The old content at a new time is the old digest.
        write(&a, "one", old + Duration::from_secs(2));
        assert_eq!(first, digest(&[&a, &b]));

        // Same size and same time, as an editor or a copy may set it: the system knows better.
        if cfg!(unix) {
            write(&a, "two", old + Duration::from_secs(2));
            assert_ne!(first, digest(&[&a, &b]));
        }

        // Changed twice within one tick of the clock: nothing was remembered of it.
        let now = SystemTime::now();
        write(&a, "abc", now);
        let second = digest(&[&a, &b]);
        write(&a, "xyz", now);
        assert_ne!(second, digest(&[&a, &b]));

        // Another name, the same content.
        let c = dir.path().join("c");
        write(&c, "two", old);
        assert_eq!(digest(&[&b]), digest(&[&c]));
        fs::remove_file(&b).unwrap();
        let error = Memory::at(memory).digest(&[b], &Hidden::default(), &|_| {}).unwrap_err();
        assert!(error.to_string().starts_with("reading "), "{error}");
    }
}
