//! The flag that a signal raises, which stages poll between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// A request to stop, shared by everything that works on one run.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<AtomicI32>);

/// Nobody asked to stop.
const NO: i32 = 0;

/// Asked to by the program itself.
const YES: i32 = -1;

impl Cancel {
    /// Raises the flag.
    pub fn request(&self) {
        self.raise(YES);
    }

    /// Raises the flag on behalf of a signal.
    pub(crate) fn request_by(&self, signal: i32) {
        self.raise(signal);
    }

    fn raise(&self, by: i32) {
        // The first one counts.
        let _ = self.0.compare_exchange(NO, by, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether the flag is up.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst) != NO
    }

    /// The signal that raised it.
    pub(crate) fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::SeqCst)).filter(|by| *by > NO)
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
