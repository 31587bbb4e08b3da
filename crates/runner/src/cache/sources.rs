//! Digests of files from outside of the store. A file is read once and then known by its path, size and time of change, so that
//! a plan over a hundred gigabytes takes no longer than asking for the sizes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::digest::parts_digest;
use super::files::{read_json, write_json};
use crate::Result;

/// A file that changed less than this long ago may change again without its time showing it, so it is not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// What is remembered of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified_ns: u128,
    digest: String,
}

/// One digest over the contents of files in their order, whatever they are called; `None` for no files.
///
/// # Errors
/// A file cannot be read. A memory that cannot be read or written costs time and is no error.
pub(super) fn digest(memory: &Path, files: &[PathBuf]) -> Result<Option<String>> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut known: BTreeMap<String, Known> = read_json(memory).unwrap_or_default();
    let mut learnt = false;
    let mut digests = Vec::new();
    for path in files {
        let about = || format!("reading {}", path.display());
        let path = fs::canonicalize(path).with_context(about)?;
        let before = stamp(&path).with_context(about)?;
        let name = path.to_string_lossy().into_owned();
        if let (Some(k), (bytes, Some(modified_ns))) = (known.get(&name), before)
            && (k.bytes, k.modified_ns) == (bytes, modified_ns)
        {
            digests.push(k.digest.clone());
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&path).with_context(about)?).with_context(about)?;
        let digest = hasher.finalize().to_hex().to_string();
        let after = stamp(&path).with_context(about)?;
        if let (bytes, Some(modified_ns)) = after
            && before == after
            && settled(modified_ns)
        {
            known.insert(name, Known { bytes, modified_ns, digest: digest.clone() });
            learnt = true;
        }
        digests.push(digest);
    }
    // Without a store yet, as before a first plan, there is nowhere to remember.
    if learnt && memory.parent().is_some_and(Path::is_dir) {
        let _ = write_json(memory, &known);
    }
    Ok(Some(parts_digest(digests.iter().map(String::as_bytes))))
}

/// Size and, where the system knows it, time of change.
fn stamp(path: &Path) -> std::io::Result<(u64, Option<u128>)> {
    let meta = fs::metadata(path)?;
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok();
    Ok((meta.len(), meta.modified().ok().and_then(since).map(|t| t.as_nanos())))
}

fn settled(modified_ns: u128) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() >= modified_ns + SETTLED.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            super::digest(&memory, &files).unwrap()
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
        let error = super::digest(&memory, &[b]).unwrap_err();
        assert!(error.to_string().starts_with("reading "), "{error}");
    }
}
