//! What runs over training: the learning rate's factor, Muon's momentum, the weight decay's factor. Pure functions of
//! (step, total), step counting from 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::adamw::within;

/// How the weight decay of groups that scale it falls to the end of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Decay {
    /// 1.
    Constant,
    /// 1 − t/N.
    Linear,
    /// ½·(1 + cos(π·t/N)).
    Cosine,
}

/// Muon's momentum: from `start` to `peak` over `warmup_steps`, then `peak`, then to `end` over the learning rate's warm-down.
/// Warm-up takes precedence.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Momentum {
    /// At step 0.
    pub start: f64,
    /// After warm-up.
    pub peak: f64,
    /// Steps from `start` to `peak`.
    pub warmup_steps: u64,
    /// At the end of the run; `peak` when absent.
    pub end: Option<f64>,
}

/// The course of a run of N steps, W = round(warmdown_frac · N) of them warm-down (a half rounds to even).
///
/// # Source
/// nanochat, both settings; see [`OptimPreset::schedule`](crate::OptimPreset::schedule).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Steps of linear warm-up; a shorter run never reaches the full rate.
    pub warmup_steps: u64,
    /// The part of the run in which the learning rate falls, 0 to 1.
    pub warmdown_frac: f64,
    /// What the learning rate falls to, as a part of the full rate.
    pub final_lr_frac: f64,
    /// Muon's momentum.
    pub momentum: Momentum,
    /// The weight decay's factor.
    pub weight_decay: Decay,
}

/// One step's factors.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Factors {
    /// On every learning rate.
    pub lr: f64,
    /// Muon's momentum.
    pub momentum: f64,
    /// On the weight decay of groups that scale it.
    pub weight_decay: f64,
}

impl Schedule {
    /// Everything at step `t` of `total`.
    pub fn at(&self, t: u64, total: u64) -> Factors {
        Factors {
            lr: self.lr(t, total),
            momentum: self.momentum(t, total),
            weight_decay: self.weight_decay(t, total),
        }
    }

    /// The learning rate's factor: (t+1)/warmup_steps while t < warmup_steps; 1 while t ≤ N − W; then p + (1−p)·final with p = (N−t)/W.
    pub fn lr(&self, t: u64, total: u64) -> f64 {
        let warmdown = self.warmdown_steps(total);
        if t < self.warmup_steps {
            return (t + 1) as f64 / self.warmup_steps as f64;
        }
        if t <= total - warmdown {
            return 1.0;
        }
        let p = total.saturating_sub(t) as f64 / warmdown.max(1) as f64;
        p + (1.0 - p) * self.final_lr_frac
    }

    /// Muon's momentum.
    pub fn momentum(&self, t: u64, total: u64) -> f64 {
        let Momentum { start, peak, warmup_steps, end } = self.momentum;
        if t < warmup_steps {
            let f = t as f64 / warmup_steps as f64;
            return (1.0 - f) * start + f * peak;
        }
        let warmdown = self.warmdown_steps(total);
        match end {
            Some(end) if warmdown > 0 && t >= total - warmdown => {
                let f = (t.min(total) - (total - warmdown)) as f64 / warmdown as f64;
                peak * (1.0 - f) + end * f
            }
            _ => peak,
        }
    }

    /// The weight decay's factor.
    pub fn weight_decay(&self, t: u64, total: u64) -> f64 {
        let (t, total) = (t.min(total) as f64, total.max(1) as f64);
        match self.weight_decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - t / total,
            // In nanochat's order, so that the factors are equal to the last bit.
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * t / total).cos()),
        }
    }

    /// W: the steps in which the learning rate falls.
    pub fn warmdown_steps(&self, total: u64) -> u64 {
        ((self.warmdown_frac * total as f64).round_ties_even() as u64).min(total)
    }

    /// Refuses fractions and momenta outside their domains.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value), naming the key.
    pub fn check(&self) -> Result<()> {
        let fraction = |key, x: f64| within(key, x, (0.0..=1.0).contains(&x), "0 to 1");
        fraction("warmdown_frac", self.warmdown_frac)?;
        fraction("final_lr_frac", self.final_lr_frac)?;
        let Momentum { start, peak, end, .. } = self.momentum;
        let momenta = [("start", start), ("peak", peak), ("end", end.unwrap_or(peak))];
        for (key, x) in momenta {
            let key = format!("momentum.{key}");
            within(&key, x, (0.0..1.0).contains(&x), "at least 0 and below 1")?;
        }
        Ok(())
    }
}

/// [`Momentum`] as a file may write it: what is absent is the preset's.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MomentumKeys {
    /// Momentum at the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Momentum after its warm-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<f64>,
    /// Steps from `start` to `peak`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Momentum at the end of the run; stays at `peak` where the preset has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
}

/// [`Schedule`], [`Scaling`](crate::Scaling) and [`Overrides`](crate::Overrides) as a file may write them: what is absent is the preset's.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleKeys {
    /// Training tokens per parameter of the blocks' matrices and `lm_head`: the horizon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_param: Option<f64>,
    /// Tokens per step; follows from the horizon when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<u64>,
    /// Steps to train, in place of those that the horizon asks for; it still decides batch and weight decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Steps over which the learning rate rises from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// The part of the run, at its end, in which the learning rate falls; 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmdown_frac: Option<f64>,
    /// What the learning rate falls to, as a part of the full rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_lr_frac: Option<f64>,
    /// How Muon's momentum runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<MomentumKeys>,
    /// How the weight decay of groups that scale it falls to the end of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<Decay>,
    /// How `batch_tokens` follows from the horizon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_rule: Option<crate::BatchRule>,
    /// How the weight decay's factor follows from the model or the horizon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay_rule: Option<crate::WeightDecayRule>,
}

impl ScheduleKeys {
    /// The schedule: the preset's with what is written here.
    ///
    /// # Errors
    /// As [`Schedule::check`].
    pub fn schedule(&self, preset: crate::OptimPreset) -> Result<Schedule> {
        let base = preset.schedule();
        let keys = self.momentum.unwrap_or_default();
        let schedule = Schedule {
            warmup_steps: self.warmup_steps.unwrap_or(base.warmup_steps),
            warmdown_frac: self.warmdown_frac.unwrap_or(base.warmdown_frac),
            final_lr_frac: self.final_lr_frac.unwrap_or(base.final_lr_frac),
            momentum: Momentum {
                start: keys.start.unwrap_or(base.momentum.start),
                peak: keys.peak.unwrap_or(base.momentum.peak),
                warmup_steps: keys.warmup_steps.unwrap_or(base.momentum.warmup_steps),
                end: keys.end.or(base.momentum.end),
            },
            weight_decay: self.weight_decay.unwrap_or(base.weight_decay),
        };
        schedule.check()?;
        Ok(schedule)
    }

    /// The scaling rules: the preset's with what is written here.
    pub fn scaling(&self, preset: crate::OptimPreset) -> crate::Scaling {
        let base = preset.scaling();
        crate::Scaling {
            tokens_per_param: self.tokens_per_param.unwrap_or(base.tokens_per_param),
            batch: self.batch_rule.unwrap_or(base.batch),
            weight_decay: self.weight_decay_rule.unwrap_or(base.weight_decay),
        }
    }

    /// What is fixed instead of derived.
    pub fn overrides(&self) -> crate::Overrides {
        crate::Overrides { batch_tokens: self.batch_tokens, steps: self.steps }
    }
}
