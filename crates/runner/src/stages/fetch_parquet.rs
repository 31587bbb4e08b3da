//! `fetch-parquet`: parquet files of text to train on and to hold out, from the embedded world, from local files, from a dataset
//! of the Hub or from the web. What is far away is pinned in the pipeline's lock file.

use std::fs;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use farthing_data::world::WorldSettings;
use farthing_data::{
    Error, FetchSettings, Fetcher, FileEntry, Files, Silent, Survey, is_remote, local_files,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::watch::{Watched, cut_off};
use crate::progress::format::{amount, count};
use crate::{
    At, Ctx, Extras, Given, LockFile, PlanCtx, PlanLine, Port, Promise, Resources, Result, Stage,
    port,
};

/// The source that is made here, from nothing.
const WORLD: &str = "embedded://world";

/// Brings text into the pipeline.
///
/// Its keys are those of [`FetchSettings`]: `source` is `embedded://world`, or a file of text, a folder of them or a glob,
/// relative to the working directory, or `hf://datasets/ORG/NAME@REV/GLOB`, or `https://…`. Text is parquet, or JSON lines, text, CSV and TSV,
/// which are written as parquet: `text_column` names the key or column that holds their text, `separator` what stands between the documents
/// of a `.txt`. `shards = { first, count, val }`
/// chooses among its files; `world` sizes the embedded one, whose seed is a key of its own, so that another seed of the training
/// leaves the text as it is.
/// What is held out is named by the plan, on the screen and in the report: by `shards.val`, else files that are named after a split,
/// else the last file, of a single one its last rows.
/// The contents of local files enter the cache key, so that an edited file is noticed. A source on a network is pinned in the
/// [`LockFile`] when it is first asked for; its pinned digests enter the key, and from then on nothing else is accepted.
#[derive(Debug)]
pub struct FetchParquet;

/// How files are brought.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Files that are downloaded side by side.
    pub connections: NonZeroU8,
}

impl Default for Exec {
    fn default() -> Self {
        Self { connections: NonZeroU8::MIN.saturating_add(7) }
    }
}

impl Stage for FetchParquet {
    type Config = FetchSettings;
    type Exec = Exec;
    const KIND: &'static str = "fetch-parquet";
    const ABOUT: &'static str = "parquet files of text, to train on and to hold out";
    const WAITS: bool = true;
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[
        port("train", "parquet files"),
        port("val", "parquet files"),
        port("tasks", "tasks").optional(),
    ];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["train_files", "val_files", "bytes", "held_out"];

    fn check(config: &FetchSettings, _extras: &Extras) -> Result<()> {
        let source = config.source.as_str();
        if config.shards.count == Some(0) {
            let fault = At::new("shards.count", "0 files leave nothing to train on");
            return Err(fault.hint("leave `count` out to take every file").into());
        }
        for (key, given) in [("text_column", &config.text_column), ("separator", &config.separator)]
        {
            if given.as_deref() == Some("") {
                return Err(At::new(key, "it is empty").hint("leave it out").into());
            }
            if given.is_some() && source == WORLD {
                let fault = At::new(key, format!("files of text have it, not `{WORLD}`"));
                return Err(fault.hint("leave it out: what is made there is parquet").into());
            }
        }
        if source == WORLD {
            return check_world(config);
        }
        if config.world != WorldSettings::default() {
            let fault =
                At::new("world", format!("`world` sizes `{WORLD}`, the source is `{source}`"));
            return Err(fault.hint("remove the table `world`").into());
        }
        is_remote(source).map(drop).map_err(|error| At::of("source", &error).into())
    }

    fn key(config: &FetchSettings, _extras: &Extras) -> Result<Option<serde_json::Value>> {
        let mut key = serde_json::to_value(config)?;
        // Files on this machine are what is in them, and by their mark how they are divided, whatever path leads there.
        if config.source != WORLD
            && !remote(config)
            && let Some(keys) = key.as_object_mut()
        {
            keys.remove("source");
        }
        Ok(Some(key))
    }

    fn promises(config: &FetchSettings, _: &Given<'_>) -> Vec<Promise> {
        // Only the world has tasks about it; who reads them must hear of it before a model is trained.
        vec![Promise::new("tasks", "folders", u64::from(config.source == WORLD))]
    }

