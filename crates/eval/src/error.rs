//! The one error type of the crate: what is wrong, where, with the numbers, and a hint.

use std::path::PathBuf;

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of something that is plugged in: a model, a text encoder, a source of batches.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Everything that can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read a file of the bundle.
    #[error("cannot read {}: {source}\nhint: {hint}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's own reason.
        source: std::io::Error,
        /// Where the file should have come from.
        hint: &'static str,
    },
    /// The list of tasks is not JSON, or names something that cannot be evaluated.
    #[error("the task list {} cannot be used: {reason}\nhint: {hint}", path.display())]
    Tasks {
        /// The list of tasks.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to change.
        hint: String,
    },
    /// A line of a task's file is not an item of the task's type.
    #[error("line {line} of {} is not an item: {reason}\nhint: {hint}", path.display())]
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
        "task {label} has {items} items, {shots} examples and the item itself need {}\nhint: lower num_fewshot, raise max_per_task, or give more items",
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
        "line {line} of {} cannot be scored: {reason}\nhint: correct the line, or remove it from the file", path.display()
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
    #[error("{what}\nhint: {hint}")]
    Config {
        /// The setting and its value.
        what: String,
        /// The range.
        hint: String,
    },
    /// A batch's parts do not have the same number of positions.
    #[error(
        "a batch of {rows} rows of {tokens} tokens has {inputs} inputs and {targets} targets\nhint: both must number rows × tokens, and at least 1"
    )]
    Batch {
        /// Rows, B.
        rows: usize,
        /// Positions per row, T.
        tokens: usize,
        /// Input tokens given.
        inputs: usize,
        /// Target tokens given.
        targets: usize,
    },
    /// A token is not in the vocabulary.
    #[error(
        "token {token} at position {position} of row {row} of a batch, but the vocabulary has {vocab} entries\nhint: evaluate with the tokenizer that the model was trained with"
    )]
    Token {
        /// The token.
        token: i32,
        /// The row in its batch.
        row: usize,
        /// The position in its row.
        position: usize,
        /// Entries in the vocabulary.
        vocab: usize,
    },
    /// The model gave a loss that is not a number.
    #[error(
        "the model's loss is {loss} {place}\nhint: its weights have diverged; evaluate an earlier checkpoint"
    )]
    NotFinite {
        /// The loss.
        loss: f64,
        /// Where: the row and position, or the task and line.
        place: String,
    },
    /// The model gave another number of scores than there are positions.
    #[error(
        "the model gave {losses} losses and {predictions} predictions for {positions} positions\nhint: this is a fault of the `LanguageModel`: it must fill both"
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
    #[error(
        "{tokens} targets stand for 0 bytes\nhint: the held-out rows hold no text, or the tokenizer is another than the one they were packed with"
    )]
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
