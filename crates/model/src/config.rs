//! `ModelConfig`, what a user writes, and `GptConfig`, the numbers that follow from it: one dial (depth), and presets.
//!
//! A preset is data (`presets/`), nothing more: [`ModelConfig::resolve`] lays the keys that are written over its values, and no code asks which preset it was.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::preset::{Keys, Preset};
use crate::{Error, Result};

/// What the MLP does between its matrices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mlp {
    /// c_proj · relu(c_fc · x)², 4·C wide: the recipe's.
    #[default]
    Relu2,
    /// c_proj · (silu(c_gate · x) ⊙ c_fc · x), 8/3·C wide, so that three matrices have the parameters of two.
    Swiglu,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_relu2(mlp: &Mlp) -> bool {
    *mlp == Mlp::Relu2
}

/// The share of a head's channels that is rotated where nothing is said.
const WHOLE_HEAD: f64 = 1.0;

fn whole_head() -> f64 {
    WHOLE_HEAD
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_whole_head(fraction: &f64) -> bool {
    *fraction == WHOLE_HEAD
}

/// What a user may say about the model. A key that is absent has the preset's value.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The setting that fills in what is not written here.
    #[serde(default)]
    pub preset: Preset,
    /// Number of layers: the dial that everything else follows.
    pub depth: usize,
    /// Channels per layer of depth, before rounding up to whole heads (64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aspect_ratio: Option<usize>,
    /// Channels per head (128).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Query heads (model_dim / head_dim).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Key/value heads; must divide `heads` (as many as `heads`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// `L` (the whole context) or `S` (short) per layer, tiled; the last layer is always `L` (`SSSL`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_pattern: Option<String>,
    /// Tokens before its own that a position in an `S` layer sees (T/2 in January, ⌈T/512⌉·128 in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_window: Option<usize>,
    /// Base of the rotary angles (10,000 in January, 100,000 in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_base: Option<f64>,
    /// The share of each head's channels that rotary embedding turns; the others have no position (1). 0.5 is "half-rotary".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_fraction: Option<f64>,
    /// Factor on queries and keys after their norm (1 in January, 1.2 in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_gain: Option<f64>,
    /// `relu2` or `swiglu` (`relu2`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<Mlp>,
    /// Whether every second layer has a value embedding (true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_embeds: Option<bool>,
    /// Channels that a value embedding's gate reads (32 in January, 12 in July; all channels where there are fewer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ve_gate_channels: Option<usize>,
    /// The gate's upper bound (2 in January, 3 in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ve_gate_max: Option<f64>,
    /// Whether each position takes a gated share of the position before it (false in January, true in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smear: Option<bool>,
    /// Channels that smear's gate reads (24; all channels where there are fewer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smear_channels: Option<usize>,
    /// Whether the middle of the network is subtracted before the head (false in January, true in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backout: Option<bool>,
    /// Logits are `softcap · tanh(logits / softcap)` (15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f64>,
    /// Standard deviation of `wte` at the start (1.0 in January, 0.8 in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_wte_std: Option<f64>,
    /// Standard deviation of `lm_head` at the start (0.001).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_lm_head_std: Option<f64>,
    /// Factor on the bound √3·C^−½ for `c_fc` at the start (1.0 in January, 0.4 in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_c_fc: Option<f64>,
    /// `resid_lambdas` at the start in the first and last layer, linear between ([1, 1] in January, [1.15, 1.05] in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_resid_lambda: Option<[f64; 2]>,
    /// `x0_lambdas` at the start in the first and last layer, linear between ([0.1, 0.1] in January, [0.2, 0.05] in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_x0_lambda: Option<[f64; 2]>,
    /// `ve_gate` starts uniform in 0..this (0 in January, 0.02 in July).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_ve_gate: Option<f64>,
    /// `backout_lambda` at the start (0.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_backout_lambda: Option<f64>,
}