    fn sources(config: &FetchSettings) -> Result<Vec<PathBuf>> {
        // Files that are not there keep nobody from planning; `preflight` asks for them.
        found(config)
    }

    fn origin(config: &FetchSettings) -> Option<String> {
        Some(config.source.clone())
    }

    fn files(config: &FetchSettings, _port: &str) -> Vec<PathBuf> {
        // Training and held-out text have the same columns, and a single file is both.
        found(config).unwrap_or_default()
    }

    fn pins(config: &FetchSettings, extras: &Extras) -> Result<Option<Vec<String>>> {
        let mut fetcher = Fetcher::from_env();
        let Some(lock) = extras.get::<LockFile>().filter(|_| remote(config)) else {
            // Where the source cannot be found, `sources` says so.
            let mark = fetcher.mark(config, &working_directory()?).unwrap_or_default();
            return Ok(Some(mark.into_iter().collect()));
        };
        fetcher.pins = lock.read()?;
        let Some(files) = fetcher.pinned(config)? else { return Ok(None) };
        let files = files.iter().map(|f| format!("{} {}", f.digest, f.path));
        let mark = fetcher.mark(config, &working_directory()?)?;
        Ok(Some(files.chain(mark).collect()))
    }

    fn resolve(config: &FetchSettings, exec: &Exec, ctx: &Ctx) -> Result<()> {
        let Some(lock) = ctx.extra::<LockFile>() else { return Ok(()) };
        let mut fetcher = fetcher(*exec, ctx.extras())?;
        fetcher.pin(config, &mut Watched::new(ctx, "bytes")).map_err(cut_off)?;
        let Some(pin) = fetcher.pins.iter().find(|pin| pin.is_of(&config.source)).cloned() else {
            return Ok(());
        };
        let (files, commit) = (count(pin.files.len() as u64), commit(pin.commit.as_deref()));
        if lock.add(pin)? {
            let path = lock.path().display();
            ctx.log(format!("{}{commit}: {files} files, pinned in {path}", config.source));
        }
        Ok(())
    }

