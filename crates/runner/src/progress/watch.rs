//! The display of a running stage: a thread that draws its count, or tells it to another process, until the stage is over.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::count::{CountState, StageProgress};
use super::words::{Rates, Said, describe};
use super::{Screen, board, lock};

/// Whoever shows what a stage tells, where that is another process.
pub(crate) trait Remote: Send + Sync {
    fn line(&self, text: &str);
    fn count(&self, state: CountState);
}

/// The display of one running stage: its lines, its log file, its count.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
}

struct Shared {
    stage: String,
    screen: Screen,
    started: Instant,
    log: Mutex<Option<File>>,
    count: Mutex<Option<StageProgress>>,
    over: Mutex<bool>,
    wake: Condvar,
    remote: Option<Arc<dyn Remote>>,
}

impl Watch {
    /// Starts to watch a stage; `log` takes every line beside the screen.
    pub(crate) fn start(stage: &str, screen: Screen, log: Option<File>) -> Self {
        Self::new(stage, screen, log, None)
    }

    /// Tells another process, which shows it.
    pub(crate) fn remote(remote: Arc<dyn Remote>) -> Self {
        Self::new("", Screen::silent(), None, Some(remote))
    }

    fn new(
        stage: &str,
        screen: Screen,
        log: Option<File>,
        remote: Option<Arc<dyn Remote>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            stage: stage.to_owned(),
            screen,
            started: Instant::now(),
            log: Mutex::new(log),
            count: Mutex::default(),
            over: Mutex::new(false),
            wake: Condvar::new(),
            remote,
        });
        let silent = shared.screen.is_silent() && shared.remote.is_none();
        let drawn = Arc::clone(&shared);
        let spawn =
            || std::thread::Builder::new().name("progress".into()).spawn(move || draw(&drawn));
        // Without a thread there is no display, and the work goes on.
        let drawer = if silent { None } else { spawn().ok() };
        Self { shared, drawer }
    }

    /// Shows nothing.
    pub(crate) fn silent() -> Self {
        Self::start("", Screen::silent(), None)
    }

    /// Replaces the count.
    pub(crate) fn progress(&self, total: u64, unit: &str) -> StageProgress {
        let progress = StageProgress::new(total, unit);
        *lock(&self.shared.count) = Some(progress.clone());
        progress
    }

    /// A line about the stage as a whole, for the screen and the log.
    pub(crate) fn event(&self, line: &str) {
        self.shared.screen.line(&format!("{}: {line}", self.shared.stage));
        self.shared.log_only(line);
    }

    /// Its lines, for a thread that reads them elsewhere.
    pub(crate) fn log_of(&self) -> Log {
        Log(Arc::clone(&self.shared))
    }

    /// Lines for the log alone.
    pub(crate) fn log_only(&self, text: &str) {
        text.lines().for_each(|line| self.shared.log_only(line));
    }

    /// A line for the screen and the log.
    pub(crate) fn log(&self, line: &str) {
        self.shared.line(line);
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.shared.started.elapsed().as_secs_f64()
    }
}

/// Takes lines for a stage's screen and log.
pub(crate) struct Log(Arc<Shared>);

impl Log {
    pub(crate) fn line(&self, text: &str) {
        self.0.line(text);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *lock(&self.shared.over) = true;
        self.shared.wake.notify_all();
        if let Some(drawer) = self.drawer.take() {
            // A display that panicked has nothing to say about the work.
            let _ = drawer.join();
        }
    }
}

impl Shared {
    fn line(&self, text: &str) {
        if let Some(remote) = &self.remote {
            return remote.line(text);
        }
        for line in text.lines() {
            self.screen.line(&format!("  {}: {line}", self.stage));
            self.log_only(line);
        }
    }

    fn log_only(&self, line: &str) {
        if let Some(file) = lock(&self.log).as_mut() {
            let seconds = self.started.elapsed().as_secs_f64();
            // The log is a convenience: a full disk will stop the stage itself.
            let line = self.screen.hidden.shown(line);
            let _ = writeln!(file, "{seconds:>9.1}  {line}");
        }
    }
}

/// How often another process is told a count.
const TOLD: Duration = Duration::from_millis(100);

/// Tells another process the counts until the watch is over, and how they stand then.
fn tell(shared: &Shared, remote: &dyn Remote) {
    let (mut serial, mut told) = (0, CountState::default());
    let mut last: Option<StageProgress> = None;
    let mut over = lock(&shared.over);
    loop {
        let is_over = *over;
        let count = lock(&shared.count).clone();
        if let Some(count) = count {
            if !last.as_ref().is_some_and(|last| Arc::ptr_eq(&last.0, &count.0)) {
                serial += 1;
            }
            let state = count.state(serial);
            if state != told {
                remote.count(state.clone());
                told = state;
            }
            last = Some(count);
        }
        if is_over {
            return;
        }
        over = shared.wake.wait_timeout(over, TOLD).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Draws until the watch is over.
fn draw(shared: &Shared) {
    if let Some(remote) = &shared.remote {
        return tell(shared, &**remote);
    }
    let bar = shared.screen.bar(&shared.stage);
    let mut part_bars = Vec::new();
    let mut rates = Rates::default();
    let mut next_log = Duration::from_secs(5);
    let mut next_line = shared.screen.interval(Duration::ZERO);
    let mut over = lock(&shared.over);
    // Over may be said before this thread waits for it, and is not said again.
    while !*over {
        let interval = shared.screen.interval(shared.started.elapsed()).min(ON_BOARD);
        let (guard, _) =
            shared.wake.wait_timeout(over, interval).unwrap_or_else(PoisonError::into_inner);
        over = guard;
        if *over {
            break;
        }
        let elapsed = shared.started.elapsed();
        let count = lock(&shared.count).clone();
        let Said { long, short, left_s } = describe(count.as_ref(), elapsed, &mut rates);
        let parts = count.as_ref().map(StageProgress::parts).unwrap_or_default();
        let stage = shared.stage.clone();
        let mut line = board::Line { stage, text: short, left_s, ..Default::default() };
        if let Some(StageProgress(count)) = &count {
            line.total = count.total.load(Ordering::Relaxed);
            line.done = count.done.load(Ordering::Relaxed);
        }
        shared.screen.parts(bar.as_ref(), &mut part_bars, &parts);
        match &bar {
            None if elapsed >= next_line => {
                for line in std::iter::once(&long).chain(&parts) {
                    shared.screen.line(&format!("  {}: {line}", shared.stage));
                }
                next_line = elapsed + shared.screen.interval(elapsed);
            }
            None => {}
            Some(bar) => shared.screen.draw(bar, &line),
        }
        line.parts = parts;
        shared.screen.board.put(line);
        if elapsed >= next_log {
            shared.log_only(&long);
            next_log = elapsed + Screen::thinned(elapsed);
        }
    }
    shared.screen.board.take_off(&shared.stage);
    shared.screen.parts(bar.as_ref(), &mut part_bars, &[]);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// How often a stage's line on the board is renewed, where nothing is drawn oftener.
const ON_BOARD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_is_over_before_its_display_looks_is_not_waited_for() {
        // Without a place to draw, the display would look again in an hour.
        let watch = Watch::silent();
        *lock(&watch.shared.over) = true;
        watch.shared.wake.notify_all();
        draw(&watch.shared);
    }
}
