//! What a long function tells its caller while it runs, and how the caller stops it.

/// Receives the progress of one function, on whichever thread does the work. Every method has an empty default.
pub trait Progress: Send {
    /// How much there is to do in all, if that is known, in `unit` (for example "documents").
    fn total(&mut self, total: Option<u64>, unit: &'static str) {
        let _ = (total, unit);
    }

    /// `n` more units are done.
    fn advance(&mut self, n: u64) {
        let _ = n;
    }

    /// How far one of several parts is that are worked on side by side, such as a file; it is done when `done` is `total`.
    fn part(&mut self, name: &str, done: u64, total: Option<u64>) {
        let _ = (name, done, total);
    }

    /// Whether whoever watches wants the work to end. A function that polls this says so, and returns
    /// [`Error::Stopped`](crate::Error::Stopped) soon after the first `true`, leaving what a later call can go on from.
    fn stopped(&self) -> bool {
        false
    }

    /// What is happening now, in a few words.
    fn message(&mut self, text: &str) {
        let _ = text;
    }
}

/// Progress that nobody watches.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}
