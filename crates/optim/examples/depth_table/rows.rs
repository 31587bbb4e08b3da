//! A row of the depth table: everything that follows from one number, computed as a training run computes it.

#![allow(dead_code, reason = "the example and the test each use a part")]

use farthing_model::{Gpt, GptConfig, ModelConfig};
use farthing_optim::{
    GroupSummary, Listed, OptimPreset, Overrides, Plan, REFERENCE_DEPTH, Size, resolve, summarize,
};

/// One depth of one setting.
pub(crate) struct Row {
    pub(crate) model: GptConfig,
    pub(crate) plan: Plan,
    pub(crate) groups: Vec<GroupSummary>,
}

/// The row of `depth`, with a vocabulary of 32,768 entries and rows of 2,048 tokens.
///
/// # Errors
/// As [`ModelConfig::resolve`], [`resolve`] and [`farthing_optim::Scaling::plan`].
pub(crate) fn row(preset: OptimPreset, depth: usize) -> Result<Row, Box<dyn std::error::Error>> {
    let mut of_models = farthing_model::Preset::ALL.iter().copied();
    let of_model = of_models.find(|of_model| of_model.name() == preset.name());
    let of_model = of_model.ok_or_else(|| format!("no model of {}", preset.name()))?;
    let model = |depth| ModelConfig::new(of_model, depth).resolve(32_768, 2_048);
    let gpt = Gpt::new(model(depth)?)?;
    let size = Size {
        scaling_params: gpt.config().scaling_params(),
        reference_scaling_params: model(REFERENCE_DEPTH)?.scaling_params(),
        model_dim: gpt.config().model_dim,
        depth,
    };
    let plan = preset.scaling().plan(&size, &Overrides::default())?;
    let groups = preset.groups();
    let listed: Vec<Listed<'_>> =
        gpt.params().iter().map(|p| (p.name.as_str(), p.shape, p.id)).collect();
    let groups = summarize(&groups, &resolve(&groups, &listed)?, &plan)?;
    Ok(Row { model: gpt.config().clone(), plan, groups })
}

impl Row {
    /// The groups' elements, learning rates and weight decays: (elements, lr, weight decay), where the setting has the group.
    pub(crate) fn group(&self, name: &str) -> Option<(u64, f64, f64)> {
        let group = self.groups.iter().find(|group| group.name == name)?;
        Some((group.elements, group.lr, group.weight_decay))
    }

    /// Scaling parameters.
    pub(crate) fn scaling_params(&self) -> u64 {
        self.model.scaling_params()
    }

    /// Elements of all parameters.
    pub(crate) fn elements(&self) -> u64 {
        self.groups.iter().map(|group| group.elements).sum()
    }
}
