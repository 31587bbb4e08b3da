//! The JSON files beside exported weights, with the keys that `transformers` knows.

use anyhow::Context;
use farthing_data::Tokenizer;
use farthing_model::{GptConfig, Layout};
use serde_json::{Value, json};

use super::{Ends, Precision};
use crate::Result;

/// The model's forward pass in Python, for models that `transformers` has no class for.
pub(super) const MODELING: &str = include_str!("modeling_farthing.py");
/// Its name beside the weights.
pub(super) const MODELING_FILE: &str = "modeling_farthing.py";

/// `config.json`.
pub(super) fn config(
    layout: Layout,
    config: &GptConfig,
    dtype: Precision,
    ends: &Ends,
) -> Result<Value> {
    let mut keys = match layout {
        Layout::NanoChat => nanochat(config),
        _ => farthing(config)?,
    };
    let all = keys.as_object_mut().context("a configuration is a table")?;
    let dtype = match dtype {
        Precision::F32 => "float32",
        Precision::Bf16 => "bfloat16",
    };
    let tokens = [("bos", ends.bos), ("eos", ends.eos[0]), ("pad", ends.eos[0])];
    all.extend(tokens.map(|(name, id)| (format!("{name}_token_id"), id.into())));
    all.insert("dtype".into(), dtype.into());
    all.insert("tie_word_embeddings".into(), false.into());
    Ok(keys)
}

/// Of the class that `transformers` has.
fn nanochat(config: &GptConfig) -> Value {
    json!({
        "model_type": "nanochat",
        "architectures": ["NanoChatForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.model_dim,
        "intermediate_size": config.mlp_dim(),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.seq_len,
        "hidden_act": "relu2",
        "attention_bias": false,
        "final_logit_softcapping": config.logit_softcap,
        "rope_parameters": { "rope_type": "default", "rope_theta": config.rope_base },
        "rms_norm_eps": 1.192_092_9e-7,
    })
}

/// Of ours: every number of the model, and those that follow from them, so that the Python has no rule to repeat.
fn farthing(config: &GptConfig) -> Result<Value> {
    let mut keys = serde_json::to_value(config)?;
    let own = json!({
        "model_type": "farthing",
        "architectures": ["FarthingForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_farthing.FarthingConfig",
            "AutoModelForCausalLM": "modeling_farthing.FarthingForCausalLM",
        },
        "padded_vocab": config.padded_vocab(),
        "windows": (0..config.depth).map(|i| config.window(i)).collect::<Vec<_>>(),
        "value_embed_layers": (0..config.depth).filter(|&i| config.has_value_embed(i)).collect::<Vec<_>>(),
        "rotary_dim": config.rotary_dim(),
        "mlp": config.mlp,
        "mlp_dim": config.mlp_dim(),
        "backout_layer": config.backout_layer(),
    });
    if let (Value::Object(keys), Value::Object(own)) = (&mut keys, own) {
        keys.extend(own);
    }
    Ok(keys)
}

/// `generation_config.json`.
pub(super) fn generation(ends: &Ends) -> Value {
    // Padding that is an end too is never taken for a gap in a prompt.
    json!({ "bos_token_id": ends.bos, "eos_token_id": ends.eos, "pad_token_id": ends.eos[0] })
}

/// `tokenizer_config.json`.
pub(super) fn tokenizer(config: &GptConfig, tokenizer: &Tokenizer, ends: &Ends) -> Value {
    let name = |id: u32| tokenizer.decode(&[id]);
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name(ends.bos),
        "eos_token": name(ends.eos[0]),
        "pad_token": name(ends.eos[0]),
        "model_max_length": config.seq_len,
        "clean_up_tokenization_spaces": false,
    })
}