/// Every number of a model, none left to a default. Travels in checkpoints.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GptConfig {
    /// L, the number of layers.
    pub depth: usize,
    /// C, the width of the residual stream.
    pub model_dim: usize,
    /// D, channels per head; even.
    pub head_dim: usize,
    /// H, query heads.
    pub heads: usize,
    /// K, key/value heads; divides H.
    pub kv_heads: usize,
    /// Token ids in use; tables have [`GptConfig::padded_vocab`] rows.
    pub vocab_size: usize,
    /// T, the context trained on and the window of an `L` layer.
    pub seq_len: usize,
    /// `L` or `S` per layer, tiled; the last layer is `L` whatever it says.
    pub window_pattern: String,
    /// The window of an `S` layer.
    pub short_window: usize,
    /// Base of the rotary angles.
    pub rope_base: f64,
    /// The share of each head's channels that rotary embedding turns. Like every variant, written only where it is not the recipe's, so that
    /// a model without variants has the configuration, and the cache key, that it always had.
    #[serde(default = "whole_head", skip_serializing_if = "is_whole_head")]
    pub rotary_fraction: f64,
    /// Factor on queries and keys after their norm.
    pub qk_gain: f64,
    /// What the MLP does between its matrices.
    #[serde(default, skip_serializing_if = "is_relu2")]
    pub mlp: Mlp,
    /// Whether every second layer, the last included, has a value embedding.
    pub value_embeds: bool,
    /// Channels that a value embedding's gate reads.
    pub ve_gate_channels: usize,
    /// The gate is this times a sigmoid.
    pub ve_gate_max: f64,
    /// Whether x_t += smear_lambda · sigmoid(smear_gate · x_t) · x_{t−1} before the first layer.
    pub smear: bool,
    /// Channels that smear's gate reads.
    pub smear_channels: usize,
    /// Whether x −= backout_lambda · x_mid after the last layer.
    pub backout: bool,
    /// Logits are `softcap · tanh(logits / softcap)`.
    pub logit_softcap: f64,
    /// Standard deviation of `wte` at the start.
    pub init_wte_std: f64,
    /// Standard deviation of `lm_head` at the start.
    pub init_lm_head_std: f64,
    /// Factor on the bound √3·C^−½ for `c_fc` at the start.
    pub init_c_fc: f64,
    /// `resid_lambdas` at the start in the first and last layer.
    pub init_resid_lambda: [f64; 2],
    /// `x0_lambdas` at the start in the first and last layer.
    pub init_x0_lambda: [f64; 2],
    /// `ve_gate` starts uniform in 0..this.
    pub init_ve_gate: f64,
    /// `backout_lambda` at the start.
    pub init_backout_lambda: f64,
}

/// Tables and the head have a multiple of this many rows.
const VOCAB_MULTIPLE: usize = 64;

impl ModelConfig {
    /// A preset at a depth, every other key left to it.
    pub fn new(preset: Preset, depth: usize) -> Self {
        Self { preset, depth, ..Self::default() }
    }

    /// The numbers that follow, given the data's vocabulary and row length T. Gate channels that are not written are the
    /// preset's, or all channels of a model that has fewer.
    ///
    /// # Errors
    /// [`Error::Config`], as [`GptConfig::check`].
    pub fn resolve(&self, vocab_size: usize, seq_len: usize) -> Result<GptConfig> {
        let keys = Keys::of(self)?;
        let Keys { head_dim, aspect_ratio, .. } = keys;
        positive("depth", self.depth)?;
        positive("head_dim", head_dim)?;
        positive("aspect_ratio", aspect_ratio)?;
        let model_dim = self
            .depth
            .checked_mul(aspect_ratio)
            .and_then(|c| c.checked_next_multiple_of(head_dim))
            .filter(|&c| c <= MAX_DIM)
            .ok_or_else(|| {
                let what =
                    format!("depth {} · aspect_ratio {aspect_ratio} is too wide", self.depth);
                fault("depth", what, format!("model_dim can be at most {MAX_DIM}"))
            })?;
        let heads = self.heads.unwrap_or(model_dim / head_dim);
        // Gate channels that are written are meant; the preset's are what there are, at most.
        let gate = |written: Option<usize>, preset: usize| written.unwrap_or(preset.min(model_dim));
        let config = GptConfig {
            depth: self.depth,
            model_dim,
            head_dim,
            heads,
            kv_heads: self.kv_heads.unwrap_or(heads),
            vocab_size,
            seq_len,
            window_pattern: keys.window_pattern,
            short_window: self.short_window.unwrap_or(keys.short_window.of(seq_len)),
            rope_base: keys.rope_base,
            rotary_fraction: keys.rotary_fraction,
            qk_gain: keys.qk_gain,
            mlp: keys.mlp,
            value_embeds: keys.value_embeds,
            ve_gate_channels: gate(self.ve_gate_channels, keys.ve_gate_channels),
            ve_gate_max: keys.ve_gate_max,
            smear: keys.smear,
            smear_channels: gate(self.smear_channels, keys.smear_channels),
            backout: keys.backout,
            logit_softcap: keys.logit_softcap,
            init_wte_std: keys.init_wte_std,
            init_lm_head_std: keys.init_lm_head_std,
            init_c_fc: keys.init_c_fc,
            init_resid_lambda: keys.init_resid_lambda,
            init_x0_lambda: keys.init_x0_lambda,
            init_ve_gate: keys.init_ve_gate,
            init_backout_lambda: keys.init_backout_lambda,
        };
        config.check()?;
        Ok(config)
    }
}

