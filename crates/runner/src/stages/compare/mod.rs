//! `compare`: trainings side by side, as `compare.md` with pictures and as one `compare.html`: what each variant of a matrix changes, its bits per byte with mean and
//! spread over seeds, accuracy, speed, time, FLOPs and memory. It reads the metrics of other stages and measures nothing itself.

mod chart;
mod page;
mod table;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::report::records::read;
use crate::{At, Ctx, Extras, NoExec, Port, Result, Stage, port};
use table::{Comparison, Row};

/// The keys of a comparison.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompareConfig {
    /// The heading.
    pub title: String,
}

impl Default for CompareConfig {
    fn default() -> Self {
        Self { title: "Comparison".into() }
    }
}

/// The kind `compare`. The first training is what the others are measured against. Along an axis on which nothing but the seed differs, trainings are of one variant.
///
/// # Inputs
/// Any number each, matched by where they stand on the axes: `train` (metrics of train-gpt), `bpb` (of eval-bpb; without it the
/// training's own last look at held-out text counts), `core` (of eval-core).
#[derive(Debug)]
pub struct Compare;

impl Stage for Compare {
    type Config = CompareConfig;
    type Exec = NoExec;
    const KIND: &'static str = "compare";
    const ABOUT: &'static str = "sets trainings side by side: bits per byte, speed, time, memory";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[
        port("train", "metrics").many(),
        port("bpb", "metrics").optional().many(),
        port("core", "metrics").optional().many(),
    ];
    const OUTPUTS: &'static [Port] = &[port("report", "report")];
    const USES_SEED: bool = false;

    fn check(config: &CompareConfig, _extras: &Extras) -> Result<()> {
        if config.title.trim().is_empty() {
            let fault = At::new("title", "a comparison needs a heading, and this one is empty");
            return Err(fault.hint("leave `title` out, or say what is compared").into());
        }
        Ok(())
    }

    fn run(config: CompareConfig, _exec: NoExec, ctx: &mut Ctx) -> Result<()> {
        let mut rows = Vec::new();
        for (label, path) in ctx.inputs("train") {
            let of = |port| {
                let found = ctx.inputs(port).into_iter().find(|(other, _)| *other == label);
                found.map(|(_, path)| path)
            };
            let (train, bpb) = (read(Some(path))?, read(of("bpb"))?);
            rows.push(Row::new(label, train, bpb, read(of("core"))?));
        }
        let comparison = Comparison::new(config.title, rows);
        for (name, bpb) in comparison.figures() {
            ctx.summary(name, bpb);
        }
        let dir = ctx.output("report");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let pictures = chart::draw(&comparison)?;
        for picture in &pictures {
            write(&dir.join(picture.file()), &picture.standalone())?;
        }
        write(&dir.join("compare.md"), &page::markdown(&comparison, &pictures))?;
        write(&dir.join("compare.html"), &page::html(&comparison, &pictures))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
