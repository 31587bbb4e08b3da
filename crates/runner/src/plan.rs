//! What a run would do, and why. It walks the stages in order, computes each key as far as the inputs are known, and looks it up in the cache. A real run takes the same steps, one stage at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::anyhow;
use farthing_base::names::did_you_mean;

use crate::cache::digest::parts_digest;
use crate::cache::identity::{Identity, Input, Unknown};
use crate::cache::{Cache, Lookup, Record};
use crate::ctx::Measured;
use crate::grammar::{Declared, Pipeline};
use crate::kind::Job;
use crate::stage::Promises;
use crate::{Accelerator, Extras, Given, PlanCtx, Promise, Result};

/// Which stages to look at and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) only: Option<String>,
    pub(crate) from: Option<String>,
    pub(crate) until: Option<String>,
    pub(crate) force: Vec<String>,
}

/// A selection with names resolved.
pub(crate) struct Selected {
    pub(crate) run: BTreeSet<usize>,
    pub(crate) force: BTreeSet<usize>,
}

impl Selection {
    /// Resolves the names.
    ///
    /// # Errors
    /// A name that no stage has.
    pub(crate) fn resolve(&self, pipeline: &Pipeline) -> Result<Selected> {
        let index = |flag: &str, name: &String| named(flag, name, pipeline);
        let stages = 0..pipeline.stages.len();
        let mut run: BTreeSet<usize> = stages.filter(|&i| !pipeline.stages[i].skip).collect();
        if let Some(only) = &self.only {
            let only = index("--only", only)?;
            run.retain(|i| only.contains(i));
        }
        if let Some(from) = &self.from {
            let from = index("--from", from)?;
            let mut readers = vec![Vec::new(); pipeline.stages.len()];
            for (i, stage) in pipeline.stages.iter().enumerate() {
                for up in behind(stage) {
                    readers[up].push(i);
                }
            }
            let below = closure(&from, |i| readers[i].iter().copied());
            run.retain(|i| below.contains(i));
        }
        if let Some(until) = &self.until {
            let until = index("--until", until)?;
            let above = closure(&until, |i| behind(&pipeline.stages[i]));
            run.retain(|i| above.contains(i));
        }
        let force = self.force.iter().map(|name| index("--force", name));
        let force = force.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        Ok(Selected { run, force })
    }
}

/// The stages that a flag names.
///
/// # Errors
/// There is none of that name.
pub(crate) fn named(flag: &str, name: &str, pipeline: &Pipeline) -> Result<Vec<usize>> {
    let found = pipeline.named(name);
    if !found.is_empty() {
        return Ok(found);
    }
    let mut names: Vec<&str> = pipeline.stages.iter().map(|s| s.base.as_str()).collect();
    names.dedup();
    let hint = did_you_mean(name, names.iter().copied())
        .unwrap_or_else(|| format!("stages of this file: {}", names.join(", ")));
    Err(anyhow!("{flag} {name}: no stage has that name\nhint: {hint}"))
}

/// The stages that a stage reads or needs.
pub(crate) fn behind(stage: &Declared) -> BTreeSet<usize> {
    stage.inputs.iter().map(|e| e.from).chain(stage.needs.iter().copied()).collect()
}

/// What can be reached from `start`, and it.
fn closure<I: IntoIterator<Item = usize>>(
    start: &[usize],
    next: impl Fn(usize) -> I,
) -> BTreeSet<usize> {
    let mut found: BTreeSet<usize> = start.iter().copied().collect();
    let mut open = start.to_vec();
    while let Some(i) = open.pop() {
        open.extend(next(i).into_iter().filter(|j| found.insert(*j)));
    }
    found
}

/// What is to be done about a stage.
pub(crate) enum Action {
    /// Its outputs are there.
    Cached(Box<Record>),
    /// It runs.
    Run,
    /// It cannot be said before these stages have run.
    Waits(Vec<String>),
    /// The selection leaves it out, and nothing of it is there.
    Absent,
}

/// A stage as far as it is known.
pub(crate) struct Assessed {
    pub(crate) identity: Identity,
    pub(crate) key: Option<String>,
    pub(crate) action: Action,
    pub(crate) reason: String,
    /// What is wrong with the entry under the key.
    pub(crate) damage: Option<String>,
}

