//! A trained model with its tokenizer on a device, as the stages after training read them.

use std::path::{Path, PathBuf};

use anyhow::bail;
use farthing_data::Tokenizer;
use farthing_eval::{Gpt2Scorer, GptScorer, LanguageModel};
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, Gpt2, Gpt2Config, load_model};

use super::{device, train_gpt::MODEL_FILE};
use crate::progress::format::count;
use crate::{Ctx, PlanCtx, Result};

/// What the ports `model` and `bpe` hold, opened: one of our models.
pub(crate) struct Loaded {
    pub(crate) dev: Box<dyn Device>,
    pub(crate) gpt: Gpt,
    pub(crate) params: Params,
    pub(crate) tokenizer: Tokenizer,
}

impl Loaded {
    /// Opens both ports of `ctx` on the device of its resources.
    pub(crate) fn open(ctx: &Ctx) -> Result<Self> {
        Self::on(ctx, device::open(&ctx.resources)?)
    }

    fn on(ctx: &Ctx, dev: Box<dyn Device>) -> Result<Self> {
        let tokenizer = super::tokenizer(ctx)?;
        let path = ctx.input("model")?.join(MODEL_FILE);
        let (gpt, params) = load_model(&path, dev.as_ref())
            .map_err(|e| super::unreadable("reading input `model`", &e))?;
        check_vocabulary(&path, gpt.config().vocab_size, &tokenizer, CONNECT)?;
        Ok(Self { dev, gpt, params, tokenizer })
    }
}

/// The fact by which a stage says that its model is a GPT-2.
pub(crate) const GPT2: &str = "gpt2";

/// Refuses a GPT-2 behind the port `model`, made or promised, where it is to be more than evaluated.
pub(crate) fn no_gpt2(ctx: &PlanCtx) -> Result<()> {
    let made = ctx.input("model").is_some_and(|m| Gpt2Config::is_beside(&m.join(MODEL_FILE)));
    if made || ctx.fact("model", GPT2).is_some() {
        bail!(
            "the model behind input `model` is a GPT-2, which can be evaluated and nothing else\n\
             hint: connect `model` to a model that was trained here"
        );
    }
    Ok(())
}

/// What a pipeline does about a tokenizer of another model, and what a command line does.
const CONNECT: &str = "connect `bpe` to the tokenizer that the model's rows were packed with";
const NAME: &str = "name the tokenizer that it was trained with: --tokenizer FILE";

fn check_vocabulary(path: &Path, entries: usize, tokenizer: &Tokenizer, hint: &str) -> Result<()> {
    let bpe = tokenizer.vocab_size();
    if entries != bpe {
        bail!(
            "the model in {} has a vocabulary of {entries}, the tokenizer {bpe}\nhint: {hint}",
            path.display()
        );
    }
    Ok(())
}

/// A model that can be evaluated, ours or a GPT-2, with its tokenizer.
pub(crate) struct Evaluated {
    path: PathBuf,
    dev: Box<dyn Device>,
    kind: Kind,
    pub(crate) tokenizer: Tokenizer,
}

enum Kind {
    Ours(Box<Gpt>, Params),
    Gpt2(Gpt2Config),
}

impl Evaluated {
    /// Opens the ports `model` and `bpe`.
    pub(crate) fn of_ports(ctx: &Ctx, dev: Box<dyn Device>) -> Result<Self> {
        let path = ctx.input("model")?.join(MODEL_FILE);
        if Gpt2Config::is_beside(&path) {
            return Self::gpt2(path, super::tokenizer(ctx)?, dev, CONNECT);
        }
        let Loaded { dev, gpt, params, tokenizer } = Loaded::on(ctx, dev)?;
        Ok(Self { path, dev, kind: Kind::Ours(Box::new(gpt), params), tokenizer })
    }

    /// Opens a model's file and a tokenizer.
    pub(crate) fn of_files(path: &Path, tokenizer: &Path, dev: Box<dyn Device>) -> Result<Self> {
        let tokenizer = Tokenizer::load(tokenizer)?;
        if Gpt2Config::is_beside(path) {
            return Self::gpt2(path.to_owned(), tokenizer, dev, NAME);
        }
        let (gpt, params) = load_model(path, dev.as_ref())?;
        check_vocabulary(path, gpt.config().vocab_size, &tokenizer, NAME)?;
        let kind = Kind::Ours(Box::new(gpt), params);
        Ok(Self { path: path.to_owned(), dev, kind, tokenizer })
    }

    fn gpt2(path: PathBuf, tokenizer: Tokenizer, dev: Box<dyn Device>, hint: &str) -> Result<Self> {
        let config = Gpt2Config::read(&path)?;
        check_vocabulary(&path, config.vocab_size, &tokenizer, hint)?;
        Ok(Self { path, dev, kind: Kind::Gpt2(config), tokenizer })
    }

    /// The model as the evaluations see it. A GPT-2 is read from its file here.
    pub(crate) fn scorer(&self) -> Result<Box<dyn LanguageModel + '_>> {
        let dev = self.dev.as_ref();
        Ok(match &self.kind {
            Kind::Ours(gpt, params) => Box::new(GptScorer::new(gpt, dev, params)),
            Kind::Gpt2(_) => Box::new(Gpt2Scorer::new(Gpt2::open(&self.path, dev)?)),
        })
    }

    /// Tokens of the longest text that it was trained on.
    pub(crate) fn context(&self) -> usize {
        match &self.kind {
            Kind::Ours(gpt, _) => gpt.config().seq_len,
            Kind::Gpt2(config) => config.n_positions,
        }
    }

    /// What it is, in a line.
    pub(crate) fn described(&self) -> String {
        let (kind, parameters) = match &self.kind {
            Kind::Ours(gpt, _) => ("a model", gpt.param_count()),
            Kind::Gpt2(config) => ("a GPT-2", config.param_count()),
        };
        format!("{kind} of {} parameters: {}", count(parameters), self.path.display())
    }
}
