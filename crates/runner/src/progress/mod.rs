//! Progress of a running stage. Stages count; one thread per stage looks at the counts from time to time and draws
//! rate, time left and figures, so that counting costs a few atomics and a stage that counts nothing still shows that
//! it lives. `count` is what is counted, `words` says it, `watch` is the stage's display, `screen` and `board` where that is.

mod board;
mod count;
pub(crate) mod format;
mod screen;
mod watch;
mod words;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use board::Board;
pub(crate) use count::CountState;
pub use count::Progress;
pub(crate) use screen::Screen;
pub(crate) use watch::{Remote, Watch};

/// A thread that panicked while it held one of these locks left nothing half-written that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
