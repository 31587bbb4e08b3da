//! From a source to a directory of parquet files and the list of which to train on and which to hold out.

use crate::files::{digest_file, write_atomic};
use crate::world::{self, WorldSettings};
use crate::{Error, Progress, Result, TextFile};
use globset::GlobBuilder;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The list's name.
pub const FILES: &str = "files.json";

/// Which of a source's files, counted in the order of their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShardRange {
    /// The first file to train on.
    pub first: usize,
    /// How many files to train on; all that are left if absent.
    pub count: Option<usize>,
    /// The file that is held out, never trained on; the last if absent.
    pub val: Option<usize>,
}

/// What to fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchSettings {
    /// `embedded://world`, or a parquet file, a directory of them, or a glob, as a path or with `file:` before it.
    pub source: String,
    /// Which files of the source.
    pub shards: ShardRange,
    /// The embedded world, if that is the source.
    pub world: WorldSettings,
}

/// One file of a [`Files`] list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name beside the list.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

/// `files.json`: the parquet files of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// To train on, in order.
    pub train: Vec<FileEntry>,
    /// Held out.
    pub val: Vec<FileEntry>,
    /// The directory beside the list that holds tasks about the text (`tasks.json`), if the source has any.
    pub tasks: Option<String>,
}

impl Files {
    /// Reads `dir/files.json` and checks that its files are there in their sizes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Manifest`].
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join(FILES);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let bad = |reason: String| Error::Manifest { path: path.clone(), reason };
        let files: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        for entry in files.train.iter().chain(&files.val) {
            if entry.file.contains(['/', '\\']) || entry.file == ".." {
                return Err(bad(format!("{:?} is not the name of a file beside it", entry.file)));
            }
            let file = dir.join(&entry.file);
            let found = fs::metadata(&file).map_err(Error::io("open", &file))?.len();
            if found != entry.bytes {
                return Err(bad(format!(
                    "{} has {found} bytes, expected {}",
                    entry.file, entry.bytes
                )));
            }
        }
        Ok(files)
    }

    /// Paths of the files to train on.
    pub fn train_paths(&self, dir: impl AsRef<Path>) -> Vec<PathBuf> {
        self.train.iter().map(|entry| dir.as_ref().join(&entry.file)).collect()
    }

    /// Paths of the files held out.
    pub fn val_paths(&self, dir: impl AsRef<Path>) -> Vec<PathBuf> {
        self.val.iter().map(|entry| dir.as_ref().join(&entry.file)).collect()
    }
}

/// Brings the parquet files of a source into `out` and lists them in `out/files.json`, which is written last. Local files
/// are copied; relative paths start at `base`.
/// Called again after a kill it begins again; the result is the same.
///
/// # Errors
/// [`Error::UnknownSource`], [`Error::NoFiles`], [`Error::Selection`] when nothing is left to train on or to hold out,
/// [`Error::Parquet`] for a file that is not parquet, [`Error::Io`].
pub fn fetch(
    settings: &FetchSettings,
    base: &Path,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let source = settings.source.as_str();
    let (train, val, tasks) = if source == "embedded://world" {
        let world = &settings.world;
        let (train, val) = select(&settings.shards, world.train_shards + 1, source)?;
        let paths = world::write_parquet(out, world, progress)?;
        world::write_tasks(&out.join("tasks"), world.seed)?;
        let pick = |i: &usize| paths[*i].clone();
        let chosen: (Vec<_>, Vec<_>) =
            (train.iter().map(pick).collect(), val.iter().map(pick).collect());
        (chosen.0, chosen.1, Some("tasks".to_string()))
    } else {
        let (found, train, val) = chosen(settings, base)?;
        progress.total(Some((train.len() + val.len()) as u64), "files");
        let mut bring = |i: &usize| -> Result<PathBuf> {
            let from = &found[*i];
            // The footer says whether it is parquet at all; which column is text is asked later.
            TextFile::check(from)?;
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            let to = out.join(format!("{i:05}-{name}"));
            copy(from, &to)?;
            progress.advance(1);
            Ok(to)
        };
        let train = train.iter().map(&mut bring).collect::<Result<Vec<_>>>()?;
        let val = val.iter().map(&mut bring).collect::<Result<Vec<_>>>()?;
        (train, val, None)
    };
    let entries =
        |paths: &[PathBuf]| paths.iter().map(|path| entry(path)).collect::<Result<Vec<_>>>();
    let files = Files { train: entries(&train)?, val: entries(&val)?, tasks };
    let path = out.join(FILES);
    let json = serde_json::to_string_pretty(&files)
        .map_err(|e| Error::Manifest { path: path.clone(), reason: e.to_string() })?;
    write_atomic(&path, &[json.as_bytes(), b"\n"])?;
    Ok(files)
}

