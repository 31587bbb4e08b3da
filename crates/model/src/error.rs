//! What can go wrong with a model, its batches and its checkpoints.

use std::path::PathBuf;

use farthing_kernels::Shape;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be built, run, saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of the configuration makes no model.
    #[error("{key} {what}\nhint: {hint}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        what: String,
        /// What would be right.
        hint: String,
    },
    /// An operation of the device failed.
    #[error(transparent)]
    Kernel(#[from] farthing_kernels::Error),
    /// A batch does not fit its workspace or the model.
    #[error("batch: {what}\nhint: {hint}")]
    Batch {
        /// What does not fit, with the figures.
        what: String,
        /// What would.
        hint: String,
    },
    /// A token id or target is not of the vocabulary.
    #[error(
        "batch: {what} {id} at row {row}, position {position}; the vocabulary has {vocab} entries\nhint: data and model must share one tokenizer"
    )]
    Token {
        /// "input" or "target".
        what: &'static str,
        /// The id.
        id: i32,
        /// The row of the batch.
        row: usize,
        /// The position in the row.
        position: usize,
        /// The entries there are.
        vocab: usize,
    },
    /// A request for text that cannot be met.
    #[error("generation: {what}\nhint: {hint}")]
    Generation {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A file could not be read or written.
    #[error("{}: could not {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not a complete tensor file: its head cannot be read, or it ends too early.
    #[error("{}: not a complete safetensors file: {what}\nhint: the file was cut or is of another kind; restore it from a copy, or use an earlier checkpoint", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file's bytes are not those that were written.
    #[error("{}: the data's BLAKE3 checksum is {found}, the header says {expected}\nhint: the file was damaged after it was written; use an earlier checkpoint", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The checksum of what is there.
        found: String,
        /// The checksum of what was written.
        expected: String,
    },
    /// A file's metadata lacks something or says something that makes no sense.
    #[error("{}: metadata `{key}` {what}\nhint: {hint}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A parameter has another shape in the file than in the model.
    #[error("{}: `{name}` has shape {found}, the model expects {expected}\nhint: the checkpoint is of another model: load it with the configuration in its own metadata, or change depth, head_dim or the vocabulary back", path.display())]
    ParameterShape {
        /// The file.
        path: PathBuf,
        /// The parameter.
        name: String,
        /// Its shape in the file.
        found: Box<Shape>,
        /// Its shape in the model.
        expected: Box<Shape>,
    },
    /// A tensor's elements are of a type that cannot be loaded.
    #[error("{}: `{name}` has elements of type {found}\nhint: F32, F64 and BF16 can be loaded", path.display())]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
    },
    /// A tensor that is needed is not in the file.
    #[error("{}: tensor `{name}` is missing\nhint: the checkpoint is of another model or was written by another program; its own metadata has the configuration that fits", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The file has a tensor that the model has not.
    #[error("{}: tensor `{name}` is not a parameter of the model\nhint: the checkpoint is of another model (other depth, smear, backout or value_embeds); anything that is not a parameter must be named `{}…`", path.display(), "state.")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// What was to be written contradicts itself: a name twice, bytes that do not fit a shape.
    #[error("{}: cannot write: {what}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        what: String,
    },
}
