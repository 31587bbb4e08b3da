//! Works on several files at once. A few threads take one file after another; only the caller's thread reports progress and asks
//! whether to stop.

use crate::{Error, Progress, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A file, as far as watching it goes.
pub(crate) trait Part: Sync {
    fn name(&self) -> &str;
    fn bytes(&self) -> Option<u64>;
}

/// How often a thread tells how far it is.
const TELL: Duration = Duration::from_millis(100);

/// Tells how far all parts are together, and nothing of each; `what` is done to them.
pub(crate) struct AsOne<'a> {
    pub(crate) what: &'static str,
    pub(crate) progress: &'a mut dyn Progress,
}

impl Progress for AsOne<'_> {
    fn total(&mut self, total: Option<u64>, unit: &'static str) {
        self.progress.total(total, unit);
        self.progress.message(self.what);
    }

    fn advance(&mut self, n: u64) {
        self.progress.advance(n);
    }

    fn stopped(&self) -> bool {
        self.progress.stopped()
    }
}

enum Event<T> {
    Far(usize, u64),
    Done(usize, Result<T>),
}

/// Does `work` to every part on up to `threads` threads, and returns the results in the parts' order. The first failure stops
/// the others.
///
/// # Errors
/// The first failure, or [`Error::Stopped`] when `progress` asked for it.
pub(crate) fn side_by_side<P: Part, T: Send>(
    parts: &[P],
    threads: usize,
    progress: &mut dyn Progress,
    work: impl Fn(&P, &dyn Fn() -> bool, &mut dyn FnMut(u64)) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    progress.total(parts.iter().map(Part::bytes).sum(), "bytes");
    let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (sender, events) = channel();
    let mut results: Vec<Option<T>> = parts.iter().map(|_| None).collect();
    let mut failure = None;
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..threads.clamp(1, parts.len().max(1)) {
            let (sender, stop, next, work) = (sender.clone(), &stop, &next, &work);
            let thread = std::thread::Builder::new().name("files".into());
            let run = move || {
                let stopped = || stop.load(Ordering::Relaxed);
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= parts.len() || stopped() {
                        return;
                    }
                    let mut told: Option<Instant> = None;
                    let result = work(&parts[i], &stopped, &mut |done| {
                        if told.is_none_or(|told| told.elapsed() >= TELL) {
                            told = Some(Instant::now());
                            // A receiver that is gone has stopped listening, and `stopped` says so.
                            let _ = sender.send(Event::Far(i, done));
                        }
                    });
                    let _ = sender.send(Event::Done(i, result));
                }
            };
            if let Err(error) = thread.spawn_scoped(scope, run) {
                stop.store(true, Ordering::Relaxed);
                return Err(Error::io("start", "a thread")(error));
            }
        }
        drop(sender);
        let mut counted = vec![0; parts.len()];
        // A file that begins again is not counted twice.
        let mut count = |progress: &mut dyn Progress, i: usize, done: u64| {
            progress.advance(done.saturating_sub(counted[i]));
            counted[i] = counted[i].max(done);
            counted[i]
        };
        loop {
            match events.recv_timeout(TELL) {
                Ok(Event::Far(i, done)) => {
                    count(progress, i, done);
                    let part = &parts[i];
                    // Not as large as the whole: that is how the end of a part is told.
                    let done = part.bytes().map_or(done, |all| done.min(all.saturating_sub(1)));
                    progress.part(part.name(), done, part.bytes());
                }
                Ok(Event::Done(i, Ok(result))) => {
                    results[i] = Some(result);
                    let bytes = count(progress, i, parts[i].bytes().unwrap_or(0));
                    progress.part(parts[i].name(), bytes, Some(bytes));
                }
                Ok(Event::Done(_, Err(error))) => {
                    stop.store(true, Ordering::Relaxed);
                    if failure.is_none() {
                        failure = Some(error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if progress.stopped() {
                stop.store(true, Ordering::Relaxed);
                failure.get_or_insert(Error::Stopped);
            }
        }
    })?;
    match failure {
        Some(error) => Err(error),
        None => results.into_iter().map(|r| r.ok_or(Error::Stopped)).collect(),
    }
}
