//! `eval-core`: accuracy on a bundle of CORE-format tasks, each centred on what guessing reaches.

use farthing_eval::core::{Bundle, Settings, evaluate};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{device, loaded::Loaded, watch::Watched};
use crate::{At, Ctx, Extras, NoExec, PlanCtx, Port, Resources, Result, Stage, port};

/// The stage's keys.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Items per task, after the shuffle; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_task: Option<usize>,
}

const NO_TASKS: &str = "no tasks are connected, and the published CORE bundle is not fetched by this version\n\
    hint: connect a folder with a tasks.json: `inputs = { …, tasks = \"fetch.tasks\" }`";

/// Evaluates the tasks.
pub struct EvalCore;

impl Stage for EvalCore {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "eval-core";
    const ABOUT: &'static str = "accuracy on CORE-format tasks against chance";
    const VERSION: u32 = 1;
    const COMPUTES: bool = true;
    const INPUTS: &'static [Port] =
        &[port("model", "checkpoint"), port("bpe", "tokenizer"), port("tasks", "tasks").optional()];
    const OUTPUTS: &'static [Port] = &[port("metrics", "metrics")];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["core", "accuracy", "chance"];

    fn check(config: &Config, _: &Extras) -> Result<()> {
        if config.max_per_task == Some(0) {
            let fault = At::new("max_per_task", "0 items per task");
            return Err(fault.hint("at least 1; leave it out for all").into());
        }
        Ok(())
    }

    fn preflight(_: &Config, _: &NoExec, resources: &Resources, ctx: &PlanCtx) -> Result<()> {
        if !ctx.is_connected("tasks") {
            anyhow::bail!(NO_TASKS);
        }
        if ctx.promise("tasks", "folders") == Some(0) {
            anyhow::bail!(
                "the stage behind input `tasks` will not write any: its source is text alone\n\
                 hint: connect a folder with a tasks.json, or leave this stage out with `--until`"
            );
        }
        device::open(resources).map(drop)
    }

    fn run(config: Config, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let Some(tasks) = ctx.input_if_any("tasks") else {
            anyhow::bail!(NO_TASKS);
        };
        let bundle = Bundle::open(tasks)?;
        let loaded = Loaded::open(ctx)?;
        let settings = Settings { max_per_task: config.max_per_task, ..Settings::default() };
        let report = evaluate(
            &mut loaded.scorer(),
            &loaded.tokenizer,
            &bundle,
            &settings,
            &mut Watched::new(ctx, "prompts"),
        )?;
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
            ctx.log(format!(
                "{:<24} {:>5.1}% of {} (chance {:.1}%)",
                task.label,
                100.0 * task.accuracy,
                task.items,
                100.0 * task.random_baseline
            ));
        }
        metrics.write(&json!({
            "record": "core", "core": report.core, "accuracy": accuracy, "chance": chance,
        }))?;
        ctx.summary("core", report.core);
        ctx.summary("accuracy", accuracy);
        ctx.summary("chance", chance);
        Ok(())
    }
}
