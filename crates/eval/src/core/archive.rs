//! Reads a bundle of tasks from a zip file. All entries are checked before the first one is read, and they are read into memory only: nothing in the zip can decide where a file is written.

use crate::{Error, Result};
use farthing_base::files;
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};
use zip::CompressionMethod;
use zip::read::{ZipArchive, ZipFileEntry};

/// Entries of one zip; the published bundle has under a hundred.
const MOST_ENTRIES: usize = 10_000;
/// Bytes of the zip itself, which bound what its list of entries can take.
const LARGEST_ZIP: u64 = 1 << 30;
/// Bytes of one entry, unpacked.
const LARGEST_ENTRY: u64 = 1 << 30;
/// Bytes of all entries together, unpacked.
const LARGEST_TOTAL: u64 = 4 << 30;
/// Unpacked over packed size. JSON lines of tasks come to 14 at most, deflate at its best to 1,032.
const LARGEST_RATIO: u64 = 100;
/// Entries up to this size may have any ratio: there is no harm in them.
const SMALL_ENTRY: u64 = 1 << 20;

const HINT: &str = "give the bundle as it was published, or unpack it yourself and name the folder";

/// A checked zip.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    path: PathBuf,
    /// Of files, as they stand in the zip.
    names: Vec<String>,
}

impl Archive {
    /// Checks every entry of the zip at `path`.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Archive`] for what is no zip, or none that a bundle would come in: names that lead out of it or occur
    /// twice, links, encrypted entries, entries that share bytes, sizes and ratios beyond the bounds above.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (_, names) = checked(path)?;
        Ok(Self { path: path.into(), names })
    }

    /// The zip.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its files.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The bytes of one file.
    ///
    /// # Errors
    /// Those of [`Archive::open`]; [`Error::Archive`] where there is no such file, or its bytes are not those that were packed.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let damaged = |what: String| refused(&self.path, format!("`{name}` in it {what}"));
        let (mut zip, _) = checked(&self.path)?;
        let mut entry = zip.by_name(name).map_err(|e| match e {
            zip::result::ZipError::FileNotFound => damaged("is not there".into()),
            e => damaged(format!("cannot be read: {e}")),
        })?;
        let size = entry.size();
        let mut bytes = Vec::new();
        // One byte more than there should be: what unpacks to more is noticed, what does not is checked to its end.
        let read = entry.by_ref().take(size + 1).read_to_end(&mut bytes);
        read.map_err(|e| damaged(format!("cannot be unpacked: {e}")))?;
        if bytes.len() as u64 != size {
            let more = if bytes.len() as u64 > size { "more" } else { "less" };
            return Err(damaged(format!("unpacks to {more} than the {size} bytes that it says")));
        }
        Ok(bytes)
    }
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Archive { path: path.into(), reason, hint: HINT.into() }
}

/// Opens a zip and returns it with the names of its files, once nothing in its list is amiss.
fn checked(path: &Path) -> Result<(ZipArchive<BufReader<File>>, Vec<String>)> {
    let io = |source| Error::Read { path: path.into(), source, hint: "check the path" };
    let refused = |reason: String| refused(path, reason);
    let mut file = files::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > LARGEST_ZIP {
        return Err(refused(format!("it has {bytes} bytes, at most {LARGEST_ZIP} are read")));
    }
    let mut start = Vec::new();
    file.by_ref().take(48).read_to_end(&mut start).map_err(io)?;
    if !start.starts_with(b"PK") {
        let text = String::from_utf8_lossy(&start).into_owned();
        let found = if start.is_empty() {
            "it is empty".into()
        } else {
            format!("it begins with {text:?}")
        };
        return Err(refused(format!("it is no zip: {found}")));
    }
    let mut zip = ZipArchive::new(BufReader::new(file))
        .map_err(|e| refused(format!("its list of entries cannot be read: {e}")))?;
    if zip.len() > MOST_ENTRIES {
        return Err(refused(format!(
            "it has {} entries, at most {MOST_ENTRIES} are read",
            zip.len()
        )));
    }
    if zip.has_duplicate_names() {
        return Err(refused("two of its entries have the same name".into()));
    }
    let mut names = Vec::new();
    let mut total = 0;
    for i in 0..zip.len() {
        let entry =
            zip.by_index_data(i).map_err(|e| refused(format!("entry {i} cannot be read: {e}")))?;
        let name = entry
            .name()
            .map_err(|e| refused(format!("the name of entry {i} cannot be read: {e}")))?
            .into_owned();
        if let Some(what) = amiss(&entry, &name) {
            return Err(refused(format!("its entry {name:?} {what}")));
        }
        total += entry.size();
        if total > LARGEST_TOTAL {
            return Err(refused(format!("it unpacks to more than {LARGEST_TOTAL} bytes")));
        }
        if entry.is_file() {
            names.push(name);
        }
    }
    match zip.has_overlapping_entries() {
        Ok(false) => Ok((zip, names)),
        Ok(true) => Err(refused("two of its entries share bytes".into())),
        Err(e) => Err(refused(format!("its entries cannot be found: {e}"))),
    }
}

/// What is wrong with an entry.
fn amiss(entry: &ZipFileEntry<'_>, name: &str) -> Option<Cow<'static, str>> {
    // The type among the bits of a Unix mode: none given, a file, a folder.
    let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
    if entry.is_symlink() || ![0, 0o100_000, 0o040_000].contains(&kind) {
        return Some("is a link or a device".into());
    }
    if entry.enclosed_name().as_deref().is_none_or(|path| !is_plain(path, name)) {
        return Some("is no plain path inside of it".into());
    }
    if entry.encrypted() {
        return Some("is encrypted".into());
    }
    let compression = entry.compression();
    if ![CompressionMethod::Stored, CompressionMethod::Deflated].contains(&compression) {
        return Some(format!("is compressed with {compression}, deflate is read").into());
    }
    let (size, packed) = (entry.size(), entry.compressed_size());
    if size > LARGEST_ENTRY {
        return Some(format!("has {size} bytes, at most {LARGEST_ENTRY} are read").into());
    }
    if size > SMALL_ENTRY && size / LARGEST_RATIO > packed {
        return Some(
            format!(
                "unpacks from {packed} to {size} bytes, more than {LARGEST_RATIO} times its size"
            )
            .into(),
        );
    }
    None
}

/// Whether a name says the path as it is, without `..`, `.`, empty parts or backslashes.
fn is_plain(path: &Path, name: &str) -> bool {
    let parts: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let name = name.strip_suffix('/').unwrap_or(name);
    parts.is_some_and(|parts| parts.join("/") == name && !name.contains('\\') && !name.is_empty())
}
