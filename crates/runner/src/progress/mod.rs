//! Progress of a running stage. The stage only counts, which costs a few atomic operations. A thread beside it reads the counts from time to time and draws the rate, the time left and the figures;
//! that way, even a stage that counts nothing is seen to be alive. `count` is what is counted, `words` says it, `watch` is the stage's display, `screen` and `board` are where that is shown.

mod board;
mod count;
pub(crate) mod format;
mod screen;
mod watch;
mod words;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use board::Board;
pub(crate) use count::CountState;
pub use count::StageProgress;
pub(crate) use screen::Screen;
pub(crate) use watch::{Remote, Watch};

/// A thread that panicked while it held one of these locks left nothing half-written that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
