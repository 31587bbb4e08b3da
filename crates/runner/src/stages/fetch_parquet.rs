//! `fetch-parquet`: parquet files of text to train on and to hold out, from the embedded world or from local files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use farthing_data::world::WorldSettings;
use farthing_data::{FetchSettings, FileEntry, fetch, local_files};

use super::watch::Watched;
use crate::progress::format::{amount, count};
use crate::{At, Ctx, Extras, NoExec, PlanCtx, PlanLine, Port, Resources, Result, Stage, port};

/// The source that is made here, from nothing.
const WORLD: &str = "embedded://world";

/// Brings text into the pipeline.
///
/// Its keys are those of [`FetchSettings`]: `source` is `embedded://world`, or a parquet file, a folder of them or a glob,
/// relative to the working directory; `shards = { first, count, val }` chooses among its files; `world` sizes the embedded
/// one, whose seed is a key of its own, so that another seed of the training leaves the text as it is.
/// The contents of local files enter the cache key, so that an edited file is noticed.
#[derive(Debug)]
pub struct FetchParquet;

impl Stage for FetchParquet {
    type Config = FetchSettings;
    type Exec = NoExec;
    const KIND: &'static str = "fetch-parquet";
    const ABOUT: &'static str = "parquet files of text, to train on and to hold out";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[
        port("train", "parquet files"),
        port("val", "parquet files"),
        port("tasks", "tasks").optional(),
    ];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["train_files", "val_files", "bytes"];

    fn check(config: &FetchSettings, _extras: &Extras) -> Result<()> {
        let source = config.source.as_str();
        if config.shards.count == Some(0) {
            let fault = At::new("shards.count", "0 files leave nothing to train on");
            return Err(fault.hint("leave `count` out to take every file").into());
        }
        if source == WORLD {
            return check_world(config);
        }
        if config.world != WorldSettings::default() {
            let fault =
                At::new("world", format!("`world` sizes `{WORLD}`, the source is `{source}`"));
            return Err(fault.hint("remove the table `world`").into());
        }
        let known = ["hf://", "https://", "http://"].iter().any(|s| source.starts_with(s));
        let local = !source.contains("://") || source.starts_with("file:");
        if source.is_empty() || !(known || local) {
            let fault =
                At::new("source", format!("`{source}` is not a source that this version knows"));
            let hint = format!(
                "use `{WORLD}`, a parquet file, a folder of them, or a glob such as `text/*.parquet`"
            );
            return Err(fault.hint(hint).into());
        }
        Ok(())
    }

    fn sources(config: &FetchSettings) -> Result<Vec<PathBuf>> {
        // Files that are not there yet keep nobody from planning; `preflight` asks for them.
        Ok(found(config).unwrap_or_default())
    }

    fn plan(
        config: &FetchSettings,
        _exec: &NoExec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<Vec<PlanLine>> {
        let text = if config.source == WORLD {
            let world = &config.world;
            let documents = world.train_shards * world.documents_per_shard;
            format!(
                "made here: {} documents to train on, {} held out",
                count(documents as u64),
                count(world.val_documents as u64)
            )
        } else if is_remote(&config.source) {
            format!("{}; downloads are not built yet", config.source)
        } else if let Err(error) = found(config) {
            error.to_string().lines().next().unwrap_or_default().to_owned()
        } else {
            let files = found(config)?;
            let sizes = files.iter().filter_map(|file| fs::metadata(file).ok());
            let bytes = sizes.map(|meta| meta.len()).sum();
            format!("{} files, {}", count(files.len() as u64), amount(bytes, "bytes"))
        };
        Ok(vec![PlanLine::new("text", text)])
    }

    fn preflight(
        config: &FetchSettings,
        _exec: &NoExec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<()> {
        found(config).map(drop)
    }

    fn run(config: FetchSettings, _exec: NoExec, ctx: &mut Ctx) -> Result<()> {
        found(&config)?;
        let staged = ctx.scratch()?.join("fetch");
        let files =
            fetch(&config, &working_directory()?, &staged, &mut Watched::new(ctx, "files"))?;
        let train = place(&staged, &files.train, &ctx.output("train"))?;
        let val = place(&staged, &files.val, &ctx.output("val"))?;
        if let Some(tasks) = &files.tasks {
            replace(&staged.join(tasks), &ctx.output("tasks"))?;
        }
        let bytes = train + val;
        ctx.log(format!(
            "{} files to train on, {} held out, {}",
            count(files.train.len() as u64),
            count(files.val.len() as u64),
            amount(bytes, "bytes")
        ));
        ctx.summary("train_files", files.train.len());
        ctx.summary("val_files", files.val.len());
        ctx.summary("bytes", bytes);
        Ok(())
    }
}

/// The local files that would be brought; none of the embedded world.
fn found(config: &FetchSettings) -> Result<Vec<PathBuf>> {
    if is_remote(&config.source) {
        return Err(anyhow!(
            "`{}` is on the network, and downloads are not built yet\n\
             hint: fetch the parquet files by hand and give their folder: --set \"STAGE.source=path/to/folder\"",
            config.source
        ));
    }
    Ok(local_files(config, &working_directory()?)?)
}

fn check_world(config: &FetchSettings) -> Result<()> {
    let world = &config.world;
    let sizes = [
        ("world.train_shards", world.train_shards),
        ("world.documents_per_shard", world.documents_per_shard),
        ("world.val_documents", world.val_documents),
    ];
    if let Some((key, _)) = sizes.iter().find(|(_, n)| *n == 0) {
        return Err(At::new(*key, "a world of 0 documents").hint("at least 1").into());
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

fn is_remote(source: &str) -> bool {
    source.contains("://") && source != WORLD && !source.starts_with("file:")
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

/// The files behind a port of kind `parquet files`, in the order of their names.
pub(super) fn parquet_files(ctx: &Ctx, port: &str) -> Result<Vec<PathBuf>> {
    let dir = ctx.input(port)?;
    let about = || format!("listing {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(about)? {
        let path = entry.with_context(about)?.path();
        if path.extension().is_some_and(|e| e == "parquet") {
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
        FetchParquet::run(config(SMALL), NoExec {}, &mut ctx).unwrap();
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
        FetchParquet::run(config(SMALL), NoExec {}, &mut world).unwrap();
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
        FetchParquet::run(local, NoExec {}, &mut ctx).unwrap();
        let a = fs::read(text.join("a.parquet")).unwrap();
        assert_eq!(fs::read(ctx.output("train").join("00000-a.parquet")).unwrap(), a);
        assert_eq!(names(ctx.output("val")), ["00001-b.parquet"]);
        assert!(!ctx.output("tasks").exists());
    }

    #[test]
    fn faults_name_their_key() {
        for (text, key, what) in [
            ("source = ''", "source", "`` is not a source"),
            ("source = 's3://x'", "source", "`s3://x` is not a source"),
            ("source = 'embedded://moon'", "source", "`embedded://moon`"),
            ("source = 'a.parquet'\nworld = { seed = 2 }", "world", "the source is `a.parquet`"),
            ("source = 'a.parquet'\nshards = { count = 0 }", "shards.count", "0 files"),
            (
                "source = 'embedded://world'\nworld = { train_shards = 0 }",
                "world.train_shards",
                "0",
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
    fn the_hub_plans_and_is_refused_when_run() {
        let hub = config("source = 'hf://datasets/a/b'\nshards = { count = 240, val = 1822 }");
        FetchParquet::check(&hub, &Extras::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut ctx = Ctx::detached(dir.path(), []);
        let error = FetchParquet::run(hub, NoExec {}, &mut ctx).unwrap_err().to_string();
        assert!(error.contains("downloads are not built yet\nhint: "), "{error}");
    }

    #[test]
    fn files_that_are_not_there_are_asked_for_before_a_run_and_not_before_a_plan() {
        let missing = config("source = 'no/such/*.parquet'");
        FetchParquet::check(&missing, &Extras::default()).unwrap();
        assert!(FetchParquet::sources(&missing).unwrap().is_empty());
        let error = found(&missing).unwrap_err().to_string();
        assert!(error.starts_with("no parquet file matches `no/such/*.parquet`"), "{error}");
        assert!(error.contains("\nhint: "), "{error}");
    }
}
