//! `export-model`: a trained model for others to use: weights alone, the configuration as `config.json`, the tokenizer.

use anyhow::Context;
use farthing_kernels::DType;
use farthing_model::Checkpoint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::train_gpt::MODEL_FILE;
use crate::{Ctx, NoExec, Port, Result, Stage, port};

/// The stage's keys.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The weights' type: `bf16` rounds to nearest and halves the file.
    #[serde(default)]
    pub dtype: Precision,
}

/// A float type of exported weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits, as trained.
    #[default]
    F32,
    /// The upper half of them.
    Bf16,
}

/// Exports a model. The folder `export` holds `model.safetensors` under nanochat's parameter names, `config.json` with every
/// number of the model, `tokenizer.json`, and the chat template where the model has one; it can be read as a checkpoint too.
pub struct ExportModel;

impl Stage for ExportModel {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "export-model";
    const ABOUT: &'static str = "a model's weights, configuration and tokenizer, for others to use";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[port("model", "checkpoint"), port("bpe", "tokenizer")];
    const OUTPUTS: &'static [Port] = &[port("export", "checkpoint")];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["bytes"];

    fn run(config: Config, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let tokenizer = super::tokenizer(ctx)?;
        let checkpoint = Checkpoint::open(&ctx.input("model")?.join(MODEL_FILE))
            .map_err(|e| super::unreadable("reading input `model`", &e))?;
        let out = ctx.output("export");
        std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
        let dtype = match config.dtype {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let path = out.join(MODEL_FILE);
        checkpoint.export(&path, dtype)?;
        tokenizer.save(out.join(super::TOKENIZER_FILE))?;
        super::keep_template(Some(ctx.input("model")?), &out)?;
        let config = serde_json::to_string_pretty(checkpoint.config())?;
        let config_path = out.join("config.json");
        std::fs::write(&config_path, config + "\n")
            .with_context(|| format!("writing {}", config_path.display()))?;
        let size =
            std::fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?;
        ctx.summary("bytes", size.len());
        Ok(())
    }
}
