//! How a model lies in a file: under its own names and whole, or as the class `NanoChatForCausalLM` of `transformers` wants it.
//!
//! That class is nanochat's model of October 2025. It has other names, tables without padding, and no place for whatever came later, so a model
//! is written for it only where nothing is lost. What is written carries its configuration and the name of its layout: our readers take either.

use farthing_base::tensors::TensorFile;
use farthing_kernels::Shape;

use crate::checkpoint::LAYOUT;
use crate::params::ParamSpec;
use crate::{Error, GptConfig, Mlp, Result};

/// The names and shapes of a file's tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Every parameter under nanochat's name, in the shape that it is computed with.
    #[default]
    Farthing,
    /// What `NanoChatForCausalLM` of `transformers` reads.
    NanoChat,
}

/// Where a parameter is in a file.
pub(crate) enum Place {
    /// A tensor of the file: of a table, the rows that are in use.
    Stored { name: String, shape: Shape },
    /// Nowhere: it has this value everywhere.
    Constant(f64),
}

impl Layout {
    /// The name that stands in a file's metadata; the model's own layout needs none.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Farthing => None,
            Self::NanoChat => Some("nanochat"),
        }
    }

    /// That of a file.
    pub(crate) fn of(file: &TensorFile) -> Result<Self> {
        match file.metadata(LAYOUT) {
            None => Ok(Self::Farthing),
            Some(name) if Some(name) == Self::NanoChat.name() => Ok(Self::NanoChat),
            Some(other) => Err(Error::Metadata {
                path: file.path().to_owned(),
                key: LAYOUT,
                what: format!("is `{other}`, this program knows `nanochat`"),
                hint: "use the version of the program that wrote it",
            }),
        }
    }

    /// Whether a model of this configuration can be written so. Weights may be in the way still: see [`Checkpoint::fits`](crate::Checkpoint::fits).
    ///
    /// # Errors
    /// [`Error::Inexpressible`] with the feature.
    pub fn check(self, config: &GptConfig) -> Result<()> {
        if self == Self::Farthing {
            return Ok(());
        }
        let short = (0..config.depth).find(|&i| config.window(i) < config.seq_len);
        let window = short.map_or(String::new(), |i| {
            format!("layer {i} sees {} of {} tokens", config.window(i), config.seq_len)
        });
        for (has, feature, what) in [
            (config.value_embeds, "value_embeds", "every second layer has a table".into()),
            (config.smear, "smear", "a position takes a share of the one before".into()),
            (config.backout, "backout", "the middle of the network is subtracted".into()),
            (short.is_some(), "window_pattern", window),
            (config.qk_gain != 1.0, "qk_gain", format!("it is {}", config.qk_gain)),
            (
                config.rotary_fraction != 1.0,
                "rotary_fraction",
                format!("it is {}", config.rotary_fraction),
            ),
            (config.mlp != Mlp::Relu2, "mlp", "it is SwiGLU".into()),
        ] {
            if has {
                return Err(self.lacks(feature, what));
            }
        }
        Ok(())
    }

    pub(crate) fn lacks(self, feature: &str, what: String) -> Error {
        let form = match self {
            Self::Farthing => "farthing's layout",
            Self::NanoChat => "`NanoChatForCausalLM`",
        };
        Error::Inexpressible { form, feature: feature.into(), what }
    }

    /// Where a parameter is, in a model that [`Layout::check`] let pass.
    pub(crate) fn place(self, config: &GptConfig, spec: &ParamSpec) -> Place {
        let stored = |name: &str, shape| Place::Stored { name: name.to_owned(), shape };
        let table = Shape::from([config.vocab_size, config.model_dim]);
        match (self, spec.name.as_str()) {
            (Self::NanoChat, "transformer.wte.weight") => {
                stored("model.embed_tokens.weight", table)
            }
            (Self::NanoChat, "lm_head.weight") => stored("lm_head.weight", table),
            (Self::NanoChat, "resid_lambdas") => Place::Constant(1.0),
            (Self::NanoChat, "x0_lambdas") => Place::Constant(0.0),
            (Self::NanoChat, name) => stored(&in_a_layer(name), spec.shape),
            (Self::Farthing, name) => stored(name, spec.shape),
        }
    }
}

/// `transformer.h.3.attn.c_q.weight` as `model.layers.3.self_attn.q_proj.weight`; another name as it is.
fn in_a_layer(name: &str) -> String {
    let of_layer = || {
        let (i, part) = name.strip_prefix("transformer.h.")?.split_once('.')?;
        let part = match part {
            "attn.c_q.weight" => "self_attn.q_proj",
            "attn.c_k.weight" => "self_attn.k_proj",
            "attn.c_v.weight" => "self_attn.v_proj",
            "attn.c_proj.weight" => "self_attn.o_proj",
            "mlp.c_fc.weight" => "mlp.fc1",
            "mlp.c_proj.weight" => "mlp.fc2",
            _ => return None,
        };
        Some(format!("model.layers.{i}.{part}.weight"))
    };
    of_layer().unwrap_or_else(|| name.to_owned())
}
