//! Runs the stages of a pipeline in order: whatever the cache has is taken from it, the rest is done, and the run's
//! folder says what happened.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;

use crate::cache::{Cache, Record};
use crate::grammar::Pipeline;
use crate::plan::{Action, Assessed, Selected, assess};
use crate::progress::{Screen, Watch, format};
use crate::runs::{Begun, Lineage, RunFolder, StageLineage, Status};
use crate::{Cancel, Ctx, Extras, Result, expect, failure};

/// What a run needs beside the pipeline.
pub(crate) struct Setup {
    pub(crate) cache: Cache,
    pub(crate) selected: Selected,
    pub(crate) verify: bool,
    pub(crate) extras: Arc<Extras>,
    pub(crate) cancel: Cancel,
    pub(crate) screen: Screen,
    /// The store, as a run's lineage names it.
    pub(crate) store_of_runs: PathBuf,
}

impl Setup {
    /// A stage's folder, as a run's lineage names it.
    fn entry_of_runs(&self, key: &str) -> PathBuf {
        self.store_of_runs.join("stages").join(key)
    }
}

/// What became of one stage.
pub(crate) struct Done {
    pub(crate) name: String,
    /// `cached`, `done` or `failed`.
    pub(crate) status: &'static str,
    /// Of this run's own work.
    pub(crate) seconds: Option<f64>,
    pub(crate) why: String,
    pub(crate) record: Option<Record>,
}

/// What became of a run.
pub(crate) struct Outcome {
    pub(crate) stages: Vec<Done>,
    pub(crate) reports: Vec<PathBuf>,
    /// Folders with a model, each with the stage that made it.
    pub(crate) models: Vec<(String, PathBuf)>,
    pub(crate) seconds: f64,
    /// The stage that failed and its error.
    pub(crate) failure: Option<(String, anyhow::Error)>,
}

/// Runs until the end or the first failure.
///
/// # Errors
/// The run's own folder cannot be written; a stage's failure is part of the outcome.
pub(crate) fn run(
    mut pipeline: Pipeline,
    setup: &Setup,
    folder: &RunFolder,
    mut lineage: Lineage,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut outcome =
        Outcome { stages: vec![], reports: vec![], models: vec![], seconds: 0.0, failure: None };
    let mut outputs: Vec<Option<Record>> = Vec::new();
    folder.write(&lineage)?;
    for index in 0..pipeline.stages.len() {
        let name = pipeline.stages[index].name.clone();
        if setup.cancel.requested() && setup.selected.run.contains(&index) {
            outcome.failure = Some((name, crate::Cancelled.into()));
            break;
        }
        let step = Step { setup, folder, index };
        let begun = Instant::now();
        let taken = step.take(&mut pipeline, &outputs, &mut lineage);
        // What was cut off has a folder still.
        if taken.is_ok() {
            lineage.begun = None;
        }
        match taken {
            Ok(None) => outputs.push(None),
            Ok(Some((record, why, ran))) => {
                let status = if ran { "done" } else { "cached" };
                let mut done = Done {
                    name: name.clone(),
                    status,
                    seconds: ran.then(|| begun.elapsed().as_secs_f64()),
                    why,
                    record: Some(record.clone()),
                };
                let kept = step.keep(&pipeline, &record, &mut outcome.reports);
                let model = step.model(&pipeline, &record);
                outcome.models.extend(model.map(|model| (name.clone(), model)));
                let met = expect::check(&pipeline, index, &outputs);
                if let Err(error) = kept.and(met) {
                    done.status = "failed";
                    outcome.failure = Some((name, error));
                }
                lineage.stages.push(line_of(&pipeline, index, &record, &done, setup));
                outcome.stages.push(done);
                outputs.push(Some(record));
            }
            Err((error, why)) => {
                let seconds = Some(begun.elapsed().as_secs_f64());
                outcome.stages.push(Done {
                    name: name.clone(),
                    status: "failed",
                    seconds,
                    why,
                    record: None,
                });
                outcome.failure = Some((name, error));
            }
        }
        lineage.seconds = started.elapsed().as_secs_f64();
        if outcome.failure.is_some() {
            break;
        }
        folder.write(&lineage)?;
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    lineage.seconds = outcome.seconds;
    lineage.status = match &outcome.failure {
        None => Status::Done,
        Some((_, error)) if error.is::<crate::Cancelled>() => Status::Stopped,
        Some(_) => Status::Failed,
    };
    folder.sign(&outcome.reports, &lineage)?;
    folder.write(&lineage)?;
    Ok(outcome)
}

fn line_of(
    pipeline: &Pipeline,
    index: usize,
    record: &Record,
    done: &Done,
    setup: &Setup,
) -> StageLineage {
    let stage = &pipeline.stages[index];
    let inputs = record.identity.inputs.iter();
    StageLineage {
        name: stage.name.clone(),
        kind: stage.kind.name.to_owned(),
        key: record.key.clone(),
        status: done.status.to_owned(),
        reason: done.why.clone(),
        seconds: record.seconds,
        config: stage.config.clone(),
        seed: record.identity.seed,
        gpus: stage.resources.gpus,
        inputs: inputs.map(|(p, i)| (p.clone(), (i.from.clone(), i.digest.clone()))).collect(),
        outputs: record.outputs.iter().map(|(p, o)| (p.clone(), o.digest.clone())).collect(),
        folder: setup.entry_of_runs(&record.key),
        summary: record.summary.clone(),
    }
}

/// One stage's turn.
struct Step<'s> {
    setup: &'s Setup,
    folder: &'s RunFolder,
    index: usize,
}

