//! `import-model`: a trained model that exists already, from outside of the store.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use farthing_base::FileError;
use farthing_data::{CHAT_TEMPLATE_FILE, Tokenizer};
use farthing_kernels::DType;
use farthing_model::{Checkpoint, Gpt, Gpt2, Gpt2Config, GptConfig, Layout};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TOKENIZER_FILE;
use super::loaded::GPT2;
use super::train_gpt::{self, MODEL_FILE};
use crate::progress::format::count;
use crate::{
    At, Ctx, Extras, Given, NoExec, PlanCtx, PlanLine, Port, Promise, Resources, Result, Stage,
    port,
};

/// The stage's keys.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A folder with `model.safetensors`, as a training or `export-model` writes it and `tools/golden/convert.py` makes it of one of nanochat's,
    /// or the file itself; or a GPT-2 in the layout of `transformers`, with its `config.json`, which can be evaluated and nothing else. Relative to the working
    /// directory.
    // Its content counts, by way of `sources`.
    #[serde(skip_serializing)]
    pub path: PathBuf,
    /// The model's tokenizer; absent, the `tokenizer.json` beside the model.
    #[serde(default, skip_serializing)]
    pub tokenizer: Option<PathBuf>,
}

/// What there is to import.
enum Known {
    /// A model of ours, after so many steps.
    Ours(Box<GptConfig>, u64),
    Gpt2(Gpt2Config),
}

impl Known {
    fn vocab_size(&self) -> usize {
        match self {
            Self::Ours(config, _) => config.vocab_size,
            Self::Gpt2(config) => config.vocab_size,
        }
    }
}

impl Config {
    /// The model's file and what its tokenizer is read from.
    fn places(&self) -> (PathBuf, PathBuf) {
        let model = if self.path.is_dir() { self.path.join(MODEL_FILE) } else { self.path.clone() };
        let beside = || {
            let json = model.with_file_name(TOKENIZER_FILE);
            // GPT-2 may have its own two files instead.
            let folder = model.parent().filter(|f| !json.exists() && Tokenizer::files(f).is_ok());
            folder.map_or(json.clone(), Path::to_owned)
        };
        let tokenizer = self.tokenizer.clone().unwrap_or_else(beside);
        (model, tokenizer)
    }

    /// Both, as far as a look at the header and the tokenizer says.
    fn peek(&self) -> Result<(Known, Tokenizer)> {
        let (model, tokenizer) = self.places();
        if model.exists() && !model.is_file() {
            bail!("{} is no file\nhint: name a folder that holds {MODEL_FILE}", model.display());
        }
        let found = if Gpt2Config::is_beside(&model) {
            Known::Gpt2(Gpt2Config::read(&model)?)
        } else {
            let (config, step) = Checkpoint::peek(&model)?;
            Known::Ours(Box::new(config), step)
        };
        let tokenizer = self.tokenizer(&tokenizer)?;
        let (here, there) = (found.vocab_size(), tokenizer.vocab_size());
        if here != there {
            bail!(
                "the model in {} has a vocabulary of {here}, its tokenizer {there}\n\
                 hint: name the tokenizer that it was trained with: `tokenizer = \"FILE\"`",
                model.display()
            );
        }
        Ok((found, tokenizer))
    }

    fn tokenizer(&self, path: &Path) -> Result<Tokenizer> {
        if self.tokenizer.is_none() && !path.exists() {
            bail!(
                "there is no {} beside the model\n\
                 hint: name the tokenizer that it was trained with: `tokenizer = \"FILE\"`",
                path.display()
            );
        }
        Ok(Tokenizer::load(path)?)
    }
}

/// Checks a model and its tokenizer and hands them on. Weights of a smaller type than f32 are widened, optimizer state is left behind.
///
/// The files' content enters the cache key, so that edited ones are noticed; where they lie does not.
#[derive(Debug)]
pub struct ImportModel;

impl Stage for ImportModel {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "import-model";
    const ABOUT: &'static str = "a trained model that exists already, with its tokenizer";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("checkpoint", "checkpoint"), port("bpe", "tokenizer")];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["parameters", "steps"];

    fn check(config: &Config, _extras: &Extras) -> Result<()> {
        for (key, path) in [("path", Some(&config.path)), ("tokenizer", config.tokenizer.as_ref())]
        {
            if path.is_some_and(|path| path.as_os_str().is_empty()) {
                let fault = At::new(key, "the path is empty");
                return Err(fault.hint("a folder with a model, or its file").into());
            }
        }
        Ok(())
    }

