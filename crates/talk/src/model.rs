//! A trained model with its tokenizer on a device.

use std::path::Path;

use farthing_data::Tokenizer;
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, load_model};

use crate::{Error, Result};

/// A model that can be talked to.
pub struct Model {
    /// Where it computes.
    pub dev: Box<dyn Device>,
    /// Its structure.
    pub gpt: Gpt,
    /// Its weights.
    pub params: Params,
    /// What its tokens mean.
    pub tokenizer: Tokenizer,
}

impl Model {
    /// Loads the model of a file and its tokenizer.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Data`], [`Error::Vocabulary`].
    pub fn open(model: &Path, tokenizer: &Path, dev: Box<dyn Device>) -> Result<Self> {
        let tokenizer = Tokenizer::load(tokenizer)?;
        let (gpt, params) = load_model(model, dev.as_ref())?;
        let (own, theirs) = (gpt.config().vocab_size, tokenizer.vocab_size());
        if own != theirs {
            return Err(Error::Vocabulary {
                path: model.to_owned(),
                model: own,
                tokenizer: theirs,
            });
        }
        Ok(Self { dev, gpt, params, tokenizer })
    }

    /// The tokens of a document's beginning.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn prompt(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = vec![self.tokenizer.bos() as i32];
        tokens.extend(self.tokenizer.encode(text)?.into_iter().map(|t| t as i32));
        Ok(tokens)
    }

    /// Tokens of the rows that it was trained on: what comes later sees the last so many.
    pub fn context(&self) -> usize {
        self.gpt.config().seq_len
    }
}
