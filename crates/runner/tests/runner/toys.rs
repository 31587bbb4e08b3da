//! Small stages that stand in for the product's.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use farthing_runner::{
    App, At, Ctx, Extras, NoExec, PlanCtx, PlanLine, Port, Resources, Result, Stage, port,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) fn app() -> App {
    App::new()
        .stage::<Write>()
        .stage::<Trim>()
        .stage::<Count>()
        .stage::<Slow>()
        .stage::<Report>()
        .stage::<Fail>()
        .stage::<Grow>()
        .stage::<Join>()
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteConfig {
    text: String,
    #[serde(default = "one")]
    lines: u32,
    #[serde(default)]
    style: Style,
}

fn one() -> u32 {
    1
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Style {
    #[serde(default)]
    upper: bool,
    weight: Option<f32>,
}

struct Write;

impl Stage for Write {
    type Config = WriteConfig;
    type Exec = NoExec;
    const KIND: &'static str = "write";
    const ABOUT: &'static str = "writes lines of text";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("text", "text")];

    fn check(config: &WriteConfig, _extras: &Extras) -> Result<()> {
        if config.lines == 0 {
            return Err(At::new("lines", "`lines` is 0, expected at least 1")
                .hint("leave it away for 1")
                .into());
        }
        Ok(())
    }

    fn plan(c: &WriteConfig, _: &NoExec, r: &Resources, _: &PlanCtx) -> Result<Vec<PlanLine>> {
        Ok(vec![
            PlanLine::new("characters", (c.text.len() * c.lines as usize).to_string()),
            PlanLine::new("on", r.device.to_string()),
        ])
    }

    fn run(config: WriteConfig, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let text = if config.style.upper { config.text.to_uppercase() } else { config.text };
        fs::write(ctx.output("text"), format!("{text}\n").repeat(config.lines as usize))?;
        Ok(())
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// Drops spaces at the ends of lines, so that different texts can give equal bytes.
struct Trim;

impl Stage for Trim {
    type Config = Nothing;
    type Exec = NoExec;
    const KIND: &'static str = "trim";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[port("text", "text")];
    const OUTPUTS: &'static [Port] = &[port("text", "text")];
    const USES_SEED: bool = false;

    fn run(_: Nothing, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let text = fs::read_to_string(ctx.input("text")?)?;
        fs::write(ctx.output("text"), text.replace(" \n", "\n"))?;
        Ok(())
    }
}

struct Count;

impl Stage for Count {
    type Config = Nothing;
    type Exec = NoExec;
    const KIND: &'static str = "count";
    const ABOUT: &'static str = "counts letters";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[port("text", "text"), port("rows", "packed rows").optional()];
    const OUTPUTS: &'static [Port] = &[port("metrics", "metrics")];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["letters"];

    fn run(_: Nothing, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let file = ctx.input("text")?;
        let text = fs::read_to_string(file)?;
        // What the cache says of an input is true, wherever it came from.
        let digest = blake3::hash(text.as_bytes()).to_hex();
        ensure!(ctx.digest(file) == Some(digest.as_str()), "another digest");
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        ctx.metrics("metrics")?.write(&serde_json::json!({ "step": 0, "letters": letters }))?;
        ctx.summary("letters", letters);
        ctx.log("counted");
        Ok(())
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlowConfig {
    steps: u64,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlowExec {
    #[serde(default)]
    sleep_ms: u64,
    /// The last step waits until this file is there.
    gate: Option<PathBuf>,
}

/// Training in small: each step depends on the one before, and every second one leaves a checkpoint.
struct Slow;

impl Stage for Slow {
    type Config = SlowConfig;
    type Exec = SlowExec;
    const KIND: &'static str = "slow";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("rows", "packed rows"), port("metrics", "metrics")];

    fn run(config: SlowConfig, exec: SlowExec, ctx: &mut Ctx) -> Result<()> {
        let checkpoint = ctx.scratch()?.join("checkpoint");
        let saved = fs::read_to_string(&checkpoint).ok();
        let saved = saved.and_then(|s| s.split_once(' ').map(|(a, b)| (a.parse(), b.parse())));
        let (mut step, mut state, mut metrics) = match saved {
            Some((Ok(step), Ok(state))) if ctx.resumed => {
                (step, state, ctx.resume_metrics("metrics", step)?)
            }
            _ => (0u64, ctx.seed, ctx.metrics("metrics")?),
        };
        let progress = ctx.progress(config.steps, "steps");
        progress.set(step);
        while step < config.steps {
            ctx.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(exec.sleep_ms));
            if step + 1 == config.steps && exec.gate.as_ref().is_some_and(|gate| !gate.exists()) {
                continue;
            }
            step += 1;
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            metrics.write(&serde_json::json!({ "step": step, "state": state }))?;
            progress.advance(1);
            if step.is_multiple_of(2) {
                fs::write(checkpoint.with_extension("new"), format!("{step} {state}"))?;
                fs::rename(checkpoint.with_extension("new"), &checkpoint)?;
            }
        }
        fs::create_dir_all(ctx.output("rows"))?;
        fs::write(ctx.output("rows").join("a"), state.to_string())?;
        ctx.summary("state", state.to_string());
        Ok(())
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrowConfig {
    path: PathBuf,
}

/// Reads a file from outside that grows meanwhile.
struct Grow;

impl Stage for Grow {
    type Config = GrowConfig;
    type Exec = NoExec;
    const KIND: &'static str = "grow";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("text", "text")];

    fn sources(config: &GrowConfig) -> Result<Vec<PathBuf>> {
        Ok(vec![config.path.clone()])
    }

    fn run(config: GrowConfig, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let text = fs::read_to_string(&config.path)?;
        if text.len() < 20 {
            fs::write(&config.path, format!("{text} and more"))?;
        }
        fs::write(ctx.output("text"), text)?;
        Ok(())
    }
}

struct Report;

impl Stage for Report {
    type Config = Nothing;
    type Exec = NoExec;
    const KIND: &'static str = "report";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[port("count", "metrics")];
    const OUTPUTS: &'static [Port] = &[port("report", "report")];
    const USES_SEED: bool = false;

    fn run(_: Nothing, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let metrics = fs::read_to_string(ctx.input("count")?)?;
        fs::create_dir_all(ctx.output("report"))?;
        fs::write(ctx.output("report").join("report.md"), format!("# Report\n\n{metrics}"))?;
        Ok(())
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailConfig {
    how: String,
}

struct Fail;

/// Takes all of the stack.
#[allow(unconditional_recursion, reason = "that is what it is for")]
fn deep(n: u64) -> u64 {
    let held = std::hint::black_box([n; 512]);
    deep(n + 1) + held[n as usize % 512]
}

impl Stage for Fail {
    type Config = FailConfig;
    type Exec = NoExec;
    const KIND: &'static str = "fail";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("text", "text")];

    fn plan(c: &FailConfig, _: &NoExec, _: &Resources, _: &PlanCtx) -> Result<Vec<PlanLine>> {
        if c.how == "plan" {
            bail!("a group matches nothing\nhint: check the pattern");
        }
        Ok(Vec::new())
    }

    fn run(config: FailConfig, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        match config.how.as_str() {
            "panic" => panic!("index 3 is out of range"),
            "nothing" => Ok(()),
            "fine" | "good" => Ok(fs::write(ctx.output("text"), config.how)?),
            #[cfg(unix)]
            "segv" => loop {
                // The first one is the standard library's, which looks whether the stack has overflowed.
                signal_hook::low_level::raise(signal_hook::consts::SIGSEGV)?;
            },
            "abort" => std::process::abort(),
            "exit" => std::process::exit(3),
            "stack" => Ok(fs::write(ctx.output("text"), deep(1).to_string())?),
            "hungry" => {
                let much = vec![1u8; 64 << 30];
                Ok(fs::write(ctx.output("text"), much.len().to_string())?)
            }
            // Twice; the third attempt goes well.
            "later" => {
                let file = ctx.scratch()?.join("attempts");
                let attempts = fs::read_to_string(&file).unwrap_or_default() + "x";
                fs::write(file, &attempts)?;
                if attempts.len() < 3 {
                    let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    return Err(error).context("reading from far away");
                }
                Ok(fs::write(ctx.output("text"), attempts)?)
            }
            _ => Err(anyhow::anyhow!(
                "row 812 has 2,047 tokens, expected 2,049 (T + 1)\nhint: delete the shard"
            ))
            .context("reading shard train-00003"),
        }
    }
}

/// Writes what every text it is given says, under its label.
struct Join;

impl Stage for Join {
    type Config = Nothing;
    type Exec = NoExec;
    const KIND: &'static str = "join";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] =
        &[port("texts", "text").many(), port("counts", "metrics").optional().many()];
    const OUTPUTS: &'static [Port] = &[port("all", "report")];
    const USES_SEED: bool = false;

    fn run(_: Nothing, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let mut all = String::new();
        for port in ["texts", "counts"] {
            for (label, path) in ctx.inputs(port) {
                let said = fs::read_to_string(path)?.trim().replace('\n', "/");
                all.push_str(&[port, " ", label, ": ", &said, "\n"].concat());
            }
        }
        fs::write(ctx.output("all"), all)?;
        Ok(())
    }
}
