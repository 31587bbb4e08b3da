//! Text as it may be shown and kept: URLs without what is a secret in them, and nothing that a terminal takes for a command.

use std::borrow::Cow;

/// What stands for a part that is left out.
const LEFT_OUT: &str = "…";

/// Schemes in whose addresses `?` is part of a pattern of names.
const PATTERNS: [&str; 3] = ["embedded", "file", "hf"];

/// A text whose URLs have no query and no fragment, which may be a token or a signature, and no user and password.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let Some(mut at) = text.find("://") else { return text.into() };
    let mut out = String::new();
    let mut rest = text;
    loop {
        let scheme = rest[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        let (after, end) = (at + "://".len(), address_end(rest, at));
        out.push_str(&rest[..after]);
        out.push_str(&bare(scheme, &rest[after..end]));
        rest = &rest[end..];
        match rest.find("://") {
            Some(next) => at = next,
            None => break,
        }
    }
    out.push_str(rest);
    out.into()
}

/// What comes after `://` without secrets.
fn bare(scheme: &str, address: &str) -> String {
    let host_end = address.find(['/', '?', '#']).unwrap_or(address.len());
    let (authority, path) = address.split_at(host_end);
    let mut out = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{LEFT_OUT}@{host}"),
        None => authority.to_owned(),
    };
    match path.find(['?', '#']).filter(|_| !is_pattern(scheme)) {
        Some(query) => {
            out.push_str(&path[..=query]);
            out.push_str(LEFT_OUT);
        }
        None => out.push_str(path),
    }
    out
}

/// The same with as many `*` as there were bytes, so that places in the text stay where they are.
pub fn with_stars(text: &str) -> Cow<'_, str> {
    if without_secrets(text) == text {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let scheme = rest[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        let end = address_end(rest, at);
        let address = &rest[at + 3..end];
        let host_end = address.find(['/', '?', '#']).unwrap_or(address.len());
        let user = address[..host_end].rfind('@').unwrap_or(0);
        let query = address.find(['?', '#']).filter(|_| !is_pattern(scheme));
        let query = query.map_or(address.len(), |at| at + 1);
        out.push_str(&rest[..at + 3]);
        out.push_str(&"*".repeat(user));
        out.push_str(&address[user..query]);
        out.push_str(&"*".repeat(address.len() - query));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out.into()
}

/// Where an address ends that has its `://` at `at`.
fn address_end(text: &str, at: usize) -> usize {
    let after = at + "://".len();
    let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'`<>".contains(c);
    text[after..].find(ends).map_or(text.len(), |n| after + n)
}

fn is_pattern(scheme: &str) -> bool {
    PATTERNS.iter().any(|known| known.eq_ignore_ascii_case(scheme))
}

/// A text without characters that a terminal acts upon or that turn the order of others: they are written as `\u{1b}`. Line breaks and tabs
/// stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out.into()
}

/// Control characters, and those that change the direction of text (Unicode, Annex 9).
fn acts(c: char) -> bool {
    let turns = matches!(c, '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() && c != '\n' && c != '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_queries_fragments_and_passwords() {
        for (text, shown) in [
            ("no address at all?x=1", "no address at all?x=1"),
            ("https://h/a.parquet", "https://h/a.parquet"),
            ("`https://h/a?token=x`: 403", "`https://h/a?…`: 403"),
            ("https://h/a#access_token=x and more", "https://h/a#… and more"),
            ("s3://key:secret@bucket/x", "s3://…@bucket/x"),
            ("http://u@h:8?x to https://i/?y", "http://…@h:8?… to https://i/?…"),
            ("http://a@b@h/x", "http://…@h/x"),
            ("hf://datasets/a/b@v1/x-0?.parquet", "hf://datasets/a/b@v1/x-0?.parquet"),
            ("file:///a b/c?.txt", "file:///a b/c?.txt"),
            ("HTTPS://h/a?x", "HTTPS://h/a?…"),
            ("://", "://"),
            ("ü://ü?ü", "ü://ü?…"),
        ] {
            assert_eq!(without_secrets(text), shown);
            assert_eq!(without_secrets(shown), shown, "twice");
            let stars = with_stars(text);
            assert_eq!((stars.len(), stars.contains("token")), (text.len(), false), "{stars}");
        }
    }

    #[test]
    fn stars_keep_places() {
        let text = "a = 'https://u:p@h/ü?tökén' # s3://k@b/x#y hf://a/?";
        assert_eq!(with_stars(text), "a = 'https://***@h/ü?*******' # s3://*@b/x#* hf://a/?");
    }

    #[test]
    fn what_a_terminal_acts_upon_is_spelled_out() {
        for (text, shown) in [
            ("plain\tü\n", "plain\tü\n"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\rb\u{8}c\u{7f}", "a\\u{d}b\\u{8}c\\u{7f}"),
            ("\u{9b}31m\u{0}", "\\u{9b}31m\\u{0}"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
