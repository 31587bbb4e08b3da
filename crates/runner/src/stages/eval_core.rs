//! `eval-core`: accuracy on a bundle of CORE-format tasks, each centred on what guessing reaches.

use farthing_eval::core::{Bundle, Settings, evaluate};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{device, loaded::Loaded, watch::Watched};
use crate::{At, Ctx, Extras, NoExec, PlanCtx, PlanLine, Port, Resources, Result, Stage, port};

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

const NOTHING: &str = "nothing to evaluate: there are no tasks about this text";

/// Whether the stage behind the tasks will write none, as where its source is text alone.
fn without_tasks(ctx: &PlanCtx) -> bool {
    ctx.promise("tasks", "folders") == Some(0)
}

/// Evaluates the tasks; where the stage behind them has none about its text, there is nothing to evaluate, and no figure.
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

    fn plan(_: &Config, _: &NoExec, _: &Resources, ctx: &PlanCtx) -> Result<Vec<PlanLine>> {
        let lines = without_tasks(ctx).then(|| PlanLine::new("tasks", NOTHING));
        Ok(lines.into_iter().collect())
    }

    fn preflight(_: &Config, _: &NoExec, resources: &Resources, ctx: &PlanCtx) -> Result<()> {
        if !ctx.is_connected("tasks") {
            anyhow::bail!(NO_TASKS);
        }
        if without_tasks(ctx) {
            return Ok(());
        }
        device::open(resources).map(drop)
    }

    fn run(config: Config, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let Some(tasks) = ctx.input_if_any("tasks") else {
            // `preflight` has seen that they are connected: there are none about this text.
            ctx.log(NOTHING);
            return ctx.metrics("metrics").map(drop);
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
