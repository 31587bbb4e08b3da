//! Sources on a network: which of their files are wanted, which are in the cache already, and how the others are brought.

use super::address::{Address, public};
use super::cache::web_place;
use super::documents::{Named, glance};
use super::http::bare;
use super::near::heeded;
use super::origin::{Check, Item, Origin, last, offline};
use super::select::{Selected, select};
use super::{FetchSettings, Fetcher, Pin, PinnedFile, as_parquet, entry, hub, numbered, share};
use crate::local::{Format, is_web_page};
use crate::side_by_side::side_by_side;
use crate::{Error, FileEntry, Files, Progress, Result, TextFile};
use farthing_base::files;
use farthing_base::shown::without_secrets;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The wanted files of a pinned source, each with its number; a single one that is divided is to train on.
pub(crate) struct Chosen {
    /// Of every file, wanted or not, its path in the dataset or its URL.
    pub(crate) names: Vec<String>,
    pub(crate) selected: Selected,
    pub(crate) commit: Option<String>,
    pub(crate) train: Vec<(usize, PinnedFile)>,
    pub(crate) val: Vec<(usize, PinnedFile)>,
    /// The formats of those to train on and to hold out, by their names.
    pub(crate) formats: Vec<Format>,
}

/// What the pins say of a source; `None` where they are silent about it, or where it is near.
pub(crate) fn chosen(pins: &[Pin], settings: &FetchSettings) -> Result<Option<Chosen>> {
    let address = Address::parse(&settings.source)?;
    let pin = pins.iter().find(|pin| pin.is_of(&settings.source));
    let (pin, numbered): (&Pin, Vec<Option<&PinnedFile>>) = match (&address, pin) {
        (Address::Hub(_), Some(pin)) => (pin, pin.files.iter().map(Some).collect()),
        (Address::Web(urls), Some(pin)) => {
            let files: BTreeMap<_, _> =
                pin.files.iter().map(|file| (public(&file.path), file)).collect();
            let known = |url: &String| files.get(&public(url)).copied();
            (pin, urls.iter().map(known).collect())
        }
        _ => return Ok(None),
    };
    pin.check()?;
    if numbered.is_empty() {
        let reason = "it has no files".into();
        return Err(Error::Pin { source_text: pin.source.clone(), reason });
    }
    let names: Vec<String> = match &address {
        Address::Web(urls) => urls.iter().map(|url| bare(url)).collect(),
        _ => pin.files.iter().map(|file| file.path.clone()).collect(),
    };
    let selected = select(&settings.shards, &names, &settings.source)?;
    let pick = |indices: &[usize]| -> Option<Vec<(usize, PinnedFile)>> {
        indices.iter().map(|&i| Some((i, numbered[i]?.clone()))).collect()
    };
    let val = if selected.shared() { vec![] } else { selected.val.clone() };
    let (Some(train), Some(val)) = (pick(&selected.train), pick(&val)) else { return Ok(None) };
    let formats: Vec<_> = train.iter().chain(&val).map(|(_, file)| format_of(&file.path)).collect();
    heeded(settings, &formats)?;
    Ok(Some(Chosen { names, selected, commit: pin.commit.clone(), train, val, formats }))
}

/// The format of a file by its path in a dataset or its URL; what these do not say is parquet, or an error that says what it is instead.
fn format_of(path: &str) -> Format {
    let path = if path.contains("://") { bare(path).into() } else { Cow::Borrowed(path) };
    Format::of_name(Path::new(&*path)).unwrap_or(Format::Parquet)
}

/// The error of a file in the cache, with the name that a user knows it by.
fn as_pinned(error: Error, name: &str) -> Error {
    let hint = "its source holds this, or held it when it was pinned; where that was a slip of the server, remove its pin from the lock file and run again";
    match error {
        Error::NotParquet { found, .. } => {
            Error::NotParquet { name: name.into(), found, hint: hint.into() }
        }
        Error::Parquet { path, row_group, row, reason } => {
            let reason = format!("{reason}; it is {name}: {hint}");
            Error::Parquet { path, row_group, row, reason }
        }
        other => other,
    }
}

/// Refuses what a server sent that is not what its name says, before anybody pins it.
pub(crate) fn refuse_others(settings: &FetchSettings, partial: &Path, url: &str) -> Result<()> {
    let hint = "look at the URL in a browser: a login page, a proxy's page or a server's error may have come instead of the file; nothing of it was kept";
    let format = format_of(url);
    if format == Format::Parquet {
        return match TextFile::check(partial) {
            Err(Error::NotParquet { found, .. } | Error::Parquet { reason: found, .. }) => {
                Err(Error::NotParquet { name: bare(url), found, hint: hint.into() })
            }
            other => other,
        };
    }
    let mut head = Vec::new();
    let file = files::open(partial).map_err(Error::io("open", partial))?;
    file.take(512).read_to_end(&mut head).map_err(Error::io("read", partial))?;
    if is_web_page(String::from_utf8_lossy(&head).trim_start()) {
        return Err(Error::OtherFile { url: bare(url), found: "it is a web page".into() });
    }
    let file = Named { path: partial.into(), name: last(url).into() };
    match glance(&file, format, settings) {
        Err(Error::Document { line, what, .. }) => {
            let line = line.map_or_else(String::new, |line| format!("line {line}: "));
            Err(Error::OtherFile { url: bare(url), found: format!("{line}{what}") })
        }
        other => other.map(drop),
    }
}

