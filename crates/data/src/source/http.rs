//! One HTTP request at a time: redirects followed by hand, so that the token goes to the endpoint and nowhere else; faults
//! sorted into those that pass by themselves and those that do not; waits that a server can lengthen within bounds.

use super::address::is_loopback;
use super::certificates::{self, Certificates};
use super::settings::HubSettings;
use crate::{Error, Result};
use farthing_base::shown::without_secrets;
use std::hash::BuildHasher;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};

type Answer = Result<Response<ureq::Body>, ureq::Error>;

/// Redirects in a row.
const MOST_REDIRECTS: usize = 10;

/// Bytes of one answer in JSON; a page of the Hub's listing has a thousandth of it.
const LARGEST_PAGE: u64 = 256 << 20;

/// Speaks to the endpoint and to whatever it redirects to.
pub(crate) struct Client {
    agent: ureq::Agent,
    /// The same with the system's certificate authorities, if it has other ones; for hosts whose certificate Mozilla's do not know.
    own: std::sync::OnceLock<Option<ureq::Agent>>,
    /// Why no request can be made.
    certificates: Option<Certificates>,
    pub(crate) settings: HubSettings,
}

/// A good answer, its body unread.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: ureq::Body,
}

/// What keeps a request from a good answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It may pass: tried again after a wait, the server's own if it names one.
    Passing { reason: String, wait: Option<Duration> },
    /// The server understood and said no.
    Refused(Refusal),
    /// Nothing helps.
    Final(Error),
}

