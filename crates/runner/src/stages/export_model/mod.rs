//! `export-model`: a trained model for others to use: a folder that `transformers` loads, and that is a model's folder to farthing too.

mod card;
mod layout;

use anyhow::{Context, bail};
use farthing_data::{CHAT_TEMPLATE_FILE, ChatTokens, Tokenizer};
use farthing_kernels::DType;
use farthing_model::{Checkpoint, Error, Layout};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::loaded::no_gpt2;
use super::train_gpt::{MODEL_FILE, promises_of};
use crate::{Ctx, Given, NoExec, PlanCtx, Port, Promise, Resources, Result, Stage, port};

/// The stage's keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The weights' type: `bf16` rounds to nearest and halves the file.
    #[serde(default)]
    pub dtype: Precision,
    /// `farthing` (any model, with its own Python beside it), `transformers` (for its class `NanoChatForCausalLM`, which has no more than the
    /// preset `nanochat-2025-10`), or `auto`: the second where that is possible, else the first.
    #[serde(default)]
    pub format: Format,
    /// Markdown for the model card: where the data come from, what the training cost, a license.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
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

/// Which class of `transformers` loads the export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Its own where that has everything that the model has, else ours.
    #[default]
    Auto,
    /// Ours, in `modeling_farthing.py` beside the weights.
    Farthing,
    /// Its own `NanoChatForCausalLM`.
    Transformers,
}

/// Exports a model. The folder `export` holds `model.safetensors`, `config.json`, `generation_config.json`, the tokenizer with its
/// `tokenizer_config.json`, the chat template where the model has one, a model card (`README.md`), and `modeling_farthing.py` where
/// `transformers` has no class for the model. It can be read as a checkpoint too.
///
/// The card tells the figures of the stages before it. Connect `bpb` and `core` to have the model's scores among them.
pub struct ExportModel;

impl Stage for ExportModel {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "export-model";
    const ABOUT: &'static str = "a folder with the model that transformers loads, and a model card";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        port("model", "checkpoint"),
        port("bpe", "tokenizer"),
        port("bpb", "metrics").optional(),
        port("core", "metrics").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[port("export", "checkpoint")];
    const READS_FIGURES: &'static [&'static str] = card::FIGURES;
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["bytes"];

    fn promises(_: &Config, given: &Given<'_>) -> Vec<Promise> {
        promises_of("model", "export", given)
    }

    fn preflight(_: &Config, _: &NoExec, _: &Resources, ctx: &PlanCtx) -> Result<()> {
        no_gpt2(ctx)
    }

    fn run(config: Config, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let tokenizer = super::tokenizer(ctx)?;
        let model = ctx.input("model")?.to_owned();
        let unreadable = |e: Error| super::unreadable("reading input `model`", &e);
        let checkpoint = Checkpoint::open(&model.join(MODEL_FILE)).map_err(unreadable)?;
        let layout = choose(config.format, &checkpoint, ctx)?;
        let out = ctx.output("export");
        std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
        let dtype = match config.dtype {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let path = out.join(MODEL_FILE);
        // Other programs refuse weights that do not say whose conventions they follow.
        checkpoint.export(&path, dtype, layout, &[("format", "pt")])?;
        let (here, there) = (checkpoint.config().vocab_size, tokenizer.vocab_size());
        if here != there {
            bail!(
                "the model has a vocabulary of {here}, the tokenizer connected {there}\n\
                 hint: connect `bpe` to the tokenizer that the model was trained with"
            );
        }
        super::keep_template(Some(&model), &out)?;
        let chats = out.join(CHAT_TEMPLATE_FILE).is_file();
        let ends = Ends::of(&tokenizer, chats)?;
        let write = |name: &str, text: String| {
            let path = out.join(name);
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        let json = |name: &str, value: &Value| {
            write(name, serde_json::to_string_pretty(value)? + "\n")
                .with_context(|| name.to_owned())
        };
        write(super::TOKENIZER_FILE, tokenizer.json_with_bos()?)?;
        let numbers = checkpoint.config();
        json("config.json", &layout::config(layout, numbers, config.dtype, &ends)?)?;
        json("generation_config.json", &layout::generation(&ends))?;
        json("tokenizer_config.json", &layout::tokenizer(numbers, &tokenizer, &ends))?;
        if layout == Layout::Farthing {
            write(layout::MODELING_FILE, layout::MODELING.into())?;
        }
        let about = config.about.as_deref();
        write("README.md", card::render(&checkpoint, layout, &tokenizer, chats, about, ctx)?)?;
        let size =
            std::fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?;
        ctx.summary("bytes", size.len());
        Ok(())
    }
}

/// The layout that is asked for, or the one that needs no Python of ours.
fn choose(format: Format, checkpoint: &Checkpoint, ctx: &Ctx) -> Result<Layout> {
    let fits = match format {
        Format::Farthing => return Ok(Layout::Farthing),
        Format::Auto | Format::Transformers => checkpoint.fits(Layout::NanoChat),
    };
    match fits {
        Ok(()) => Ok(Layout::NanoChat),
        Err(e @ Error::Inexpressible { .. }) if format == Format::Auto => {
            let (said, _) = crate::failure::split(&e.to_string());
            ctx.log(format!("{said}; so transformers gets {} with it", layout::MODELING_FILE));
            Ok(Layout::Farthing)
        }
        Err(e @ Error::Inexpressible { .. }) => {
            let (said, _) = crate::failure::split(&e.to_string());
            bail!(
                "the model cannot be exported with `format = \"transformers\"`: {said}\n\
                 hint: leave `format` out, and the export has the Python that transformers needs; or train with \
                 `preset = \"nanochat-2025-10\"`"
            )
        }
        Err(e) => Err(super::unreadable("reading input `model`", &e)),
    }
}

/// The tokens around a text.
struct Ends {
    /// Before it.
    bos: u32,
    /// At which it ends; the first is its usual one.
    eos: Vec<u32>,
}

impl Ends {
    /// A chat's answer ends where a turn ends or begins, another text where the next document begins.
    fn of(tokenizer: &Tokenizer, chats: bool) -> Result<Self> {
        let bos = tokenizer.bos();
        if !chats {
            return Ok(Self { bos, eos: vec![bos] });
        }
        let ChatTokens { user, assistant, .. } = ChatTokens::of(tokenizer)
            .context("a model that chats needs a tokenizer with the tokens of chats")?;
        Ok(Self { bos, eos: vec![assistant[1], assistant[0], user[0], user[1], bos] })
    }
}
