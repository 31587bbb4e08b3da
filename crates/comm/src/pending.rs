//! `Pending`: arrays that an engine has begun to send or to fill, and that are nobody's until they have been waited for.

use crate::{Error, Result};

/// Arrays on their way. They are borrowed, or owned, by this value until it is [waited](Pending::wait) for; who drops it waits too, and hears of no failure.
#[must_use = "dropped at once, it is waited for at once"]
pub struct Pending<'a, T>(Option<Box<dyn FnOnce() -> Result<T> + Send + 'a>>);

impl<'a, T: Send + 'a> Pending<'a, T> {
    /// For implementors of engines: what waiting does, with the arrays in it.
    pub fn new(wait: impl FnOnce() -> Result<T> + Send + 'a) -> Self {
        Self(Some(Box::new(wait)))
    }
}

impl<T> Pending<'_, T> {
    /// The arrays, once they are there: for whatever the device is asked from now on, where an engine sends in the order of the device's work; else for everybody.
    ///
    /// # Errors
    /// As [`Comm::reduce_scatter`](crate::Comm::reduce_scatter).
    pub fn wait(mut self) -> Result<T> {
        match self.0.take() {
            Some(wait) => wait(),
            None => Err(Error::Argument { during: "wait", what: "waited for before".to_owned() }),
        }
    }
}

impl<T> Drop for Pending<'_, T> {
    fn drop(&mut self) {
        if let Some(wait) = self.0.take() {
            let _ = wait();
        }
    }
}
