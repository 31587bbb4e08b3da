//! `runner gc`: lists what no pipeline uses any more in a store, with sizes and reasons, and deletes it. It deletes only folders that this program has marked as its own, never follows a link, and
//! does nothing while a run is using the store.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::files::read_json;
use super::identity::Identity;
use super::{Cache, RECORD, Record, remove_any};
use crate::Result;
use crate::places::{PlaceArgs, Places};
use crate::progress::format::bytes;
use crate::table::Table;

/// The command's options.
#[derive(clap::Args)]
pub(crate) struct GcArgs {
    /// A pipeline file, whose store is meant
    file: Option<PathBuf>,
    /// Delete what goes; without it nothing is
    #[arg(long)]
    delete: bool,
    /// Let work go that was cut off, which would be resumed otherwise
    #[arg(long)]
    partial: bool,
    /// Let everything go that only this pipeline uses (repeatable)
    #[arg(long, value_name = "PIPELINE")]
    forget: Vec<String>,
    #[command(flatten)]
    places: PlaceArgs,
}

impl GcArgs {
    pub(crate) fn places(&self) -> Places {
        self.places.of(self.file.as_deref())
    }
}

/// A folder of the store, and what becomes of it.
struct Found {
    name: String,
    bytes: u64,
    what: String,
    fate: Fate,
}

enum Fate {
    Goes(String),
    Stays(String),
}

/// Looks, says, and deletes if that is asked for.
///
/// # Errors
/// There is no store, a run is using it, or the disk refuses.
pub(crate) fn run(cache: &Cache, args: &GcArgs) -> Result<String> {
    let root = cache.root.display().to_string();
    let stages = cache.root.join("stages");
    match fs::symlink_metadata(&stages) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => bail!(
            "{} is a link, and nothing is deleted through one\nhint: name the folder that it leads to: --store DIR",
            stages.display()
        ),
        Err(_) => bail!(
            "{root} is no store\nhint: name a pipeline file, whose store is beside it, or --store DIR"
        ),
    }
    let _alone = if args.delete { Some(alone(cache)?) } else { None };
    let users = users(cache, args)?;
    let mut found = Vec::new();
    let mut names: Vec<String> = fs::read_dir(&stages)
        .with_context(|| format!("reading {}", stages.display()))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    for name in names.iter().filter(|name| !super::digest::is_stray(name)) {
        found.push(look(cache, name, &users, args.partial));
    }
    let goes = |found: &&Found| matches!(found.fate, Fate::Goes(_));
    let sum = |list: &[&Found]| bytes(list.iter().map(|f| f.bytes).sum::<u64>() as f64);
    let (mut going, mut staying): (Vec<&Found>, Vec<&Found>) = found.iter().partition(goes);
    for list in [&mut going, &mut staying] {
        list.sort_by_key(|found| std::cmp::Reverse(found.bytes));
    }
    let mut out = format!("store {root}\n");
    for list in [&going, &staying] {
        let mut table = Table::default();
        for Found { name, bytes: n, what, fate } in list {
            let (fate, why) = match fate {
                Fate::Goes(why) => ("goes", why),
                Fate::Stays(why) => ("stays", why),
            };
            let short = if name.len() > 16 { format!("{}…", &name[..10]) } else { name.clone() };
            table.row([fate, &bytes(*n as f64), &short, what, why]);
        }
        for line in table.lines(2) {
            let _ = writeln!(out, "{line}");
        }
    }
    let (n, size) = (going.len(), sum(&going));
    let _ = writeln!(
        out,
        "{n} of {} go, {size}; {} stay, {}",
        found.len(),
        staying.len(),
        sum(&staying)
    );
    if args.delete {
        for found in &going {
            delete(cache, &found.name)?;
        }
        for pipeline in &args.forget {
            let last = cache.root.join("last").join(pipeline);
            remove_any(&last).with_context(|| format!("deleting {}", last.display()))?;
        }
        let _ = writeln!(out, "deleted");
    } else if n > 0 {
        let _ = writeln!(out, "nothing was deleted; the same with --delete does it");
    }
    Ok(out)
}

/// Holds the store alone.
fn alone(cache: &Cache) -> Result<File> {
    let lock = cache.users_lock().context("locking the store")?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(anyhow!(
            "a run is using the store {}\nhint: delete when it has ended; without --delete the list can be seen now",
            cache.root.display()
        )),
        Err(fs::TryLockError::Error(error)) => Err(error).context("locking the store"),
    }
}