/// Looks at one stage, `job` being its settings; `outputs` are the records of the stages before it, where they are there.
///
/// # Errors
/// The config does not serialise.
pub(crate) fn assess(
    pipeline: &Pipeline,
    index: usize,
    job: Option<&dyn Job>,
    outputs: &[Option<Record>],
    selected: &Selected,
    cache: &Cache,
    verify: bool,
    extras: &Extras,
) -> Result<Assessed> {
    let stage = &pipeline.stages[index];
    let chosen = selected.run.contains(&index);
    let outputs_of = stage.kind.outputs;
    let identity = identity(pipeline, index, job, outputs, cache, extras, chosen)?;
    let last = cache.last(&pipeline.name, &stage.name);
    let changes = last.as_ref().map(|last| identity.changes_since(last));
    let forced = chosen && selected.force.contains(&index);
    if let Some(last) = last.as_ref().filter(|last| identity.same_but_for_sources(last)) {
        // What was made of them is still there, whatever became of them.
        let serves = match identity.unknown {
            Unknown::Gone { absent } => absent && !forced || !chosen,
            Unknown::Unpinned => !chosen,
            Unknown::No | Unknown::Unread => false,
        };
        if serves
            // What is hidden was the same, or there is nothing under the key.
            && let as_last = (Identity { own: identity.own.clone(), ..last.clone() })
            && let Some(key) = as_last.key()
            && let Lookup::Whole(record) = cache.lookup(&key, &as_last, outputs_of, verify)
        {
            let reason = match identity.unknown {
                Unknown::Unpinned => "its source is not pinned any more; as it was the last time",
                Unknown::Gone { absent: true } => "its source is gone; as it was the last time",
                _ => "its source cannot be read; as it was the last time",
            };
            let (action, reason) = (Action::Cached(record), reason.to_owned());
            let identity = as_last;
            return Ok(Assessed { identity, key: Some(key), action, reason, damage: None });
        }
    }
    if identity.unknown == Unknown::Unread {
        let action = if chosen { Action::Run } else { Action::Absent };
        let reason = "never run".to_owned();
        return Ok(Assessed { identity, key: None, action, reason, damage: None });
    }
    let unpinned = identity.unknown == Unknown::Unpinned;
    if unpinned && identity.inputs.values().all(|input| input.digest.is_some()) {
        let action = if chosen { Action::Run } else { Action::Absent };
        let reason = "its source is not pinned yet".to_owned();
        return Ok(Assessed { identity, key: None, action, reason, damage: None });
    }
    let Some(key) = identity.key() else {
        let waits: Vec<String> = stage
            .inputs
            .iter()
            .filter(|e| outputs[e.from].is_none())
            .map(|e| {
                let up = &pipeline.stages[e.from];
                // One word for many.
                if e.variant.is_some() { up.base.clone() } else { up.name.clone() }
            })
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let reason = match changes {
            Some(changes) if !changes.is_empty() => changes.join("; "),
            None => "never run".to_owned(),
            Some(_) => format!("runs if {} gives other bytes", waits.join(" or ")),
        };
        let action = if chosen { Action::Waits(waits) } else { Action::Absent };
        return Ok(Assessed { identity, key: None, action, reason, damage: None });
    };

    let mut damage = None;
    let (action, reason) = match cache.lookup(&key, &identity, outputs_of, verify) {
        Lookup::Whole(record) if !forced => {
            let reason = match &changes {
                Some(changes) if changes.is_empty() => "same config and inputs".to_owned(),
                Some(changes) => format!("ran before with this: {}", changes.join("; ")),
                None => "another pipeline ran this".to_owned(),
            };
            (Action::Cached(record), reason)
        }
        _ if !chosen => (Action::Absent, "left out".to_owned()),
        found => {
            let mut reason = match changes {
                _ if forced => "forced".to_owned(),
                None => "never run".to_owned(),
                Some(changes) if !changes.is_empty() => changes.join("; "),
                Some(_) => "not in the cache".to_owned(),
            };
            match found {
                Lookup::Partial if !forced => reason.push_str("; resumes what was cut off"),
                Lookup::Damaged(what) => {
                    reason = format!("the cache entry is damaged: {what}");
                    damage = Some(what);
                }
                _ => {}
            }
            (Action::Run, reason)
        }
    };
    Ok(Assessed { identity, key: Some(key), action, reason, damage })
}

/// What is known of a stage's inputs before it runs.
pub(crate) fn context(
    pipeline: &Pipeline,
    index: usize,
    outputs: &[Option<Record>],
    cache: &Cache,
    extras: &Arc<Extras>,
    measured: &Measured,
) -> PlanCtx {
    let mut inputs = BTreeMap::new();
    let edges = &pipeline.stages[index].inputs;
    for edge in edges {
        if let Some(record) = &outputs[edge.from] {
            let path = cache.entry(&record.key).join(edge.from_port.name);
            if path.exists() {
                inputs.insert(edge.port.name.to_owned(), path);
            }
        }
    }
    let mut files = BTreeMap::new();
    for edge in edges.iter().filter(|edge| outputs[edge.from].is_none()) {
        let job = pipeline.stages[edge.from].job.as_ref();
        files.insert(
            edge.port.name,
            job.map_or_else(Vec::new, |job| job.files(edge.from_port.name)),
        );
    }
    let connected = edges.iter().map(|edge| edge.port.name).collect();
    PlanCtx::new(
        pipeline.stages[index].seed,
        connected,
        inputs,
        promised(pipeline, index),
        files,
        Arc::clone(extras),
        Arc::clone(measured),
    )
}

