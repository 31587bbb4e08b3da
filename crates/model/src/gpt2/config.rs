//! What GPT-2's `config.json` says, as far as the model depends on it. What would compute something else is refused by its key.

use std::path::{Path, PathBuf};

use farthing_base::tensors::TensorError;
use farthing_base::{FileError, files};
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result};

/// The name of the file beside the weights.
const FILE: &str = "config.json";
/// What the file calls a GPT-2.
const TYPE: &str = "gpt2";
const HINT: &str =
    "give a folder with GPT-2's config.json and model.safetensors in the layout of transformers";

/// The shape of a GPT-2, under the names that `transformers` gives.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Gpt2Config {
    /// Layers, L.
    pub n_layer: usize,
    /// Heads, H.
    pub n_head: usize,
    /// Channels, C.
    pub n_embd: usize,
    /// Channels inside an MLP; 4·C unless given.
    #[serde(default)]
    pub n_inner: Option<usize>,
    /// Positions that there are embeddings for, the longest row.
    pub n_positions: usize,
    /// Entries of the vocabulary, V.
    pub vocab_size: usize,
    /// What a layer norm adds to the variance.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
}

fn epsilon() -> f64 {
    1e-5
}

/// Keys that change what is computed, and the one value of each that is computed here, which is also what its absence means.
const FIXED: [(&str, Value); 5] = [
    ("scale_attn_weights", Value::Bool(true)),
    ("scale_attn_by_inverse_layer_idx", Value::Bool(false)),
    ("add_cross_attention", Value::Bool(false)),
    ("tie_word_embeddings", Value::Bool(true)),
    ("quantization_config", Value::Null),
];

/// GELU by its tanh formula, under the names that `transformers` knows it by.
const ACTIVATIONS: [&str; 2] = ["gelu_new", "gelu_pytorch_tanh"];

impl Gpt2Config {
    /// Whether a file of weights is a GPT-2's: there is a `config.json` beside it that says so.
    pub fn is_beside(model: &Path) -> bool {
        let text = files::read(&place(model)).ok();
        let json = text.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        json.is_some_and(|json| json["model_type"] == TYPE)
    }

    /// The file that [`Gpt2Config::read`] reads.
    pub fn file(model: &Path) -> PathBuf {
        place(model)
    }

    /// Reads and checks the configuration beside a file of weights.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read; [`Error::Metadata`] where it is none of a GPT-2 or has a key that changes what is computed.
    pub fn read(model: &Path) -> Result<Self> {
        let path = place(model);
        let text =
            files::read(&path).map_err(FileError::at("read", &path)).map_err(TensorError::from)?;
        Self::parse(&text).map_err(|(key, what)| Error::Metadata { path, key, what, hint: HINT })
    }

    fn parse(text: &[u8]) -> Result<Self, (&'static str, String)> {
        let json: Value = serde_json::from_slice(text)
            .map_err(|e| ("model_type", format!("cannot be read: {e}")))?;
        if json["model_type"] != TYPE {
            return Err(("model_type", format!("is {}, expected \"{TYPE}\"", json["model_type"])));
        }
        for (key, value) in FIXED {
            let found = &json[key];
            if !found.is_null() && *found != value {
                return Err((key, format!("is {found}, and only {value} is computed here")));
            }
        }
        let activation = json["activation_function"].as_str().unwrap_or(ACTIVATIONS[0]);
        if !ACTIVATIONS.contains(&activation) {
            let what = format!("is `{activation}`, and only `{}` is computed here", ACTIVATIONS[0]);
            return Err(("activation_function", what));
        }
        let config: Self = serde_json::from_value(json)
            .map_err(|e| ("n_layer", format!("or another key: {e}")))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let sizes = [
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_embd", self.n_embd),
            ("n_inner", self.inner()),
            ("n_positions", self.n_positions),
            ("vocab_size", self.vocab_size),
        ];
        for (key, size) in sizes {
            // Ids and positions are i32, and no product of two sizes overflows.
            if size == 0 || size > 1 << 24 {
                return Err((key, format!("is {size}, expected 1 to {}", 1 << 24)));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err((
                "n_head",
                format!("is {}, no divisor of n_embd, {}", self.n_head, self.n_embd),
            ));
        }
        let epsilon = self.layer_norm_epsilon;
        if !(epsilon > 0.0 && epsilon < 1.0) {
            return Err((
                "layer_norm_epsilon",
                format!("is {epsilon}, expected above 0 and below 1"),
            ));
        }
        Ok(())
    }

    /// Channels inside an MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// Channels of a head, D.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Weights and biases, the tied head counted once.
    pub fn param_count(&self) -> u64 {
        let [l, c, m] = [self.n_layer, self.n_embd, self.inner()].map(|n| n as u64);
        let layer = 4 * c * c + 2 * m * c + (4 * c + m + c) + 4 * c;
        (self.vocab_size as u64 + self.n_positions as u64) * c + l * layer + 2 * c
    }
}

fn place(model: &Path) -> PathBuf {
    model.with_file_name(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"model_type": "gpt2", "activation_function": "gelu_new", "n_layer": 12, "n_head": 12, "n_embd": 768,
        "n_ctx": 1024, "n_positions": 1024, "vocab_size": 50257, "layer_norm_epsilon": 1e-05, "resid_pdrop": 0.1}"#;

    #[test]
    fn the_published_configuration_is_read() {
        let config = Gpt2Config::parse(SMALL.as_bytes()).unwrap();
        assert_eq!((config.inner(), config.head_dim()), (3_072, 64));
        // The parameters of the smallest GPT-2, as they are usually given.
        assert_eq!(config.param_count(), 124_439_808);
    }

    #[test]
    fn what_would_compute_something_else_is_refused_by_its_key() {
        for (from, to, key) in [
            ("\"gpt2\"", "\"gpt_neo\"", "model_type"),
            ("\"gelu_new\"", "\"gelu\"", "activation_function"),
            ("\"n_ctx\": 1024", "\"tie_word_embeddings\": false", "tie_word_embeddings"),
            ("\"n_ctx\": 1024", "\"scale_attn_weights\": false", "scale_attn_weights"),
            ("\"n_head\": 12", "\"n_head\": 7", "n_head"),
            ("\"n_head\": 12", "\"n_head\": 0", "n_head"),
            ("\"n_layer\": 12", "\"n_layer\": 99999999999", "n_layer"),
            ("1e-05", "0.0", "layer_norm_epsilon"),
            ("\"n_embd\": 768", "\"n_inner\": 0, \"n_embd\": 768", "n_inner"),
        ] {
            assert!(SMALL.contains(from), "{from}");
            let (found, what) = Gpt2Config::parse(SMALL.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(found, key, "{what}");
        }
        assert!(Gpt2Config::parse(b"{").is_err());
        assert!(Gpt2Config::parse(b"[]").is_err());
        assert!(Gpt2Config::parse(SMALL.replace("\"n_layer\"", "\"layers\"").as_bytes()).is_err());
    }
}
