//! Text on this machine: a path, a folder or a glob. One walk finds it, and one function, [`Walk::file`], decides of each file whether
//! it is text of the user's. What is left out comes with its reason, so that nothing is missing in silence.
//!
//! - What a store of this program holds is never a source: wherever the store is, whichever it is, and through links.
//! - A link that leads nowhere is an error where it would have been a source.
//! - Links to folders are followed, each folder once. A file that is found by two ways is taken once.
//! - Names that begin with a dot, and folders that systems keep for themselves, are left out unless they are named.
//! - Text in other formats than parquet is taken where it is asked for: by its name, or by a glob with its extension. A folder, and a
//!   glob that says no extension, mean the parquet files there; where there are none, the others, if they are of one format.
//! - A folder that may not be listed is passed over, unless it is the one that is named.

use super::formats::{Format, begins_as_parquet};
use super::glob::{Alternative, Part, is_glob, parse};
use super::list::{FILES, Files};
use crate::{Error, Result};
use farthing_base::files;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

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

/// Folders that systems and programs keep for themselves wherever they are.
const SYSTEMS: [&str; 9] = [
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    "@eaDir",
    "#recycle",
    "__MACOSX",
    "_temporary",
    "_delta_log",
    "_spark_metadata",
];

/// Formats of text that people look for, though they are not read.
const OTHERS: [&str; 9] = ["json", "gz", "zst", "bz2", "xz", "zip", "arrow", "feather", "md"];

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
    let mut walk = Walk { base: base.to_owned(), ..Walk::default() };
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
            what: format!("no parquet file matches `{pattern}`, which has {n} `.{kind}` file{s}"),
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
            what: format!("no parquet file matches `{pattern}`: {shown}: {}{more}", first.why),
            hint: "give a file of text (parquet, .jsonl, .txt, .csv), a folder that holds some, or a glob".into(),
        };
    }
    if pattern.starts_with('~') || pattern.starts_with('$') {
        return Error::Source {
            what: format!("no parquet file matches `{pattern}`"),
            hint: "`~/…` is your own home folder; that of another user, and variables of the environment, are written out: `${env:HOME}/…`"
                .into(),
        };
    }
    Error::NoFiles { pattern, base: base.into() }
}

/// What to do with text in another format.
pub(crate) const FORMATS: &str = "parquet is read, and on this machine, by their names, JSON lines (.jsonl, .ndjson), text (.txt), tables (.csv, .tsv), and .gz and .zst of these; what is none of them becomes parquet in a line of Python, such as `pandas.DataFrame({\"text\": documents}).to_parquet(\"a.parquet\")`";

/// Files of a format.
fn counted(format: Format, n: usize) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} file{s} of {}", format.name())
}

