//! From a source to a directory of parquet files and the list of which to train on and which to hold out. What is far away is
//! pinned first: its commit, and every file's size and digest.

mod address;
mod as_parquet;
mod cache;
mod certificates;
mod digest;
mod documents;
mod download;
mod http;
mod hub;
mod near;
mod one_file;
mod origin;
mod pin;
mod remote;
mod select;
mod settings;
mod share;
mod survey;
mod waits;

pub use pin::{Pin, PinnedFile};
pub use settings::HubSettings;
pub use survey::Survey;

use crate::world::{self, WorldSettings};
use crate::{Error, FILES, FileEntry, Files, Progress, Result, digest_file};
use address::{Address, WORLD};
use near::{chosen, look};
use schemars::JsonSchema;
use select::{Selected, select};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of a source's files, counted in the order of their names.
///
/// Without `val`, files that are named after a split to hold out (`validation`, `val`, `dev`; else `eval`; else `test`, as a whole word
/// of the file's name or of a folder's) are held out, all of the first of these that there is; `first` and `count` then count the
/// others, and a further split is neither trained on nor held out. Of a single file, the last rows are held out: one in 10, at most
/// 10,000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShardRange {
    /// The first file to train on.
    pub first: usize,
    /// How many files to train on; all that are left if absent.
    pub count: Option<usize>,
    /// The file that is held out, never trained on, whatever files are called; absent, names decide, else it is the last one.
    pub val: Option<usize>,
}

/// What to fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchSettings {
    /// `embedded://world`; a file of text, a directory of them, or a glob, as a path, with `file:` before it, or as a URL
    /// (`file:///my%20text`);
    /// `hf://datasets/ORG/NAME@REV/GLOB` (`@REV` and `/GLOB` may be left out: the newest commit, all parquet files);
    /// `https://host/path.parquet` or another file of text, or with `{00000..00013}` in it for several.
    pub source: String,
    /// Which files of the source.
    pub shards: ShardRange,
    /// The embedded world, if that is the source.
    pub world: WorldSettings,
    /// The key of JSON lines, or the column of a `.csv` or `.tsv`, that holds the text; `text` if absent. The column that is written
    /// of them is called the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// What stands between the documents of a `.txt`, such as `"\n\n"`; if absent, each file is one document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
}

impl FetchSettings {
    fn text_column(&self) -> &str {
        self.text_column.as_deref().unwrap_or("text")
    }
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
        let refuse_others = |path: &Path, url: &str| remote::refuse_others(settings, path, url);
        remote::pin(self, settings, &refuse_others, progress)
    }

    /// What a source comes to before anything of it is copied: which files are trained on, what is held out, what is left out and
    /// why. `None` for the embedded world, and where nothing is pinned. No network is asked.
    ///
    /// # Errors
    /// Those of [`Fetcher::fetch`], as far as they show without opening a file.
    pub fn survey(&self, settings: &FetchSettings, base: &Path) -> Result<Option<Survey>> {
        match Address::parse(&settings.source)? {
            Address::World => Ok(None),
            Address::Local(address) => {
                let (found, selected) = chosen(settings, &address, base)?;
                let formats = near::formats(&found, &selected);
                Ok(Some(Survey::local(&found, &selected, base).read_as(&formats)))
            }
            Address::Hub(_) | Address::Web(_) => {
                let chosen = remote::chosen(&self.pins, settings)?;
                Ok(chosen.map(|chosen| Survey::remote(&chosen)))
            }
        }
    }

    /// Reads the footers of the files of a local source, and the beginnings of those that are not parquet: whether they can be read, and
    /// have rows to train on and to hold out. Does nothing for other sources.
    ///
    /// # Errors
    /// Those of [`Fetcher::fetch`], as far as they show there.
    pub fn look(&self, settings: &FetchSettings, base: &Path) -> Result<()> {
        let Address::Local(address) = Address::parse(&settings.source)? else { return Ok(()) };
        let (found, selected) = chosen(settings, &address, base)?;
        look(settings, &found, &selected)
    }

    /// What enters the key of whoever keeps the result of [`Fetcher::fetch`], beside the contents of the files, those to train on
    /// first: where the line between them is, unless it is before the last one; and the formats that they are in, unless it is parquet.
    ///
    /// # Errors
    /// Those of [`Fetcher::survey`].
    pub fn mark(&self, settings: &FetchSettings, base: &Path) -> Result<Option<String>> {
        Ok(self.survey(settings, base)?.and_then(|survey| survey.mark))
    }

    /// Brings the files of a source into `out` as parquet and lists them in `out/files.json`, which is written last. Local files
    /// are copied, once the footer of each has been read; relative paths start at `base`. Remote files are downloaded into their cache,
    /// or found there, verified, and linked: by a second name for the same bytes (hard link) where `out` is on the cache's file system,
    /// by a symbolic link elsewhere. Files in another format, by their names, are written as parquet with one column. A single file is divided: its columns of text and numbers are written anew, to two files. Called
    /// again after a kill it goes on with the downloads; the result is the same. Polls [`Progress::stopped`].
    ///
    /// # Errors
    /// [`Error::UnknownSource`], [`Error::NoFiles`], [`Error::Source`], [`Error::Selection`] when nothing is left to train on or to
    /// hold out, [`Error::NotParquet`], [`Error::Parquet`] for a file that is damaged, [`Error::WrongBytes`], [`Error::Io`],
    /// [`Error::Document`] and [`Error::MissingColumn`] for a file that is not parquet, [`Error::Config`] for a setting that is of no use
    /// here, and those of [`Fetcher::pin`].
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
            Address::Local(local) => near::copies(settings, local, base, out, progress)?,
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

