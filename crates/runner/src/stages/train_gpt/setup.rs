//! From a config and two facts of the data, the vocabulary and the row length, to everything that is fixed before the first
//! step: the model, its groups and slabs, horizon, batch and rates. `--plan` prints it, a run executes it.

use anyhow::Context;
use farthing_kernels::SlabSpec;
use farthing_model::{Gpt, ModelConfig};
use farthing_optim::{
    Group, GroupSummary, Listed, Plan, Registry, Schedule, Size, merge, resolve, summarize,
};

use super::config::TrainConfig;
use crate::{Resources, Result};

/// The model's parameters as groups are matched against them.
pub(super) fn listed(gpt: &Gpt) -> Vec<Listed<'_>> {
    gpt.params().iter().map(|p| (p.name.as_str(), p.shape, p.id)).collect()
}

/// A run before it starts.
pub(crate) struct Setup {
    pub(crate) gpt: Gpt,
    pub(crate) groups: Vec<Group>,
    pub(crate) slabs: Vec<SlabSpec>,
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) summary: Vec<GroupSummary>,
    /// Rows per step.
    pub(crate) rows: usize,
}

/// Tokens of a micro-batch that the automatic choice stays under, on a CPU and on a GPU: enough that matrix products run at
/// full rate, few enough that activations stay small beside weights.
const MICRO_BATCH_TOKENS: [usize; 2] = [4_096, 32_768];

impl Setup {
    pub(crate) fn new(
        config: &TrainConfig,
        registry: &Registry,
        vocab_size: usize,
        seq_len: usize,
    ) -> Result<Self> {
        if let Some(asked) = config.seq_len.filter(|asked| *asked != seq_len) {
            let than = if asked > seq_len { "longer" } else { "shorter" };
            anyhow::bail!(
                "a sequence of {asked} tokens is {than} than the rows, which hold {seq_len}\n\
                 hint: pack rows of that length with `row_tokens = {asked}`, or set `seq_len = {seq_len}`"
            );
        }
        let model = config.model.resolve(vocab_size, seq_len)?;
        let reference =
            ModelConfig { depth: farthing_optim::REFERENCE_DEPTH, ..config.model.clone() };
        let size = Size {
            scaling_params: model.scaling_params(),
            reference_scaling_params: reference.resolve(vocab_size, seq_len)?.scaling_params(),
            model_dim: model.model_dim,
            depth: model.depth,
        };
        let gpt = Gpt::new(model)?;
        let preset = config.preset();
        let plan = config.schedule.scaling(preset).plan(&size, &config.schedule.overrides())?;
        let schedule = config.schedule.schedule(preset)?;
        let groups = merge(preset.groups(), &config.optim)?;
        for group in &groups {
            registry.check(&group.uses, &group.options)?;
        }
        let slabs = resolve(&groups, &listed(&gpt))?;
        let summary = summarize(&groups, &slabs, &plan)?;
        let rows = plan.batch_tokens as usize / seq_len;
        if rows == 0 || !(plan.batch_tokens as usize).is_multiple_of(seq_len) {
            anyhow::bail!(
                "a step of {} tokens is not a whole number of rows of {seq_len} tokens\n\
                 hint: set `schedule.batch_tokens` to a multiple of {seq_len}",
                plan.batch_tokens
            );
        }
        Ok(Self { gpt, groups, slabs, plan, schedule, summary, rows })
    }

    /// Rows per micro-batch: as asked, or the largest divisor of a step's rows that stays under the device's usual number of tokens.
    /// Never depends on the number of threads.
    pub(crate) fn micro_batch_rows(
        &self,
        asked: Option<usize>,
        resources: &Resources,
    ) -> Result<usize> {
        let per_gpu = self.rows / resources.gpus.max(1) as usize;
        if let Some(rows) = asked {
            if rows == 0 || !self.rows.is_multiple_of(rows) {
                anyhow::bail!(
                    "exec.micro_batch_rows is {rows}, but a step has {} rows\n\
                     hint: use a divisor of {}, or leave it out",
                    self.rows,
                    self.rows
                );
            }
            return Ok(rows);
        }
        let tokens = MICRO_BATCH_TOKENS[usize::from(resources.gpus > 0)];
        let most = (tokens / self.gpt.config().seq_len).clamp(1, per_gpu.max(1));
        (1..=most)
            .rev()
            .find(|rows| self.rows.is_multiple_of(*rows))
            .context("one row divides any step")
    }

    /// FLOPs of the whole run, forward and backward.
    pub(crate) fn flops(&self) -> f64 {
        self.gpt.config().flops_per_token() * self.plan.trained_tokens() as f64
    }

    /// Elements of all parameters.
    pub(crate) fn elements(&self) -> u64 {
        self.summary.iter().map(|g| g.elements).sum()
    }
}
