//! The flag that Ctrl-C raises, which stages poll between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, shared by everything that works on one run.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Raises the flag.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the flag is up.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Fails with [`Cancelled`] once the flag is up, so that `cancel.check()?` leaves a loop.
    ///
    /// # Errors
    /// [`Cancelled`] after a request to stop.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.requested() { Err(Cancelled) } else { Ok(()) }
    }
}

/// The stage stopped because it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped on request")]
pub struct Cancelled;
