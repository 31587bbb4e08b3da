//! One dial: computes a run's length, batch size, learning rates and weight decay from the size of the model. These are pure functions of plain numbers; the model tells how many parameters it
//! has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The batch, in tokens, that the recipe's learning rates were found at.
pub const REFERENCE_BATCH_TOKENS: u64 = 524_288;
/// The depth at which the recipe was tuned.
pub const REFERENCE_DEPTH: usize = 12;
/// The width that the recipe's embedding rates were found at.
const REFERENCE_WIDTH: f64 = 768.0;
/// How the best batch grows with the horizon, arXiv 2505.13738.
const BATCH_EXPONENT: f64 = 0.383;

/// How the batch follows from the horizon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BatchRule {
    /// 524,288 tokens.
    Fixed,
    /// 2^round(log2(524,288 · (tokens / tokens at depth 12)^0.383)).
    Horizon,
}

/// How the weight decay's factor follows from the model or the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WeightDecayRule {
    /// 1.
    Fixed,
    /// (12 / depth)².
    Depth,
    /// √(batch / 524,288) · (tokens at depth 12 / tokens).
    Horizon,
}

/// The rules of a setting.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Training tokens per scaling parameter (matrices of the blocks and lm_head).
    pub tokens_per_param: f64,
    /// How the batch follows from the horizon.
    pub batch: BatchRule,
    /// How the weight decay's factor follows.
    pub weight_decay: WeightDecayRule,
}

/// What the rules need to know of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Elements in the blocks' matrices and lm_head.
    pub scaling_params: u64,
    /// The same of the same recipe at depth 12.
    pub reference_scaling_params: u64,
    /// C.
    pub model_dim: usize,
    /// L.
    pub depth: usize,
}

/// What is given instead of derived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// Tokens per step.
    pub batch_tokens: Option<u64>,
    /// Steps. The horizon in `tokens` still feeds the batch and weight decay.
    pub steps: Option<u64>,
}

/// A run's size and factors.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// The horizon in tokens: what the rules derive from. `steps · batch_tokens` are trained on.
    pub tokens: u64,
    /// Tokens per step.
    pub batch_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// √(batch / 524,288).
    pub lr_scale: f64,
    /// (C / 768)^−½.
    pub width_lr_scale: f64,
    /// The weight decay's factor.
    pub weight_decay_scale: f64,
    /// One line for each figure above: how it came about.
    pub explanation: Vec<String>,
}

impl Plan {
    /// Tokens trained on.
    pub fn trained_tokens(&self) -> u64 {
        self.steps * self.batch_tokens
    }
}

impl Scaling {
    /// The size and factors of a run.
    ///
    /// # Errors
    /// [`Error::Plan`] when a figure is zero or not a number, or the horizon is shorter than one batch.
    pub fn plan(&self, size: &Size, given: &Overrides) -> Result<Plan> {
        let Size { scaling_params, reference_scaling_params, model_dim, depth } = *size;
        let ratio = self.tokens_per_param;
        if !(ratio > 0.0 && ratio.is_finite()) {
            let what = format!("tokens_per_param is {ratio}");
            return refuse(what, "a number above 0; the recipe's is 12");
        }
        let figures = [
            ("the model's scaling parameters", Some(scaling_params)),
            ("the scaling parameters at depth 12", Some(reference_scaling_params)),
            ("model_dim", Some(model_dim as u64)),
            ("depth", Some(depth as u64)),
            ("batch_tokens", given.batch_tokens),
            ("steps", given.steps),
        ];
        if let Some((what, _)) = figures.iter().find(|(_, figure)| *figure == Some(0)) {
            return refuse(format!("{what}: 0"), "a number above 0");
        }
        let reference_batch = REFERENCE_BATCH_TOKENS as f64;
        let tokens = (ratio * scaling_params as f64) as u64;
        let reference_tokens = ratio * reference_scaling_params as f64;
        let mut why = vec![format!(
            "horizon {} tokens = {ratio} per parameter × {} scaling parameters (blocks' matrices + lm_head)",
            commas(tokens),
            commas(scaling_params)
        )];

        let batch_tokens = match (given.batch_tokens, self.batch) {
            (Some(batch), _) => {
                why.push(format!("batch {} tokens, as given", commas(batch)));
                batch
            }
            (None, BatchRule::Fixed) => {
                why.push(format!("batch {} tokens, fixed", commas(REFERENCE_BATCH_TOKENS)));
                REFERENCE_BATCH_TOKENS
            }
            (None, BatchRule::Horizon) => {
                let growth = (tokens as f64 / reference_tokens).powf(BATCH_EXPONENT);
                let exponent = (reference_batch * growth).log2().round_ties_even();
                let batch = 2f64.powf(exponent.max(0.0)) as u64;
                why.push(format!(
                    "batch {} tokens = 2^round(log2(524,288 × (horizon / {} at depth 12)^{BATCH_EXPONENT} = {}))",
                    commas(batch),
                    commas(reference_tokens as u64),
                    commas((reference_batch * growth).round() as u64)
                ));
                batch
            }
        };

        let steps = if let Some(steps) = given.steps {
            why.push(format!("{} steps, as given", commas(steps)));
            steps
        } else {
            let steps = tokens / batch_tokens;
            why.push(format!("{} steps = horizon / batch, rounded down", commas(steps)));
            steps
        };
        if steps == 0 {
            let what = format!(
                "the horizon of {} tokens is shorter than one batch of {} tokens",
                commas(tokens),
                commas(batch_tokens)
            );
            return refuse(what, "lower `batch_tokens`, raise `tokens_per_param`, or give `steps`");
        }

        let lr_scale = (batch_tokens as f64 / reference_batch).sqrt();
        why.push(format!("learning rates × {lr_scale:.6} = √(batch / 524,288)"));
        let width_lr_scale = (model_dim as f64 / REFERENCE_WIDTH).powf(-0.5);
        why.push(format!(
            "learning rates of embeddings and lm_head × {width_lr_scale:.6} = ({model_dim} / 768)^-0.5"
        ));
        let weight_decay_scale = match self.weight_decay {
            WeightDecayRule::Fixed => 1.0,
            WeightDecayRule::Depth => (REFERENCE_DEPTH as f64 / depth as f64).powi(2),
            WeightDecayRule::Horizon => lr_scale * (reference_tokens / tokens as f64),
        };
        why.push(match self.weight_decay {
            WeightDecayRule::Fixed => "weight decay × 1".to_owned(),
            WeightDecayRule::Depth => {
                format!("weight decay of matrices × {weight_decay_scale:.6} = (12 / {depth})²")
            }
            WeightDecayRule::Horizon => format!(
                "weight decay of matrices × {weight_decay_scale:.6} = √(batch / 524,288) × (horizon at depth 12 / horizon)"
            ),
        });
        Ok(Plan {
            tokens,
            batch_tokens,
            steps,
            lr_scale,
            width_lr_scale,
            weight_decay_scale,
            explanation: why,
        })
    }
}

fn refuse<T>(what: String, hint: &str) -> Result<T> {
    Err(Error::Plan { what, hint: hint.to_owned() })
}

/// 16704 → "16,704".
pub(crate) fn commas(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
