//! What can go wrong between ranks.

use std::borrow::Cow;

use farthing_base::Hint;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a collective failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device refused or failed.
    #[error(transparent)]
    Kernel(#[from] farthing_kernels::Error),
    /// A rank ended before the others did.
    #[error("rank {lost} of {ranks} is gone; rank {rank} waited for it in {during}")]
    Lost {
        /// The rank that is gone.
        lost: usize,
        /// N.
        ranks: usize,
        /// The rank that says so.
        rank: usize,
        /// The collective.
        during: &'static str,
    },
    /// Ranks called different collectives, or with other lengths.
    #[error("rank {rank} called {here}, rank {other} {there}")]
    Differs {
        /// The rank that says so.
        rank: usize,
        /// What it called.
        here: String,
        /// The first rank that called something else.
        other: usize,
        /// What that called.
        there: String,
    },
    /// Lengths that do not fit together.
    #[error("{during}: {what}")]
    Argument {
        /// The collective.
        during: &'static str,
        /// The figures.
        what: String,
    },
}

farthing_base::debug_with_hint!(Error);

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Kernel(e) => e.hint(),
            Self::Lost { .. } => Some("see what that rank said last".into()),
            Self::Differs { .. } => {
                Some("give every rank the same program and configuration".into())
            }
            Self::Argument { .. } => None,
        }
    }
}