/// A 4xx answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) url: String,
    pub(crate) status: u16,
    /// The Hub's own word for it, such as `GatedRepo`.
    pub(crate) code: String,
    /// The server's sentence, if it has one.
    pub(crate) message: String,
    pub(crate) token_sent: bool,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Client {
    pub(crate) fn new(settings: HubSettings) -> Self {
        let (roots, certificates) = match certificates::named(&settings) {
            Ok(roots) => (roots, None),
            Err(fault) => (None, Some(fault)),
        };
        let roots = roots.unwrap_or(RootCerts::WebPki);
        let agent = Self::agent(&settings, roots);
        Self { agent, own: std::sync::OnceLock::new(), certificates, settings }
    }

    fn agent(settings: &HubSettings, roots: RootCerts) -> ureq::Agent {
        let config = ureq::Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("farthing/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_resolve(Some(settings.connect_timeout))
            .timeout_per_read(Some(settings.stall_timeout))
            .timeout_per_write(Some(settings.stall_timeout))
            .build();
        ureq::Agent::new_with_config(config)
    }

    /// One request; where the certificate is of an unknown authority, once more with the authorities of the system.
    fn call(&self, request: &dyn Fn(&ureq::Agent) -> Answer) -> Answer {
        let first = request(&self.agent);
        let unknown = first.as_ref().err().and_then(certificates::refusal);
        if !unknown.is_some_and(certificates::is_unknown) || !self.settings.certificates.is_empty()
        {
            return first;
        }
        let own = || Some(Self::agent(&self.settings, certificates::of_system()?));
        self.own.get_or_init(own).as_ref().map_or(first, request)
    }

    /// Asks for a URL, from byte `from` on if that is not 0.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Reply, Fault> {
        if let Some(Certificates { variable, path, reason }) = &self.certificates {
            let (variable, path, reason) = (*variable, path.clone(), reason.clone());
            return Err(Error::Certificates { variable, path, reason }.into());
        }
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let token = self.settings.token.as_ref().filter(|_| self.is_endpoint(&url));
            let local = authority(&url).is_some_and(|host| is_loopback(&host));
            if token.is_some()
                && !local
                && !url.starts_with("https://")
                && !self.settings.open_token
            {
                return Err(Error::OpenToken { url: bare(&url) }.into());
            }
            let ask = |agent: &ureq::Agent| {
                let mut request = agent.get(&url);
                if let Some(token) = token {
                    request = request.header("authorization", format!("Bearer {token}"));
                }
                if from > 0 {
                    request = request.header("range", format!("bytes={from}-"));
                }
                // A proxy of the environment is for the world outside.
                if local { request.config().proxy(None).build().call() } else { request.call() }
            };
            let reply = self.call(&ask).map_err(|e| fault_of(&url, &e))?;
            let status = reply.status().as_u16();
            let (parts, body) = reply.into_parts();
            match status {
                200 | 206 => return Ok(Reply { status, headers: parts.headers, body }),
                301 | 302 | 303 | 307 | 308 => {
                    let to = text(&parts.headers, "location").unwrap_or_default();
                    url = Self::follow(&url, &to)?;
                }
                408 | 429 | 500 | 502 | 503 | 504 => {
                    let wait = asked_wait(&parts.headers, SystemTime::now());
                    let reason = format!("the server answered {}", named(status));
                    return Err(Fault::Passing { reason, wait });
                }
                _ => {
                    return Err(Fault::Refused(Refusal {
                        url,
                        status,
                        code: text(&parts.headers, "x-error-code").unwrap_or_default(),
                        message: text(&parts.headers, "x-error-message").unwrap_or_default(),
                        token_sent: token.is_some(),
                    }));
                }
            }
        }
        Err(answer(&url, format!("more than {MOST_REDIRECTS} redirects in a row")).into())
    }

    /// Asks for JSON, again and again within reason, and returns it with the URL of the next page.
    pub(crate) fn json(
        &self,
        url: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<(serde_json::Value, Option<String>), Fault> {
        let mut tries = Tries::new(self, url);
        loop {
            let outcome = self.get(url, 0).and_then(|reply| {
                let next = text(&reply.headers, "link").and_then(|link| next_page(&link));
                let mut bytes = Vec::new();
                let mut body = reply.body.into_reader().take(LARGEST_PAGE);
                body.read_to_end(&mut bytes)
                    .map_err(|e| Fault::Passing { reason: broken(&e), wait: None })?;
                let value = serde_json::from_slice(&bytes)
                    .map_err(|e| answer(url, format!("it is no JSON: {e}")))?;
                Ok((value, next.map(|next| Self::follow(url, &next)).transpose()?))
            });
            match outcome {
                Err(Fault::Passing { reason, wait }) => tries.again(reason, wait, stop)?,
                other => return other,
            }
        }
    }

    /// Where a redirect or a next page leads; never from https to http.
    fn follow(from: &str, to: &str) -> Result<String, Fault> {
        let next = join(from, to).ok_or_else(|| {
            answer(from, format!("its redirect to `{}` cannot be read", bare(to)))
        })?;
        if next.starts_with("https://") || !from.starts_with("https://") {
            return Ok(next);
        }
        Err(answer(from, format!("it redirects to `{}`, which is not encrypted", bare(&next)))
            .into())
    }

    /// Whether a URL is on the endpoint: same scheme, same host, same port.
    fn is_endpoint(&self, url: &str) -> bool {
        let origin = |url: &str| {
            let uri: Uri = url.parse().ok()?;
            let scheme = uri.scheme_str()?.to_owned();
            let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
            Some((scheme, uri.host()?.to_ascii_lowercase(), port))
        };
        let here = origin(url);
        here.is_some() && here == origin(&self.settings.endpoint)
    }
}

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

/// A header's text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// An error in an answer that was otherwise good.
pub(crate) fn answer(url: &str, reason: String) -> Error {
    Error::Answer { url: bare(url), reason }
}

/// A URL without its query, which may be a signature, and without user and password.
pub(crate) fn bare(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    without_secrets(url).into_owned()
}

/// Why a body ended early.
pub(crate) fn broken(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>());
    match inner {
        Some(error) => words(error),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed in the middle".into()
        }
        None => error.to_string(),
    }
}