/// Where file `i` of a source of URLs is.
fn url_of(address: &Address, i: usize) -> Option<&str> {
    match address {
        Address::Web(urls) => urls.get(i).map(String::as_str),
        _ => None,
    }
}

/// How many of the pinned files are in their cache, and their bytes.
pub(crate) fn cached(fetcher: &Fetcher, settings: &FetchSettings) -> Result<(usize, u64)> {
    let address = Address::parse(&settings.source)?;
    let Some(chosen) = chosen(&fetcher.pins, settings)? else { return Ok((0, 0)) };
    let origin = Origin::new(fetcher, &address, &|_, _| Ok(()));
    let (mut files, mut bytes) = (0, 0);
    for (i, file) in chosen.train.iter().chain(&chosen.val) {
        let item = origin.item(file, url_of(&address, *i), chosen.commit.as_deref())?;
        let size = item.place.blob.and_then(|blob| fs::metadata(blob).ok()).map(|meta| meta.len());
        if size == Some(file.bytes) {
            files += 1;
            bytes += file.bytes;
        }
    }
    Ok((files, bytes))
}

/// Pins a source that is not pinned; `check` refuses files of the web that are not what they should be.
pub(crate) fn pin(
    fetcher: &mut Fetcher,
    settings: &FetchSettings,
    check: &Check<'_>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let source = settings.source.as_str();
    let address = Address::parse(source)?;
    if !address.is_remote() || chosen(&fetcher.pins, settings)?.is_some() {
        return Ok(());
    }
    if fetcher.settings.offline {
        return Err(Error::Offline {
            what: format!("what `{}` holds has never been asked", without_secrets(source)),
            hint:
                "run once where there is a network; its lock file then says what the source holds"
                    .into(),
        });
    }
    let origin = Origin::new(fetcher, &address, check);
    match &address {
        Address::Hub(hub_address) => {
            progress.message("asking for the list of files");
            let pin = hub::pin(&origin.client, hub_address, source, &|| progress.stopped())?;
            progress.message("");
            fetcher.pins.retain(|old| !old.is_of(source));
            fetcher.pins.push(pin);
        }
        Address::Web(urls) => {
            let old = fetcher.pins.iter().find(|pin| pin.is_of(source));
            let old = old.map(|pin| pin.clone().without_queries());
            let mut files = old.map(|pin| pin.files).unwrap_or_default();
            let names: Vec<String> = urls.iter().map(|url| bare(url)).collect();
            let Selected { train, val, .. } = select(&settings.shards, &names, source)?;
            let mut wanted: Vec<usize> = train.into_iter().chain(val).collect();
            wanted.dedup();
            heeded(settings, &wanted.iter().map(|&i| format_of(&urls[i])).collect::<Vec<_>>())?;
            let missing = wanted.into_iter().map(|i| &urls[i]);
            let known: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
            let missing = missing.filter(|url| !known.contains(&*public(url)));
            let items: Vec<Item> = missing
                .map(|url| Item {
                    name: last(url),
                    url: url.clone(),
                    place: web_place(&fetcher.settings.downloads, url, None),
                    bytes: None,
                    digest: None,
                    path: None,
                })
                .collect();
            let found = side_by_side(&items, fetcher.connections, progress, |item, stop, tell| {
                origin.bring(item, stop, tell)
            })?;
            files.extend(items.iter().zip(found).map(|(item, found)| PinnedFile {
                path: public(&item.url).into_owned(),
                bytes: found.bytes,
                digest: found.digest.to_string(),
            }));
            files.sort_by(|a, b| a.path.cmp(&b.path));
            fetcher.pins.retain(|old| !old.is_of(source));
            let source = public(source).into_owned();
            fetcher.pins.push(Pin { source, commit: None, files });
        }
        Address::World | Address::Local(_) => {}
    }
    fetcher.pins.sort_by(|a, b| a.source.cmp(&b.source));
    Ok(())
}

