//! Walks folders to find the files of a path, a folder or a glob. One function, [`Walk::file`], decides of each file whether it is
//! text of the user's. What is left out is listed with its reason.

use super::formats::{Format, begins_as_parquet};
use super::glob::{Alternative, Part};
use super::stores::{STORES, has_fetched, in_store, is_store};
use super::{Found, LeftOut, several};
use crate::error::is_absent;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

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

/// A search under way.
#[derive(Default)]
pub(super) struct Walk {
    /// Where relative paths start.
    pub(super) base: PathBuf,
    /// Each file once, by what it is: whether a link to a folder was on the way, and its path.
    files: BTreeMap<Identity, (bool, PathBuf)>,
    /// Those that were asked for; the others are in the formats that their names say, and are taken where there are none of these.
    asked: BTreeSet<Identity>,
    left_out: BTreeSet<LeftOut>,
    /// Extensions of files in other formats, and how many there are.
    pub(super) others: BTreeMap<String, usize>,
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
    /// With this folder as the one where relative paths start.
    pub(super) fn from(base: &Path) -> Self {
        Self { base: base.to_owned(), ..Self::default() }
    }

    /// What was found. Without a file that was asked for, text in other formats is taken, if it is in one.
    pub(super) fn finish(mut self, source: &str) -> Result<Found> {
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
            let counts = others.into_iter().map(|(format, paths)| (format, paths.len()));
            return Err(several(source, &counts.collect()));
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
    pub(super) fn named(&mut self, path: &Path) -> Result<()> {
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

    pub(super) fn glob(&mut self, alternatives: &[Alternative]) -> Result<()> {
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
            if let Some(other) = extension.filter(|e| is_kind(e)) {
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

/// By its name.
/// Whether an extension is the name of a format rather than the end of a sentence.
fn is_kind(extension: &str) -> bool {
    extension.len() <= 8 && extension.chars().all(|c| c.is_ascii_alphanumeric())
}

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

/// The system's words without its number.
pub(super) fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
