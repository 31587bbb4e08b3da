//! From a recipe and two facts of the data, the vocabulary and the row length, to everything that is fixed before the first step.

use std::collections::BTreeMap;

use farthing_kernels::SlabSpec;
use farthing_model::{Gpt, GptConfig, ModelConfig};
use farthing_optim::{
    Decay, Group, GroupKeys, GroupSummary, Listed, Momentum, OptimPreset, Overrides, Plan,
    REFERENCE_DEPTH, Registry, Schedule, ScheduleKeys, Size, merge, resolve, summarize,
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What is trained and how. Every number that is absent is the preset's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recipe {
    /// The model: preset, depth, and any number of it.
    pub model: ModelConfig,
    /// Horizon, batch, and how rates, momentum and decay run.
    pub schedule: ScheduleKeys,
    /// Optimizer groups, by name, laid over the preset's.
    pub optim: BTreeMap<String, GroupKeys>,
}

impl Recipe {
    /// The preset of a model of this depth, as it is.
    pub fn new(model: ModelConfig) -> Self {
        Self { model, schedule: ScheduleKeys::default(), optim: BTreeMap::new() }
    }

    /// The optimizers' side of the model's preset.
    pub fn preset(&self) -> OptimPreset {
        // Both crates have every preset: a test holds them to it.
        OptimPreset::from_name(self.model.preset.name()).unwrap_or_default()
    }
}

/// How a model that exists is finetuned, as nanochat's `chat_sft` does: lower rates, no weight decay of matrices, a schedule of its own. The optimizers begin
/// without a memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finetune {
    /// Whose optimizer groups.
    pub preset: OptimPreset,
    /// A factor on all learning rates, beside √(batch / 524,288).
    pub lr_frac: f64,
    /// Tokens of a step, those that are not learned included.
    pub batch_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// How rates run; see [`Finetune::schedule`].
    pub schedule: Schedule,
    /// Optimizer groups, by name, laid over the preset's.
    pub optim: BTreeMap<String, GroupKeys>,
}

impl Finetune {
    /// nanochat's: no warm-up, rates that fall to 0 over the second half, momentum from 0.85 to 0.95 over 300 steps.
    pub fn schedule() -> Schedule {
        Schedule {
            warmup_steps: 0,
            warmdown_frac: 0.5,
            final_lr_frac: 0.0,
            momentum: Momentum { start: 0.85, peak: 0.95, warmup_steps: 300, end: None },
            weight_decay: Decay::Constant,
        }
    }
}

/// A training before it starts.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The model.
    pub gpt: Gpt,
    /// Optimizer groups.
    pub groups: Vec<Group>,
    /// Parameters by group and shape.
    pub slabs: Vec<SlabSpec>,
    /// Horizon, batch and factors.
    pub plan: Plan,
    /// How rates run.
    pub schedule: Schedule,
    /// Groups with their sizes and rates.
    pub summary: Vec<GroupSummary>,
    /// Rows of a step.
    pub rows: usize,
}

impl Setup {
    /// Works out a recipe for rows of `seq_len` + 1 tokens over `vocab_size` entries.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::Optim`] for keys that make no model or no groups; [`Error::Recipe`] for a step that is not whole rows.
    pub fn new(
        recipe: &Recipe,
        registry: &Registry,
        vocab_size: usize,
        seq_len: usize,
    ) -> Result<Self> {
        let model = recipe.model.resolve(vocab_size, seq_len)?;
        let reference = ModelConfig { depth: REFERENCE_DEPTH, ..recipe.model.clone() };
        let size = Size {
            scaling_params: model.scaling_params(),
            reference_scaling_params: reference.resolve(vocab_size, seq_len)?.scaling_params(),
            model_dim: model.model_dim,
            depth: model.depth,
        };
        let gpt = Gpt::new(model)?;
        let preset = recipe.preset();
        let scaling = recipe.schedule.scaling(preset);
        let plan = scaling.plan(&size, &recipe.schedule.overrides())?;
        let schedule = recipe.schedule.schedule(preset)?;
        let groups = merge(preset.groups(), &recipe.optim)?;
        Self::of(gpt, groups, plan, schedule, registry)
    }

