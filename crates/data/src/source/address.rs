//! Reads what a source names: the embedded world, local files, a dataset of the Hub, or files on the web. It does not look whether
//! they exist.

use crate::local::{Format, LocalAddress, escaped};
use crate::{Error, Result};
use globset::{GlobBuilder, GlobMatcher};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The source that is made here, from nothing.
pub(crate) const WORLD: &str = "embedded://world";

/// More files than this from one `{first..last}` is a slip of the keyboard.
const MOST_FILES: u64 = 1_000_000;

/// A source, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// The embedded world.
    World,
    /// A path, a folder or a glob.
    Local(LocalAddress),
    /// Files of a dataset on the Hub.
    Hub(HubAddress),
    /// These URLs, in this order.
    Web(Vec<String>),
}

/// `hf://datasets/ORG/NAME@REV/GLOB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubAddress {
    /// `ORG/NAME`.
    pub(crate) repo: String,
    /// A branch, a tag or a commit; `main` where none is written.
    pub(crate) revision: String,
    /// A file, a folder or a glob inside of the dataset; empty for all of it.
    pub(crate) pattern: String,
}

impl Address {
    /// Reads a source.
    ///
    /// # Errors
    /// [`Error::UnknownSource`] for another scheme, [`Error::Address`] for one of ours that is written wrongly.
    pub(crate) fn parse(source: &str) -> Result<Self> {
        if source == WORLD {
            return Ok(Self::World);
        }
        let scheme = source.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("file:"));
        if let Some(path) = scheme.map(|scheme| &source[scheme.len()..]) {
            return Ok(Self::Local(match path.strip_prefix("//") {
                Some(rest) => file_url(source, rest)?,
                None => LocalAddress::new(source, path),
            }));
        }
        if let Some(rest) = source.strip_prefix("hf://") {
            return Ok(Self::Hub(hub(source, rest)?));
        }
        if source.starts_with("https://") || source.starts_with("http://") {
            return Ok(Self::Web(web(source)?));
        }
        if source.is_empty() || source.contains("://") {
            return Err(Error::UnknownSource { given: source.into() });
        }
        Ok(Self::Local(LocalAddress::new(source, source)))
    }

    /// Whether the network is asked for it.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Hub(_) | Self::Web(_))
    }
}

impl HubAddress {
    /// The folder that every match lies in, as far as the pattern says.
    pub(crate) fn folder(&self) -> &str {
        match self.pattern.find(['*', '?', '[', '{']) {
            Some(wild) => self.pattern[..wild].rfind('/').map_or("", |end| &self.pattern[..end]),
            None => self.pattern.rfind('/').map_or("", |end| &self.pattern[..end]),
        }
    }

    /// Whether the pattern names a file: itself, a file of text under it if it is a folder, or what its glob says.
    ///
    /// # Errors
    /// [`Error::Address`] for a glob that cannot be read.
    pub(crate) fn matcher(&self) -> Result<impl Fn(&str) -> bool + use<>> {
        let glob: Option<GlobMatcher> = if self.pattern.contains(['*', '?', '[', '{']) {
            let glob = GlobBuilder::new(&self.pattern).literal_separator(true).build();
            let wrong = |e: globset::Error| Error::Address {
                given: self.pattern.clone(),
                reason: format!("the glob cannot be read: {}", e.kind()),
                hint: "`*` and `?` stay inside a folder, `**` does not, `[0-9]` is one of them",
            };
            Some(glob.map_err(wrong)?.compile_matcher())
        } else {
            None
        };
        let pattern = self.pattern.clone();
        Ok(move |path: &str| match &glob {
            Some(glob) => glob.is_match(path),
            None if path == pattern => true,
            None => {
                let below = path.strip_prefix(pattern.as_str());
                let inside = pattern.is_empty() || below.is_some_and(|b| b.starts_with('/'));
                inside && Format::of_name(Path::new(path)).is_some()
            }
        })
    }
}