fn words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(phase) => format!("nothing came for too long ({phase})"),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed in the middle".into()
        }
        ureq::Error::Io(error) => error.to_string(),
        // It would be quoted, query and all.
        ureq::Error::BadUri(_) => "the URL cannot be read".into(),
        other => other.to_string(),
    }
}

fn fault_of(url: &str, error: &ureq::Error) -> Fault {
    use ureq::Error as E;
    // A certificate does not become good by asking again.
    if let Some(refused) = certificates::refusal(error) {
        return Fault::Final(certificates::untrusted(bare(url), refused));
    }
    match error {
        E::BadUri(_) | E::Http(_) | E::Tls(_) | E::InvalidProxyUrl | E::TlsRequired => {
            Fault::Final(answer(url, words(error)))
        }
        E::Rustls(_) => Fault::Final(answer(url, words(error))),
        _ => Fault::Passing { reason: words(error), wait: None },
    }
}

/// What a server asks a client to wait: `Retry-After` in seconds or as a date, else the `t` of a `RateLimit` that has
/// nothing left.
///
/// # Source
/// RFC 9110, section 10.2.3; the draft `draft-ietf-httpapi-ratelimit-headers`, which the Hub follows.
fn asked_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if let Some(after) = text(headers, "retry-after") {
        if let Ok(seconds) = after.trim().parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = http_date(after.trim())?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        return Some(Duration::from_secs(at.saturating_sub(now)));
    }
    let limit = text(headers, "ratelimit")?;
    let seconds = limit.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let rest = text.split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = MONTHS.find(words.next().filter(|m| m.len() == 3)?)? as u64 / 3;
    let year: u64 = words.next()?.parse().ok().filter(|y| (1970..9999).contains(y))?;
    let mut clock = words.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (h, m, s) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since 1 March of year 0 of the Gregorian calendar, whose years end in February.
    let (y, shifted) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * shifted + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + h * 3_600 + m * 60 + s)
}

fn named(status: u16) -> String {
    let reason = ureq::http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

/// Host and port of a URL.
fn authority(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(uri.authority()?.host().to_owned())
}

/// A reference as its page means it.
fn join(base: &str, to: &str) -> Option<String> {
    if to.is_empty() {
        return None;
    }
    if to.starts_with("https://") || to.starts_with("http://") {
        return Some(to.to_owned());
    }
    let (scheme, rest) = base.split_once("://")?;
    if let Some(other) = to.strip_prefix("//") {
        return Some(format!("{scheme}://{other}"));
    }
    let host = rest.split(['/', '?']).next()?;
    if to.starts_with('/') {
        return Some(format!("{scheme}://{host}{to}"));
    }
    if to.contains("://") {
        return None;
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let folder = path.rfind('/').map_or("/", |end| &path[path.find('/').unwrap_or(end)..=end]);
    Some(format!("{scheme}://{host}{folder}{to}"))
}

/// The `rel="next"` of a `Link` header.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|part| {
        let (url, attributes) = part.split_once(';')?;
        let next = attributes.split(';').any(|a| ["rel=\"next\"", "rel=next"].contains(&a.trim()));
        let url = url.trim().strip_prefix('<')?.strip_suffix('>')?;
        next.then(|| url.to_owned())
    })
}

