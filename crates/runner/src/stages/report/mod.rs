//! `report`: what a run came to, as `report.md` with `loss.svg`, and as one `report.html` that stands alone. It reads
//! the metrics of other stages and measures nothing itself; the same inputs give the same bytes.

pub(super) mod chart;
pub(super) mod curve;
pub(crate) mod escape;
pub(super) mod html;
mod markdown;
pub(super) mod model;
pub(super) mod records;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{At, Ctx, Extras, NoExec, Port, Result, Stage, port};
use model::{Model, Records};
use records::{Sample, read};

/// The keys of a report.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReportConfig {
    /// The heading.
    pub title: String,
}

impl Default for ReportConfig {
    fn default() -> Self {
        Self { title: "Training report".into() }
    }
}

/// The kind `report`. Every input is optional; what is not connected is left out.
///
/// # Inputs
/// JSON lines, each with its kind under `record`:
/// `train`: `run` (config, model, parameters by group, tokens, steps, flops_per_token), `step` (step, loss, lr, tokens so far,
/// tokens_per_s, seconds so far), `eval` (step, val_bpb, val_loss), `final` (tokens, tokens_per_s, seconds);
/// `bpb`: `bpb` (bpb, tokens); `core`: `task` (task, type, accuracy, baseline, centered, examples), `core` (core, accuracy,
/// chance), all shares of 1; `chat`: as `train`, of `finetune-chat`; `pack`: `pack` and `tokenizer`: `tokenizer`, as those stages write them. `sample` has
/// lines of prompt, text and temperature. What the stages before held out is named, too.
#[derive(Debug)]
pub struct Report;

impl Stage for Report {
    type Config = ReportConfig;
    type Exec = NoExec;
    const KIND: &'static str = "report";
    const ABOUT: &'static str = "writes report.md and a self-contained report.html";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[
        port("train", "metrics").optional(),
        port("bpb", "metrics").optional(),
        port("core", "metrics").optional(),
        port("sample", "text").optional(),
        port("tokenizer", "metrics").optional(),
        port("pack", "metrics").optional(),
        port("chat", "metrics").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[port("report", "report")];
    const READS_FIGURES: &'static [&'static str] = &["held_out"];
    const USES_SEED: bool = false;

    fn check(config: &ReportConfig, _extras: &Extras) -> Result<()> {
        if config.title.trim().is_empty() {
            let fault = At::new("title", "a report needs a heading, and this one is empty");
            return Err(fault.hint("leave `title` out, or say what the run was").into());
        }
        Ok(())
    }

    fn run(config: ReportConfig, _exec: NoExec, ctx: &mut Ctx) -> Result<()> {
        let records = Records {
            train: read(ctx.input_if_any("train"))?,
            bpb: read(ctx.input_if_any("bpb"))?,
            core: read(ctx.input_if_any("core"))?,
            sample: read(ctx.input_if_any("sample"))?,
            pack: read(ctx.input_if_any("pack"))?,
            tokenizer: read(ctx.input_if_any("tokenizer"))?,
            chat: read(ctx.input_if_any("chat"))?,
        };
        let mut model = Model::new(config.title, records);
        let held_out = ctx.figures_before().filter(|(_, figure, _)| *figure == "held_out");
        model.held_out = held_out.map(|(stage, _, text)| (stage.into(), text.into())).collect();
        let dir = ctx.output("report");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        for (course, name) in [(&model.course, "loss.svg"), (&model.chat, "chat.svg")] {
            if let Some(curve) = &course.curve {
                write(&dir.join(name), &chart::standalone(curve)?)?;
            }
        }
        write(&dir.join("report.md"), &markdown::render(&model))?;
        write(&dir.join("report.html"), &html::render(&model)?)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

impl Model {
    /// Whether no input had anything to show.
    fn is_empty(&self) -> bool {
        self.headline.is_empty()
            && self.course.is_empty()
            && self.chat.is_empty()
            && self.tasks.is_empty()
            && self.samples.is_empty()
            && self.tokenizer.is_empty()
            && self.packs.is_empty()
            && self.config.is_empty()
            && self.built.is_empty()
    }
}

impl Sample {
    /// What the model wrote after the prompt, whether or not `text` repeats the prompt.
    fn continuation(&self) -> &str {
        self.text.strip_prefix(&self.prompt).unwrap_or(&self.text)
    }
}
