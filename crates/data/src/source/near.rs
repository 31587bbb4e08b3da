//! Sources on this machine: chooses which files to train on, checks them before anything is copied, and copies them.

use super::documents::{Named, glance};
use super::select::{Selected, select};
use super::{FetchSettings, FileEntry, Files, as_parquet, entry, numbered, share};
use crate::local::{Format, Found, LocalAddress, find};
use crate::{Error, Progress, Result, TextFile};
use rayon::prelude::*;
use std::fs;
use std::path::Path;

/// Every file of a local source, and which of them to train on and to hold out.
pub(super) fn chosen(
    settings: &FetchSettings,
    address: &LocalAddress,
    base: &Path,
) -> Result<(Found, Selected)> {
    let found = find(address, base)?;
    let names: Vec<_> = found.files.iter().map(|path| path.to_string_lossy()).collect();
    let selected = select(&settings.shards, &names, &settings.source)?;
    Ok((found, selected))
}

/// The formats of the files that are chosen.
pub(super) fn formats(found: &Found, selected: &Selected) -> Vec<Format> {
    chosen_files(found, selected).map(Format::of).collect()
}

/// The files that are chosen, each once.
fn chosen_files<'a>(found: &'a Found, selected: &'a Selected) -> impl Iterator<Item = &'a Path> {
    let val = selected.val.iter().filter(|_| !selected.shared());
    selected.train.iter().chain(val).map(|&i| found.files[i].as_path())
}

/// Refuses settings that no file of the source heeds.
pub(super) fn heeded(settings: &FetchSettings, formats: &[Format]) -> Result<()> {
    let source = &settings.source;
    let unheeded = |what: String, hint: &str| Err(Error::Config { what, hint: hint.into() });
    if settings.separator.as_deref() == Some("") {
        return unheeded("separator is empty".into(), "leave it out: each file is one document");
    }
    if let Some(separator) = &settings.separator
        && !formats.contains(&Format::Text)
    {
        return unheeded(
            format!(
                "separator = {separator:?} says what is between documents of `.txt` files, and `{source}` has none"
            ),
            "leave it out",
        );
    }
    if let Some(column) = &settings.text_column
        && !formats.iter().any(|format| format.has_fields())
    {
        return unheeded(
            format!(
                "text_column = {column:?} says where JSON lines and tables have their text, and `{source}` has neither"
            ),
            "leave it out; of parquet files all columns are brought, and who reads them names one",
        );
    }
    Ok(())
}

/// Footers say what is no parquet, or has no rows; which column is text is asked later. Of other formats the beginning says that.
pub(super) fn look(settings: &FetchSettings, found: &Found, selected: &Selected) -> Result<()> {
    let formats = formats(found, selected);
    heeded(settings, &formats)?;
    // Side by side, since there may be thousands; the first that is at fault is named.
    let rows = |chosen: &[usize]| -> Result<u64> {
        let count = |&i: &usize| match Format::of(&found.files[i]) {
            Format::Parquet => TextFile::count(&found.files[i]),
            format => glance(&Named::local(&found.files[i]), format, settings),
        };
        let each: Vec<Result<u64>> = chosen.par_iter().map(count).collect();
        each.into_iter().sum()
    };
    let source = &settings.source;
    if selected.shared() {
        let enough = share::enough(source, rows(&selected.train)?).map(drop);
        return match enough {
            Err(Error::Selection { what, .. })
                if formats == [Format::Text] && settings.separator.is_none() =>
            {
                let hint = "say what stands between its documents, such as `separator = \"\\n\\n\"` for an empty line; else the file is one document"
                    .into();
                Err(Error::Selection { what, hint })
            }
            other => other,
        };
    }
    share::something(source, rows(&selected.train)?, rows(&selected.val)?)
}

/// Copies the files of a local source, or what is written of them as parquet.
pub(super) fn copies(
    settings: &FetchSettings,
    address: &LocalAddress,
    base: &Path,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    let (found, selected) = chosen(settings, address, base)?;
    let path = |i: &usize| found.files[*i].as_path();
    let name = |i: &usize| match Format::of(path(i)) {
        Format::Parquet => numbered(*i, &path(i).to_string_lossy()),
        _ => numbered(*i, &format!("{}.parquet", path(i).to_string_lossy())),
    };
    look(settings, &found, &selected)?;
    if selected.shared() {
        let (from, name) = (path(&selected.train[0]), name(&selected.train[0]));
        let format = Format::of(from);
        if format == Format::Parquet {
            return share::divide(from, &settings.source, &name, out, progress);
        }
        return as_parquet::divide(&Named::local(from), format, settings, &name, out, progress);
    }
    progress.total(Some((selected.train.len() + selected.val.len()) as u64), "files");
    let mut bring = |i: &usize| -> Result<FileEntry> {
        if progress.stopped() {
            return Err(Error::Stopped);
        }
        let to = out.join(name(i));
        match Format::of(path(i)) {
            Format::Parquet => copy(path(i), &to)?,
            format => {
                let from = Named::local(path(i));
                as_parquet::convert(&from, format, settings, &to, progress)?;
            }
        }
        progress.advance(1);
        entry(&to)
    };
    let train = selected.train.iter().map(&mut bring).collect::<Result<_>>()?;
    let val = selected.val.iter().map(&mut bring).collect::<Result<_>>()?;
    Ok(Files { train, val, tasks: None })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_file(to).map_err(Error::io("replace", to))?;
    }
    // The target of a symbolic link, not the link: the list names contents.
    let from = fs::canonicalize(from).map_err(Error::io("open", from))?;
    // Not hard-linked: an edit of the source in place would change what was fetched. File systems that can, share the blocks.
    fs::copy(&from, to).map_err(Error::io("copy", &from))?;
    Ok(())
}