/// The local files that [`fetch`] would bring, those to train on first; none where the source is not a local one.
///
/// # Errors
/// Those of [`fetch`], as far as they show without opening a file.
pub fn local_files(settings: &FetchSettings, base: &Path) -> Result<Vec<PathBuf>> {
    if settings.source == "embedded://world" {
        return Ok(vec![]);
    }
    let (found, train, val) = chosen(settings, base)?;
    Ok(train.iter().chain(&val).map(|i| found[*i].clone()).collect())
}

/// Every file of a local source, and the indices of those to train on and to hold out.
fn chosen(settings: &FetchSettings, base: &Path) -> Result<(Vec<PathBuf>, Vec<usize>, Vec<usize>)> {
    let source = settings.source.as_str();
    let path = match source.strip_prefix("file:") {
        Some(path) => path.strip_prefix("//").unwrap_or(path),
        None if source.is_empty() || source.contains("://") => {
            return Err(Error::UnknownSource { given: source.into() });
        }
        None => source,
    };
    let found = find(path, base)?;
    let (train, val) = select(&settings.shards, found.len(), source)?;
    Ok((found, train, val))
}

fn entry(path: &Path) -> Result<FileEntry> {
    let bytes = fs::metadata(path).map_err(Error::io("read the size of", path))?.len();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileEntry { file, bytes, blake3: digest_file(path)? })
}

/// Indices to train on and to hold out, of `n` files.
fn select(range: &ShardRange, n: usize, source: &str) -> Result<(Vec<usize>, Vec<usize>)> {
    let files = if n == 1 { "file" } else { "files" };
    let wrong = |what: String, hint: &str| Err(Error::Selection { what, hint: hint.into() });
    let val = range.val.unwrap_or(n - 1);
    if val >= n {
        return wrong(
            format!("shards.val = {val}, but `{source}` has {n} {files}, numbered from 0"),
            "leave `val` out to hold out the last file",
        );
    }
    let end = match range.count {
        Some(count) => range.first.saturating_add(count),
        None => n,
    };
    if end > n {
        return wrong(
            format!(
                "files {}..{end} of `{source}` were asked for, it has {n} {files}",
                range.first
            ),
            "lower shards.first or shards.count",
        );
    }
    let train: Vec<usize> = (range.first..end).filter(|&i| i != val).collect();
    if train.is_empty() {
        return wrong(
            format!(
                "`{source}` has {n} {files}; with file {val} held out, none is left to train on"
            ),
            "give at least two files, or choose another one to hold out (shards.val)",
        );
    }
    Ok((train, vec![val]))
}

/// The parquet files that a path, a directory or a glob names, in the order of their names.
fn find(pattern: &str, base: &Path) -> Result<Vec<PathBuf>> {
    let none = || Error::NoFiles { pattern: pattern.into(), base: base.into() };
    let path = base.join(pattern);
    let mut found = vec![];
    if path.is_file() {
        found.push(path);
    } else if path.is_dir() {
        walk(&path, &mut found)?;
        found.retain(|file| file.extension().is_some_and(|e| e == "parquet"));
    } else {
        let whole = path.to_string_lossy();
        let glob = GlobBuilder::new(&whole)
            .literal_separator(true)
            .build()
            .map_err(|_| none())?
            .compile_matcher();
        // The part before the first wildcard is where the search begins.
        let wild = whole.find(['*', '?', '[', '{']).ok_or_else(none)?;
        let root = PathBuf::from(&whole[..whole[..wild].rfind('/').map_or(0, |at| at + 1)]);
        if root.is_dir() {
            walk(&root, &mut found)?;
        }
        found.retain(|file| glob.is_match(file));
    }
    found.sort();
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let path = entry.path();
        // Links to directories are not followed, so that a loop cannot trap the search.
        if entry.file_type().map_err(Error::io("list", dir))?.is_dir() {
            walk(&path, found)?;
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(())
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