    fn sources(config: &Config) -> Result<Vec<PathBuf>> {
        let (model, tokenizer) = config.places();
        // A file that is not there keeps nobody from planning; `preflight` asks for it.
        let mut files = Tokenizer::files(&tokenizer)?;
        if !model.is_file() {
            let gone = FileError::at("open", &model)(std::io::ErrorKind::NotFound.into());
            return Err(farthing_data::Error::from(gone).into());
        }
        let template = model.with_file_name(CHAT_TEMPLATE_FILE);
        if Gpt2Config::is_beside(&model) {
            files.insert(0, Gpt2Config::file(&model));
        }
        files.insert(0, model);
        files.extend(template.is_file().then_some(template));
        Ok(files)
    }

    fn origin(config: &Config) -> Option<String> {
        let tokenizer = config.tokenizer.iter().map(|path| format!(" {}", path.display()));
        Some(format!("{}{}", config.path.display(), tokenizer.collect::<String>()))
    }

    fn promises(config: &Config, _: &Given<'_>) -> Vec<Promise> {
        let Ok((model, tokenizer)) = config.peek() else { return Vec::new() };
        let mut promises = match &model {
            Known::Ours(model, _) => train_gpt::promises("checkpoint", model),
            Known::Gpt2(_) => vec![Promise::new("checkpoint", GPT2, true)],
        };
        promises.push(Promise::new("bpe", "vocab_size", tokenizer.vocab_size() as u64));
        promises
    }

    fn plan(
        config: &Config,
        _exec: &NoExec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<Vec<PlanLine>> {
        let text = match config.peek() {
            Ok((Known::Gpt2(model), _)) => format!(
                "a GPT-2: {} layers, C {}, V {}, T {}, {} parameters",
                model.n_layer,
                model.n_embd,
                model.vocab_size,
                model.n_positions,
                count(model.param_count())
            ),
            Ok((Known::Ours(model, step), _)) => format!(
                "{} layers, C {}, V {}, T {}, trained for {} steps",
                model.depth,
                model.model_dim,
                model.vocab_size,
                model.seq_len,
                count(step)
            ),
            Err(error) => crate::failure::said(&error),
        };
        Ok(vec![PlanLine::new("model", text)])
    }

    fn preflight(
        config: &Config,
        _exec: &NoExec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<()> {
        config.peek().map(drop)
    }

    fn run(config: Config, _exec: NoExec, ctx: &mut Ctx) -> Result<()> {
        let (known, tokenizer) = config.peek()?;
        // Others may write to the file while it is read; nobody does to a copy.
        let (from, copy) = (config.places().0, ctx.scratch()?.join(MODEL_FILE));
        std::fs::copy(&from, &copy).with_context(|| format!("copying {}", from.display()))?;
        let out = ctx.output("checkpoint");
        std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
        tokenizer.save(out.join(TOKENIZER_FILE))?;
        tokenizer.save(ctx.output("bpe"))?;
        if let Known::Gpt2(model) = known {
            return gpt2(&model, &from, &copy, &out, ctx);
        }
        let read = || -> farthing_model::Result<Checkpoint> {
            let checkpoint = Checkpoint::open(&copy)?;
            let gpt = Gpt::new(checkpoint.config().clone())?;
            checkpoint.check(&gpt)?;
            Ok(checkpoint)
        };
        let checkpoint = read().with_context(|| format!("{} is refused", from.display()))?;
        ctx.check_cancelled()?;
        checkpoint.export(&out.join(MODEL_FILE), DType::F32, Layout::Farthing, &[])?;
        super::keep_template(from.parent(), &out)?;
        let parameters = farthing_model::Gpt::new(checkpoint.config().clone())?.param_count();
        ctx.log(format!(
            "{} parameters, trained for {} steps",
            count(parameters),
            count(checkpoint.step())
        ));
        ctx.summary("parameters", parameters);
        ctx.summary("steps", checkpoint.step());
        Ok(())
    }
}

/// Checks a copy of a GPT-2 by reading it as who evaluates it does, and hands it on.
fn gpt2(model: &Gpt2Config, from: &Path, copy: &Path, out: &Path, ctx: &mut Ctx) -> Result<()> {
    let (said, beside) = (Gpt2Config::file(from), Gpt2Config::file(copy));
    std::fs::copy(&said, &beside).with_context(|| format!("copying {}", said.display()))?;
    Gpt2::check(copy).with_context(|| format!("{} is refused", from.display()))?;
    ctx.check_cancelled()?;
    for (from, name) in
        [(copy, MODEL_FILE.as_ref()), (&beside, beside.file_name().unwrap_or_default())]
    {
        let to = out.join(name);
        std::fs::rename(from, &to).with_context(|| format!("moving {}", to.display()))?;
    }
    ctx.log(format!("a GPT-2 of {} parameters", count(model.param_count())));
    ctx.summary("parameters", model.param_count());
    ctx.summary("steps", 0);
    Ok(())
}
