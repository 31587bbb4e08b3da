//! A count under way: what a stage says of itself from any thread, and what another process is told of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::words::amount_of;
use super::{format, lock};

/// A count under way, to be advanced from any thread.
#[derive(Clone)]
pub struct StageProgress(pub(super) Arc<Count>);

pub(super) struct Count {
    pub(super) unit: String,
    pub(super) started: Instant,
    pub(super) total: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) first: AtomicU64,
    pub(super) words: Mutex<Words>,
}

#[derive(Default)]
pub(super) struct Words {
    pub(super) message: String,
    pub(super) figures: Vec<(String, String)>,
    /// Parts under way by name: what is done of them, and their size where it is known.
    parts: BTreeMap<String, (u64, Option<u64>)>,
}

impl StageProgress {
    pub(super) fn new(total: u64, unit: &str) -> Self {
        Self(Arc::new(Count {
            unit: unit.to_owned(),
            started: Instant::now(),
            total: AtomicU64::new(total),
            done: AtomicU64::new(0),
            first: AtomicU64::new(0),
            words: Mutex::default(),
        }))
    }

    /// Counts `n` more units.
    pub fn advance(&self, n: u64) {
        self.0.done.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the count, as when a resumed stage starts in the middle; a first call does not count as speed.
    pub fn set(&self, done: u64) {
        if self.0.done.swap(done, Ordering::Relaxed) == 0 {
            self.0.first.store(done, Ordering::Relaxed);
        }
    }

    /// Sets the total once it is known.
    pub fn set_total(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// Says what is under way.
    pub fn message(&self, text: impl Into<String>) {
        lock(&self.0.words).message = text.into();
    }

    /// Says how far one of several parts is that are worked on side by side, such as a file. Each has a line of its own until
    /// `done` is `total`.
    pub fn part(&self, name: &str, done: u64, total: Option<u64>) {
        let parts = &mut lock(&self.0.words).parts;
        if total == Some(done) {
            parts.remove(name);
        } else {
            parts.insert(name.to_owned(), (done, total));
        }
    }

    /// The parts under way in words.
    pub(super) fn parts(&self) -> Vec<String> {
        let unit = &self.0.unit;
        let words = |(name, (done, total)): (&String, &(u64, Option<u64>))| match total {
            Some(total) => {
                let percent = 100.0 * *done as f64 / *total as f64;
                let (done, total) = (amount_of(*done, unit), format::amount(*total, unit));
                format!("{name}: {done} of {total}  {percent:.0}%")
            }
            None => format!("{name}: {}", format::amount(*done, unit)),
        };
        lock(&self.0.words).parts.iter().map(words).collect()
    }

    /// Shows a figure beside the count, such as the loss; the last value of a name stays.
    pub fn figure(&self, name: &str, value: impl Into<String>) {
        let mut words = lock(&self.0.words);
        let value = value.into();
        match words.figures.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => words.figures.push((name.to_owned(), value)),
        }
    }
}

/// A count as another process knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CountState {
    /// Which of a stage's counts it is.
    pub(crate) serial: u64,
    pub(crate) unit: String,
    pub(crate) total: u64,
    done: u64,
    first: u64,
    message: String,
    figures: Vec<(String, String)>,
    parts: BTreeMap<String, (u64, Option<u64>)>,
}

impl StageProgress {
    pub(super) fn state(&self, serial: u64) -> CountState {
        let Count { unit, total, done, first, words, .. } = &*self.0;
        let words = lock(words);
        CountState {
            serial,
            unit: unit.clone(),
            total: total.load(Ordering::Relaxed),
            done: done.load(Ordering::Relaxed),
            first: first.load(Ordering::Relaxed),
            message: words.message.clone(),
            figures: words.figures.clone(),
            parts: words.parts.clone(),
        }
    }

    /// Takes over what another process has counted.
    pub(crate) fn apply(&self, state: CountState) {
        let Count { total, done, first, words, .. } = &*self.0;
        total.store(state.total, Ordering::Relaxed);
        first.store(state.first, Ordering::Relaxed);
        done.store(state.done, Ordering::Relaxed);
        let CountState { message, figures, parts, .. } = state;
        *lock(words) = Words { message, figures, parts };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_lines_until_they_are_done() {
        let progress = StageProgress::new(0, "bytes");
        progress.part("b", 500_000, None);
        progress.part("a", 1_000_000, Some(4_000_000));
        progress.part("c", 7, Some(7));
        assert_eq!(progress.parts(), ["a: 1.0 MB of 4.0 MB  25%", "b: 500 kB"]);
        progress.part("a", 4_000_000, Some(4_000_000));
        assert_eq!(progress.parts(), ["b: 500 kB"]);
    }
}
