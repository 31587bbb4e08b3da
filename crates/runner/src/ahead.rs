//! What is known about every stage before anything runs: whether its result is cached, and every reason why it could not run. `--plan` shows this, and a run acts on it.

use std::sync::Arc;

use anyhow::anyhow;

use crate::cache::{Cache, Record};
use crate::ctx::Measured;
use crate::grammar::Pipeline;
use crate::plan::{Action, Assessed, Selected, assess, context};
use crate::{Extras, Lacking, PlanCtx, Result};

/// A stage, seen from before the run.
pub(crate) struct Ahead {
    /// `None` where something keeps it from being known, which is among the refusals.
    pub(crate) seen: Option<Assessed>,
    pub(crate) ctx: PlanCtx,
    /// Why it cannot run, if it is to.
    pub(crate) refusals: Vec<anyhow::Error>,
}

impl Ahead {
    /// The refusals that hold on any machine.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &anyhow::Error> {
        self.refusals.iter().filter(|error| !is_of_machine(error))
    }

    /// The record of a stage that is cached.
    pub(crate) fn record(&self) -> Option<&Record> {
        match &self.seen.as_ref()?.action {
            Action::Cached(record) => Some(record),
            _ => None,
        }
    }

    /// Whether the stage is neither cached nor left out.
    pub(crate) fn is_to_run(&self) -> bool {
        self.seen.as_ref().is_none_or(|s| matches!(s.action, Action::Run | Action::Waits(_)))
    }
}

/// Whether another machine may have what this one lacks.
pub(crate) fn is_of_machine(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<Lacking>)
}

/// Looks at every stage, in running order.
pub(crate) fn look(
    pipeline: &Pipeline,
    cache: &Cache,
    selected: &Selected,
    verify: bool,
    extras: &Arc<Extras>,
) -> Vec<Ahead> {
    let mut all: Vec<Ahead> = Vec::new();
    let mut outputs: Vec<Option<Record>> = Vec::new();
    let measured = Measured::default();
    for (index, stage) in pipeline.stages.iter().enumerate() {
        let ctx = context(pipeline, index, &outputs, cache, extras, &measured);
        let mut refusals = Vec::new();
        let seen = assess(
            pipeline,
            index,
            stage.job.as_deref(),
            &outputs,
            selected,
            cache,
            verify,
            extras,
        );
        let seen = seen.map_err(|error| refusals.push(error)).ok();
        let mut ahead = Ahead { seen, ctx, refusals };
        if selected.run.contains(&index) && ahead.is_to_run() {
            ahead.refusals.extend(left_out(pipeline, index, &all, selected));
            let named =
                |error: anyhow::Error| error.context(format!("stage `{}` cannot run", stage.name));
            let preflight =
                stage.job.as_ref().map(|job| job.preflight(&stage.resources, &ahead.ctx));
            ahead.refusals.extend(preflight.and_then(Result::err).map(named));
        }
        outputs.push(ahead.record().cloned());
        all.push(ahead);
    }
    all
}

/// What a stage reads that is neither there nor to be made.
fn left_out(
    pipeline: &Pipeline,
    index: usize,
    before: &[Ahead],
    selected: &Selected,
) -> Option<anyhow::Error> {
    let stage = &pipeline.stages[index];
    let absent = stage
        .inputs
        .iter()
        .find(|edge| !selected.run.contains(&edge.from) && before[edge.from].record().is_none())?;
    let up = &pipeline.stages[absent.from];
    let (what, hint) = if up.skip {
        ("skipped", "take its `skip` out, or skip this stage, too".to_owned())
    } else {
        ("left out", format!("run `--until {}` first, or leave --only and --from away", up.name))
    };
    Some(anyhow!(
        "stage `{}` reads `{}.{}`, which is {what} and not in the cache\nhint: {hint}",
        stage.name,
        up.name,
        absent.from_port.name
    ))
}
