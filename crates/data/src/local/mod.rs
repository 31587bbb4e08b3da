//! Text on this machine: which files a path, a folder or a glob means.
//!
//! - What a store of this program holds is never a source: wherever the store is, whichever it is, and through links.
//! - A link that leads nowhere is an error where it would have been a source.
//! - Links to folders are followed, each folder once. A file that is found by two ways is taken once.
//! - Names that begin with a dot, and folders that systems keep for themselves, are left out unless they are named.
//! - Text in other formats than parquet is taken where it is asked for: by its name, or by a glob with its extension. A folder, and a
//!   glob that says no extension, mean the parquet files there; where there are none, the others, if they are of one format.
//! - A folder that may not be listed is passed over, unless it is the one that is named.

mod formats;
mod glob;
mod list;
mod stores;
mod walk;

#[cfg(feature = "fetch")]
pub(crate) use formats::Packed;
pub(crate) use formats::{Format, is_web_page, pointer};
#[cfg(feature = "fetch")]
pub(crate) use glob::{escaped, parse as parse_glob};
pub use list::{FILES, FileEntry, Files};

use crate::error::is_absent;
use crate::{Error, Result};
use glob::{is_glob, parse};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use walk::Walk;

/// A source on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    /// As it is written.
    pub(crate) text: String,
    /// The path that it is, if there is a file or folder of that name.
    pub(crate) path: PathBuf,
    /// The glob that it is otherwise; empty where it can be none.
    pub(crate) glob: String,
}

/// What a search found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of their names.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// What is not text of the user's, though it is where that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeftOut {
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

impl LocalAddress {
    /// A path as a user writes it.
    pub(crate) fn new(text: &str, path: &str) -> Self {
        Self { text: text.into(), path: path.into(), glob: path.into() }
    }
}

/// The files that a source names, in the order of their names; relative paths start at `base`.
///
/// # Errors
/// [`Error::NoFiles`], [`Error::Source`], [`Error::Address`] for a glob that cannot be read, [`Error::Io`].
pub(crate) fn find(address: &LocalAddress, base: &Path) -> Result<Found> {
    let mut path = base.join(&address.path);
    if fs::symlink_metadata(&path).is_err()
        && let Some(home) = home(address)?
    {
        path = home;
    }
    let mut walk = Walk::from(base);
    match fs::symlink_metadata(&path) {
        Ok(_) => walk.named(&path)?,
        Err(error) if is_absent(&error) => {
            if is_glob(&address.glob) {
                let wrong = |reason: String| Error::Address {
                    given: address.text.clone(),
                    reason: format!("the glob cannot be read: {reason}"),
                    hint: "`*` and `?` stay inside a folder, `**` does not, `[0-9]` is one of them",
                };
                let glob = match address.glob.strip_prefix("~/").zip(std::env::home_dir()) {
                    // Of the home folder's own name nothing is a wildcard.
                    Some((rest, home)) => {
                        walk.base = home;
                        rest
                    }
                    None => &address.glob,
                };
                let alternatives = parse(glob).map_err(wrong)?;
                walk.glob(&alternatives)?;
            }
        }
        Err(error) => return Err(Error::io("open", &path)(error)),
    }
    let others = std::mem::take(&mut walk.others);
    let found = walk.finish(&address.text)?;
    if !found.files.is_empty() {
        return Ok(found);
    }
    Err(nothing(address, base, &others, &found.left_out))
}

/// What `~` means, unless something is called that.
fn home(address: &LocalAddress) -> Result<Option<PathBuf>> {
    let Some(rest) = address.glob.strip_prefix('~') else { return Ok(None) };
    if !rest.is_empty() && !rest.starts_with('/') {
        return Ok(None);
    }
    let rest = rest.trim_start_matches('/');
    let Some(home) = std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) else {
        return Err(Error::Source {
            what: format!("`{}` begins with the home folder, and HOME is not set", address.text),
            hint: "set HOME, or write the whole path".into(),
        });
    };
    Ok(Some(home.join(rest)))
}

/// Why nothing was found, with what may have been meant.
fn nothing(
    address: &LocalAddress,
    base: &Path,
    others: &BTreeMap<String, usize>,
    left_out: &[LeftOut],
) -> Error {
    let pattern = address.text.clone();
    if let Some((kind, n)) = others.iter().max_by_key(|(_, n)| **n) {
        let s = if *n == 1 { "" } else { "s" };
        return Error::Source {
            what: format!("no file of text matches `{pattern}`, which has {n} `.{kind}` file{s}"),
            hint: FORMATS.into(),
        };
    }
    if let Some(first) = left_out.first() {
        let more = match left_out.len() {
            1 => String::new(),
            n => format!(", and {} more are left out", n - 1),
        };
        let shown = first.path.strip_prefix(base).unwrap_or(&first.path).display();
        return Error::Source {
            what: format!("no file of text matches `{pattern}`: {shown}: {}{more}", first.why),
            hint: "give a file of text (parquet, .jsonl, .txt, .csv), a folder that holds some, or a glob".into(),
        };
    }
    if pattern.starts_with('~') || pattern.starts_with('$') {
        return Error::Source {
            what: format!("no file of text matches `{pattern}`"),
            hint: "`~/…` is your own home folder; that of another user, and variables of the environment, are written out: `${env:HOME}/…`"
                .into(),
        };
    }
    Error::NoFiles { pattern, base: base.into() }
}

/// What to do with text in another format.
pub(crate) const FORMATS: &str = "parquet is read, and by their names JSON lines (.jsonl, .ndjson), text (.txt), tables (.csv, .tsv), and .gz and .zst of these; what is none of them becomes parquet in a line of Python, such as `pandas.DataFrame({\"text\": documents}).to_parquet(\"a.parquet\")`";

/// The error of a source that has text in several formats, and says none.
pub(crate) fn several(source: &str, files: &BTreeMap<Format, usize>) -> Error {
    let counted = |(format, n): (&Format, &usize)| {
        let s = if *n == 1 { "" } else { "s" };
        format!("{n} file{s} of {}", format.name())
    };
    let found: Vec<String> = files.iter().map(counted).collect();
    let globs: Vec<_> = files.keys().map(|format| format!("`{}`", format.glob())).collect();
    Error::Source {
        what: format!("`{source}` has text in several formats: {}", found.join(", ")),
        hint: format!("say which with a glob: {}", globs.join(" or ")),
    }
}
