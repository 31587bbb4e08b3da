//! The metrics files that a report reads: JSON lines, each with its kind under `record`. Records of kinds unknown here are
//! passed over, so that a stage can write more than the report shows; a line that is not such a record is an error.

use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::progress::format::count;

/// A line of eval-bpb's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(in crate::stages) enum BpbRecord {
    Bpb(Bpb),
    #[serde(other)]
    Other,
}

/// Bits per byte of the trained model.
#[derive(Debug, Deserialize)]
pub(in crate::stages) struct Bpb {
    pub(in crate::stages) bpb: Option<f64>,
    pub(in crate::stages) tokens: Option<u64>,
}

/// A line of eval-core's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(in crate::stages) enum CoreRecord {
    Task(Task),
    Core(Core),
    #[serde(other)]
    Other,
}

/// One task; accuracy and baseline are shares.
#[derive(Debug, Deserialize)]
pub(in crate::stages) struct Task {
    #[serde(rename = "task")]
    pub(in crate::stages) name: String,
    #[serde(rename = "type", default)]
    pub(in crate::stages) kind: String,
    pub(in crate::stages) accuracy: f64,
    pub(in crate::stages) baseline: f64,
    pub(in crate::stages) centered: f64,
    #[serde(default)]
    pub(in crate::stages) examples: u64,
}

/// All tasks together.
#[derive(Debug, Deserialize)]
pub(in crate::stages) struct Core {
    #[serde(rename = "core")]
    pub(in crate::stages) centered: f64,
    pub(in crate::stages) accuracy: f64,
    pub(in crate::stages) chance: f64,
}

/// A line of the sample stage's text.
#[derive(Debug, Deserialize)]
pub(in crate::stages) struct Sample {
    #[serde(default)]
    pub(in crate::stages) prompt: String,
    pub(in crate::stages) text: String,
    pub(in crate::stages) temperature: Option<f64>,
}

/// A line of pack-bestfit's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(in crate::stages) enum PackRecord {
    Pack(Pack),
    #[serde(other)]
    Other,
}

/// What became of one split; shares are of 1.
#[derive(Debug, Deserialize)]
pub(in crate::stages) struct Pack {
    pub(in crate::stages) split: String,
    pub(in crate::stages) documents: u64,
    pub(in crate::stages) tokens_in: u64,
    pub(in crate::stages) rows: u64,
    pub(in crate::stages) row_tokens: u64,
    pub(in crate::stages) lost: f64,
    pub(in crate::stages) bound: f64,
    pub(in crate::stages) utilisation: f64,
    pub(in crate::stages) continuation: f64,
    /// Documents by length in tokens.
    #[serde(default)]
    pub(in crate::stages) lengths: Vec<Lengths>,
}

/// Documents of `from ..= to` tokens.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::stages) struct Lengths {
    pub(in crate::stages) from: u64,
    pub(in crate::stages) to: u64,
    pub(in crate::stages) documents: u64,
}

/// A line of train-bpe's metrics.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(in crate::stages) enum TokenizerRecord {
    Tokenizer(Tokenizer),
    #[serde(other)]
    Other,
}

/// The vocabulary and what it was trained on.
#[derive(Debug, Deserialize)]
pub(in crate::stages) struct Tokenizer {
    pub(in crate::stages) vocab_size: u64,
    pub(in crate::stages) documents: u64,
    pub(in crate::stages) chars: u64,
    pub(in crate::stages) bytes_per_token: Option<f64>,
    pub(in crate::stages) reference_bytes_per_token: Option<f64>,
}

/// Every record of a file, in order; none where the port is not connected.
pub(in crate::stages) fn read<T: DeserializeOwned>(path: Option<&Path>) -> Result<Vec<T>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = farthing_base::files::read_to_string(path)
        .with_context(|| format!("reading {}", path.display()))?;
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
    pub(in crate::stages) fn measured(&self) -> String {
        let n = self.lengths.iter().map(|l| l.documents).sum::<u64>();
        let all = if n < self.documents { "the first " } else { "all " };
        format!("{}, {all}{} documents", self.split, count(n))
    }
}