    fn plan(
        config: &FetchSettings,
        exec: &Exec,
        _resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<Vec<PlanLine>> {
        let fetcher = fetcher(*exec, ctx.extras())?;
        let text = if config.source == WORLD {
            let world = &config.world;
            // `check` has refused a product that is none.
            let documents = world.train_shards.saturating_mul(world.documents_per_shard);
            format!(
                "made here: {} documents to train on, {} held out",
                count(documents as u64),
                count(world.val_documents as u64)
            )
        } else if remote(config) {
            planned(config, &fetcher, ctx.extra())?
        } else {
            match found(config) {
                Err(error) if is_absent(&error) => {
                    error.to_string().lines().next().unwrap_or_default().to_owned()
                }
                Err(error) => return Err(error),
                Ok(files) => {
                    fetcher.look(config, &working_directory()?)?;
                    let sizes = files.iter().filter_map(|file| fs::metadata(file).ok());
                    let bytes = sizes.map(|meta| meta.len()).sum();
                    let s = if files.len() == 1 { "" } else { "s" };
                    format!("{} file{s}, {}", count(files.len() as u64), amount(bytes, "bytes"))
                }
            }
        };
        let mut lines = vec![PlanLine::new("text", text)];
        if let Ok(Some(survey)) = fetcher.survey(config, &working_directory()?) {
            if let Some(format) = &survey.read_as {
                let column = config.text_column.as_deref().unwrap_or("text");
                let text = format!("{format}, written as parquet with the column `{column}`");
                lines.push(PlanLine::new("read as", text));
            }
            lines.push(PlanLine::new("held out", held_out(&survey)));
            lines.extend(left_out(&survey).into_iter().map(|line| PlanLine::new("left out", line)));
        }
        Ok(lines)
    }

    fn preflight(
        config: &FetchSettings,
        exec: &Exec,
        _resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<()> {
        if !remote(config) {
            found(config)?;
            // A footer says in an instant what would fail after everything is copied.
            let fetcher = fetcher(*exec, ctx.extras())?;
            return Ok(fetcher.look(config, &working_directory()?)?);
        }
        let mut fetcher = fetcher(*exec, ctx.extras())?;
        if fetcher.settings.offline {
            // Offline, pinning asks nobody: it fails where nothing is pinned.
            fetcher.pin(config, &mut Silent)?;
            let wanted = fetcher.pinned(config)?.map_or(0, |files| files.len());
            let absent = wanted - fetcher.cached(config)?.0;
            if absent > 0 {
                return Err(anyhow!(
                    "{absent} of {wanted} files of `{}` are not in the cache, and HF_HUB_OFFLINE is set\n\
                     hint: run once where there is a network, with the same cache folder (HF_HOME)",
                    config.source
                ));
            }
        }
        Ok(())
    }

    fn run(config: FetchSettings, exec: Exec, ctx: &mut Ctx) -> Result<()> {
        let staged = ctx.scratch()?.join("fetch");
        let mut fetcher = fetcher(exec, ctx.extras())?;
        let lock = ctx.extra::<LockFile>().filter(|_| remote(&config));
        if let Some(lock) = lock.filter(|_| !matches!(fetcher.pinned(&config), Ok(Some(_)))) {
            // The key of this work is that of other bytes than would be pinned now.
            let path = lock.path().display();
            let source = &config.source;
            return Err(anyhow!(
                "{path} pinned `{source}` a moment ago and does not now\nhint: run again"
            ));
        }
        let base = working_directory()?;
        let mut watched = Watched::new(ctx, "files");
        let fetched = fetcher.fetch(&config, &base, &staged, &mut watched);
        let files = fetched.map_err(|error| in_lock_file(error, lock))?;
        drop(watched);
        let survey = fetcher.survey(&config, &base)?;
        copied(&files, survey.as_ref(), ctx);
        let train = place(&staged, &files.train, &ctx.output("train"))?;
        let val = place(&staged, &files.val, &ctx.output("val"))?;
        if let Some(tasks) = &files.tasks {
            replace(&staged.join(tasks), &ctx.output("tasks"))?;
        }
        let bytes = train + val;
        let (n, kept) = (files.train.len() as u64, files.val.len() as u64);
        let s = if n == 1 { "" } else { "s" };
        ctx.log(format!(
            "{} file{s} to train on, {} held out, {}",
            count(n),
            count(kept),
            amount(bytes, "bytes")
        ));
        let names = match &survey {
            Some(survey) => {
                ctx.log(format!("held out: {}", held_out(survey)));
                for line in left_out(survey) {
                    ctx.log(format!("left out: {line}"));
                }
                survey.held_out.clone()
            }
            None => files.val.iter().map(|f| f.file.as_str()).collect::<Vec<_>>().join(", "),
        };
        for copy in files.val.iter().filter(|v| files.train.iter().any(|t| t.blake3 == v.blake3)) {
            ctx.log(format!("{} is held out and trained on: another file is its copy", copy.file));
        }
        ctx.summary("train_files", files.train.len());
        ctx.summary("val_files", files.val.len());
        ctx.summary("bytes", bytes);
        ctx.summary("held_out", names);
        Ok(())
    }
}

/// The local files that would be brought; none of the other sources.
fn found(config: &FetchSettings) -> Result<Vec<PathBuf>> {
    Ok(local_files(config, &working_directory()?)?)
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(Error::is_absent)
}

/// What is held out, in one line.
fn held_out(survey: &Survey) -> String {
    format!("{} ({})", survey.held_out, survey.why)
}

/// What is left out, a few of it in a line each.
fn left_out(survey: &Survey) -> Vec<String> {
    const MOST: usize = 6;
    let mut lines: Vec<String> = survey.left_out.iter().take(MOST).cloned().collect();
    match survey.left_out.len().saturating_sub(MOST) {
        0 => {}
        more => lines.push(format!("{more} more")),
    }
    lines
}

/// Notes what each fetched file is a copy of.
fn copied(files: &Files, survey: Option<&Survey>, ctx: &mut Ctx) {
    let Some(survey) = survey else { return };
    // Rows of a single file are held out: both parts are of it.
    let val = if survey.val.is_empty() { &survey.train } else { &survey.val };
    for (port, files, names) in [("train", &files.train, &survey.train), ("val", &files.val, val)] {
        for (entry, name) in files.iter().zip(names) {
            ctx.copied(&ctx.output(port).join(&entry.file), name.as_str());
        }
    }
}

/// The error with the lock file that it speaks of.
fn in_lock_file(error: Error, lock: Option<&LockFile>) -> anyhow::Error {
    let text = error.to_string();
    let about = matches!(error, Error::NotParquet { .. } | Error::Parquet { .. })
        || text.contains("lock file");
    match lock.filter(|_| about) {
        Some(lock) => {
            let path = lock.path().display();
            cut_off(error)
                .context(format!("the source is not what was expected; {path} has its pins"))
        }
        None => cut_off(error),
    }
}

/// Whether the source is on a network; `check` has refused those that cannot be read.
fn remote(config: &FetchSettings) -> bool {
    is_remote(&config.source).unwrap_or(false)
}

/// A fetcher by the environment's settings, which knows what the lock file pins.
fn fetcher(exec: Exec, extras: &Extras) -> Result<Fetcher> {
    let mut fetcher = Fetcher::from_env();
    fetcher.connections = usize::from(exec.connections.get());
    fetcher.pins = extras.get().map_or_else(|| Ok(Vec::new()), LockFile::read)?;
    Ok(fetcher)
}

/// What is known of a source on a network without asking it.
fn planned(config: &FetchSettings, fetcher: &Fetcher, lock: Option<&LockFile>) -> Result<String> {
    let source = &config.source;
    let Some(files) = fetcher.pinned(config)? else {
        let lock = lock
            .map_or_else(String::new, |lock| format!(" and pins it in {}", lock.path().display()));
        return Ok(format!("{source}: not pinned yet; the first run asks what it holds{lock}"));
    };
    let pin = fetcher.pins.iter().find(|pin| pin.is_of(source));
    let commit = pin.map_or_else(String::new, |pin| commit(pin.commit.as_deref()));
    let bytes = files.iter().map(|file| file.bytes).sum();
    let (here, bytes_here) = fetcher.cached(config)?;
    let here = match here {
        0 => "none of them in the cache".to_owned(),
        n if n == files.len() => "all of them in the cache".to_owned(),
        n => format!("{}, {}, in the cache", count(n as u64), amount(bytes_here, "bytes")),
    };
    let n = count(files.len() as u64);
    Ok(format!("{source}{commit}: {n} files, {}; {here}", amount(bytes, "bytes")))
}

/// A commit in few words.
fn commit(commit: Option<&str>) -> String {
    commit.map_or_else(String::new, |c| format!(" at {}", c.get(..8).unwrap_or(c)))
}

fn check_world(config: &FetchSettings) -> Result<()> {
    let world = &config.world;
    if let Some((key, error)) = world.fault() {
        return Err(At::of(format!("world.{key}"), &error).into());
    }
    let files = world.train_shards + 1;
    let shards = &config.shards;
    let hint = format!("its {files} files are numbered from 0, the last one is held-out text");
    if let Some(val) = shards.val.filter(|val| *val >= files) {
        let what = format!("file {val} cannot be held out of {files}");
        return Err(At::new("shards.val", what).hint(hint).into());
    }
    if shards.first >= files {
        let what = format!("file {} cannot be the first of {files}", shards.first);
        return Err(At::new("shards.first", what).hint(hint).into());
    }
    if let Some(n) = shards.count.filter(|n| n.saturating_add(shards.first) > files) {
        let what =
            format!("{n} files from file {} on are more than the {files} there are", shards.first);
        return Err(At::new("shards.count", what).hint(hint).into());
    }
    Ok(())
}

/// Where relative paths of sources start.
fn working_directory() -> Result<PathBuf> {
    std::env::current_dir().context("finding the working directory")
}

/// Moves files into a folder of their own, made afresh, and returns their size.
fn place(from: &Path, files: &[FileEntry], to: &Path) -> Result<u64> {
    remove(to)?;
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in files {
        replace(&from.join(&entry.file), &to.join(&entry.file))?;
    }
    Ok(files.iter().map(|entry| entry.bytes).sum())
}

fn replace(from: &Path, to: &Path) -> Result<()> {
    remove(to)?;
    fs::rename(from, to).with_context(|| format!("moving {} to {}", from.display(), to.display()))
}

/// Removes what an attempt that was cut off left there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// By its name, which is no hidden one.
fn is_parquet(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
}

/// The files behind a port of kind `parquet files`, in the order of their names.
pub(super) fn parquet_files(ctx: &Ctx, port: &str) -> Result<Vec<PathBuf>> {
    let dir = ctx.input(port)?;
    // Where it is recorded what the stage before wrote, nothing else there is read.
    let mut recorded = ctx.recorded(dir).peekable();
    if recorded.peek().is_some() {
        let mut files: Vec<PathBuf> = recorded.filter(|path| is_parquet(path)).collect();
        files.sort();
        return Ok(files);
    }
    let about = || format!("listing {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(about)? {
        let path = entry.with_context(about)?.path();
        if is_parquet(&path) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(anyhow!(
            "input `{port}` has no parquet file in {}\nhint: rerun the stage behind it with --force",
            dir.display()
        ));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> FetchSettings {
        toml::from_str(toml).unwrap()
    }

    fn fault(text: &str) -> At {
        let error = FetchParquet::check(&config(text), &Extras::default()).unwrap_err();
        error.downcast_ref::<At>().unwrap().clone()
    }

    const SMALL: &str = "source = 'embedded://world'\n\
        world = { train_shards = 2, documents_per_shard = 30, val_documents = 10 }";

    fn names(dir: PathBuf) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_world_is_split_over_the_ports() {
        let dir = tempfile::tempdir().unwrap();
        let mut ctx = Ctx::detached(dir.path(), []);
        // What a cut-off attempt may have left.
        fs::create_dir_all(ctx.output("train")).unwrap();
        fs::write(ctx.output("train").join("old.parquet"), "half").unwrap();
        FetchParquet::run(config(SMALL), Exec::default(), &mut ctx).unwrap();
        assert_eq!(names(ctx.output("train")), ["shard_00000.parquet", "shard_00001.parquet"]);
        assert_eq!(names(ctx.output("val")), ["shard_00002.parquet"]);
        assert!(names(ctx.output("tasks")).contains(&"tasks.json".to_owned()));
        let figures: Vec<_> = ctx.figures().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(figures, FetchParquet::FIGURES);
    }

    #[test]
    fn local_files_keep_their_order_and_give_no_tasks() {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Ctx::detached(dir.path().join("world"), []);
        FetchParquet::run(config(SMALL), Exec::default(), &mut world).unwrap();
        let text = dir.path().join("text");
        fs::create_dir(&text).unwrap();
        for (name, from) in [("b", "shard_00000"), ("a", "shard_00001")] {
            let from = world.output("train").join(format!("{from}.parquet"));
            fs::copy(from, text.join(format!("{name}.parquet"))).unwrap();
        }
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let mut ctx = Ctx::detached(&out, []);
        let local = FetchSettings {
            source: text.join("*.parquet").to_str().unwrap().into(),
            ..FetchSettings::default()
        };
        FetchParquet::check(&local, &Extras::default()).unwrap();
        let sources = FetchParquet::sources(&local).unwrap();
        assert_eq!(sources, [text.join("a.parquet"), text.join("b.parquet")]);
        FetchParquet::run(local, Exec::default(), &mut ctx).unwrap();
        let a = fs::read(text.join("a.parquet")).unwrap();
        assert_eq!(fs::read(ctx.output("train").join("00000-a.parquet")).unwrap(), a);
        assert_eq!(names(ctx.output("val")), ["00001-b.parquet"]);
        assert!(!ctx.output("tasks").exists());
    }

    #[test]
    fn faults_name_their_key() {
        for (text, key, what) in [
            ("source = ''", "source", "source `` is not one"),
            ("source = 's3://x'", "source", "`s3://x` is not one"),
            ("source = 'hf://models/a/b'", "source", "only datasets can be read"),
            ("source = 'http://h/a.parquet'", "source", "from this machine alone"),
            ("source = 'embedded://moon'", "source", "`embedded://moon`"),
            ("source = 'a.parquet'\nworld = { seed = 2 }", "world", "the source is `a.parquet`"),
            ("source = 'a.parquet'\nshards = { count = 0 }", "shards.count", "0 files"),
            ("source = 'embedded://world'\ntext_column = 'x'", "text_column", "files of text"),
            ("source = 'embedded://world'\nseparator = 'x'", "separator", "files of text"),
            ("source = 'a.txt'\nseparator = ''", "separator", "empty"),
            (
                "source = 'embedded://world'\nworld = { train_shards = 0 }",
                "world.train_shards",
                "0",
            ),
            (
                "source = 'embedded://world'\nworld = { train_shards = 9223372036854775807 }",
                "world.train_shards",
                "9223372036854775807 files",
            ),
            (
                "source = 'embedded://world'\nworld = { documents_per_shard = 4611686018427387904 }",
                "world.documents_per_shard",
                "4 times 4611686018427387904",
            ),
            (
                "source = 'embedded://world'\nworld = { val_documents = 9223372036854775807 }",
                "world.val_documents",
                "9223372036854775807",
            ),
            ("source = 'embedded://world'\nshards = { val = 5 }", "shards.val", "file 5"),
            ("source = 'embedded://world'\nshards = { first = 5 }", "shards.first", "file 5"),
            (
                "source = 'embedded://world'\nshards = { first = 2, count = 4 }",
                "shards.count",
                "4 files",
            ),
        ] {
            let at = fault(text);
            assert_eq!(at.key, key, "{text}");
            assert!(at.message.contains(what), "{text}: {}", at.message);
            assert!(at.hint.is_some(), "{text}");
        }
        assert!(FetchParquet::check(&config(SMALL), &Extras::default()).is_ok());
    }

    #[test]
    fn the_hub_is_planned_and_not_asked() {
        let hub = config("source = 'hf://datasets/a/b'\nshards = { count = 1, val = 2 }");
        FetchParquet::check(&hub, &Extras::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let lock = LockFile::of(&dir.path().join("p.toml"));
        let mut extras = Extras::default();
        assert_eq!(FetchParquet::pins(&hub, &extras).unwrap(), Some(vec![]), "nothing to pin in");
        extras.insert(lock.clone());
        assert_eq!(FetchParquet::pins(&hub, &extras).unwrap(), None);
        let plan = |extras: &Extras| {
            planned(&hub, &fetcher(Exec::default(), extras).unwrap(), extras.get()).unwrap()
        };
        let text = plan(&extras);
        assert!(text.contains("not pinned yet") && text.ends_with("p.lock"), "{text}");

        let file = |i| farthing_data::PinnedFile {
            path: format!("{i}.parquet"),
            bytes: 1_000_000,
            digest: format!("sha256:{}", "ab".repeat(32)),
        };
        let (source, commit) = (hub.source.clone(), Some("c".repeat(40)));
        lock.write(&[farthing_data::Pin { source, commit, files: [0, 1, 2].map(file).into() }])
            .unwrap();
        let pins = FetchParquet::pins(&hub, &extras).unwrap().unwrap();
        let digest = "ab".repeat(32);
        assert_eq!(pins, [0, 2].map(|i| format!("sha256:{digest} {i}.parquet")));
        let text = plan(&extras);
        assert!(text.contains("at cccccccc: 2 files, 2.0 MB; none of them in"), "{text}");
    }

    #[test]
    fn connections_are_at_least_one() {
        let exec = toml::from_str::<Exec>;
        assert_eq!(exec("").unwrap().connections.get(), 8);
        assert_eq!(exec("connections = 3").unwrap().connections.get(), 3);
        assert!(exec("connections = 0").is_err() && exec("connection = 3").is_err());
    }

    #[test]
    fn files_that_are_not_there_are_asked_for_before_a_run_and_not_before_a_plan() {
        let missing = config("source = 'no/such/*.parquet'");
        FetchParquet::check(&missing, &Extras::default()).unwrap();
        let error = FetchParquet::sources(&missing).unwrap_err();
        assert!(is_absent(&error), "what was made of them the last time may serve: {error}");
        assert_eq!(FetchParquet::origin(&missing).as_deref(), Some("no/such/*.parquet"));
        let error = crate::failure::lines(&found(&missing).unwrap_err()).join("\n");
        assert!(error.starts_with("no file of text matches `no/such/*.parquet`"), "{error}");
        assert!(error.contains("\nhint: "), "{error}");
    }
}
