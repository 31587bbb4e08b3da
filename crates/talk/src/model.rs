//! A trained model with its tokenizer on a device.

use std::path::Path;

use farthing_data::{ChatTokens, Message, Tokenizer};
use farthing_kernels::cpu::{Compact, CompactCpu, Cpu};
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, compact, load_model};

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
        let (gpt, params, tokenizer) = read(model, tokenizer, dev.as_ref())?;
        Ok(Self { dev, gpt, params, tokenizer })
    }

    /// The same on the processor, with weights of products kept in fewer bytes beside those of the file: decoding waits for less memory.
    ///
    /// # Numerics
    /// Products are those of [`CompactCpu`]; embeddings, gates and scalars stay f32.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_compact(model: &Path, tokenizer: &Path, cpu: Cpu, kind: Compact) -> Result<Self> {
        let mut dev = CompactCpu::new(cpu);
        let (gpt, params, tokenizer) = read(model, tokenizer, &dev)?;
        compact(&gpt, params.weights(), &mut dev, kind)?;
        Ok(Self { dev: Box::new(dev), gpt, params, tokenizer })
    }

    /// The tokens of a document's beginning.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = vec![self.tokenizer.bos()];
        self.tokenizer.encode_to(text, &mut tokens)?;
        Ok(tokens)
    }

    /// The special tokens of conversations.
    ///
    /// # Errors
    /// [`Error::Data`] where the tokenizer lacks one: nobody can chat with such a model.
    pub fn chat(&self) -> Result<ChatTokens> {
        Ok(ChatTokens::of(&self.tokenizer)?)
    }

    /// The tokens of what was said so far, after which the assistant answers, and those at which its answer ends.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn turn(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<u32>)> {
        turn(&self.tokenizer, messages)
    }

    /// Tokens of the rows that it was trained on: what comes later sees the last so many.
    pub fn context(&self) -> usize {
        self.gpt.config().seq_len
    }
}

/// The model of a file, and its tokenizer.
fn read(model: &Path, tokenizer: &Path, dev: &dyn Device) -> Result<(Gpt, Params, Tokenizer)> {
    let tokenizer = Tokenizer::load(tokenizer)?;
    let (gpt, params) = load_model(model, dev)?;
    let (own, theirs) = (gpt.config().vocab_size, tokenizer.vocab_size());
    if own != theirs {
        return Err(Error::Vocabulary { path: model.to_owned(), model: own, tokenizer: theirs });
    }
    Ok((gpt, params, tokenizer))
}

/// [`Model::turn`] for who has no more than the tokenizer.
///
/// # Errors
/// [`Error::Data`].
pub fn turn(tokenizer: &Tokenizer, messages: &[Message]) -> Result<(Vec<u32>, Vec<u32>)> {
    let chat = ChatTokens::of(tokenizer)?;
    let tokens = chat.prompt(tokenizer, messages)?;
    // A model that begins the other's turn has ended its own.
    Ok((tokens, [&chat.assistant[..], &chat.user[..]].concat()))
}