/// What the stages before one promise of its inputs.
fn promised(pipeline: &Pipeline, index: usize) -> Promises {
    let mut promises = Vec::new();
    for edge in &pipeline.stages[index].inputs {
        let given = Given::new(|| promised(pipeline, edge.from));
        let all = pipeline.stages[edge.from].job.as_ref().map(|job| job.promises(&given));
        let of_port = |p: &Promise| p.port == edge.from_port.name;
        let all = all.unwrap_or_default().into_iter().filter(of_port);
        promises.extend(all.map(|p| (edge.port.name, p)));
    }
    promises
}

fn identity(
    pipeline: &Pipeline,
    index: usize,
    job: Option<&dyn Job>,
    outputs: &[Option<Record>],
    cache: &Cache,
    extras: &Extras,
    chosen: bool,
) -> Result<Identity> {
    let stage = &pipeline.stages[index];
    let mut inputs = BTreeMap::new();
    for edge in &stage.inputs {
        let from = format!("{}.{}", pipeline.stages[edge.from].name, edge.from_port.name);
        let record = outputs[edge.from].as_ref();
        // An optional output that was not written is content too: none.
        let digest = record.map(|r| {
            r.outputs.get(edge.from_port.name).map_or_else(String::new, |o| o.digest.clone())
        });
        inputs.insert(edge.name(), Input { from, digest });
    }
    let named = |error: anyhow::Error| error.context(format!("stage `{}`", stage.name));
    let files = job.map_or_else(|| Ok(Vec::new()), Job::sources);
    let mut unknown = Unknown::No;
    let mut sources = None;
    match files {
        Ok(files) if !files.is_empty() && !cache.is_there() => unknown = Unknown::Unread,
        Ok(files) => match cache.sources_digest(&files) {
            Ok(digest) => sources = digest,
            // Stages that are to run say so themselves, before anything runs.
            Err(error) if chosen => return Err(named(error)),
            Err(_) => unknown = Unknown::Gone { absent: false },
        },
        Err(error) => {
            let absent = error.downcast_ref().is_some_and(farthing_data::Error::is_absent);
            unknown = Unknown::Gone { absent };
        }
    }
    let pins = job.map_or(Ok(Some(Vec::new())), |job| job.pins(extras));
    let pins = pins.map_err(named)?;
    if let Some(pins) = pins.as_ref().filter(|pins| !pins.is_empty()) {
        let parts = sources.iter().chain(pins).map(String::as_bytes);
        sources = Some(parts_digest(parts));
    }
    let config = job.map_or(Ok(None), |job| job.key(extras)).map_err(named)?;
    let device = stage.resources.device;
    let config = config.as_ref().unwrap_or(&stage.config);
    let mut shown = config.clone();
    let own = cache.hidden().hide(&mut shown).then(|| config.clone());
    let origin = job.and_then(Job::origin);
    if pins.is_none() {
        unknown = Unknown::Unpinned;
    }
    Ok(Identity {
        kind: stage.kind.name.to_owned(),
        version: stage.kind.version,
        config: shown,
        own,
        device: (stage.kind.computes && device != Accelerator::Cpu).then(|| device.to_string()),
        seed: stage.kind.uses_seed.then_some(stage.seed),
        inputs,
        sources,
        figures: figures_before(pipeline, index, outputs),
        origin: origin.map(|origin| cache.hidden().shown(&origin)),
        unknown,
    })
}

/// The figures that a stage reads of those before it: `stage.figure` and its text.
pub(crate) fn figures_before(
    pipeline: &Pipeline,
    index: usize,
    outputs: &[Option<Record>],
) -> BTreeMap<String, String> {
    let wanted = pipeline.stages[index].kind.reads_figures;
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return found;
    }
    let before = closure(&[index], |i| {
        pipeline.stages[i].inputs.iter().map(|edge| edge.from).collect::<Vec<_>>()
    });
    for i in before.into_iter().filter(|&i| i != index) {
        let Some(Some(record)) = outputs.get(i) else { continue };
        for (name, figure) in record.summary.iter().filter(|(n, _)| wanted.contains(&n.as_str())) {
            found.insert(format!("{}.{name}", pipeline.stages[i].name), figure.to_string());
        }
    }
    found
}
