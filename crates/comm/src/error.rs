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
        during: String,
    },
    /// A rank's process does not answer.
    #[error(
        "rank {silent} of {ranks} has said nothing for {seconds} s; rank {rank} waited in {during}"
    )]
    Silent {
        /// The rank that is silent.
        silent: usize,
        /// N.
        ranks: usize,
        /// The rank that says so.
        rank: usize,
        /// How long.
        seconds: u64,
        /// What the rank that says so was doing.
        during: String,
    },
    /// Ranks whose processes answer have not come to a collective.
    #[error("rank {rank} has waited {seconds} s in {during}; {late}")]
    Late {
        /// The rank that says so.
        rank: usize,
        /// How long.
        seconds: u64,
        /// The collective.
        during: String,
        /// Who has not come, and what they do instead.
        late: String,
    },
    /// A rank stopped, and said why.
    #[error("rank {rank} stopped: {why}")]
    Stopped {
        /// The rank that stopped.
        rank: usize,
        /// In its words.
        why: String,
    },
    /// The environment of a launcher is not to be understood.
    #[error("{what}")]
    Launch {
        /// What it says.
        what: String,
        /// What to do.
        hint: Cow<'static, str>,
    },
    /// The ranks did not come together.
    #[error("{what}")]
    Meeting {
        /// What was tried, and what happened.
        what: String,
        /// What to do.
        hint: Cow<'static, str>,
    },
    /// A library that carries arrays is not there, or is not the right one.
    #[error("{what}")]
    Library {
        /// What was looked for.
        what: String,
        /// What to do.
        hint: Cow<'static, str>,
    },
    /// A library that carries arrays failed.
    #[error("{during}: {library} says: {what}")]
    Engine {
        /// The collective.
        during: &'static str,
        /// The library.
        library: &'static str,
        /// In its words.
        what: String,
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
            Self::Silent { .. } => {
                Some("look whether that process, or its machine, is stopped or out of memory".into())
            }
            Self::Late { .. } => {
                Some("look at what that rank is doing; FARTHING_DEADLINE_S sets for how long it is waited for".into())
            }
            Self::Launch { hint, .. } | Self::Meeting { hint, .. } | Self::Library { hint, .. } => {
                Some(hint.as_ref().into())
            }
            Self::Differs { .. } => {
                Some("give every rank the same program and configuration".into())
            }
            Self::Argument { .. } | Self::Stopped { .. } | Self::Engine { .. } => None,
        }
    }
}

impl Error {
    pub(crate) fn launch(what: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::Launch { what: what.into(), hint: hint.into() }
    }

    pub(crate) fn meeting(what: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::Meeting { what: what.into(), hint: hint.into() }
    }

    pub(crate) fn library(what: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::Library { what: what.into(), hint: hint.into() }
    }

    /// Whether a rank is missed, not what it failed of: of several ranks' errors, one of these explains nothing.
    pub fn is_only_missed(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Silent { .. } | Self::Late { .. })
    }
}
