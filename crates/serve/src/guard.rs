//! Decides which requests are answered. A request must call the server by a name it has, come from no page or from one that it served, and carry the key if there is one. A web page that the
//! user happens to visit therefore cannot reach a model on their machine, not even by rebinding a DNS name.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Method, Uri, header};

use crate::api::Refusal;
use crate::{Settings, page};

/// Refuses who may not ask.
pub(crate) fn check(
    settings: &Settings,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let host = one(headers, &header::HOST)?;
    let named = uri.authority().map(axum::http::uri::Authority::as_str);
    let Some(host) = host else {
        return Err(Refusal::forbidden("the request has no `Host`"));
    };
    for name in [Some(host), named].into_iter().flatten() {
        if !is_ours(name, &settings.allow_hosts) {
            return Err(Refusal::forbidden(
                "the request calls this server by a name that it does not have; start it with --allow-host NAME if it should",
            ));
        }
    }
    if let Some(origin) = one(headers, &header::ORIGIN)? {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(|from| from.eq_ignore_ascii_case(host)) {
            return Err(Refusal::forbidden("the request comes from a page of another origin"));
        }
    }
    // The page says nothing of the model, and has to be there before somebody can type a key.
    if method == Method::GET && page::is_page(uri.path()) {
        return Ok(());
    }
    let Some(key) = &settings.api_key else { return Ok(()) };
    let shown = one(headers, &header::AUTHORIZATION)?.and_then(|all| all.strip_prefix("Bearer "));
    // Digests are compared in constant time.
    let right =
        shown.is_some_and(|shown| blake3::hash(shown.as_bytes()) == blake3::hash(key.as_bytes()));
    if right { Ok(()) } else { Err(Refusal::unauthorized()) }
}

/// A header that may stand there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    match (first.to_str(), all.next()) {
        (Ok(text), None) => Ok(Some(text)),
        _ => Err(Refusal::forbidden(&format!(
            "the header `{name}` stands there twice, or is no text"
        ))),
    }
}

/// Whether a host, with or without a port, is this machine's loopback or one of these names.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default().trim_end_matches('.');
    let loopback = name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_ours_or_not() {
        let names = ["model.lan".to_owned()];
        for ours in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:1",
            "[::1]",
            "model.lan",
            "Model.LAN:9",
            "localhost.",
        ] {
            assert!(is_ours(ours, &names), "{ours}");
        }
        for other in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]",
            "model.lan.evil",
            "0.0.0.0",
            "127.1",
        ] {
            assert!(!is_ours(other, &names), "{other}");
        }
    }
}
