//! One stage's turn: from the first look, over its lock, to outputs that are sealed. Several turns go on side by side, each on a thread of its own.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::anyhow;

use super::Setup;
use crate::cache::Record;
use crate::grammar::{Declared, Pipeline};
use crate::kind::Job;
use crate::plan::{Action, Assessed, assess};
use crate::progress::{Watch, format};
use crate::runs::RunFolder;
use crate::{Ctx, Resources, Result, failure};

/// What all turns of a run share.
pub(super) struct Table<'s> {
    pub(super) pipeline: &'s Pipeline,
    pub(super) setup: &'s Setup,
    pub(super) folder: &'s RunFolder,
    /// The records of stages that are done or cached.
    pub(super) outputs: RwLock<Vec<Option<Record>>>,
    /// Held while a stage asks what its sources hold: they note it in one file.
    pub(super) resolving: Mutex<()>,
}

/// What a turn has come to.
pub(super) struct Made {
    pub(super) record: Record,
    pub(super) why: String,
    /// Whether it was this turn that made it.
    pub(super) ran: bool,
}

/// An error, and why the stage ran.
pub(super) type Failed = (anyhow::Error, String);

impl Table<'_> {
    /// Looks at a stage as it is now.
    pub(super) fn look(&self, index: usize, job: &dyn Job) -> Result<Assessed> {
        let Setup { cache, selected, verify, extras, .. } = self.setup;
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        assess(self.pipeline, index, Some(job), &outputs, selected, cache, *verify, extras)
    }

    /// Takes a stage from the cache.
    pub(super) fn cached(&self, index: usize, record: Record, seen: &Assessed) -> Made {
        let Setup { cache, screen, .. } = self.setup;
        let name = &self.pipeline.stages[index].name;
        screen.line(&format!("{name}: cached ({})", seen.reason));
        cache.tidy(&record.key);
        // The outputs are there, and a store that cannot be written serves, too.
        if let Err(error) = cache.remember(&self.pipeline.name, name, &seen.identity) {
            screen.line(&format!("{name}: not noted as this pipeline's: {error:#}"));
        }
        Made { record, why: seen.reason.clone(), ran: false }
    }
}

/// A stage that is to run.
pub(super) struct Turn<'s> {
    pub(super) table: &'s Table<'s>,
    pub(super) index: usize,
    /// Its part of the machine.
    pub(super) resources: Resources,
    /// Its GPUs, if not all.
    pub(super) devices: Option<String>,
}

