//! Presets: what a model's keys are where nothing is written, as data. Each is a file in `presets/`; a new one is a file and a line here.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Mlp, ModelConfig, Result};

macro_rules! presets {
    ($($(#[$about:meta])* $preset:ident = $name:literal),* $(,)?) => {
        /// A published setting of the recipe, from which every key that is not written takes its value.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[non_exhaustive]
        pub enum Preset {
            $($(#[$about])* #[serde(rename = $name)] $preset,)*
        }

        impl Preset {
            /// Every preset, the oldest first.
            pub const ALL: &'static [Preset] = &[$(Self::$preset),*];

            /// The name that a file gives.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$preset => $name,)*
                }
            }

            /// Its keys, or what is wrong with the file of them, read once: a matrix asks for them hundreds of times.
            fn keys(self) -> &'static Result<Keys, String> {
                match self {
                    $(Self::$preset => {
                        static KEYS: LazyLock<Result<Keys, String>> = LazyLock::new(|| {
                            let text = include_str!(concat!("../presets/", $name, ".toml"));
                            toml::from_str(text).map_err(|e| e.to_string())
                        });
                        &KEYS
                    })*
                }
            }
        }
    };
}

presets! {
    /// nanochat of October 2025, its first release.
    Nanochat202510 = "nanochat-2025-10",
    /// nanochat of 29 January 2026: d24 on FineWeb-edu, CORE 0.2585.
    Nanochat202601 = "nanochat-2026-01",
    /// nanochat of July 2026: smear, backout, wider rotary base, query-key gain.
    #[default]
    Nanochat202607 = "nanochat-2026-07",
}

/// A short window by the row length T: a share of it, rounded up to a multiple where there is one, else down to a whole number.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShortWindow {
    share: f64,
    multiple: Option<usize>,
}

impl ShortWindow {
    pub(crate) fn of(self, seq_len: usize) -> usize {
        let share = seq_len as f64 * self.share;
        match self.multiple {
            Some(multiple) => (share / multiple as f64).ceil() as usize * multiple,
            None => share as usize,
        }
    }
}

/// Lists the keys whose values a preset gives as they are; [`ModelConfig`] has each as an option.
macro_rules! keys {
    ($($key:ident: $type:ty),* $(,)?) => {
        /// A preset's values, or these with a file's keys laid over them.
        #[derive(Clone, PartialEq, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Keys {
            pub(crate) short_window: ShortWindow,
            $(pub(crate) $key: $type,)*
        }

        impl Keys {
            /// The preset's values where `config` says nothing.
            pub(crate) fn of(config: &ModelConfig) -> Result<Self> {
                let preset = Self::parsed(config.preset)?;
                Ok(Self {
                    short_window: preset.short_window,
                    $($key: config.$key.clone().unwrap_or(preset.$key),)*
                })
            }
        }
    };
}

keys! {
    aspect_ratio: usize,
    head_dim: usize,
    window_pattern: String,
    rope_base: f64,
    rotary_fraction: f64,
    qk_gain: f64,
    mlp: Mlp,
    value_embeds: bool,
    ve_gate_channels: usize,
    ve_gate_max: f64,
    smear: bool,
    smear_channels: usize,
    backout: bool,
    logit_softcap: f64,
    init_wte_std: f64,
    init_lm_head_std: f64,
    init_c_fc: f64,
    init_resid_lambda: [f64; 2],
    init_x0_lambda: [f64; 2],
    init_ve_gate: f64,
    init_backout_lambda: f64,
}

impl Keys {
    fn parsed(preset: Preset) -> Result<Self> {
        preset.keys().clone().map_err(|e| Error::Config {
            key: "preset",
            what: format!("`{}` cannot be read: {e}", preset.name()),
            hint: "this is a fault of the program".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_whole_and_named_as_its_file() {
        for &preset in Preset::ALL {
            Keys::parsed(preset).unwrap();
            assert_eq!(serde_json::to_value(preset).unwrap(), preset.name());
            ModelConfig::new(preset, 2).resolve(512, 64).unwrap();
        }
    }

    #[test]
    fn short_windows_are_nanochats() {
        let window = |preset: Preset, t| Keys::parsed(preset).unwrap().short_window.of(t);
        for t in [1, 2, 127, 128, 129, 511, 512, 513, 1_000, 2_048, 100_001] {
            assert_eq!(window(Preset::Nanochat202601, t), t / 2, "{t}");
            assert_eq!(window(Preset::Nanochat202607, t), t.div_ceil(512) * 128, "{t}");
        }
    }
}