/// The local files that [`fetch`] would bring, those to train on first, a single file that is divided once; none where the source is
/// not a local one.
///
/// # Errors
/// Those of [`fetch`], as far as they show without opening a file.
pub fn local_files(settings: &FetchSettings, base: &Path) -> Result<Vec<PathBuf>> {
    let Address::Local(address) = Address::parse(&settings.source)? else { return Ok(vec![]) };
    let (found, selected) = chosen(settings, &address, base)?;
    let val = selected.val.iter().filter(|_| !selected.shared());
    Ok(selected.train.iter().chain(val).map(|i| found.files[*i].clone()).collect())
}

/// Whether a source is on the network.
///
/// # Errors
/// [`Error::UnknownSource`], [`Error::Address`].
pub fn is_remote(source: &str) -> Result<bool> {
    Ok(Address::parse(source)?.is_remote())
}

fn world_files(settings: &FetchSettings, out: &Path, progress: &mut dyn Progress) -> Result<Files> {
    let world = &settings.world;
    world.check()?;
    let names: Vec<_> = (0..=world.train_shards).map(|i| i.to_string()).collect();
    let Selected { train, val, .. } = select(&settings.shards, &names, WORLD)?;
    let paths = world::write_parquet(out, world, progress)?;
    world::write_tasks(&out.join("tasks"), world.seed)?;
    let entries =
        |chosen: &[usize]| chosen.iter().map(|i| entry(&paths[*i])).collect::<Result<_>>();
    Ok(Files { train: entries(&train)?, val: entries(&val)?, tasks: Some("tasks".into()) })
}

/// The name of file `i` of a source beside its list: in order, and different where two folders hold equal names. What is too long for
/// a file system is cut off at its beginning.
fn numbered(i: usize, path: &str) -> String {
    /// Most file systems have room for 255 bytes; some is left for `.tmp`.
    const MOST_BYTES: usize = 240;
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    let cut = name.ceil_char_boundary(name.len().saturating_sub(MOST_BYTES));
    format!("{i:05}-{}", &name[cut..])
}

fn entry(path: &Path) -> Result<FileEntry> {
    let bytes = fs::metadata(path).map_err(Error::io("read the size of", path))?.len();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileEntry { file, bytes, blake3: digest_file(path)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_at_a_character() {
        assert_eq!(numbered(7, "a/b.parquet"), "00007-b.parquet");
        let long = numbered(7, &format!("a/{}.parquet", "ü".repeat(123)));
        assert!(long.len() <= 246 && long.ends_with("ü.parquet"), "{long}");
    }
}
