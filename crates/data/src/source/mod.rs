//! From a source to a directory of parquet files and the list of which to train on and which to hold out. What is far away is
//! pinned first: its commit, and every file's size and digest.

mod address;
mod cache;
mod digest;
mod download;
mod http;
mod hub;
mod list;
mod local;
mod pin;
mod remote;
mod select;
mod settings;

pub use list::{FILES, FileEntry, Files};
pub use pin::{Pin, PinnedFile};
pub use settings::HubSettings;

use crate::files::digest_file;
use crate::world::{self, WorldSettings};
use crate::{Error, Progress, Result, TextFile};
use address::{Address, WORLD};
use select::select;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

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
    /// `embedded://world`; a parquet file, a directory of them, or a glob, as a path or with `file:` before it;
    /// `hf://datasets/ORG/NAME@REV/GLOB` (`@REV` and `/GLOB` may be left out: the newest commit, all parquet files);
    /// `https://host/path.parquet`, or with `{00000..00013}` in it for several.
    pub source: String,
    /// Which files of the source.
    pub shards: ShardRange,
    /// The embedded world, if that is the source.
    pub world: WorldSettings,
}

/// Brings the files of sources, near or far. Clone it freely: it is settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fetcher {
    /// How the Hub is reached and where its files are kept.
    pub settings: HubSettings,
    /// Files that are downloaded side by side.
    pub connections: usize,
    /// What remote sources were when they were first looked at. Keep this and give it again, and the same bytes come or an
    /// error; [`Fetcher::pin`] adds to it.
    pub pins: Vec<Pin>,
}