impl Turn<'_> {
    fn stage(&self) -> &Declared {
        &self.table.pipeline.stages[self.index]
    }

    /// Runs the stage, or takes it from the cache where another process has made it meanwhile. `begun` is told the key before work begins.
    pub(super) fn take(
        &self,
        job: Box<dyn Job>,
        mut seen: Assessed,
        begun: impl FnOnce(&str),
    ) -> Result<Made, Failed> {
        let Setup { cache, cancel, screen, .. } = self.table.setup;
        let none = |error| (error, String::new());
        let name = &self.stage().name;
        if seen.key.is_none() {
            self.resolve(&*job).map_err(|error| (error, seen.reason))?;
            seen = self.table.look(self.index, &*job).map_err(none)?;
        }
        let mut lock = None;
        if let (Action::Run, Some(key)) = (&seen.action, &seen.key) {
            let mut waited = false;
            let tell = |pid: &str| {
                waited = true;
                screen.line(&format!("{name}: waits for process {pid}, which works on the same"));
            };
            lock = Some(cache.lock(key, cancel, tell).map_err(none)?);
            if waited {
                seen = self.table.look(self.index, &*job).map_err(none)?;
            }
        }
        let reason = seen.reason.clone();
        match (&seen.action, &seen.key) {
            (Action::Cached(record), _) => {
                let record = (**record).clone();
                Ok(self.table.cached(self.index, record, &seen))
            }
            (Action::Run, Some(key)) => {
                begun(key);
                let made = self.execute(job, seen).map_err(|error| (error, reason.clone()))?;
                drop(lock);
                Ok(Made { record: made, why: reason, ran: true })
            }
            _ => Err((anyhow!("stage `{name}` has no key"), reason)),
        }
    }

    /// A context without inputs and outputs.
    fn context(&self, dir: PathBuf, log: std::fs::File) -> Ctx {
        let (stage, setup) = (self.stage(), self.table.setup);
        Ctx {
            seed: stage.seed,
            resources: self.resources.clone(),
            resumed: false,
            inputs: BTreeMap::new(),
            many: Vec::new(),
            digests: BTreeMap::new(),
            dir,
            extras: Arc::clone(&setup.extras),
            cancel: setup.cancel.clone(),
            watch: Watch::start(&stage.name, setup.screen.clone(), Some(log)),
            summary: Vec::new(),
            figures_before: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
    }

    /// Lets a stage find out what its sources on a network hold; its key depends on that.
    fn resolve(&self, job: &dyn Job) -> Result<()> {
        let (stage, folder) = (self.stage(), self.table.folder);
        let _one = self.table.resolving.lock().unwrap_or_else(PoisonError::into_inner);
        let ctx =
            self.context(folder.path.join("stages").join(&stage.name), folder.log(&stage.name)?);
        caught(|| job.resolve(&ctx)).inspect_err(|error| {
            ctx.watch.log_only(&format!("failed: {}", failure::lines(error).join("\n")));
        })
    }

    fn execute(&self, job: Box<dyn Job>, seen: Assessed) -> Result<Record> {
        let Setup { cache, selected, screen, .. } = self.table.setup;
        let (stage, folder) = (self.stage(), self.table.folder);
        let Some(key) = seen.key else { return Err(anyhow!("stage `{}` has no key", stage.name)) };
        if seen.damage.is_some() {
            let aside = cache.put_aside(&key)?;
            screen.line(&format!("{}: the damaged entry is now {}", stage.name, aside.display()));
        }
        let fresh = seen.damage.is_some() || selected.force.contains(&self.index);
        let (dir, resumed) = cache.begin(&key, fresh)?;
        let mut ctx = self.context(dir.clone(), folder.log(&stage.name)?);
        ctx.resumed = resumed;
        ctx.figures_before.clone_from(&seen.identity.figures);
        let copies = self.connect(&mut ctx)?;
        // Files from outside are not ours: what is read has to be what the key stands for.
        let sources = job.sources().unwrap_or_default();
        let before = cache.sources_digest(&sources)?;
        ctx.watch.event(&format!("runs ({})", seen.reason));
        // A panic in a stage is a fault of the stage; what is done so far is kept as for any other.
        let metrics = stage.kind.outputs.iter().filter(|p| p.kind == "metrics").map(|p| p.name);
        let follow = folder.follow(&stage.name, metrics.clone(), &dir)?;
        let result = self.work(job, &key, &mut ctx);
        let seconds = ctx.watch.seconds();
        drop(follow);
        for port in metrics {
            folder.keep_metrics(&stage.name, port, &dir.join(port))?;
        }
        if let Err(error) = result {
            let error = with_origin(error, &copies);
            ctx.watch.log_only(&format!("failed: {}", failure::lines(&error).join("\n")));
            return Err(error);
        }
        // Gone by now is another matter: it has been read.
        if cache.sources_digest(&sources).is_ok_and(|now| now != before) {
            return Err(anyhow!(
                "a source file changed while the stage read it\n\
                 hint: run again when nothing writes to it any more"
            ));
        }
        let record = Record {
            key,
            stage: stage.name.clone(),
            identity: seen.identity,
            outputs: BTreeMap::new(),
            reason: seen.reason,
            seconds,
            summary: std::mem::take(&mut ctx.summary),
            origins: std::mem::take(&mut ctx.origins),
        };
        let record = cache.seal(stage.kind.outputs, record)?;
        cache.remember(&self.table.pipeline.name, &stage.name, &record.identity)?;
        ctx.watch.event(&format!("done in {}", format::duration(seconds)));
        Ok(record)
    }

    /// Does the work, in a process of its own where that can be.
    fn work(&self, job: Box<dyn Job>, key: &str, ctx: &mut Ctx) -> Result<()> {
        #[cfg(unix)]
        if let Some(host) = &self.table.setup.host {
            let task = self.task(key, ctx);
            return crate::child::run(host, task, self.devices.as_deref(), ctx);
        }
        let _ = key;
        caught(|| job.run(ctx))
    }

    /// What a process of its own is told.
    #[cfg(unix)]
    fn task(&self, key: &str, ctx: &Ctx) -> crate::child::Task {
        let (stage, setup) = (self.stage(), self.table.setup);
        let many = ctx.many.iter();
        let digests = ctx.digests.iter();
        crate::child::Task {
            stage: stage.name.clone(),
            kind: stage.kind.name.to_owned(),
            written: stage.written.clone(),
            seed: ctx.seed,
            resources: ctx.resources.clone(),
            resumed: ctx.resumed,
            inputs: ctx.inputs.clone(),
            many: many
                .map(|(p, label, path)| ((*p).to_owned(), label.clone(), path.clone()))
                .collect(),
            digests: digests.map(|(path, digest)| (path.clone(), digest.clone())).collect(),
            dir: ctx.dir.clone(),
            figures_before: ctx.figures_before.clone(),
            pipeline: setup.file.clone(),
            hidden: setup.screen.hidden.values(),
            store: setup.cache.root().to_owned(),
            key: key.to_owned(),
        }
    }

    /// Gives the stage its inputs; what they are copies of.
    fn connect(&self, ctx: &mut Ctx) -> Result<Vec<(PathBuf, String)>> {
        let cache = &self.table.setup.cache;
        let outputs = self.table.outputs.read().unwrap_or_else(PoisonError::into_inner);
        let mut copies = Vec::new();
        for edge in &self.stage().inputs {
            let Some(record) = &outputs[edge.from] else { continue };
            let entry = cache.entry(&record.key);
            copies.extend(record.origins.iter().map(|(file, of)| (entry.join(file), of.clone())));
            if let Some(output) = record.outputs.get(edge.from_port.name) {
                let path = entry.join(edge.from_port.name);
                let digests = output.files.iter();
                ctx.digests.extend(digests.map(|f| (f.under(&path), f.digest.clone())));
                match &edge.variant {
                    Some((_, label)) => ctx.many.push((edge.port.name, label.clone(), path)),
                    None => drop(ctx.inputs.insert(edge.port.name.to_owned(), path)),
                }
            } else if !edge.port.optional {
                return Err(anyhow!(
                    "input `{}` is `{}.{}`, which that stage did not write",
                    edge.port.name,
                    self.table.pipeline.stages[edge.from].name,
                    edge.from_port.name
                ));
            }
        }
        Ok(copies)
    }
}

/// The error, and whose copy the file is that it names.
fn with_origin(error: anyhow::Error, copies: &[(PathBuf, String)]) -> anyhow::Error {
    let text = format!("{error:#}");
    let named = copies.iter().find(|(copy, _)| text.contains(&*copy.to_string_lossy()));
    match named {
        Some((copy, of)) => {
            error.context(format!("{of}: its copy in the store, {}", copy.display()))
        }
        None => error,
    }
}

/// Does the work of a stage; a panic there is an error.
pub(crate) fn caught(work: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(anyhow!("the stage panicked: {}", words(&*panic))))
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
