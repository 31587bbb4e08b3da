//! A trained model with its tokenizer on a device, as the stages after training read them.

use farthing_data::Tokenizer;
use farthing_eval::GptScorer;
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, load_model};

use super::{device, train_gpt::MODEL_FILE};
use crate::{Ctx, Result};

/// What the ports `model` and `bpe` hold, opened.
pub(crate) struct Loaded {
    pub(crate) dev: Box<dyn Device>,
    pub(crate) gpt: Gpt,
    pub(crate) params: Params,
    pub(crate) tokenizer: Tokenizer,
}

impl Loaded {
    /// Opens both ports of `ctx` on the device of its resources.
    pub(crate) fn open(ctx: &Ctx) -> Result<Self> {
        let tokenizer = super::tokenizer(ctx)?;
        let dev = device::open(&ctx.resources)?;
        let path = ctx.input("model")?.join(MODEL_FILE);
        let (gpt, params) = load_model(&path, dev.as_ref())
            .map_err(|e| super::unreadable("reading input `model`", &e))?;
        let (model, bpe) = (gpt.config().vocab_size, tokenizer.vocab_size());
        if model != bpe {
            anyhow::bail!(
                "the model in {} has a vocabulary of {model}, the tokenizer {bpe}\n\
                 hint: connect `bpe` to the tokenizer that the model's rows were packed with",
                path.display()
            );
        }
        Ok(Self { dev, gpt, params, tokenizer })
    }

    /// The model as the evaluations see it.
    pub(crate) fn scorer(&self) -> GptScorer<'_> {
        GptScorer::new(&self.gpt, self.dev.as_ref(), &self.params)
    }
}
