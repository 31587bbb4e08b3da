//! What can go wrong between a prompt and its text.

use std::borrow::Cow;
use std::path::PathBuf;

use farthing_base::Hint;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's file, or a request that it cannot meet.
    #[error(transparent)]
    Model(#[from] farthing_model::Error),
    /// The tokenizer, or a text that it cannot encode.
    #[error(transparent)]
    Data(#[from] farthing_data::Error),
    /// The tokenizer is another model's.
    #[error("the model in {} has a vocabulary of {model}, the tokenizer {tokenizer}", path.display())]
    Vocabulary {
        /// The model's file.
        path: PathBuf,
        /// Entries of the model's vocabulary.
        model: usize,
        /// Entries of the tokenizer's.
        tokenizer: usize,
    },
    /// All places are taken.
    #[error("{wanted} texts at once, with room for {free} more")]
    Full {
        /// Texts to start.
        wanted: usize,
        /// Places that are free.
        free: usize,
    },
    /// The prompt and what is to be added do not fit.
    #[error("a prompt of {prompt} tokens and {more} more, with room for {room}")]
    Room {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to add.
        more: usize,
        /// Tokens that there is room for.
        room: usize,
    },
}

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Model(e) => e.hint(),
            Self::Data(e) => e.hint(),
            Self::Vocabulary { .. } => {
                Some("give the tokenizer that the model was trained with".into())
            }
            Self::Full { .. } => Some("wait until others are done, or ask for fewer".into()),
            Self::Room { .. } => Some("shorten the prompt, or ask for fewer tokens".into()),
        }
    }
}
