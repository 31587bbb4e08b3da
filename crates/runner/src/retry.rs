//! `retry`: the same again, after a while, when a stage failed of what may pass: a network, a disk. What would fail again as it is, is not tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::grammar::Pipeline;
use crate::progress::format::duration;
use crate::{Cancelled, failure};

/// A stage's `retry` table.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retry {
    /// Attempts in all.
    attempts: u32,
    /// Seconds before the second attempt, and twice as many before each further one, up to an hour.
    #[serde(default = "ten")]
    backoff_s: f64,
}

fn ten() -> f64 {
    10.0
}

/// Longer than this nobody waits for the next attempt.
const MOST_S: f64 = 3_600.0;

impl Retry {
    /// What is wrong with the table, and at which key.
    pub(crate) fn fault(&self) -> Option<(&'static str, String)> {
        if !(1..=1_000).contains(&self.attempts) {
            return Some(("attempts", format!("{} attempts, expected 1 to 1,000", self.attempts)));
        }
        let fits = (0.0..=MOST_S).contains(&self.backoff_s);
        let what = format!("`backoff_s` is {}, expected 0 to 3,600 seconds", self.backoff_s);
        (!fits).then_some(("backoff_s", what))
    }

    /// The time after an attempt that failed, counted from 1; `None` after the last.
    fn pause(&self, attempt: u32) -> Option<Duration> {
        let longer = 2f64.powi(attempt.saturating_sub(1).min(64) as i32);
        let pause = (self.backoff_s * longer).min(MOST_S);
        (attempt < self.attempts).then(|| Duration::from_secs_f64(pause))
    }
}

/// Of every stage that has one, how often it has failed in this run.
pub(crate) struct Retries(BTreeMap<String, (Retry, u32)>);

impl Retries {
    pub(crate) fn of(pipeline: &Pipeline) -> Self {
        let stages = pipeline.stages.iter();
        let found = stages.filter_map(|stage| Some((stage.name.clone(), (stage.retry?, 0))));
        Self(found.collect())
    }

    /// After a stage has failed: how long to wait before it is tried again, if it is. `tell` is told what failed and when it goes on.
    pub(crate) fn pause(
        &mut self,
        name: &str,
        error: &anyhow::Error,
        tell: impl Fn(&str),
    ) -> Option<Duration> {
        let (retry, failed) = self.0.get_mut(name)?;
        if error.is::<Cancelled>() || !failure::may_pass(error) {
            return None;
        }
        *failed += 1;
        let pause = retry.pause(*failed)?;
        let (attempt, of) = (*failed + 1, retry.attempts);
        let when = duration(pause.as_secs_f64());
        tell(&format!("{name}: failed: {}", failure::said(error)));
        tell(&format!("{name}: attempt {attempt} of {of} in {when}"));
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let retry = Retry { attempts: 4, backoff_s: 1_000.0 };
        let pauses: Vec<_> = (1..=4).map(|i| retry.pause(i).map(|p| p.as_secs())).collect();
        assert_eq!(pauses, [Some(1_000), Some(2_000), Some(3_600), None]);
        assert_eq!(Retry { attempts: 0, ..retry }.fault().unwrap().0, "attempts");
        assert_eq!(Retry { backoff_s: f64::NAN, ..retry }.fault().unwrap().0, "backoff_s");
        assert_eq!(retry.fault(), None);
    }
}
