//! Presets: groups, schedule and scaling rules as data. Each is a file in `presets/`; a new one is a file and a line here.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Group, Origin, Patterns, Scale, Scaling, Schedule};

macro_rules! presets {
    ($($(#[$about:meta])* $preset:ident = $name:literal),* $(,)?) => {
        /// A published setting of the whole recipe.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[non_exhaustive]
        pub enum OptimPreset {
            $($(#[$about])* #[serde(rename = $name)] $preset,)*
        }

        impl OptimPreset {
            /// Every preset, the oldest first.
            pub const ALL: &'static [OptimPreset] = &[$(Self::$preset),*];

            /// The name that a file gives.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$preset => $name,)*
                }
            }

            /// Its groups and rules, read once: a matrix asks for them hundreds of times.
            fn setting(self) -> &'static Setting {
                match self {
                    $(Self::$preset => {
                        static SETTING: LazyLock<Setting> = LazyLock::new(|| {
                            Setting::read($name, include_str!(concat!("../presets/", $name, ".toml")))
                        });
                        &SETTING
                    })*
                }
            }
        }
    };
}

presets! {
    /// nanochat of October 2025, commit dfc8833, as far as its file says.
    October2025 = "nanochat-2025-10",
    /// nanochat of 29 January 2026, commit 348fbb3.
    January2026 = "nanochat-2026-01",
    /// nanochat of July 2026, commit 92d63d4; the default.
    #[default]
    July2026 = "nanochat-2026-07",
}

/// A preset's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    schedule: Schedule,
    scaling: Scaling,
    groups: Vec<Listed>,
}

impl Setting {
    fn read(name: &str, text: &str) -> Self {
        // Part of the program: a test reads each.
        toml::from_str(text).unwrap_or_else(|e| unreachable!("{name}: {e}"))
    }
}

/// A group in it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    params: Patterns,
    uses: String,
    lr: f64,
    weight_decay: f64,
    scale: Scale,
    options: Map<String, Value>,
}

impl OptimPreset {
    /// The preset of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|preset| preset.name() == name)
    }

    /// The optimizer groups. Those whose parameters a model lacks are dropped when resolved.
    pub fn groups(self) -> Vec<Group> {
        let group = |Listed { name, params, uses, lr, weight_decay, scale, options }| Group {
            name,
            params,
            uses,
            lr,
            weight_decay,
            scale,
            options,
            origin: Origin::Preset,
        };
        self.setting().groups.iter().cloned().map(group).collect()
    }

    /// How rates, momentum and decay run.
    pub fn schedule(self) -> Schedule {
        self.setting().schedule
    }

    /// How the run's size follows from the model's.
    pub fn scaling(self) -> Scaling {
        self.setting().scaling
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn every_preset_is_whole_and_its_rules_know_its_keys() {
        let registry = Registry::standard();
        for &preset in OptimPreset::ALL {
            assert_eq!(OptimPreset::from_name(preset.name()), Some(preset));
            assert_eq!(serde_json::to_value(preset).unwrap(), preset.name());
            preset.schedule().check().unwrap();
            assert!(preset.scaling().tokens_per_param > 0.0);
            for group in preset.groups() {
                registry.check(&group.uses, &group.options).unwrap();
            }
        }
    }
}