/// A path's characters as they stand in a URL.
pub(crate) fn encode(path: &str, keep: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c) || keep.contains(c);
    let mut out = String::new();
    for c in path.chars() {
        if plain(c) {
            out.push(c);
        } else {
            out.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("%{b:02X}")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }

    fn client(endpoint: &str) -> Client {
        Client::new(HubSettings::new(endpoint, "c", "d"))
    }

    #[test]
    fn waits_that_servers_ask_for() {
        // 784,111,777 is the example date of RFC 9110, section 5.6.7; 951,782,400 is 29 February 2000.
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("soon"), None);
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

    #[test]
    fn the_token_belongs_to_one_origin() {
        let hub = client("https://hub.example");
        for url in ["https://hub.example/x", "https://HUB.example:443/x"] {
            assert!(hub.is_endpoint(url), "{url}");
        }
        for url in [
            "http://hub.example/x",
            "https://hub.example:8443/x",
            "https://cdn.hub.example/x",
            "https://hub.example.evil/x",
            "https://hub.example@evil/x",
            "nonsense",
        ] {
            assert!(!hub.is_endpoint(url), "{url}");
        }
    }

    #[test]
    fn references_are_followed_and_never_out_of_https() {
        let base = "https://h:1/a/b?x#y";
        for (to, there) in [
            ("https://c/d?s=1", "https://c/d?s=1"),
            ("//c/d", "https://c/d"),
            ("/d", "https://h:1/d"),
            ("d?p=2", "https://h:1/a/d?p=2"),
        ] {
            assert_eq!(Client::follow(base, to).unwrap(), there, "{to}");
        }
        for to in ["", "http://c/d", "http://127.0.0.1/d", "ftp://c/d"] {
            let fault = Client::follow(base, to).unwrap_err();
            assert!(matches!(fault, Fault::Final(Error::Answer { .. })), "{to}");
        }
        assert_eq!(join("http://h", "d").unwrap(), "http://h/d");
    }

    #[test]
    fn a_token_is_sent_to_another_machine_only_where_nobody_can_read_it() {
        for endpoint in
            ["http://192.0.2.1", "http://user:pass@192.0.2.1:8080", "http://hub.example"]
        {
            let mut settings = HubSettings::new(endpoint, "c", "d");
            settings.token = Some("hf_secret".into());
            let fault = Client::new(settings).get(&format!("{endpoint}/x?q=secret"), 0).err();
            let Some(Fault::Final(error @ Error::OpenToken { .. })) = fault else {
                panic!("{endpoint}: {fault:?}")
            };
            let text = farthing_base::Hint::with_hint(&error);
            assert!(text.contains("is not encrypted") && text.contains("HF_ENDPOINT"), "{text}");
            assert!(!text.contains("secret") && !text.contains("pass"), "{text}");
        }
    }

    #[test]
    fn no_error_quotes_what_a_url_keeps_secret() {
        let url = "https://user:secret@h/a?X-Amz-Signature=secret#secret";
        let refusal = |status| Refusal {
            url: url.into(),
            status,
            code: String::new(),
            message: String::new(),
            token_sent: true,
        };
        let settings = HubSettings::new("https://h", "c", "d");
        let client = Client::new(settings);
        let long = Some(Duration::from_hours(9));
        let redirect = |to: &str| match Client::follow("https://h/a?secret", to) {
            Err(Fault::Final(error)) => error,
            other => panic!("{other:?}"),
        };
        for error in [
            answer(url, "it is odd".into()),
            refusal(404).of_url(),
            refusal(403).of_dataset("a/b"),
            Tries::new(&client, url).again("429".into(), long, &|| false).unwrap_err(),
            redirect("http://user:secret@h/b?secret"),
            redirect("ftp://h/b?secret"),
            Error::UnknownSource { given: "s3://key:secret@b/x".into() },
            Error::Unreachable { url: url.into(), attempts: 1, reason: format!("at {url}") },
            Error::Pin { source_text: url.into(), reason: "odd".into() },
            Error::NotParquet { name: url.into(), found: "x".into(), hint: "y".into() },
        ] {
            let text = farthing_base::Hint::with_hint(&error);
            assert!(!text.contains("secret") && text.contains("://"), "{text}");
        }
    }

    #[test]
    fn pages_and_paths() {
        let link = r#"<https://h/a?cursor=1>; rel="prev", <https://h/a?cursor=2&x>; rel="next""#;
        assert_eq!(next_page(link).as_deref(), Some("https://h/a?cursor=2&x"));
        assert_eq!(next_page("<https://h/a>; rel=\"last\""), None);
        assert_eq!(encode("a b/ü%.parquet", "/"), "a%20b/%C3%BC%25.parquet");
        assert_eq!(encode("refs/pr/3", ""), "refs%2Fpr%2F3");
    }
}
