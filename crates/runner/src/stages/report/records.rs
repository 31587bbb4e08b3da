//! The metrics files that a report reads: JSON lines, each with its kind under `record`. Records of kinds unknown here are
//! passed over, so that a stage can write more than the report shows; a line that is not such a record is an error.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Result;
use crate::progress::format::count;

/// A line of the training's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(super) enum TrainRecord {
    Run(RunRecord),
    Step(StepRecord),
    Eval(EvalRecord),
    Final(FinalRecord),
    #[serde(other)]
    Other,
}

/// What was trained, written before the first step.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RunRecord {
    #[serde(default)]
    pub(super) config: Value,
    /// The model as it was built, derived sizes included.
    #[serde(default)]
    pub(super) model: Value,
    /// Parameters of each optimizer group.
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, u64>,
    pub(super) tokens: Option<u64>,
    pub(super) steps: Option<u64>,
    pub(super) flops_per_token: Option<f64>,
}

/// One step. A number that is not finite was written as null and leaves a gap.
#[derive(Debug, Deserialize)]
pub(super) struct StepRecord {
    pub(super) step: u64,
    pub(super) loss: Option<f64>,
    pub(super) lr: Option<f64>,
    /// Tokens seen since the first step.
    pub(super) tokens: Option<u64>,
    pub(super) tokens_per_s: Option<f64>,
    /// Seconds of training since the first step.
    pub(super) seconds: Option<f64>,
}

/// One look at held-out text.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct EvalRecord {
    pub(super) step: u64,
    pub(super) val_bpb: Option<f64>,
    pub(super) val_loss: Option<f64>,
}

/// The figures at the end.
#[derive(Debug, Default, Deserialize)]
pub(super) struct FinalRecord {
    pub(super) tokens: Option<u64>,
    pub(super) tokens_per_s: Option<f64>,
    pub(super) seconds: Option<f64>,
}

/// A line of eval-bpb's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(super) enum BpbRecord {
    Bpb(Bpb),
    #[serde(other)]
    Other,
}

/// Bits per byte of the trained model.
#[derive(Debug, Deserialize)]
pub(super) struct Bpb {
    pub(super) bpb: Option<f64>,
    pub(super) tokens: Option<u64>,
}

/// A line of eval-core's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(super) enum CoreRecord {
    Task(Task),
    Core(Core),
    #[serde(other)]
    Other,
}

/// One task; accuracy and baseline are shares.
#[derive(Debug, Deserialize)]
pub(super) struct Task {
    #[serde(rename = "task")]
    pub(super) name: String,
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    pub(super) accuracy: f64,
    pub(super) baseline: f64,
    pub(super) centered: f64,
    #[serde(default)]
    pub(super) examples: u64,
}

/// All tasks together.
#[derive(Debug, Deserialize)]
pub(super) struct Core {
    #[serde(rename = "core")]
    pub(super) centered: f64,
    pub(super) accuracy: f64,
    pub(super) chance: f64,
}

/// A line of the sample stage's text.
#[derive(Debug, Deserialize)]
pub(super) struct Sample {
    #[serde(default)]
    pub(super) prompt: String,
    pub(super) text: String,
    pub(super) temperature: Option<f64>,
}

/// A line of pack-bestfit's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(super) enum PackRecord {
    Pack(Pack),
    #[serde(other)]
    Other,
}

/// What became of one split; shares are of 1.
#[derive(Debug, Deserialize)]
pub(super) struct Pack {
    pub(super) split: String,
    pub(super) documents: u64,
    pub(super) tokens_in: u64,
    pub(super) rows: u64,
    pub(super) row_tokens: u64,
    pub(super) lost: f64,
    pub(super) bound: f64,
    pub(super) utilisation: f64,
    pub(super) continuation: f64,
    /// Documents by length in tokens.
    #[serde(default)]
    pub(super) lengths: Vec<Lengths>,
}

/// Documents of `from ..= to` tokens.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Lengths {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) documents: u64,
}

/// A line of train-bpe's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(super) enum TokenizerRecord {
    Tokenizer(Tokenizer),
    #[serde(other)]
    Other,
}

/// The vocabulary and what it was trained on.
#[derive(Debug, Deserialize)]
pub(super) struct Tokenizer {
    pub(super) vocab_size: u64,
    pub(super) documents: u64,
    pub(super) chars: u64,
    pub(super) bytes_per_token: Option<f64>,
    pub(super) reference_bytes_per_token: Option<f64>,
}

/// Every record of a file, in order; none where the port is not connected.
pub(super) fn read<T: DeserializeOwned>(path: Option<&Path>) -> Result<Vec<T>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut records = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        records.push(serde_json::from_str(line).map_err(|e| {
            anyhow!(
                "line {} of {} is not a record that a report reads: {e}\nhint: rerun the stage that wrote it with `--force`",
                i + 1,
                path.display(),
            )
        })?);
    }
    Ok(records)
}

impl Pack {
    /// Whose lengths [`Pack::lengths`] counts.
    pub(super) fn measured(&self) -> String {
        let n = self.lengths.iter().map(|l| l.documents).sum::<u64>();
        let all = if n < self.documents { "the first " } else { "all " };
        format!("{}, {all}{} documents", self.split, count(n))
    }
}
