//! Writing files so that they are either whole or absent after a crash.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hidden::Hidden;

/// Writes JSON, without what is hidden, so that it is whole or not there. For one writer at a time: what a killed one left is overwritten.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn write_json(path: &Path, value: &impl Serialize, hidden: &Hidden) -> io::Result<()> {
    let text = json(value, hidden)?;
    farthing_base::files::write(path, &[&text]).map_err(|error| error.source)
}

/// The same for a file that several runs may write at once.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn write_json_unique(
    path: &Path,
    value: &impl Serialize,
    hidden: &Hidden,
) -> io::Result<()> {
    let text = json(value, hidden)?;
    farthing_base::files::write_unique(path, &[&text]).map_err(|error| error.source)
}

fn json(value: &impl Serialize, hidden: &Hidden) -> io::Result<Vec<u8>> {
    let mut shown = serde_json::to_value(value)?;
    // Where nothing is hidden, keys stand in the order of their type.
    let mut text = if hidden.hide(&mut shown) {
        serde_json::to_vec_pretty(&shown)?
    } else {
        serde_json::to_vec_pretty(value)?
    };
    text.push(b'\n');
    Ok(text)
}

/// What a file of ours has at most: a record of a million files.
const MOST_BYTES: u64 = 256 << 20;

/// Reads JSON; `None` where the file is absent or not what it should be.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&farthing_base::files::read_at_most(path, MOST_BYTES).ok()?).ok()
}

/// Makes a file or a whole folder durable.
///
/// # Errors
/// Something cannot be opened or synced.
pub(crate) fn sync_tree(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
    }
    sync(path)
}

/// Makes one file or folder durable; folders cannot be synced on Windows, and need not be.
///
/// # Errors
/// It cannot be opened or synced.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    File::open(path)?.sync_all()
}
