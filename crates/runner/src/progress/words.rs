//! A count in words, with its rate and the time that is left.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::count::{Count, StageProgress};
use super::{format, lock};

/// A count in words.
pub(super) struct Said {
    /// `1,200 of 5,000 steps  24%  35.0 steps/s  1m48s left  loss 3.21`.
    pub(super) long: String,
    /// Where there is little room, what is looked for first: `24%  loss 3.21  1m48s left  35.0 steps/s  1,200 of 5,000 steps`.
    pub(super) short: String,
    /// How long the rest takes at the present rate, in seconds.
    pub(super) left_s: Option<f64>,
}

/// Says how far a count is.
pub(super) fn describe(
    count: Option<&StageProgress>,
    elapsed: Duration,
    rates: &mut Rates,
) -> Said {
    let Some(StageProgress(count)) = count else {
        let text = format!("running for {}", format::duration(elapsed.as_secs_f64()));
        return Said { long: text.clone(), short: text, left_s: None };
    };
    let done = count.done.load(Ordering::Relaxed);
    let total = count.total.load(Ordering::Relaxed);
    // Where nothing is counted, the message alone says what is done.
    let mut amount = (done > 0).then(|| format::amount(done, &count.unit));
    let mut percent = None;
    if total > 0 {
        let done_of = amount_of(done, &count.unit);
        amount = Some(format!("{done_of} of {}", format::amount(total, &count.unit)));
        percent = Some(format!("{:.0}%", 100.0 * done as f64 / total as f64));
    }
    let rate = rates.update(count, done);
    let left_s = rate.filter(|_| total > done).map(|rate| (total - done) as f64 / rate);
    let left = left_s.map(|left| format!("{} left", format::duration(left)));
    let rate = rate.map(|rate| format::rate(rate, &count.unit));
    let words = lock(&count.words);
    let figures = words.figures.iter().map(|(name, value)| format!("{name} {value}"));
    let figures: Vec<String> = figures.collect();
    let message = Some(words.message.clone()).filter(|message| !message.is_empty());
    let joined = |groups: [&[String]; 6]| groups.concat().join("  ");
    let [amount, percent, left, rate, message] =
        [amount, percent, left, rate, message].map(|word| word.into_iter().collect::<Vec<_>>());
    let long = joined([&amount, &percent, &rate, &left, &figures, &message]);
    let short = joined([&percent, &figures, &left, &rate, &amount, &message]);
    Said { long, short, left_s }
}

/// As much of words that stand apart by two spaces as has room, none cut in two but the first.
pub(super) fn fitted(text: &str, room: usize) -> &str {
    let Some((end, _)) = text.char_indices().nth(room) else { return text };
    if text[end..].starts_with("  ") {
        return &text[..end];
    }
    text[..end].rfind("  ").map_or(text, |at| &text[..at])
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
        assert_eq!(describe(None, second, &mut rates).long, "running for 1m10s");

        let progress = StageProgress::new(5_000, "steps");
        progress.figure("loss", "3.4");
        progress.figure("loss", "3.21");
        progress.message("warming up");
        let none = describe(Some(&progress), second, &mut rates).long;
        assert_eq!(none, "0 of 5,000 steps  0%  loss 3.21  warming up");

        // Where a resumed stage starts is not speed.
        let progress = StageProgress::new(5_000, "steps");
        progress.set(4_000);
        assert_eq!(describe(Some(&progress), second, &mut rates).long, "4,000 of 5,000 steps  80%");
        progress.advance(500);
        let moving = describe(Some(&progress), second, &mut rates).long;
        assert!(moving.starts_with("4,500 of 5,000 steps  90%  "), "{moving}");
        assert!(moving.contains(" steps/s  ") && moving.ends_with(" left"), "{moving}");
        // On a terminal of 80 columns the first 60 characters are seen.
        progress.figure("loss", "3.2100");
        let short = describe(Some(&progress), second, &mut rates).short;
        assert!(short.starts_with("90%  loss 3.2100  ") && short.ends_with(" steps"), "{short}");
        assert!(short.find(" left  ") < short.find(" steps/s  "), "{short}");

        let unknown = StageProgress::new(0, "bytes");
        unknown.advance(12_500_000);
        let unknown = describe(Some(&unknown), second, &mut Rates::default());
        assert!(unknown.long.starts_with("12.5 MB") && unknown.left_s.is_none());
    }

    #[test]
    fn what_counts_nothing_says_what_it_does_and_no_zero() {
        let progress = StageProgress::new(0, "tokens");
        progress.message("evaluating the initial model");
        let said = describe(Some(&progress), Duration::from_secs(9), &mut Rates::default());
        assert_eq!(said.short, "evaluating the initial model");
    }

    #[test]
    fn the_time_left_is_the_same_in_words_and_in_seconds() {
        let progress = StageProgress::new(400, "steps");
        progress.set(100);
        let mut rates = Rates::default();
        describe(Some(&progress), Duration::ZERO, &mut rates);
        progress.advance(100);
        let said = describe(Some(&progress), Duration::ZERO, &mut rates);
        let left = said.left_s.unwrap();
        assert!(left > 0.0 && said.long.contains(&format!("{} left", format::duration(left))));
        progress.advance(200);
        assert_eq!(describe(Some(&progress), Duration::ZERO, &mut rates).left_s, None);
    }

    #[test]
    fn words_that_have_no_room_are_left_out_whole() {
        let text = "7%  loss 6.9  4m40s left  0.20 steps/s  4 of 60 steps";
        for (room, shown) in [
            (80, text),
            (53, text),
            (52, "7%  loss 6.9  4m40s left  0.20 steps/s"),
            (38, "7%  loss 6.9  4m40s left  0.20 steps/s"),
            (37, "7%  loss 6.9  4m40s left"),
            (2, "7%"),
        ] {
            assert_eq!(fitted(text, room), shown, "{room}");
        }
        // A single word is the terminal's to cut.
        assert_eq!(fitted("evaluating the initial model", 10), "evaluating the initial model");
        assert_eq!(fitted("größe  ä", 5), "größe");
    }
}