    /// Works out how a model that exists is finetuned.
    ///
    /// # Errors
    /// As [`Setup::new`].
    pub fn finetune(model: GptConfig, how: &Finetune, registry: &Registry) -> Result<Self> {
        let Finetune { preset, lr_frac, batch_tokens, steps, schedule, optim } = how;
        let size = Size {
            scaling_params: model.scaling_params(),
            reference_scaling_params: model.scaling_params(),
            model_dim: model.model_dim,
            depth: model.depth,
        };
        let given = Overrides { batch_tokens: Some(*batch_tokens), steps: Some(*steps) };
        let mut plan = preset.scaling().plan(&size, &given)?;
        plan.weight_decay_scale = 0.0;
        plan.explanation = vec![
            format!("{steps} steps of {batch_tokens} tokens"),
            format!("learning rates × {lr_frac}, and × {:.6} = √(batch / 524,288)", plan.lr_scale),
            "no weight decay of matrices".to_owned(),
        ];
        schedule.check()?;
        let mut groups = merge(preset.groups(), optim)?;
        for group in &mut groups {
            group.lr *= lr_frac;
        }
        Self::of(Gpt::new(model)?, groups, plan, *schedule, registry)
    }

    /// Groups and plan over a model's parameters.
    fn of(
        gpt: Gpt,
        groups: Vec<Group>,
        plan: Plan,
        schedule: Schedule,
        registry: &Registry,
    ) -> Result<Self> {
        for group in &groups {
            registry.check(&group.uses, &group.options)?;
        }
        let slabs = resolve(&groups, &listed(&gpt))?;
        let summary = summarize(&groups, &slabs, &plan)?;
        let seq_len = gpt.config().seq_len;
        let rows = plan.batch_tokens as usize / seq_len;
        if rows == 0 || !(plan.batch_tokens as usize).is_multiple_of(seq_len) {
            return Err(Error::Recipe {
                what: format!(
                    "a step of {} tokens is not a whole number of rows of {seq_len} tokens",
                    plan.batch_tokens
                ),
                hint: format!("set `schedule.batch_tokens` to a multiple of {seq_len}"),
            });
        }
        Ok(Self { gpt, groups, slabs, plan, schedule, summary, rows })
    }

    /// The largest number of rows that divides a rank's part of a step and has at most this many tokens; 1 at least.
    pub fn micro_batch_rows(&self, most_tokens: usize, ranks: usize) -> usize {
        let own = self.rows / ranks.max(1);
        let most = (most_tokens / self.gpt.config().seq_len).min(own);
        (1..=most).rev().find(|rows| own.is_multiple_of(*rows)).unwrap_or(1)
    }

    /// FLOPs of the whole run, forward and backward.
    pub fn flops(&self) -> f64 {
        self.gpt.config().flops_per_token() * self.plan.trained_tokens() as f64
    }

    /// Elements of all parameters.
    pub fn elements(&self) -> u64 {
        self.summary.iter().map(|group| group.elements).sum()
    }
}

/// The model's parameters as groups are matched against them.
pub fn listed(gpt: &Gpt) -> Vec<Listed<'_>> {
    gpt.params().iter().map(|p| (p.name.as_str(), p.shape, p.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_of_a_model_has_its_optimizers() {
        for &preset in farthing_model::Preset::ALL {
            let recipe = Recipe::new(ModelConfig::new(preset, 2));
            assert_eq!(recipe.preset().name(), preset.name());
            Setup::new(&recipe, &Registry::standard(), 512, 64).unwrap();
        }
        assert_eq!(OptimPreset::ALL.len(), farthing_model::Preset::ALL.len());
    }
}
