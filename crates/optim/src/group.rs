//! Groups: which parameters share an optimizer and its numbers, and how a file's keys override a preset's. Matching is in
//! `resolve`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Patterns, Plan, Result};

/// What a group's numbers are multiplied by, from the run's plan and schedule. The learning rate's schedule applies to every group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// lr × √(batch / 524,288).
    pub batch: bool,
    /// lr × (C / 768)^−½.
    pub width: bool,
    /// weight decay × the plan's factor × the schedule's factor.
    pub weight_decay: bool,
}

impl Default for Scale {
    /// What a group that a file adds gets: the batch factor alone.
    fn default() -> Self {
        Self { batch: true, width: false, weight_decay: false }
    }
}

/// Where a group's settings come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// The preset alone. Dropped when the model has none of its parameters.
    Preset,
    /// The preset, with other numbers from the file. Must match a parameter.
    Adjusted,
    /// The file wrote its `params`. Must match a parameter, and what it matches is not offered to preset or adjusted groups.
    File,
}

/// Parameters that share an optimizer and its numbers.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Group {
    /// The group's name.
    pub name: String,
    /// Globs on checkpoint names; a parameter matches when one of them does.
    pub params: Patterns,
    /// The optimizer's name in the [`Registry`](crate::Registry).
    pub uses: String,
    /// Learning rate before scaling and schedule.
    pub lr: f64,
    /// Weight decay before scaling and schedule.
    pub weight_decay: f64,
    /// What lr and weight decay are multiplied by.
    pub scale: Scale,
    /// The optimizer's own keys.
    pub options: Map<String, Value>,
    /// Where this comes from.
    pub origin: Origin,
}

impl Group {
    /// The learning rate under `plan`, before the schedule.
    pub fn scaled_lr(&self, plan: &Plan) -> f64 {
        let mut lr = self.lr;
        if self.scale.batch {
            lr *= plan.lr_scale;
        }
        if self.scale.width {
            lr *= plan.width_lr_scale;
        }
        lr
    }

    /// The weight decay under `plan`, before the schedule.
    pub fn scaled_weight_decay(&self, plan: &Plan) -> f64 {
        let factor = if self.scale.weight_decay { plan.weight_decay_scale } else { 1.0 };
        self.weight_decay * factor
    }
}

/// [`Scale`] as a file may write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScaleKeys {
    /// Whether the learning rate follows the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<bool>,
    /// Whether the learning rate follows the model's width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<bool>,
    /// Whether the weight decay follows the model or the horizon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<bool>,
}

/// A group as a file may write it: any of a group's keys, and any of its optimizer's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GroupKeys {
    /// Globs on the names of parameters, as in a checkpoint; every parameter belongs to exactly one group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Patterns>,
    /// The optimizer: `adamw`, `muon`, `normuon`, or one that the program registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<String>,
    /// Learning rate before scaling and schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Weight decay before scaling and schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// What learning rate and weight decay are multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleKeys>,
    /// The optimizer's own keys; checked by [`Registry::check`](crate::Registry::check).
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

impl GroupKeys {
    /// The keys that every group has, whatever its optimizer.
    pub const COMMON: [&'static str; 5] = ["params", "uses", "lr", "weight_decay", "scale"];
}

/// The preset's groups with a file's laid over them, by name.
///
/// A name that the preset has: the keys written replace the preset's, one by one. When `uses` changes, the preset's numbers and
/// optimizer keys were meant for another rule and are dropped: `lr` must be written, `weight_decay` is 0 unless written; `params` and
/// `scale` stay. A name that the preset lacks: a new group; `params`, `uses` and `lr` must be written.
/// New groups come after the preset's, in order of their names.
///
/// # Errors
/// [`Error::MissingKey`]; [`Error::Value`] for a learning rate or weight decay that is negative or not finite.
pub fn merge(preset: Vec<Group>, file: &BTreeMap<String, GroupKeys>) -> Result<Vec<Group>> {
    let mut groups = preset;
    for (name, keys) in file {
        match groups.iter_mut().find(|g| g.name == *name) {
            Some(group) => overlay(group, keys)?,
            None => groups.push(new_group(name, keys)?),
        }
    }
    for group in &groups {
        for (key, value) in [("lr", group.lr), ("weight_decay", group.weight_decay)] {
            let hint = "a finite number, 0 or above";
            let key = format!("group `{}`: {key}", group.name);
            crate::adamw::within(&key, value, value >= 0.0 && value.is_finite(), hint)?;
        }
    }
    Ok(groups)
}

fn new_group(name: &str, keys: &GroupKeys) -> Result<Group> {
    let missing = |key| Error::MissingKey {
        group: name.to_owned(),
        key,
        hint: "the preset has no group of this name, so it must say `params`, `uses` and `lr`; \
               or correct the name"
            .to_owned(),
    };
    Ok(Group {
        name: name.to_owned(),
        params: keys.params.clone().ok_or_else(|| missing("params"))?,
        uses: keys.uses.clone().ok_or_else(|| missing("uses"))?,
        lr: keys.lr.ok_or_else(|| missing("lr"))?,
        weight_decay: keys.weight_decay.unwrap_or(0.0),
        scale: scaled(Scale::default(), keys.scale),
        options: keys.options.clone(),
        origin: Origin::File,
    })
}

fn overlay(group: &mut Group, keys: &GroupKeys) -> Result<()> {
    group.origin = Origin::Adjusted;
    if let Some(params) = &keys.params {
        group.params.clone_from(params);
        group.origin = Origin::File;
    }
    if let Some(uses) = &keys.uses
        && *uses != group.uses
    {
        let hint =
            format!("the preset's {} was meant for `{}`, not `{uses}`", group.lr, group.uses);
        keys.lr.ok_or(Error::MissingKey { group: group.name.clone(), key: "lr", hint })?;
        group.uses.clone_from(uses);
        group.weight_decay = 0.0;
        group.options = Map::new();
    }
    group.lr = keys.lr.unwrap_or(group.lr);
    group.weight_decay = keys.weight_decay.unwrap_or(group.weight_decay);
    group.scale = scaled(group.scale, keys.scale);
    group.options.extend(keys.options.clone());
    Ok(())
}

fn scaled(scale: Scale, keys: Option<ScaleKeys>) -> Scale {
    let keys = keys.unwrap_or_default();
    Scale {
        batch: keys.batch.unwrap_or(scale.batch),
        width: keys.width.unwrap_or(scale.width),
        weight_decay: keys.weight_decay.unwrap_or(scale.weight_decay),
    }
}