/// The record, why it ran or not, and whether it ran.
type Taken = Option<(Record, String, bool)>;

impl Step<'_> {
    /// Takes the stage from the cache or runs it; `None` where the selection leaves it out. An error comes with the
    /// reason why the stage ran.
    fn take(
        &self,
        pipeline: &mut Pipeline,
        outputs: &[Option<Record>],
        lineage: &mut Lineage,
    ) -> Result<Taken, (anyhow::Error, String)> {
        let Setup { cache, selected, verify, cancel, screen, extras, .. } = self.setup;
        let none = |error| (error, String::new());
        let look = |pipeline: &Pipeline| {
            assess(pipeline, self.index, outputs, selected, cache, *verify, extras).map_err(none)
        };
        let name = pipeline.stages[self.index].name.clone();
        let mut seen = look(pipeline)?;
        if let (Action::Run, None) = (&seen.action, &seen.key) {
            self.resolve(pipeline).map_err(|error| (error, seen.reason))?;
            seen = look(pipeline)?;
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
                seen = look(pipeline)?;
            }
        }
        let reason = seen.reason.clone();
        let named = |error| (error, reason.clone());
        match seen.action {
            Action::Absent => Ok(None),
            Action::Waits(on) => {
                Err(named(anyhow!("the outputs of {} are not there", on.join(", "))))
            }
            Action::Cached(record) => {
                screen.line(&format!("{name}: cached ({reason})"));
                cache.tidy(&record.key);
                // The outputs are there, and a store that cannot be written serves, too.
                if let Err(error) = cache.remember(&pipeline.name, &name, &seen.identity) {
                    screen.line(&format!("{name}: not noted as this pipeline's: {error:#}"));
                }
                Ok(Some((*record, reason, false)))
            }
            Action::Run => {
                if let Some(key) = &seen.key {
                    let folder = self.setup.entry_of_runs(key);
                    lineage.begun = Some(Begun { name, folder });
                    self.folder.write(lineage).map_err(named)?;
                }
                let record = self.execute(pipeline, outputs, seen).map_err(named)?;
                drop(lock);
                Ok(Some((record, reason, true)))
            }
        }
    }

    /// Lets a stage find out what its sources on a network hold; its key depends on that.
    fn resolve(&self, pipeline: &Pipeline) -> Result<()> {
        let stage = &pipeline.stages[self.index];
        let log = self.folder.log(&stage.name)?;
        let Some(job) = &stage.job else { return Err(anyhow!("the stage ran already")) };
        let ctx = Ctx {
            seed: stage.seed,
            resources: stage.resources.clone(),
            resumed: false,
            inputs: std::collections::BTreeMap::new(),
            many: Vec::new(),
            digests: std::collections::BTreeMap::new(),
            dir: self.folder.path.join("stages").join(&stage.name),
            extras: Arc::clone(&self.setup.extras),
            cancel: self.setup.cancel.clone(),
            watch: Watch::start(&stage.name, self.setup.screen.clone(), Some(log)),
            summary: Vec::new(),
            figures_before: std::collections::BTreeMap::new(),
            origins: std::collections::BTreeMap::new(),
        };
        catch_unwind(AssertUnwindSafe(|| job.resolve(&ctx)))
            .unwrap_or_else(|panic| Err(anyhow!("the stage panicked: {}", words(&*panic))))
            .inspect_err(|error| {
                ctx.watch.log_only(&format!("failed: {}", failure::lines(error).join("\n")));
            })
    }

    fn execute(
        &self,
        pipeline: &mut Pipeline,
        outputs: &[Option<Record>],
        seen: Assessed,
    ) -> Result<Record> {
        let Setup { cache, selected, screen, .. } = self.setup;
        let pipeline_name = pipeline.name.clone();
        let names: Vec<String> = pipeline.stages.iter().map(|s| s.name.clone()).collect();
        let stage = &mut pipeline.stages[self.index];
        let Some(key) = seen.key else { return Err(anyhow!("stage `{}` has no key", stage.name)) };
        if seen.damage.is_some() {
            let aside = cache.put_aside(&key)?;
            screen.line(&format!("{}: the damaged entry is now {}", stage.name, aside.display()));
        }
        let fresh = seen.damage.is_some() || selected.force.contains(&self.index);
        let (dir, resumed) = cache.begin(&key, fresh)?;

        let mut inputs = std::collections::BTreeMap::new();
        let mut many = Vec::new();
        let mut digests = std::collections::BTreeMap::new();
        let mut copies = Vec::new();
        for edge in &stage.inputs {
            let Some(record) = &outputs[edge.from] else { continue };
            let entry = cache.entry(&record.key);
            copies.extend(record.origins.iter().map(|(file, of)| (entry.join(file), of.clone())));
            if let Some(output) = record.outputs.get(edge.from_port.name) {
                let path = cache.entry(&record.key).join(edge.from_port.name);
                digests.extend(output.files.iter().map(|f| (f.under(&path), f.digest.clone())));
                match &edge.variant {
                    Some((_, label)) => many.push((edge.port.name, label.clone(), path)),
                    None => drop(inputs.insert(edge.port.name.to_owned(), path)),
                }
            } else if !edge.port.optional {
                return Err(anyhow!(
                    "input `{}` is `{}.{}`, which that stage did not write",
                    edge.port.name,
                    names[edge.from],
                    edge.from_port.name
                ));
            }
        }
        let log: File = self.folder.log(&stage.name)?;
        let mut ctx = Ctx {
            seed: stage.seed,
            resources: stage.resources.clone(),
            resumed,
            inputs,
            many,
            digests,
            dir: dir.clone(),
            extras: Arc::clone(&self.setup.extras),
            cancel: self.setup.cancel.clone(),
            watch: Watch::start(&stage.name, screen.clone(), Some(log)),
            summary: Vec::new(),
            figures_before: seen.identity.figures.clone(),
            origins: std::collections::BTreeMap::new(),
        };
        let Some(job) = stage.job.take() else { return Err(anyhow!("the stage ran already")) };
        // Files from outside are not ours: what is read has to be what the key stands for.
        let sources = job.sources().unwrap_or_default();
        let before = cache.sources_digest(&sources)?;
        ctx.watch.event(&format!("runs ({})", seen.reason));
        // A panic in a stage is a fault of the stage; what is done so far is kept as for any other.
        let result = catch_unwind(AssertUnwindSafe(|| job.run(&mut ctx)))
            .unwrap_or_else(|panic| Err(anyhow!("the stage panicked: {}", words(&*panic))));
        let seconds = ctx.watch.seconds();
        let metrics = stage.kind.outputs.iter().filter(|p| p.kind == "metrics");
        for port in metrics {
            self.folder.keep_metrics(&stage.name, port.name, &dir.join(port.name))?;
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
            outputs: std::collections::BTreeMap::new(),
            reason: seen.reason,
            seconds,
            summary: std::mem::take(&mut ctx.summary),
            origins: std::mem::take(&mut ctx.origins),
        };
        let record = cache.seal(stage.kind.outputs, record)?;
        cache.remember(&pipeline_name, &stage.name, &record.identity)?;
        ctx.watch.event(&format!("done in {}", format::duration(seconds)));
        Ok(record)
    }

    /// Where the model is that the stage made, if it made one.
    fn model(&self, pipeline: &Pipeline, record: &Record) -> Option<PathBuf> {
        let ports = pipeline.stages[self.index].kind.outputs;
        let port =
            ports.iter().find(|p| p.kind == "checkpoint" && record.outputs.contains_key(p.name))?;
        Some(self.setup.cache.entry(&record.key).join(port.name))
    }

    /// Copies what a reader of the run's folder looks for.
    fn keep(&self, pipeline: &Pipeline, record: &Record, reports: &mut Vec<PathBuf>) -> Result<()> {
        let stage = &pipeline.stages[self.index];
        // The reports of several variants must not cover each other.
        let folder = (stage.name != stage.base).then_some(stage.name.as_str());
        for port in stage.kind.outputs.iter().filter(|p| record.outputs.contains_key(p.name)) {
            let path = self.setup.cache.entry(&record.key).join(port.name);
            match port.kind {
                "metrics" => self.folder.keep_metrics(&stage.name, port.name, &path)?,
                "results" => {
                    let beside = format!("stages/{}", stage.name);
                    self.folder.keep_report(Some(&beside), port.name, &path)?;
                }
                "report" => reports.extend(self.folder.keep_report(folder, port.name, &path)?),
                _ => {}
            }
        }
        Ok(())
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

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
