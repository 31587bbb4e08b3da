//! Makes one HTTP request at a time. Redirects are followed by hand: the token is sent to the endpoint and to no other host. Faults
//! are sorted into those that may pass and those that will not, and a server may ask for a longer wait, within bounds.

use super::address::is_loopback;
use super::certificates::{self, Certificates};
use super::settings::HubSettings;
use super::waits::{Tries, asked_wait};
use crate::{Error, Result};
use farthing_base::shown::without_secrets;
use std::io::Read;
use std::time::{Duration, SystemTime};
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

    fn client(endpoint: &str) -> Client {
        Client::new(HubSettings::new(endpoint, "c", "d"))
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
