//! The one error type of the crate: what is wrong, where, with the numbers, and beside the message a hint.

use std::borrow::Cow;
use std::path::PathBuf;

use farthing_base::{BatchError, Hint};

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of something that is plugged in: a model, a text encoder, a source of batches.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Everything that can go wrong in an evaluation.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read a file of the bundle.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's own reason.
        source: std::io::Error,
        /// Where the file should have come from.
        hint: &'static str,
    },
    /// The list of tasks is not JSON, or names something that cannot be evaluated.
    #[error("the task list {} cannot be used: {reason}", path.display())]
    Tasks {
        /// The list of tasks.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to change.
        hint: String,
    },
    /// A zip is damaged, or is none that a bundle would come in.
    #[error("the bundle {} cannot be used: {reason}", path.display())]
    Archive {
        /// The zip.
        path: PathBuf,
        /// What is wrong with it, with the numbers.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A line of a task's file is not an item of the task's type.
    #[error("line {line} of {} is not an item: {reason}", path.display())]
    Item {
        /// The file of items.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, with the numbers.
        reason: String,
        /// What an item of this type looks like.
        hint: &'static str,
    },
    /// A task has too few items to draw its few-shot examples from.
    #[error(
        "task {label} has {items} items, {shots} examples and the item itself need {}",
        shots + 1
    )]
    FewShot {
        /// The task.
        label: String,
        /// Items left after max_per_task.
        items: usize,
        /// Examples asked for.
        shots: usize,
    },
    /// A prompt gives the model nothing to be scored on.
    #[error(
        "line {line} of {} cannot be scored: {reason}", path.display()
    )]
    Prompt {
        /// The file of items.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, with the numbers.
        reason: String,
    },
    /// A setting is outside the range in which it means something.
    #[error("{what}")]
    Config {
        /// The setting and its value.
        what: String,
        /// The range.
        hint: String,
    },
    /// What was given makes no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A token is not in the vocabulary.
    #[error(
        "token {token} at position {position} of row {row} of a batch, but the vocabulary has {vocab} entries"
    )]
    Token {
        /// The token.
        token: i64,
        /// The row in its batch.
        row: usize,
        /// The position in its row.
        position: usize,
        /// Entries in the vocabulary.
        vocab: usize,
    },
    /// The model gave a loss that is not a number.
    #[error("the model's loss is {loss} {place}")]
    NotFinite {
        /// The loss.
        loss: f64,
        /// Where: the row and position, or the task and line.
        place: String,
    },
    /// The model gave another number of scores than there are positions.
    #[error(
        "the model gave {losses} losses and {predictions} predictions for {positions} positions"
    )]
    Scores {
        /// Losses given.
        losses: usize,
        /// Predictions given.
        predictions: usize,
        /// Positions in the batch.
        positions: usize,
    },
    /// No token with a byte length was evaluated, so there is nothing to divide by.
    #[error("{tokens} targets stand for 0 bytes")]
    NoBytes {
        /// Targets evaluated.
        tokens: u64,
    },
    /// The model failed.
    #[error("the model could not be evaluated: {source}")]
    Model {
        /// The model's reason.
        source: BoxError,
    },
    /// The tokenizer failed.
    #[error("a prompt could not be encoded: {source}")]
    Encode {
        /// The tokenizer's reason.
        source: BoxError,
    },
    /// Held-out rows could not be read.
    #[error("the held-out rows could not be read: {source}")]
    Rows {
        /// The reader's reason.
        source: BoxError,
    },
}

farthing_base::debug_with_hint!(Error);

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let hint: &str = match self {
            &(Self::Read { hint, .. } | Self::Item { hint, .. }) => hint,
            Self::Tasks { hint, .. } | Self::Archive { hint, .. } | Self::Config { hint, .. } => {
                hint
            }
            Self::FewShot { .. } => "lower num_fewshot, raise max_per_task, or give more items",
            Self::Prompt { .. } => "correct the line, or remove it from the file",
            Self::Batch(error) => return error.hint(),
            Self::Token { .. } => "evaluate with the tokenizer that the model was trained with",
            Self::NotFinite { .. } => "its weights have diverged; evaluate an earlier checkpoint",
            Self::Scores { .. } => "this is a fault of the `LanguageModel`: it must fill both",
            Self::NoBytes { .. } => {
                "the held-out rows hold no text, or the tokenizer is another than the one they were packed with"
            }
            Self::Model { source } | Self::Encode { source } | Self::Rows { source } => {
                let model = source.downcast_ref::<farthing_model::Error>().and_then(Hint::hint);
                let data = || source.downcast_ref::<farthing_data::Error>().and_then(Hint::hint);
                return model.or_else(data);
            }
        };
        Some(hint.into())
    }
}