/// What comes after `file://`: a host that is this machine, and a whole path with `%XX` for whatever has a meaning in a URL.
///
/// # Source
/// RFC 8089; RFC 3986, section 2.1.
fn file_url(source: &str, rest: &str) -> Result<LocalAddress> {
    let wrong = |reason: String| Error::Address {
        given: source.into(),
        reason,
        hint: "write `file:///whole/path`, with %20 for a space, or the path alone, whole or relative, with nothing before it",
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") && host != "127.0.0.1" {
        return Err(wrong(format!(
            "between `file://` and the next `/` stands a machine, `{host}`"
        )));
    }
    if path.is_empty() {
        return Err(wrong("it has no path".into()));
    }
    // `/C:/text` on Windows.
    let drive = path.as_bytes().get(1).is_some_and(u8::is_ascii_alphabetic)
        && path.as_bytes().get(2) == Some(&b':');
    let path = if cfg!(windows) && drive { &path[1..] } else { path };
    let (mut bytes, mut glob) = (vec![], String::new());
    let mut left = path;
    while let Some(c) = left.chars().next() {
        left = &left[c.len_utf8()..];
        if c != '%' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            glob.push(c);
            continue;
        }
        // Bytes in a row, which may be one character.
        let mut run = vec![];
        left = &path[path.len() - left.len() - 1..];
        while let Some(digits) = left.strip_prefix('%') {
            let hex = digits.get(..2).and_then(|two| u8::from_str_radix(two, 16).ok());
            let Some(byte) = hex.filter(|_| !digits.starts_with('+')) else {
                return Err(wrong(
                    "after `%` come two hexadecimal digits; `%` itself is `%25`".into(),
                ));
            };
            if byte == 0 {
                return Err(wrong("`%00` is in no path".into()));
            }
            run.push(byte);
            left = &digits[2..];
        }
        glob.extend(String::from_utf8_lossy(&run).chars().map(escaped));
        bytes.extend(run);
    }
    Ok(LocalAddress { text: source.into(), path: path_of(bytes), glob })
}

#[cfg(unix)]
fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn hub(source: &str, rest: &str) -> Result<HubAddress> {
    let wrong = |reason: &str| Error::Address {
        given: source.into(),
        reason: reason.into(),
        hint: "write `hf://datasets/ORG/NAME`, then `@REVISION` and `/path/*.parquet` if you need them",
    };
    let Some(rest) = rest.strip_prefix("datasets/") else {
        return Err(wrong("only datasets can be read"));
    };
    let (org, rest) =
        rest.split_once('/').ok_or_else(|| wrong("it has no name after the owner"))?;
    let name_end = rest.find(['@', '/']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(name_end);
    let plain = |part: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(fits) && part.chars().any(|c| c != '.')
    };
    if !plain(org) || !plain(name) {
        return Err(wrong("owner and name are made of A-Z a-z 0-9 - _ ."));
    }
    let (revision, pattern) = match rest.strip_prefix('@') {
        None => ("main".to_owned(), rest),
        Some(rest) => {
            // The Hub's own references have slashes in their names: refs/convert/parquet, refs/pr/3.
            let slashes = if rest.starts_with("refs/") { 2 } else { 0 };
            let end = rest.match_indices('/').nth(slashes).map_or(rest.len(), |(at, _)| at);
            (rest[..end].replace("%2F", "/").replace("%2f", "/"), &rest[end..])
        }
    };
    let fits = |c: char| c.is_ascii_graphic() && !"\\?#:*[^~".contains(c);
    if revision.is_empty() || !revision.chars().all(fits) || !safe(&revision) {
        return Err(wrong("after `@` comes a branch, a tag or a commit"));
    }
    let pattern = pattern.trim_matches('/').to_owned();
    if !pattern.is_empty() && !safe(&pattern) {
        return Err(wrong("a path inside a dataset has no `..` and no empty part"));
    }
    Ok(HubAddress { repo: format!("{org}/{name}"), revision, pattern })
}

/// Whether a relative path stays where it starts, on every system. Also asked of names that a server sends.
pub(crate) fn safe(path: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p != "." && p != ".." && !p.contains(['\\', '\0', ':']);
    path.split('/').all(part)
}

