//! What can go wrong with a model, its batches and its checkpoints.

use std::borrow::Cow;
use std::path::PathBuf;

use farthing_base::tensors::TensorError;
use farthing_base::{BatchError, Hint};
use farthing_kernels::Shape;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be built, run, saved or loaded.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of the configuration makes no model.
    #[error("{key} {what}")]
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
    #[error("batch: {what}")]
    Batch {
        /// What does not fit, with the figures.
        what: String,
        /// What would.
        hint: String,
    },
    /// A batch holds ids that the vocabulary has not.
    #[error(transparent)]
    Tokens(#[from] BatchError),
    /// A request for text that cannot be met.
    #[error("generation: {what}")]
    Generation {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A tensor file could not be written or read, is not whole, or lacks a tensor.
    #[error(transparent)]
    File(#[from] TensorError),
    /// A file's metadata lacks something or says something that makes no sense.
    #[error("{}: metadata `{key}` {what}", path.display())]
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
    #[error("{}: `{name}` has shape {found}, the model expects {expected}", path.display())]
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
    #[error("{}: `{name}` has elements of type {found}", path.display())]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
    },
    /// An element of a tensor is no number, or infinite.
    #[error("{}: element {at} of `{name}` is {value}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Which of its elements, counted from 0.
        at: usize,
        /// What it is.
        value: f64,
    },
    /// The file has a tensor that the model has not.
    #[error("{}: tensor `{name}` is not a parameter of the model", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A model has what a layout has no place for.
    #[error("{form} has no `{feature}`, and this model has: {what}")]
    Inexpressible {
        /// Whose layout.
        form: &'static str,
        /// The key of the configuration, or the parameter.
        feature: String,
        /// What the model has there.
        what: String,
    },
}

farthing_base::debug_with_hint!(Error);

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let hint: &str = match self {
            // It stands in the message still.
            Self::Kernel(e) => return e.hint(),
            Self::Tokens(e) => return e.hint(),
            Self::Config { hint, .. }
            | Self::Batch { hint, .. }
            | Self::Generation { hint, .. } => hint,
            &Self::Metadata { hint, .. } => hint,
            Self::File(error) => match error {
                TensorError::Header { .. } | TensorError::Size { .. } => {
                    "the file was cut or is of another kind; restore it from a copy, or use an earlier checkpoint"
                }
                TensorError::Checksum { .. } => {
                    "the file was damaged after it was written; use an earlier checkpoint"
                }
                TensorError::Missing { .. } => {
                    "the checkpoint is of another model or was written by another program; its own metadata has the configuration that fits"
                }
                error => return error.hint(),
            },
            Self::ParameterShape { .. } => {
                "the checkpoint is of another model: load it with the configuration in its own metadata, or change depth, head_dim or the vocabulary back"
            }
            Self::NotFinite { .. } => {
                "the training that wrote it had diverged, or the file is damaged; use an earlier checkpoint"
            }
            Self::Inexpressible { .. } => {
                "write it in the layout `Farthing`, which has a place for everything"
            }
            Self::ElementType { .. } => "F32, F64 and BF16 can be loaded",
            Self::Unknown { .. } => {
                "the checkpoint is of another model (other depth, smear, backout or value_embeds); anything that is not a parameter must be named `state.…`"
            }
        };
        Some(hint.into())
    }
}
