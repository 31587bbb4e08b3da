//! The two published settings, as data: groups, schedule and scaling rules of nanochat in January and in July 2026.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{BatchRule, Decay, Group, Momentum, Origin, Scale, Scaling, Schedule, WeightDecayRule};

/// A published setting of the whole recipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Preset {
    /// nanochat of 29 January 2026, commit 348fbb3.
    #[serde(rename = "nanochat-2026-01")]
    January2026,
    /// nanochat of July 2026, commit 92d63d4; the default.
    #[default]
    #[serde(rename = "nanochat-2026-07")]
    July2026,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Preset; 2] = [Self::January2026, Self::July2026];

    /// The name that a file gives.
    pub fn name(self) -> &'static str {
        match self {
            Self::January2026 => "nanochat-2026-01",
            Self::July2026 => "nanochat-2026-07",
        }
    }

    /// The preset of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The optimizer groups. Those whose parameters a model lacks are dropped when resolved.
    pub fn groups(self) -> Vec<Group> {
        // (January, July)
        let pick = |j: f64, h: f64| match self {
            Self::January2026 => j,
            Self::July2026 => h,
        };
        let scale = |batch, width| Scale { batch, width, weight_decay: false };
        let adamw = |name, params, lr, betas: [f64; 2], weight_decay, scale| {
            let options = options(json!({ "betas": betas, "eps": 1e-10 }));
            group(name, params, "adamw", lr, weight_decay, scale, options)
        };
        let normuon = options(match self {
            Self::January2026 => json!({
                "equilibrate": false, "safety": 1.02, "steps": 5, "renormalize": false,
                "variance_reduction": true, "beta2": 0.95, "cautious": true,
            }),
            Self::July2026 => json!({
                "equilibrate": true, "safety": 1.01, "steps": 5, "renormalize": true,
                "variance_reduction": true, "beta2": 0.9, "cautious": true,
            }),
        });
        let all = Scale { batch: true, width: false, weight_decay: true };
        let head = [0.8, pick(0.95, 0.96)];
        let table = [0.8, pick(0.95, 0.995)];
        vec![
            adamw(
                "lm_head",
                &["lm_head.weight"],
                pick(0.004, 0.008),
                head,
                pick(0.0, 0.01),
                scale(true, true),
            ),
            adamw(
                "wte",
                &["transformer.wte.weight"],
                0.3,
                table,
                pick(0.0, 0.001),
                scale(true, true),
            ),
            adamw(
                "value_embeds",
                &["value_embeds.*.weight"],
                pick(0.3, 0.15),
                table,
                pick(0.0, 0.01),
                scale(true, true),
            ),
            adamw(
                "resid_lambdas",
                &["resid_lambdas"],
                0.5 * 0.01,
                [0.8, 0.95],
                pick(0.0, 0.05),
                scale(true, false),
            ),
            adamw("x0_lambdas", &["x0_lambdas"], 0.5, [0.96, 0.95], 0.0, scale(true, false)),
            adamw(
                "smear",
                &["smear_gate.weight", "smear_lambda", "backout_lambda"],
                0.2,
                [0.8, 0.95],
                0.0,
                scale(false, false),
            ),
            group(
                "matrices",
                &["transformer.h.**"],
                "normuon",
                0.02,
                pick(0.2, 0.28),
                all,
                normuon,
            ),
        ]
    }

    /// How rates, momentum and decay run.
    pub fn schedule(self) -> Schedule {
        match self {
            Self::January2026 => Schedule {
                warmup_steps: 0,
                warmdown_frac: 0.5,
                final_lr_frac: 0.0,
                momentum: Momentum { start: 0.85, peak: 0.95, warmup_steps: 300, end: None },
                weight_decay: Decay::Linear,
            },
            Self::July2026 => Schedule {
                warmup_steps: 40,
                warmdown_frac: 0.65,
                final_lr_frac: 0.05,
                momentum: Momentum { start: 0.85, peak: 0.97, warmup_steps: 400, end: Some(0.90) },
                weight_decay: Decay::Cosine,
            },
        }
    }

    /// How the run's size follows from the model's.
    pub fn scaling(self) -> Scaling {
        match self {
            Self::January2026 => Scaling {
                tokens_per_param: 12.0,
                batch: BatchRule::Fixed,
                weight_decay: WeightDecayRule::Depth,
            },
            Self::July2026 => Scaling {
                tokens_per_param: 12.0,
                batch: BatchRule::Horizon,
                weight_decay: WeightDecayRule::Horizon,
            },
        }
    }
}

fn options(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn group(
    name: &str,
    params: &[&str],
    uses: &str,
    lr: f64,
    weight_decay: f64,
    scale: Scale,
    options: Map<String, Value>,
) -> Group {
    Group {
        name: name.to_owned(),
        params: params.iter().map(|&p| p.to_owned()).collect(),
        uses: uses.to_owned(),
        lr,
        weight_decay,
        scale,
        options,
        origin: Origin::Preset,
    }
}