impl Fetcher {
    /// Eight connections and nothing pinned.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings, connections: 8, pins: vec![] }
    }

    /// The same with this process's environment.
    pub fn from_env() -> Self {
        Self::new(HubSettings::from_env())
    }

    /// The files that a remote source is pinned to, those to train on first: path or URL, size, digest. `None` where the pins
    /// do not say, and for sources that are near. No network is asked.
    ///
    /// # Errors
    /// [`Error::Selection`], [`Error::Address`], [`Error::UnknownSource`], [`Error::Pin`].
    pub fn pinned(&self, settings: &FetchSettings) -> Result<Option<Vec<PinnedFile>>> {
        let chosen = remote::chosen(&self.pins, settings)?;
        Ok(chosen.map(|chosen| chosen.train.into_iter().chain(chosen.val).map(|f| f.1).collect()))
    }

    /// How many of these files are in the cache in their sizes, and their bytes.
    ///
    /// # Errors
    /// Those of [`Fetcher::pinned`].
    pub fn cached(&self, settings: &FetchSettings) -> Result<(usize, u64)> {
        remote::cached(self, settings)
    }

    /// Pins a remote source that is not pinned yet: asks the Hub for commit and listing; fetches files from elsewhere, which
    /// have no digest before. Does nothing for sources that are near. Polls [`Progress::stopped`].
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreachable`], [`Error::Answer`], [`Error::NoRemoteFiles`], [`Error::Offline`],
    /// [`Error::Stopped`], and those of [`Fetcher::pinned`].
    pub fn pin(&mut self, settings: &FetchSettings, progress: &mut dyn Progress) -> Result<()> {
        remote::pin(self, settings, progress)
    }

    /// Brings the parquet files of a source into `out` and lists them in `out/files.json`, which is written last. Local files
    /// are copied; relative paths start at `base`. Remote files are downloaded into their cache, or found there, verified, and
    /// linked: by a second name for the same bytes (hard link) where `out` is on the cache's file system, by a symbolic link
    /// elsewhere. Called again after a kill it goes on with the downloads; the result is the same. Polls
    /// [`Progress::stopped`].
    ///
    /// # Errors
    /// [`Error::UnknownSource`], [`Error::NoFiles`], [`Error::Selection`] when nothing is left to train on or to hold out,
    /// [`Error::Parquet`] for a file that is not parquet, [`Error::WrongBytes`], [`Error::Io`], and those of
    /// [`Fetcher::pin`].
    pub fn fetch(
        &mut self,
        settings: &FetchSettings,
        base: &Path,
        out: &Path,
        progress: &mut dyn Progress,
    ) -> Result<Files> {
        fs::create_dir_all(out).map_err(Error::io("create", out))?;
        let address = Address::parse(&settings.source)?;
        let files = match &address {
            Address::World => world_files(settings, out, progress)?,
            Address::Local(path) => local_copies(settings, path, base, out, progress)?,
            Address::Hub(_) | Address::Web(_) => {
                self.pin(settings, progress)?;
                remote::fetch(self, &address, settings, out, progress)?
            }
        };
        let path = out.join(FILES);
        let json = serde_json::to_string_pretty(&files)
            .map_err(|e| Error::Manifest { path: path.clone(), reason: e.to_string() })?;
        farthing_base::files::write(&path, &[json.as_bytes(), b"\n"])?;
        Ok(files)
    }
}

/// [`Fetcher::fetch`] with the settings of the environment and nothing pinned.
///
/// # Errors
/// Those of [`Fetcher::fetch`].
pub fn fetch(
    settings: &FetchSettings,
    base: &Path,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    Fetcher::from_env().fetch(settings, base, out, progress)
}

/// The local files that [`fetch`] would bring, those to train on first; none where the source is not a local one.
///
/// # Errors
/// Those of [`fetch`], as far as they show without opening a file.
pub fn local_files(settings: &FetchSettings, base: &Path) -> Result<Vec<PathBuf>> {
    let Address::Local(path) = Address::parse(&settings.source)? else { return Ok(vec![]) };
    let (found, train, val) = chosen(settings, &path, base)?;
    Ok(train.iter().chain(&val).map(|i| found[*i].clone()).collect())
}

/// Whether a source is on the network.
///
/// # Errors
/// [`Error::UnknownSource`], [`Error::Address`].
pub fn is_remote(source: &str) -> Result<bool> {
    Ok(Address::parse(source)?.is_remote())
}

/// Every file of a local source, and the indices of those to train on and to hold out.
fn chosen(
    settings: &FetchSettings,
    path: &str,
    base: &Path,
) -> Result<(Vec<PathBuf>, Vec<usize>, Vec<usize>)> {
    let found = local::find(path, base)?;
    let (train, val) = select(&settings.shards, found.len(), &settings.source)?;
    Ok((found, train, val))
}

fn world_files(settings: &FetchSettings, out: &Path, progress: &mut dyn Progress) -> Result<Files> {
    let world = &settings.world;
    let (train, val) = select(&settings.shards, world.train_shards + 1, WORLD)?;
    let paths = world::write_parquet(out, world, progress)?;
    world::write_tasks(&out.join("tasks"), world.seed)?;
    let entries =
        |chosen: &[usize]| chosen.iter().map(|i| entry(&paths[*i])).collect::<Result<_>>();
    Ok(Files { train: entries(&train)?, val: entries(&val)?, tasks: Some("tasks".into()) })
}

fn local_copies(
    settings: &FetchSettings,
    path: &str,
    base: &Path,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    let (found, train, val) = chosen(settings, path, base)?;
    progress.total(Some((train.len() + val.len()) as u64), "files");
    let mut bring = |i: &usize| -> Result<FileEntry> {
        if progress.stopped() {
            return Err(Error::Stopped);
        }
        let from = &found[*i];
        // The footer says whether it is parquet at all; which column is text is asked later.
        TextFile::check(from)?;
        let to = out.join(numbered(*i, &from.to_string_lossy()));
        local::copy(from, &to)?;
        progress.advance(1);
        entry(&to)
    };
    let train = train.iter().map(&mut bring).collect::<Result<_>>()?;
    let val = val.iter().map(&mut bring).collect::<Result<_>>()?;
    Ok(Files { train, val, tasks: None })
}

/// The name of file `i` of a source beside its list: in order, and different where two folders hold equal names.
fn numbered(i: usize, path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    format!("{i:05}-{name}")
}

fn entry(path: &Path) -> Result<FileEntry> {
    let bytes = fs::metadata(path).map_err(Error::io("read the size of", path))?.len();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileEntry { file, bytes, blake3: digest_file(path)? })
}