/// One URL, or those of a `{00000..00013}` in it.
fn web(source: &str) -> Result<Vec<String>> {
    let wrong = |reason: String| Error::Address {
        given: source.into(),
        reason,
        hint: "write `https://host/path/file.parquet`, or `https://host/path/part_{00000..00013}.parquet` for several",
    };
    let authority = source.split_once("://").map_or("", |(_, rest)| rest);
    let host_end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    let (host, path) = authority.split_at(host_end);
    if host.is_empty() || path.len() < 2 || path.ends_with('/') {
        return Err(wrong("it names no file".into()));
    }
    if host.contains('@') {
        return Err(wrong("a password does not belong in a source".into()));
    }
    if source.starts_with("http://") && !is_loopback(host) {
        return Err(wrong("`http://` is read from this machine alone".into()));
    }
    let Some(open) = source.find('{') else { return Ok(vec![source.into()]) };
    let inner = source[open + 1..].split_once('}');
    let range = inner.and_then(|(range, rest)| Some((range.split_once("..")?, rest)));
    let Some(((first, last), rest)) = range.filter(|(_, rest)| !rest.contains('{')) else {
        return Err(wrong("`{` starts one range such as `{00000..00013}`".into()));
    };
    let digits = |s: &str| !s.is_empty() && s.len() <= 9 && s.bytes().all(|b| b.is_ascii_digit());
    let numbers = (digits(first) && digits(last)).then(|| (first.parse(), last.parse()));
    let Some((Ok(from), Ok(to))) = numbers else {
        return Err(wrong(format!("`{first}` and `{last}` are not both numbers")));
    };
    let (from, to): (u64, u64) = (from, to);
    if from > to || to - from >= MOST_FILES {
        return Err(wrong(format!("`{{{first}..{last}}}` is no range of files")));
    }
    let width = first.len();
    Ok((from..=to).map(|i| format!("{}{i:0width$}{rest}", &source[..open])).collect())
}

/// What a source, or the URL of a file, is called wherever it is noted: a URL's query may be a secret, and another one may be another file,
/// so that its digest stands for it. A name stays the name that it is.
pub(crate) fn public(source: &str) -> Cow<'_, str> {
    const DIGEST: &str = "blake3=";
    const DIGITS: usize = 16;
    if !source.starts_with("https://") && !source.starts_with("http://") {
        return source.into();
    }
    let Some(at) = source.find(['?', '#']) else { return source.into() };
    let query = &source[at + 1..];
    let hex =
        |digits: &str| digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if query.strip_prefix(DIGEST).is_some_and(hex) {
        return source.into();
    }
    let digest = blake3::hash(query.as_bytes()).to_hex();
    format!("{}{DIGEST}{}", &source[..=at], &digest[..DIGITS]).into()
}

