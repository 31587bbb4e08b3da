//! Why a model is not served.

use std::borrow::Cow;
use std::net::SocketAddr;

use farthing_base::Hint;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model is not served, or not any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model.
    #[error(transparent)]
    Talk(#[from] farthing_talk::Error),
    /// Whoever reaches the address could use the model.
    #[error("{address} needs an API key of at least {bytes} bytes")]
    Open {
        /// Where it was to listen.
        address: SocketAddr,
        /// The least bytes of a key.
        bytes: usize,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// A thread ended without a word.
    #[error("a thread of the server ended")]
    Ended,
}

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Talk(e) => e.hint(),
            Self::Open { .. } => Some("give it one, or listen on 127.0.0.1".into()),
            Self::Io { .. } => Some("check that nobody else listens there".into()),
            Self::Ended => Some("this is a fault of the server; start it again".into()),
        }
    }
}