/// What each stage of each pipeline was the last time, and whose that is.
fn users(cache: &Cache, args: &GcArgs) -> Result<Vec<(String, Identity)>> {
    let folder = cache.root.join("last");
    let list = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten();
        let mut found: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        found.sort();
        found
    };
    let mut users = Vec::new();
    let mut known = BTreeSet::new();
    for pipeline in list(&folder) {
        let name = pipeline.file_name().unwrap_or_default().to_string_lossy().into_owned();
        known.insert(name.clone());
        if args.forget.contains(&name) {
            continue;
        }
        for file in
            list(&pipeline).iter().filter(|file| file.extension().is_some_and(|e| e == "json"))
        {
            let stage = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // What cannot be read could be of any entry.
            let identity: Identity = read_json(file).ok_or_else(|| {
                anyhow!(
                    "{} cannot be read, so that it is not known what `{name}` uses\n\
                     hint: run the pipeline again, which writes it anew, or delete the file",
                    file.display()
                )
            })?;
            users.push((format!("{name}: {stage}"), identity));
        }
    }
    if let Some(unknown) = args.forget.iter().find(|name| !known.contains(*name)) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let hint = farthing_base::names::did_you_mean(unknown, known.iter().copied())
            .unwrap_or_else(|| format!("pipelines of this store: {}", known.join(", ")));
        bail!("--forget {unknown}: no pipeline of that name has used this store\nhint: {hint}");
    }
    Ok(users)
}

/// What becomes of a folder in the store.
fn look(cache: &Cache, name: &str, users: &[(String, Identity)], partial: bool) -> Found {
    let path = cache.root.join("stages").join(name);
    let found =
        |what: String, fate| Found { name: name.to_owned(), bytes: size(&path), what, fate };
    let stays = |what: &str, why: &str| found(what.to_owned(), Fate::Stays(why.to_owned()));
    let meta = fs::symlink_metadata(&path);
    if meta.as_ref().is_ok_and(fs::Metadata::is_symlink) {
        return stays("-", "a link: what it leads to is left alone");
    }
    let (key, kind) = name.split_once('.').unwrap_or((name, ""));
    let is_key = key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_key || !meta.is_ok_and(|meta| meta.is_dir()) {
        return stays("-", "not made by this program");
    }
    match kind {
        "" => {
            let record = read_json::<Record>(&path.join(RECORD)).filter(|r| r.key == key);
            let Some(record) = record else {
                return stays("-", "its stage.json is not one of this entry");
            };
            let what = format!("{} ({})", record.stage, record.identity.kind);
            let used = users.iter().filter(|(_, last)| record.identity.is_of(last));
            let used: Vec<&str> = used.map(|(user, _)| user.as_str()).collect();
            let fate = match used[..] {
                [] => Fate::Goes("no stage had it the last time".to_owned()),
                [one] => Fate::Stays(format!("the last of {one}")),
                [one, ..] => Fate::Stays(format!("the last of {one} and {} more", used.len() - 1)),
            };
            found(what, fate)
        }
        "partial" if is_locked(cache, key) => stays("-", "a run is at work on it"),
        "partial" if fs::symlink_metadata(cache.entry(key)).is_ok() => {
            found("-".to_owned(), Fate::Goes("left over: the work is done".to_owned()))
        }
        "partial" if !partial => {
            stays("cut off", "the same run would go on from it; --partial lets it go")
        }
        "partial" => found("cut off".to_owned(), Fate::Goes("--partial".to_owned())),
        "old" | "damaged" | "gone" => found(kind.to_owned(), Fate::Goes("put aside".to_owned())),
        _ => stays("-", "not made by this program"),
    }
}

/// Whether somebody holds the lock of a key.
fn is_locked(cache: &Cache, key: &str) -> bool {
    let lock = File::open(cache.root.join("locks").join(format!("{key}.lock")));
    lock.is_ok_and(|lock| lock.try_lock_shared().is_err())
}

/// Bytes under a folder, links not followed.
fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(|entry| Some(size(&entry.ok()?.path()))).sum()
}

/// Deletes a folder of the store. It is renamed first, so that what is half deleted is never taken for whole.
fn delete(cache: &Cache, name: &str) -> Result<()> {
    let stages = cache.root.join("stages");
    let path = stages.join(name);
    let key = name.split('.').next().unwrap_or(name);
    let gone = stages.join(format!("{key}.gone"));
    let act = || {
        if path != gone {
            remove_any(&gone)?;
            fs::rename(&path, &gone)?;
        }
        remove_any(&gone)
    };
    act().with_context(|| format!("deleting {}", path.display()))?;
    for end in ["lock", super::CHILD] {
        let lock = cache.lock_path(key, end);
        match fs::remove_file(&lock) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("deleting {}", lock.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