/// Whether a host, with or without a port, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let ip = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> HubAddress {
        match Address::parse(text).unwrap() {
            Address::Hub(hub) => hub,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn datasets_of_the_hub() {
        for (text, repo, revision, pattern) in [
            ("hf://datasets/a/b", "a/b", "main", ""),
            ("hf://datasets/a/b/", "a/b", "main", ""),
            ("hf://datasets/a/b@v1.0", "a/b", "v1.0", ""),
            ("hf://datasets/a/b@v1/sample/10BT/*.parquet", "a/b", "v1", "sample/10BT/*.parquet"),
            ("hf://datasets/a/b.c-d_e/x", "a/b.c-d_e", "main", "x"),
            ("hf://datasets/a/b@refs/convert/parquet/x", "a/b", "refs/convert/parquet", "x"),
            ("hf://datasets/a/b@refs%2Fpr%2F3/x", "a/b", "refs/pr/3", "x"),
            ("hf://datasets/a/b@refs/pr/3", "a/b", "refs/pr/3", ""),
        ] {
            let found = hub(text);
            assert_eq!(
                (&*found.repo, &*found.revision, &*found.pattern),
                (repo, revision, pattern)
            );
        }
        for text in [
            "hf://a/b",
            "hf://datasets/a",
            "hf://datasets//b",
            "hf://datasets/a/..",
            "hf://datasets/a b/c",
            "hf://datasets/a/b@",
            "hf://datasets/a/b@/x",
            "hf://datasets/a/b@../x",
            "hf://datasets/a/b/../x",
            "hf://datasets/a/b/x//y",
            "hf://models/a/b",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn queries_are_noted_by_their_digests() {
        for (source, name) in [
            ("hf://datasets/a/b/?.parquet", "hf://datasets/a/b/?.parquet"),
            ("a?.parquet", "a?.parquet"),
            ("https://h/{0..1}.parquet", "https://h/{0..1}.parquet"),
            ("https://h/a?token=secret", "https://h/a?blake3=4b0a6a1a38d1c1b0"),
        ] {
            let found = public(source);
            assert!(!found.contains("secret"));
            assert_eq!(public(&found), found, "twice");
            if !source.contains("token") {
                assert_eq!(found, name);
            }
        }
        assert_ne!(public("https://h/a?id=1"), public("https://h/a?id=2"));
    }

    #[test]
    fn paths_and_file_urls() {
        let local = |text: &str| match Address::parse(text).unwrap() {
            Address::Local(local) => local,
            other => panic!("{other:?}"),
        };
        for (text, path) in [
            ("a b/%20.parquet", "a b/%20.parquet"),
            ("file:a/%20", "a/%20"),
            ("file:/a", "/a"),
            ("file:///my%20text/a.parquet", "/my text/a.parquet"),
            ("FILE://localhost/a", "/a"),
            ("file://127.0.0.1/a%25b", "/a%b"),
            ("file:///%C3%BC", "/ü"),
        ] {
            assert_eq!(local(text).path.to_str(), Some(path), "{text}");
        }
        let brackets = local("file:///runs%20%5Bv1%5D/*.parquet");
        assert_eq!(brackets.glob, "/runs [[]v1[]]/*.parquet");
        if cfg!(unix) {
            assert_eq!(local("file:///%FF").path.as_os_str().as_encoded_bytes(), b"/\xFF");
        }
        for text in ["file://server/share/a", "file://a", "file://", "file:///%2", "file:///%zz"] {
            let error = Address::parse(text).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn patterns_match_files_folders_and_globs() {
        let files = ["a.parquet", "s/1.parquet", "s/t/2.parquet", "s/x.txt", "st/3.parquet"];
        for (pattern, folder, matched) in [
            ("", "", &files[..] as &[&str]),
            ("s", "", &["s/1.parquet", "s/t/2.parquet", "s/x.txt"]),
            ("s/x.txt", "s", &["s/x.txt"]),
            ("s/*.parquet", "s", &["s/1.parquet"]),
            ("s/**/*.parquet", "s", &["s/1.parquet", "s/t/2.parquet"]),
            ("s*/[0-9].parquet", "", &["s/1.parquet", "st/3.parquet"]),
        ] {
            let address = HubAddress { pattern: pattern.into(), ..hub("hf://datasets/a/b") };
            assert_eq!(address.folder(), folder, "{pattern}");
            let is_match = address.matcher().unwrap();
            let found: Vec<_> = files.iter().filter(|f| is_match(f)).copied().collect();
            assert_eq!(found, matched, "{pattern}");
        }
        let broken = HubAddress { pattern: "a[".into(), ..hub("hf://datasets/a/b") };
        assert!(matches!(broken.matcher().map(drop), Err(Error::Address { .. })));
    }

    #[test]
    fn urls_and_their_ranges() {
        let web = |text: &str| match Address::parse(text).unwrap() {
            Address::Web(urls) => urls,
            other => panic!("{other:?}"),
        };
        assert_eq!(web("https://h/a.parquet"), ["https://h/a.parquet"]);
        assert_eq!(
            web("https://h/a_{08..11}.parquet?x=1"),
            ["08", "09", "10", "11"].map(|i| format!("https://h/a_{i}.parquet?x=1"))
        );
        assert_eq!(
            web("http://127.0.0.1:80/{1..2}"),
            ["http://127.0.0.1:80/1", "http://127.0.0.1:80/2"]
        );
        assert_eq!(web("http://[::1]/a").len() + web("http://localhost:1/a").len(), 2);
        for text in [
            "https://h",
            "https://h/",
            "https:///a",
            "http://h/a",
            "http://127.0.0.1.evil.example/a",
            "https://user:pass@h/a",
            "https://h/{a..b}",
            "https://h/{1..2}{3..4}",
            "https://h/{2..1}",
            "https://h/{0..999999999}",
            "https://h/{1..2",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{text}: {error}");
        }
    }
}
