//! A count in words, with its rate and the time that is left.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::count::{Count, StageProgress};
use super::{format, lock};

/// The count in words: `1,200 of 5,000 steps  24%  35.0 steps/s  1m48s left  loss 3.21`; and as it is where there is little room, what is looked for
/// first: `24%  loss 3.21  1m48s left  35.0 steps/s  1,200 of 5,000 steps`.
pub(super) fn describe(
    count: Option<&StageProgress>,
    elapsed: Duration,
    rates: &mut Rates,
) -> (String, String) {
    let Some(StageProgress(count)) = count else {
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

pub(super) fn amount_of(done: u64, unit: &str) -> String {
    if unit == "bytes" { format::amount(done, unit) } else { format::count(done) }
}

/// The rate over the last quarter of a minute or so, so that it follows a change and still stands quietly.
#[derive(Default)]
pub(super) struct Rates {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_in_words() {
        let mut rates = Rates::default();
        let second = Duration::from_secs(70);
        assert_eq!(describe(None, second, &mut rates).0, "running for 1m10s");

        let progress = StageProgress::new(5_000, "steps");
        progress.figure("loss", "3.4");
        progress.figure("loss", "3.21");
        progress.message("warming up");
        let none = describe(Some(&progress), second, &mut rates).0;
        assert_eq!(none, "0 of 5,000 steps  0%  loss 3.21  warming up");

        // Where a resumed stage starts is not speed.
        let progress = StageProgress::new(5_000, "steps");
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

        let unknown = StageProgress::new(0, "bytes");
        unknown.advance(12_500_000);
        assert!(describe(Some(&unknown), second, &mut Rates::default()).0.starts_with("12.5 MB"));
    }
}