/// What a file is, whatever it is called.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(unix)]
fn identity(_path: &Path, meta: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

#[cfg(not(unix))]
fn identity(path: &Path, _meta: &Metadata) -> Identity {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// How a file came to be looked at.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// Its own name was written.
    Named,
    /// A glob matches it, whose last part may end with an extension.
    Matched(Option<&'a str>),
    /// It is in a folder that was named.
    InFolder,
}

#[derive(Default)]
struct Walk {
    base: PathBuf,
    /// Each file once, by what it is: whether a link to a folder was on the way, and its path.
    files: BTreeMap<Identity, (bool, PathBuf)>,
    /// Those that were asked for; the others are in the formats that their names say, and are taken where there are none of these.
    asked: BTreeSet<Identity>,
    left_out: BTreeSet<LeftOut>,
    /// Extensions of files in other formats, and how many there are.
    others: BTreeMap<String, usize>,
    /// Links to folders, which are followed when everything else has been looked at: (path, alternative, its part).
    links: Vec<(PathBuf, usize, usize)>,
    /// Folders that were searched, each with what for.
    searched: BTreeSet<(Identity, usize, usize)>,
    /// Whether folders belong to a store.
    stores: BTreeMap<PathBuf, bool>,
    /// Whether a link to a folder was on the way to what is searched now.
    linked: bool,
}

impl Walk {
    /// What was found. Without a file that was asked for, text in other formats is taken, if it is in one.
    fn finish(mut self, source: &str) -> Result<Found> {
        let (mut files, mut others) = (vec![], BTreeMap::<Format, Vec<PathBuf>>::new());
        for (identity, (_, path)) in std::mem::take(&mut self.files) {
            match Format::of_name(&path) {
                Some(format) if !self.asked.contains(&identity) => {
                    others.entry(format).or_default().push(path);
                }
                _ => files.push(path),
            }
        }
        if others.len() > 1 && files.is_empty() {
            let found: Vec<String> =
                others.iter().map(|(f, paths)| counted(*f, paths.len())).collect();
            let globs: Vec<_> =
                others.keys().map(|format| format!("`{}`", format.glob())).collect();
            return Err(Error::Source {
                what: format!("`{source}` has text in several formats: {}", found.join(", ")),
                hint: format!("say which with a glob: {}", globs.join(" or ")),
            });
        }
        if files.is_empty() {
            files = others.pop_first().map(|(_, paths)| paths).unwrap_or_default();
        }
        for (format, mut paths) in others {
            paths.sort();
            let more = match paths.len() - 1 {
                0 => String::new(),
                n => format!(", as are {n} more"),
            };
            let why = format!(
                "it is {}{more}, and beside files that are parquet or were named; a glob takes it: `{}`",
                format.name(),
                format.glob()
            );
            self.leave_out(&paths[0], why);
        }
        files.sort();
        Ok(Found { files, left_out: self.left_out.into_iter().collect() })
    }

    fn leave_out(&mut self, path: &Path, why: impl Into<String>) {
        self.left_out.insert(LeftOut { path: path.into(), why: why.into() });
    }

    /// A path that was written without wildcards, and is there.
    fn named(&mut self, path: &Path) -> Result<()> {
        let meta = fs::metadata(path).map_err(|error| gone(nowhere(path, &error)))?;
        if !meta.is_dir() {
            return self.file(path, Way::Named);
        }
        self.outside_of_stores(path)?;
        let parts = vec![Part::Any, Part::Parquet];
        let (text, extension) = (String::new(), None);
        let folder = [Alternative { text, absolute: false, parts, extension }];
        // It was asked for: that it cannot be listed is no matter of course.
        fs::read_dir(path).map_err(Error::io("list", path))?;
        self.search(path, &folder, 0, 0)?;
        self.follow(&folder)
    }

    fn glob(&mut self, alternatives: &[Alternative]) -> Result<()> {
        for (i, alternative) in alternatives.iter().enumerate() {
            let before = self.files.len();
            let root = if alternative.absolute { PathBuf::from("/") } else { self.base.clone() };
            self.search(&root, alternatives, i, 0)?;
            if alternatives.len() > 1 && self.files.len() == before && self.links.is_empty() {
                let path = root.join(&alternative.text);
                self.leave_out(&path, "nothing matches it");
            }
        }
        self.follow(alternatives)
    }

    /// Searches what links to folders lead to.
    fn follow(&mut self, alternatives: &[Alternative]) -> Result<()> {
        self.linked = true;
        while let Some((path, alternative, part)) = self.links.pop() {
            self.search(&path, alternatives, alternative, part)?;
        }
        Ok(())
    }

    /// Looks in `dir` for what `parts[at..]` of an alternative name.
    fn search(&mut self, dir: &Path, all: &[Alternative], i: usize, at: usize) -> Result<()> {
        let alternative = &all[i];
        let Some(part) = alternative.parts.get(at) else { return Ok(()) };
        let is_last = at + 1 == alternative.parts.len();
        if let Part::Name(name) = part {
            let path = dir.join(name);
            return match fs::symlink_metadata(&path) {
                Ok(_) if is_last => self.file(&path, Way::Named),
                Ok(_) if path.is_dir() => {
                    if self.is_marked(&path) {
                        return Err(in_store(&path, &path));
                    }
                    self.search(&path, all, i, at + 1)
                }
                Ok(meta) if meta.is_symlink() => {
                    let error = fs::metadata(&path).err();
                    let error = error.unwrap_or_else(|| ErrorKind::NotADirectory.into());
                    Err(gone(nowhere(&path, &error)))
                }
                Ok(_) => Ok(()),
                Err(error) if is_absent(&error) => Ok(()),
                // A wildcard before it led into a folder that may not be entered.
                Err(error) if at > 0 => {
                    self.leave_out(dir, format!("it cannot be entered: {}", words(&error)));
                    Ok(())
                }
                Err(error) => Err(Error::io("open", &path)(error)),
            };
        }
        let meta = match fs::metadata(dir) {
            Ok(meta) => meta,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(Error::io("open", dir)(error)),
        };
        if !self.searched.insert((identity(dir, &meta), i, at)) {
            return Ok(());
        }
        // Where wildcards begin, the folders around may be a store's, too; further down, each is looked at on the way.
        let first_wild = alternative.parts[..at].iter().all(|p| matches!(p, Part::Name(_)));
        let around = if first_wild || self.linked { self.store_around(dir) } else { None };
        match around {
            Some(_) if self.linked => {
                self.leave_out(dir, STORES);
                return Ok(());
            }
            Some(store) => return Err(in_store(dir, &store)),
            None => {}
        }
        if matches!(part, Part::Any) {
            self.search(dir, all, i, at + 1)?;
        }
        let mut entries = vec![];
        match fs::read_dir(dir) {
            Ok(list) => {
                for entry in list {
                    entries.push(entry.map_err(Error::io("list", dir))?);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(()),
            Err(error) => {
                self.leave_out(dir, format!("it cannot be listed: {}", words(&error)));
                return Ok(());
            }
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (name, path) = (entry.file_name(), entry.path());
            let hidden = name.as_encoded_bytes().starts_with(b".");
            let (matches, hidden) = match part {
                Part::Some(glob, dotted) => (glob.is_match(&name), hidden && !dotted),
                _ => (true, hidden),
            };
            if !matches {
                continue;
            }
            let kind = entry.file_type().map_err(Error::io("list", dir))?;
            let is_dir = kind.is_dir() || kind.is_symlink() && path.is_dir();
            if hidden {
                if is_last && Format::of_name(&path).is_some() {
                    self.leave_out(&path, "it is hidden: its name begins with a dot");
                }
                continue;
            }
            if !is_dir {
                // Of `**` the files are looked at by what comes after it.
                if is_last {
                    let way = match part {
                        Part::Parquet => Way::InFolder,
                        _ => Way::Matched(alternative.extension.as_deref()),
                    };
                    self.file(&path, way)?;
                } else if kind.is_symlink() && fs::metadata(&path).is_err() && !is_parquet(&path) {
                    self.leave_out(&path, "it is a link that leads nowhere");
                }
                continue;
            }
            let system = name.to_str().is_some_and(|name| SYSTEMS.contains(&name));
            if system && matches!(part, Part::Any) {
                continue;
            }
            if self.is_store(&path) {
                self.leave_out(&path, STORES);
                continue;
            }
            let next = match part {
                Part::Any => at,
                _ if !is_last => at + 1,
                // Spark writes a file as a folder of files.
                Part::Some(..) if is_parquet(&path) => {
                    self.named(&path)?;
                    continue;
                }
                Part::Some(..) => {
                    self.leave_out(&path, "it is a folder: `**` goes into folders");
                    continue;
                }
                _ => continue,
            };
            if kind.is_symlink() {
                self.links.push((path, i, next));
            } else {
                self.search(&path, all, i, next)?;
            }
        }
        Ok(())
    }

    /// Whether this is a file of text of the user's: takes it, leaves it out with a reason, or refuses the whole.
    fn file(&mut self, path: &Path, way: Way<'_>) -> Result<()> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let wanted = match way {
            Way::Named => true,
            Way::InFolder => is_parquet(path),
            Way::Matched(given) => {
                let given = given.map(str::to_lowercase);
                is_parquet(path) || extension.is_none() || extension == given
            }
        };
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if wanted => return Err(nowhere(path, &error)),
            Err(_) => {
                self.leave_out(path, "it is a link that leads nowhere");
                return Ok(());
            }
        };
        if meta.is_dir() {
            return self.named(path);
        }
        if !meta.is_file() {
            if wanted {
                self.leave_out(path, "it is no regular file");
            }
            return Ok(());
        }
        let by_content = || matches!(way, Way::Matched(_)) && begins_as_parquet(path);
        let asked = wanted || by_content();
        if !asked && Format::of_name(path).is_none() {
            if let Some(other) = extension.filter(|e| OTHERS.contains(&e.as_str())) {
                *self.others.entry(other).or_default() += 1;
            }
            if matches!(way, Way::Matched(_)) {
                self.leave_out(path, "it is not parquet");
            }
            return Ok(());
        }
        // A link may lead into a store though the folder that it is in does not.
        let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        if is_link || matches!(way, Way::Named) {
            let real = fs::canonicalize(path).map_err(Error::io("open", path))?;
            if let Some(store) = real.parent().and_then(|dir| self.store_around(dir)) {
                if matches!(way, Way::Named) {
                    return Err(in_store(path, &store));
                }
                self.leave_out(path, STORES);
                return Ok(());
            }
        }
        if asked {
            self.asked.insert(identity(path, &meta));
        }
        let new = (self.linked || is_link, path.to_owned());
        match self.files.get_mut(&identity(path, &meta)) {
            Some(old) if old.1 == new.1 => {}
            // Of two names the one that is no link stays, else the first.
            Some(old) => {
                let other = if new < *old { std::mem::replace(old, new) } else { new };
                let (kept, other) = (old.1.clone(), other.1);
                let kept = kept.strip_prefix(&self.base).unwrap_or(&kept).display().to_string();
                self.leave_out(&other, format!("it is {kept} by another name"));
            }
            None => drop(self.files.insert(identity(path, &meta), new)),
        }
        Ok(())
    }

    fn outside_of_stores(&mut self, dir: &Path) -> Result<()> {
        match self.store_around(dir) {
            Some(store) => Err(in_store(dir, &store)),
            None => Ok(()),
        }
    }

    /// The store that a folder is or lies in.
    fn store_around(&mut self, dir: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(dir).ok()?;
        real.ancestors().find(|folder| self.is_marked(folder)).map(Path::to_owned)
    }

    fn is_store(&mut self, dir: &Path) -> bool {
        self.is_marked(dir) || has_fetched(dir)
    }

    fn is_marked(&mut self, dir: &Path) -> bool {
        if let Some(&known) = self.stores.get(dir) {
            return known;
        }
        let is = is_store(dir);
        self.stores.insert(dir.to_owned(), is);
        is
    }
}

/// Why a store's files are left out.
const STORES: &str = "it belongs to a store, in which this program keeps its own copies";

fn in_store(path: &Path, store: &Path) -> Error {
    let (path, store) = (path.display(), store.display());
    Error::Source {
        what: format!(
            "{path} is no source: it belongs to the store {store}, in which this program keeps its own copies, held-out text among them"
        ),
        hint: "give the files that were copied there as the source, or move yours out of the store"
            .into(),
    }
}

/// Whether a folder is where a store keeps outputs, one of its entries, or one that an entry is begun in. A store's own folder may be
/// one in which users keep their text, too.
fn is_store(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let beside = |name: &str| dir.with_file_name(name).is_dir();
    if name == "stages" && (beside("locks") || beside("last")) {
        return true;
    }
    let (key, rest) = name.split_at_checked(32).unwrap_or_default();
    let in_stages = dir.parent().and_then(Path::file_name).is_some_and(|name| name == "stages");
    let keyed = key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit());
    if in_stages && keyed && ["", ".partial", ".damaged", ".old"].contains(&rest) {
        return true;
    }
    let record = dir.join("stage.json");
    let Ok(text) = files::read(&record) else { return false };
    let value: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    value.is_some_and(|v| ["key", "stage", "outputs"].iter().all(|name| v.get(name).is_some()))
}

/// Whether [`fetch`](super::fetch) filled a folder.
fn has_fetched(dir: &Path) -> bool {
    let Ok(text) = files::read(&dir.join(FILES)) else { return false };
    serde_json::from_slice::<Files>(&text).is_ok()
}

/// By its name.
fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

/// A path at which there is something that cannot be reached.
fn nowhere(path: &Path, error: &std::io::Error) -> Error {
    let shown = path.display();
    let Ok(target) = fs::read_link(path) else {
        return Error::io("open", path)(std::io::Error::new(error.kind(), error.to_string()));
    };
    let target = target.display();
    let what = if is_absent(error) {
        format!("{shown} is a link to {target}, which is not there")
    } else {
        format!("{shown} is a link to {target}, which cannot be reached: {}", words(error))
    };
    Error::Source {
        what,
        hint: "bring its target back (a pruned cache: fetch the dataset again; git-annex: `git annex get`), or remove the link".into(),
    }
}

/// The same of what leads to the whole source.
fn gone(error: Error) -> Error {
    match error {
        Error::Source { what, hint } => Error::Gone { what, hint },
        other => other,
    }
}

/// Whether nothing is there.
pub(crate) fn is_absent(error: &std::io::Error) -> bool {
    use ErrorKind as E;
    matches!(error.kind(), E::NotFound | E::NotADirectory | E::InvalidInput | E::InvalidFilename)
}

/// The system's words without its number.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_file(to).map_err(Error::io("replace", to))?;
    }
    // The target of a symbolic link, not the link: the list names contents.
    let from = fs::canonicalize(from).map_err(Error::io("open", from))?;
    // Not hard-linked: an edit of the source in place would change what was fetched. File systems that can, share the blocks.
    fs::copy(&from, to).map_err(Error::io("copy", &from))?;
    Ok(())
}
