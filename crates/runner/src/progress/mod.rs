//! Progress of a running stage. The stage only counts, which costs a few atomic operations. A thread beside it reads the counts from time to time and draws the rate, the time left and the figures;
//! that way, even a stage that counts nothing is seen to be alive.

mod board;
pub(crate) mod format;
mod screen;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) use board::Board;
pub(crate) use screen::Screen;

/// A count under way, to be advanced from any thread.
#[derive(Clone)]
pub struct Progress(Arc<Count>);

struct Count {
    unit: String,
    started: Instant,
    total: AtomicU64,
    done: AtomicU64,
    first: AtomicU64,
    words: Mutex<Words>,
}

#[derive(Default)]
struct Words {
    message: String,
    figures: Vec<(String, String)>,
    /// Parts under way by name: what is done of them, and their size where it is known.
    parts: BTreeMap<String, (u64, Option<u64>)>,
}

impl Progress {
    fn new(total: u64, unit: &str) -> Self {
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
    fn parts(&self) -> Vec<String> {
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

impl Progress {
    fn state(&self, serial: u64) -> CountState {
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
    count: Mutex<Option<Progress>>,
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
    pub(crate) fn progress(&self, total: u64, unit: &str) -> Progress {
        let progress = Progress::new(total, unit);
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
    let mut last: Option<Progress> = None;
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
        let (long, short) = describe(count.as_ref(), elapsed, &mut rates);
        let parts = count.as_ref().map(Progress::parts).unwrap_or_default();
        let mut line =
            board::Line { stage: shared.stage.clone(), text: short, ..Default::default() };
        if let Some(Progress(count)) = &count {
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
            Some(bar) => {
                bar.set_length(line.total);
                bar.set_position(line.done);
                bar.set_message(shared.screen.hidden.shown(&line.text));
                bar.tick();
            }
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

/// The count in words: `1,200 of 5,000 steps  24%  35.0 steps/s  1m48s left  loss 3.21`; and as it is where there is little room, what is looked for
/// first: `24%  loss 3.21  1m48s left  35.0 steps/s  1,200 of 5,000 steps`.
fn describe(count: Option<&Progress>, elapsed: Duration, rates: &mut Rates) -> (String, String) {
    let Some(Progress(count)) = count else {
        let text = format!("running for {}", format::duration(elapsed.as_secs_f64()));
        return (text.clone(), text);
    };
    let done = count.done.load(Ordering::Relaxed);
    let total = count.total.load(Ordering::Relaxed);
    let (mut amount, mut percent) = (format::amount(done, &count.unit), None);
    if total > 0 {
        let done_of = amount_of(done, &count.unit);
        amount = format!("{done_of} of {}", format::amount(total, &count.unit));
        percent = Some(format!("{:.0}%", 100.0 * done as f64 / total as f64));
    }
    let rate = rates.update(count, done);
    let left = rate.filter(|_| total > done);
    let left = left.map(|rate| format!("{} left", format::duration((total - done) as f64 / rate)));
    let rate = rate.map(|rate| format::rate(rate, &count.unit));
    let words = lock(&count.words);
    let figures = words.figures.iter().map(|(name, value)| format!("{name} {value}"));
    let figures: Vec<String> = figures.collect();
    let message = Some(words.message.clone()).filter(|message| !message.is_empty());
    let joined = |groups: [&[String]; 6]| groups.concat().join("  ");
    let [percent, left, rate, message] =
        [percent, left, rate, message].map(|word| word.into_iter().collect::<Vec<_>>());
    let amount = [amount];
    (
        joined([&amount, &percent, &rate, &left, &figures, &message]),
        joined([&percent, &figures, &left, &rate, &amount, &message]),
    )
}

fn amount_of(done: u64, unit: &str) -> String {
    if unit == "bytes" { format::amount(done, unit) } else { format::count(done) }
}

/// The rate over the last quarter of a minute or so, so that it follows a change and still stands quietly.
#[derive(Default)]
struct Rates {
    since: Option<Instant>,
    seen: VecDeque<(Instant, u64)>,
}

impl Rates {
    fn update(&mut self, count: &Count, done: u64) -> Option<f64> {
        if self.since != Some(count.started) {
            self.since = Some(count.started);
            self.seen.clear();
            self.seen.push_back((count.started, count.first.load(Ordering::Relaxed)));
        }
        let now = Instant::now();
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && now - self.seen[1].0 > Duration::from_secs(15) {
            self.seen.pop_front();
        }
        let &(then, before) = self.seen.front()?;
        let rate = done.checked_sub(before)? as f64 / (now - then).as_secs_f64();
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }
}

/// A thread that panicked while it held one of these locks left nothing half-written that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_in_words() {
        let mut rates = Rates::default();
        let second = Duration::from_secs(70);
        assert_eq!(describe(None, second, &mut rates).0, "running for 1m10s");

        let progress = Progress::new(5_000, "steps");
        progress.figure("loss", "3.4");
        progress.figure("loss", "3.21");
        progress.message("warming up");
        let none = describe(Some(&progress), second, &mut rates).0;
        assert_eq!(none, "0 of 5,000 steps  0%  loss 3.21  warming up");

        // Where a resumed stage starts is not speed.
        let progress = Progress::new(5_000, "steps");
        progress.set(4_000);
        assert_eq!(describe(Some(&progress), second, &mut rates).0, "4,000 of 5,000 steps  80%");
        progress.advance(500);
        let moving = describe(Some(&progress), second, &mut rates).0;
        assert!(moving.starts_with("4,500 of 5,000 steps  90%  "), "{moving}");
        assert!(moving.contains(" steps/s  ") && moving.ends_with(" left"), "{moving}");
        // On a terminal of 80 columns the first 60 characters are seen.
        progress.figure("loss", "3.2100");
        let short = describe(Some(&progress), second, &mut rates).1;
        assert!(short.starts_with("90%  loss 3.2100  ") && short.ends_with(" steps"), "{short}");
        assert!(short.find(" left  ") < short.find(" steps/s  "), "{short}");

        let unknown = Progress::new(0, "bytes");
        unknown.advance(12_500_000);
        assert!(describe(Some(&unknown), second, &mut Rates::default()).0.starts_with("12.5 MB"));
    }

    #[test]
    fn a_stage_that_is_over_before_its_display_looks_is_not_waited_for() {
        // Without a place to draw, the display would look again in an hour.
        let watch = Watch::silent();
        *lock(&watch.shared.over) = true;
        watch.shared.wake.notify_all();
        draw(&watch.shared);
    }

    #[test]
    fn parts_have_lines_until_they_are_done() {
        let progress = Progress::new(0, "bytes");
        progress.part("b", 500_000, None);
        progress.part("a", 1_000_000, Some(4_000_000));
        progress.part("c", 7, Some(7));
        assert_eq!(progress.parts(), ["a: 1.0 MB of 4.0 MB  25%", "b: 500 kB"]);
        progress.part("a", 4_000_000, Some(4_000_000));
        assert_eq!(progress.parts(), ["b: 500 kB"]);
    }
}
