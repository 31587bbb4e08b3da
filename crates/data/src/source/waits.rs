//! How long to wait before another attempt: what a server asks for, or twice as long as the last time, within bounds.

use super::http::{Client, bare, text};
use super::settings::HubSettings;
use crate::{Error, Result};
use std::hash::BuildHasher;
use std::time::{Duration, Instant, SystemTime};
use ureq::http::HeaderMap;

/// Attempts at one thing, and the waits between them.
pub(crate) struct Tries<'c> {
    client: &'c Client,
    url: String,
    failed: u32,
}

impl<'c> Tries<'c> {
    pub(crate) fn new(client: &'c Client, url: &str) -> Self {
        Self { client, url: bare(url), failed: 0 }
    }

    /// Something came: the next failure is a first one.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when there were enough, [`Error::Stopped`] when asked to.
    pub(crate) fn again(
        &mut self,
        reason: String,
        wait: Option<Duration>,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        let settings = &self.client.settings;
        self.failed += 1;
        let wait = match wait {
            Some(wait) if wait > settings.longest_wait => {
                let reason = format!("{reason} and asks to come back in {} s", wait.as_secs());
                return Err(Error::Unreachable {
                    url: self.url.clone(),
                    attempts: self.failed,
                    reason,
                });
            }
            Some(wait) => wait,
            None => backoff(settings, self.failed),
        };
        if self.failed >= settings.attempts {
            let url = self.url.clone();
            return Err(Error::Unreachable { url, attempts: self.failed, reason });
        }
        sleep(wait, stop)
    }
}

/// `first · 2^(failed − 1)`, at most the longest, of which a random half is kept back, so that many clients do not return at once.
fn backoff(settings: &HubSettings, failed: u32) -> Duration {
    let doubled = settings.first_wait.saturating_mul(1 << (failed - 1).min(16));
    let random = std::hash::RandomState::new().hash_one(failed);
    let share = 0.5 + 0.5 * (random >> 11) as f64 / (1_u64 << 53) as f64;
    doubled.min(settings.longest_wait).mul_f64(share)
}

/// Sleeps, waking to look whether it should stop.
pub(crate) fn sleep(wait: Duration, stop: &dyn Fn() -> bool) -> Result<()> {
    let end = Instant::now() + wait;
    loop {
        if stop() {
            return Err(Error::Stopped);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// What a server asks a client to wait: `Retry-After` in seconds or as a date, else the `t` of a `RateLimit` that has
/// nothing left.
///
/// # Source
/// RFC 9110, section 10.2.3; the draft `draft-ietf-httpapi-ratelimit-headers`, which the Hub follows.
pub(super) fn asked_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if let Some(after) = text(headers, "retry-after") {
        if let Ok(seconds) = after.trim().parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = httpdate::parse_http_date(after.trim()).ok()?;
        return Some(at.duration_since(now).unwrap_or_default());
    }
    let limit = text(headers, "ratelimit")?;
    let seconds = limit.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn waits_that_servers_ask_for() {
        // 784,111,777 is the example date of RFC 9110, section 5.6.7.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
        let wait =
            |list: &[(&'static str, &str)]| asked_wait(&headers(list), now).map(|w| w.as_secs());
        assert_eq!(wait(&[("retry-after", "7"), ("ratelimit", "\"api\";r=0;t=120")]), Some(7));
        assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]), Some(77));
        assert_eq!(wait(&[("retry-after", "Sat, 05 Nov 1994 08:49:37 GMT")]), Some(0));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=0;t=120")]), Some(120));
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn waits_double_and_are_bounded() {
        let mut settings = HubSettings::new("https://h", "c", "d");
        settings.longest_wait = Duration::from_secs(20);
        for (failed, longest) in [(1, 1.0), (2, 2.0), (5, 16.0), (6, 20.0), (4_000_000, 20.0)] {
            for _ in 0..50 {
                let wait = backoff(&settings, failed).as_secs_f64();
                assert!((longest / 2.0..=longest).contains(&wait), "{failed}: {wait}");
            }
        }
        let client = Client::new(settings);
        let mut tries = Tries::new(&client, "https://h/x?signature=secret");
        let long = Some(Duration::from_hours(1));
        let error = tries.again("429".into(), long, &|| false).unwrap_err().to_string();
        assert!(error.contains("3600 s"), "{error}");
        assert!(matches!(tries.again(String::new(), None, &|| true), Err(Error::Stopped)));
    }
}
