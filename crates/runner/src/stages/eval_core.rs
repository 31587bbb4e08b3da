//! `eval-core`: accuracy on a bundle of CORE-format tasks, each centred on what guessing reaches.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use farthing_eval::core::{Bundle, CoreReport, CoreSettings, TaskReport};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::evaluation::{self, What, core};
use super::{core_bundle, device, seat, watch::Watched};
use crate::failure;
use crate::{At, Ctx, Extras, NoExec, PlanCtx, PlanLine, Port, Resources, Result, Stage, port};

/// The stage's keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Items per task, after the shuffle; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_task: Option<usize>,
    /// The tasks, where no input gives them: a folder or a zip, relative to the working directory, or the URL of a zip. When absent, the
    /// published bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
}

const NOTHING: &str = "nothing to evaluate: there are no tasks about this text";

/// Whether the stage behind the tasks will write none, as where its source is text alone.
fn without_tasks(ctx: &PlanCtx) -> bool {
    ctx.promise("tasks", "folders") == Some(0)
}

/// Evaluates the tasks of the input `tasks`; where the stage behind it has none about its text, there is nothing to evaluate, and no
/// figure. Without that input, those of `bundle`: by default the published ones, which are downloaded when they are first needed and pinned in
/// the [`LockFile`](crate::LockFile) like a source.
///
/// `results` has the table as nanochat's `base_eval` writes it, `core.csv`, and the same as `core.json`; `items` has a line of JSON for
/// every item.
pub struct EvalCore;

impl Stage for EvalCore {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "eval-core";
    const ABOUT: &'static str = "accuracy on CORE-format tasks against chance";
    const VERSION: u32 = 3;
    const COMPUTES: bool = true;
    const RANKS: bool = true;
    const INPUTS: &'static [Port] =
        &[port("model", "checkpoint"), port("bpe", "tokenizer"), port("tasks", "tasks").optional()];
    const OUTPUTS: &'static [Port] = &[
        port("metrics", "metrics"),
        port("results", "results").optional(),
        port("items", "items").optional(),
    ];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["core", "accuracy", "chance"];

    fn connect(config: &mut Config, inputs: &[&str]) -> Result<()> {
        if !inputs.contains(&"tasks") {
            config.bundle.get_or_insert_with(|| core_bundle::PUBLISHED.into());
        } else if config.bundle.is_some() {
            let fault = At::new("bundle", "the input `tasks` names tasks already");
            return Err(fault.hint("leave one of the two out").into());
        }
        Ok(())
    }

    fn key(config: &Config, _: &Extras) -> Result<Option<serde_json::Value>> {
        // What it holds is in the key, not where it is.
        Ok(Some(serde_json::to_value(Config { bundle: None, ..config.clone() })?))
    }

    fn check(config: &Config, _: &Extras) -> Result<()> {
        if config.max_per_task == Some(0) {
            let fault = At::new("max_per_task", "0 items per task");
            return Err(fault.hint("at least 1; leave it out for all").into());
        }
        config.bundle.as_deref().map_or(Ok(()), core_bundle::check)
    }

    fn sources(config: &Config) -> Result<Vec<PathBuf>> {
        config.bundle.as_deref().map_or_else(|| Ok(Vec::new()), core_bundle::sources)
    }

    fn origin(config: &Config) -> Option<String> {
        config.bundle.clone()
    }

    fn pins(config: &Config, extras: &Extras) -> Result<Option<Vec<String>>> {
        let bundle = config.bundle.as_deref();
        bundle.map_or_else(|| Ok(Some(Vec::new())), |bundle| core_bundle::pins(bundle, extras))
    }

    fn resolve(config: &Config, _: &NoExec, ctx: &Ctx) -> Result<()> {
        config.bundle.as_deref().map_or(Ok(()), |bundle| core_bundle::resolve(bundle, ctx))
    }

    fn plan(config: &Config, _: &NoExec, _: &Resources, ctx: &PlanCtx) -> Result<Vec<PlanLine>> {
        let text = match &config.bundle {
            Some(bundle) => core_bundle::planned(bundle, ctx.extras())?,
            None if without_tasks(ctx) => NOTHING.into(),
            None => return Ok(Vec::new()),
        };
        Ok(vec![PlanLine::new("tasks", text)])
    }

    fn preflight(config: &Config, _: &NoExec, resources: &Resources, ctx: &PlanCtx) -> Result<()> {
        if without_tasks(ctx) {
            return Ok(());
        }
        let bundle = config.bundle.as_ref().map(|b| core_bundle::preflight(b, ctx.extras()));
        let ranks = seat::preflight(resources, ctx, "", |rank| device::open_of(resources, rank));
        failure::all_of(bundle.into_iter().chain([ranks]))
    }

    fn run(config: Config, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let bundle = match (&config.bundle, ctx.input_if_any("tasks")) {
            (Some(bundle), _) => core_bundle::open(bundle, ctx)?,
            (None, Some(tasks)) => Bundle::open(tasks)?,
            (None, None) => {
                // `tasks` is connected, or there would be a bundle: there are none about this text.
                ctx.log(NOTHING);
                return ctx.metrics("metrics").map(drop);
            }
        };
        let settings =
            CoreSettings { max_per_task: config.max_per_task, ..CoreSettings::default() };
        // Others may have another working directory.
        let tasks = std::path::absolute(bundle.place()).context("finding the tasks")?;
        let report = evaluation::on_ranks(ctx, What::Core { tasks, settings }, |loaded, ranks| {
            core(loaded, &bundle, &settings, ranks, &mut Watched::new(ctx, "prompts"))
        })?;
        let n = report.tasks.len() as f64;
        let accuracy = report.tasks.iter().map(|t| t.accuracy).sum::<f64>() / n;
        let chance = report.tasks.iter().map(|t| t.random_baseline).sum::<f64>() / n;
        let mut metrics = ctx.metrics("metrics")?;
        for task in &report.tasks {
            metrics.write(&json!({
                "record": "task", "task": task.label, "type": task.task_type.name(),
                "accuracy": task.accuracy, "baseline": task.random_baseline,
                "centered": task.centered, "examples": task.items,
            }))?;
            ctx.log(task_line(task));
        }
        metrics.write(&json!({
            "record": "core", "core": report.core, "accuracy": accuracy, "chance": chance,
        }))?;
        if let Some(line) = report.beside_gpt2() {
            ctx.log(line);
        }
        write_results(&ctx.output("results"), &report)?;
        write_items(&ctx.output("items"), &report)?;
        ctx.summary("core", report.core);
        ctx.summary("accuracy", accuracy);
        ctx.summary("chance", chance);
        Ok(())
    }
}

/// A task's outcome for a screen.
pub(crate) fn task_line(task: &TaskReport) -> String {
    format!(
        "{:<32} {:>5.1}% of {} (chance {:.1}%)",
        task.label,
        100.0 * task.accuracy,
        task.items,
        100.0 * task.random_baseline
    )
}

/// The tables, as nanochat's evaluation writes them.
pub(crate) fn write_results(folder: &Path, report: &CoreReport) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let json = serde_json::to_string_pretty(&report.to_json())? + "\n";
    for (name, text) in [("core.csv", report.to_csv()), ("core.json", json)] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A line per item.
fn write_items(path: &Path, report: &CoreReport) -> Result<()> {
    let file = File::create(path).map(BufWriter::new);
    file.and_then(|mut out| report.write_items(&mut out).and_then(|()| out.flush()))
        .with_context(|| format!("writing {}", path.display()))
}