/// Brings the files of a pinned source into their cache and links them into `out`.
pub(crate) fn fetch(
    fetcher: &Fetcher,
    address: &Address,
    settings: &FetchSettings,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    let unpinned = || Error::Pin {
        source_text: settings.source.clone(),
        reason: "it does not have the files that are asked for".into(),
    };
    let chosen = chosen(&fetcher.pins, settings)?.ok_or_else(unpinned)?;
    let origin = Origin::new(fetcher, address, &|_, _| Ok(()));
    let commit = chosen.commit.as_deref();
    let wanted: Vec<&(usize, PinnedFile)> = chosen.train.iter().chain(&chosen.val).collect();
    let items: Vec<Item> = wanted
        .iter()
        .map(|(i, file)| origin.item(file, url_of(address, *i), commit))
        .collect::<Result<_>>()?;
    if fetcher.settings.offline {
        let absent = items.iter().filter(|i| i.place.blob.as_ref().is_none_or(|b| !b.exists()));
        let absent: Vec<&Item> = absent.collect();
        if let Some(first) = absent.first() {
            let n = items.len();
            return Err(offline(&format!(
                "{} (and {} of {n} files in all)",
                first.name,
                absent.len()
            )));
        }
    }
    let found = side_by_side(&items, fetcher.connections, progress, |item, stop, tell| {
        let found = origin.bring(item, stop, tell)?;
        if let (Some((_, cache)), Some(commit), Some(path)) = (&origin.hub, commit, &item.path) {
            cache.link(commit, path, &found.digest)?;
        }
        Ok(found)
    })?;
    if let (Some((_, cache)), Some(commit), Address::Hub(hub)) = (&origin.hub, commit, address) {
        cache.note(&hub.revision, commit)?;
    }
    let name = |i: usize, file: &PinnedFile, item: &Item| {
        let name = if item.path.is_some() { file.path.clone() } else { last(&file.path) };
        match format_of(&file.path) {
            Format::Parquet => numbered(i, &name),
            _ => numbered(i, &format!("{name}.parquet")),
        }
    };
    let blob = |item: &Item| item.place.blob.clone().ok_or_else(unpinned);
    // What is pinned may have been no parquet from the start.
    for ((_, file), item) in wanted.iter().zip(&items) {
        if format_of(&file.path) == Format::Parquet {
            TextFile::check(blob(item)?).map_err(|error| as_pinned(error, &file.path))?;
        }
    }
    let named = |file: &PinnedFile, path: PathBuf| Named {
        path,
        name: without_secrets(&file.path).into_owned().into(),
    };
    if chosen.selected.shared() {
        let ((i, file), item) = (wanted[0], &items[0]);
        let (name, blob) = (name(*i, file, item), blob(item)?);
        return match format_of(&file.path) {
            Format::Parquet => share::divide(&blob, &settings.source, &name, out, progress),
            format => {
                as_parquet::divide(&named(file, blob), format, settings, &name, out, progress)
            }
        };
    }
    let mut entries = Vec::new();
    for (((i, file), item), found) in wanted.iter().zip(&items).zip(found) {
        let (name, blob) = (name(*i, file, item), blob(item)?);
        let to = out.join(&name);
        entries.push(match format_of(&file.path) {
            Format::Parquet => {
                place(&blob, &to)?;
                FileEntry { file: name, bytes: found.bytes, blake3: found.blake3 }
            }
            format => {
                as_parquet::convert(&named(file, blob), format, settings, &to, progress)?;
                entry(&to)?
            }
        });
    }
    let val = entries.split_off(chosen.train.len());
    Ok(Files { train: entries, val, tasks: None })
}

/// Brings the one file of a pinned URL into the cache, and says where it is.
pub(crate) fn bring_one(
    fetcher: &Fetcher,
    url: &str,
    file: &PinnedFile,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    let address = Address::Web(vec![url.to_owned()]);
    let origin = Origin::new(fetcher, &address, &|_, _| Ok(()));
    let item = origin.item(file, Some(url), None)?;
    side_by_side(std::slice::from_ref(&item), 1, progress, |item, stop, tell| {
        origin.bring(item, stop, tell)
    })?;
    item.place.blob.ok_or_else(|| Error::Pin {
        source_text: file.path.clone(),
        reason: "it has no digest".into(),
    })
}

/// Gives the bytes of a blob a name in `out`: a second one (hard link), so that a cleaned cache takes nothing away, and where
/// that cannot be, on another file system, a symbolic link. A blob is named by its digest, so nobody edits it in place.
fn place(blob: &Path, to: &Path) -> Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        fs::remove_file(to).map_err(Error::io("replace", to))?;
    }
    let blob = fs::canonicalize(blob).map_err(Error::io("open", blob))?;
    fs::hard_link(&blob, to).or_else(|_| elsewhere(&blob, to)).map_err(Error::io("link", to))
}

#[cfg(unix)]
fn elsewhere(blob: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(blob, to)
}

#[cfg(not(unix))]
fn elsewhere(blob: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(blob, to).map(drop)
}
