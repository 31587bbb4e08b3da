//! What can go wrong while training.

use std::borrow::Cow;
use std::path::PathBuf;

use farthing_base::Hint;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why training could not be set up, go on, be saved or resumed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device refused or failed.
    #[error(transparent)]
    Kernel(#[from] farthing_kernels::Error),
    /// The model, a batch for it or a checkpoint of it.
    #[error(transparent)]
    Model(#[from] farthing_model::Error),
    /// Groups, schedules, optimizers.
    #[error(transparent)]
    Optim(#[from] farthing_optim::Error),
    /// Rows and batches.
    #[error(transparent)]
    Data(#[from] farthing_data::Error),
    /// Another rank, or what joins them.
    #[error(transparent)]
    Comm(#[from] farthing_comm::Error),
    /// What another rank said.
    #[error("a message of rank 0 cannot be read: {what}")]
    Message {
        /// What serde said.
        what: String,
    },
    /// The evaluation.
    #[error(transparent)]
    Eval(#[from] farthing_eval::Error),
    /// The recipe does not fit the data, or the batches do not fit the recipe.
    #[error("{what}")]
    Recipe {
        /// What does not fit, with the figures.
        what: String,
        /// What would.
        hint: String,
    },
    /// The batches ended inside a step.
    #[error("the batches ended after {got} of {wanted} micro-batches of step {step}")]
    BatchesEnded {
        /// The step, counted from 1.
        step: u64,
        /// Micro-batches that there were.
        got: usize,
        /// Micro-batches of a step.
        wanted: usize,
    },
    /// The loss, or the gradient's norm, is no number. Nothing was updated.
    #[error("{}", not_finite(*.step, *.loss, *.grad_norm))]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its gradient's norm.
        grad_norm: f64,
    },
    /// A file or folder of checkpoints.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// "listing", "deleting", "copying", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint that is whole, but not one of a training.
    #[error("{}: {what}", path.display())]
    NoTraining {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        what: String,
    },
    /// A checkpoint of another training than the one that is to go on.
    #[error("{}: {what}", path.display())]
    OtherTraining {
        /// The file.
        path: PathBuf,
        /// What tells them apart, with the figures.
        what: String,
    },
}

fn not_finite(step: u64, loss: f64, grad_norm: f64) -> String {
    if loss.is_finite() {
        format!("the gradient's norm is {grad_norm} at step {step}, loss {loss:.4}")
    } else {
        format!("the loss is {loss} at step {step}")
    }
}

farthing_base::debug_with_hint!(Error);

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Kernel(e) => e.hint(),
            Self::Model(e) => e.hint(),
            Self::Optim(e) => e.hint(),
            Self::Data(e) => e.hint(),
            Self::Eval(e) => e.hint(),
            Self::Comm(e) => e.hint(),
            Self::Message { .. } => Some("start every rank from the same program".into()),
            Self::Recipe { hint, .. } => Some(hint.into()),
            Self::BatchesEnded { .. } => {
                Some("give as many rows as a step has, for each step".into())
            }
            Self::NotFinite { .. } => Some(
                "lower the learning rates (`lr` of the groups under `optim`), or raise `schedule.warmup_steps`; the metrics up to here are kept".into(),
            ),
            Self::Io { .. } => Some("check that the folder exists, is writable and has room".into()),
            Self::OtherTraining { .. } => {
                Some("keep the checkpoints of each training in a folder of their own".into())
            }
            Self::NoTraining { .. } => Some("give a checkpoint that a training wrote on its way".into()),
        }
    }
}