/// The widest residual stream and the largest of any other size: products of two or three stay within 64 bits.
const MAX_DIM: usize = 1 << 20;
/// The most entries of a vocabulary, and the longest row: ids and positions are 32-bit.
const MAX_COUNT: usize = 1 << 30;

fn fault(key: &'static str, what: String, hint: impl Into<String>) -> Error {
    Error::Config { key, what, hint: hint.into() }
}

fn positive(key: &'static str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(fault(key, "is 0".into(), "it must be at least 1"));
    }
    Ok(())
}

impl GptConfig {
    /// Whether these numbers make a model.
    ///
    /// # Errors
    /// [`Error::Config`], with the key, what is wrong with it and what would be right.
    pub fn check(&self) -> Result<()> {
        for (key, value) in [
            ("depth", self.depth),
            ("model_dim", self.model_dim),
            ("head_dim", self.head_dim),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("ve_gate_channels", self.ve_gate_channels),
            ("smear_channels", self.smear_channels),
        ] {
            positive(key, value)?;
            if value > MAX_DIM {
                return Err(fault(key, format!("is {value}"), format!("at most {MAX_DIM}")));
            }
        }
        for (key, value) in [("vocab_size", self.vocab_size), ("seq_len", self.seq_len)] {
            positive(key, value)?;
            if value > MAX_COUNT {
                return Err(fault(key, format!("is {value}"), format!("at most {MAX_COUNT}")));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            let what = format!("is {}, an odd number", self.head_dim);
            return Err(fault(
                "head_dim",
                what,
                "rotary embedding turns pairs: use an even number",
            ));
        }
        let rotated = self.rotary_fraction * self.head_dim as f64;
        if !(0.0..=1.0).contains(&self.rotary_fraction) || rotated % 2.0 != 0.0 {
            let what = format!(
                "is {}, which turns {rotated} of head_dim = {} channels",
                self.rotary_fraction, self.head_dim
            );
            let hint = "rotary embedding turns pairs: use a share between 0 and 1 that makes an even number";
            return Err(fault("rotary_fraction", what, hint));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let what =
                format!("is {}, which does not divide heads = {}", self.kv_heads, self.heads);
            return Err(fault(
                "kv_heads",
                what,
                "each key/value head serves equally many query heads",
            ));
        }
        if let Some(other) = self.window_pattern.chars().find(|c| !matches!(c, 'S' | 'L')) {
            let what = format!("`{}` has the letter `{other}`", self.window_pattern);
            return Err(fault("window_pattern", what, "use S (short) and L (long), like \"SSSL\""));
        }
        if self.window_pattern.is_empty() {
            return Err(fault("window_pattern", "is empty".into(), "one letter is enough: \"L\""));
        }
        if self.short_window == 0 {
            let hint = "a position would see nothing but itself; use at least 1";
            return Err(fault("short_window", "is 0".into(), hint));
        }
        for (key, on, channels) in [
            ("ve_gate_channels", self.value_embeds, self.ve_gate_channels),
            ("smear_channels", self.smear, self.smear_channels),
        ] {
            if on && channels > self.model_dim {
                let what = format!("is {channels}, more than model_dim = {}", self.model_dim);
                return Err(fault(key, what, "leave it out, or use at most model_dim"));
            }
        }
        for (key, value, at_least) in [
            ("rope_base", self.rope_base, 1.0),
            ("qk_gain", self.qk_gain, f64::MIN_POSITIVE),
            ("ve_gate_max", self.ve_gate_max, f64::MIN_POSITIVE),
            ("logit_softcap", self.logit_softcap, f64::MIN_POSITIVE),
            ("init_wte_std", self.init_wte_std, 0.0),
            ("init_lm_head_std", self.init_lm_head_std, 0.0),
            ("init_c_fc", self.init_c_fc, 0.0),
            ("init_ve_gate", self.init_ve_gate, 0.0),
            ("init_resid_lambda", self.init_resid_lambda[0], f64::MIN),
            ("init_resid_lambda", self.init_resid_lambda[1], f64::MIN),
            ("init_x0_lambda", self.init_x0_lambda[0], f64::MIN),
            ("init_x0_lambda", self.init_x0_lambda[1], f64::MIN),
            ("init_backout_lambda", self.init_backout_lambda, f64::MIN),
        ] {
            if !value.is_finite() || value < at_least {
                let hint = match at_least {
                    0.0 => "use a finite number, 0 or larger",
                    1.0 => "use a finite number, 1 or larger",
                    f64::MIN => "use a finite number",
                    _ => "use a finite number above 0",
                };
                return Err(fault(key, format!("is {value}"), hint));
            }
        }
        Ok(())
    }

    /// What another model has otherwise, as (key, here, there). How a model began (`init_…`) makes no difference to one that is trained.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let keys = |config: &Self| match serde_json::to_value(config) {
            Ok(serde_json::Value::Object(keys)) => keys,
            _ => serde_json::Map::new(),
        };
        let (here, there) = (keys(self), keys(other));
        let mut names: Vec<&String> = here.keys().chain(there.keys()).collect();
        names.sort();
        names.dedup();
        let shown = |keys: &serde_json::Map<_, serde_json::Value>, name: &String| {
            keys.get(name).map_or_else(|| "absent".to_owned(), ToString::to_string)
        };
        names
            .into_iter()
            .filter(|name| !name.starts_with("init_") && here.get(*name) != there.get(*name))
            .map(|name| (name.clone(), shown(&here, name), shown(&there, name)))
            .collect()
    }

    /// V: `vocab_size` rounded up to a multiple of 64.
    pub fn padded_vocab(&self) -> usize {
        self.vocab_size.next_multiple_of(VOCAB_MULTIPLE)
    }

    /// Channels of each head that rotary embedding turns, an even number.
    pub fn rotary_dim(&self) -> usize {
        (self.rotary_fraction * self.head_dim as f64) as usize
    }

    /// Channels inside the MLP: 4·C, or for SwiGLU the multiple of 16 nearest to 8/3·C, at least 16.
    pub fn mlp_dim(&self) -> usize {
        match self.mlp {
            Mlp::Relu2 => 4 * self.model_dim,
            // (8C/3) / 16 = C/6, to the nearest.
            Mlp::Swiglu => ((self.model_dim + 3) / 6).max(1) * 16,
        }
    }

    /// Tokens before its own that a position in layer `i` sees.
    pub fn window(&self, i: usize) -> usize {
        let pattern = self.window_pattern.as_bytes();
        let short = i + 1 != self.depth && pattern[i % pattern.len()] == b'S';
        if short { self.short_window } else { self.seq_len }
    }

    /// Whether layer `i` has a value embedding: every second layer, counted so that the last has one.
    pub fn has_value_embed(&self, i: usize) -> bool {
        self.value_embeds && i % 2 == (self.depth - 1) % 2
    }

    /// The layer whose output is backed out: L div 2.
    pub fn backout_layer(&self) -> usize {
        self.depth / 2
    }

    /// Elements of the matrices inside blocks (value-embedding gates included) and of `lm_head`: the N that the
    /// recipe's horizon and batch follow.
    pub fn scaling_params(&self) -> u64 {
        let gates = (0..self.depth).filter(|&i| self.has_value_embed(i)).count();
        let [c, d, h, k] =
            [self.model_dim, self.head_dim, self.heads, self.kv_heads].map(|n| n as u64);
        let attention = 2 * c * h * d + 2 * c * k * d;
        let matrices = match self.mlp {
            Mlp::Relu2 => 2,
            Mlp::Swiglu => 3,
        };
        let block = attention + matrices * c * self.mlp_dim() as u64;
        let gate = k * self.ve_gate_channels as u64;
        block * self.depth as u64 + gate * gates as u64 + self.padded_vocab() as u64 * c
    }

    /// FLOPs of forward and backward per token: 6 per weight that is multiplied (gates included) and, per layer,
    /// 12·H·D·min(window, T) for attention.
    pub fn flops_per_token(&self) -> f64 {
        let smear = if self.smear { self.smear_channels } else { 0 };
        let weights = self.scaling_params() as f64 + smear as f64;
        let keys: usize = (0..self.depth).map(|i| self.window(i).min(self.seq_len)).sum();
        6.0 * weights + 12.0 * (self.heads * self.head_dim) as f64 * keys as f64
    }
}
