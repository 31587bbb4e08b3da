//! What a source's text means: the embedded world, local files, a dataset of the Hub, files on the web. Nothing here looks
//! whether they exist.

use crate::{Error, Result};
use globset::{GlobBuilder, GlobMatcher};

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
    Local(String),
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
        if let Some(path) = source.strip_prefix("file:") {
            return Ok(Self::Local(path.strip_prefix("//").unwrap_or(path).into()));
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
        Ok(Self::Local(source.into()))
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

    /// Whether the pattern names a file: itself, a `.parquet` file under it if it is a folder, or what its glob says.
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
                inside && path.ends_with(".parquet")
            }
        })
    }
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
    fn patterns_match_files_folders_and_globs() {
        let files = ["a.parquet", "s/1.parquet", "s/t/2.parquet", "s/x.txt", "st/3.parquet"];
        for (pattern, folder, matched) in [
            ("", "", &files[..] as &[&str]),
            ("s", "", &["s/1.parquet", "s/t/2.parquet"]),
            ("s/x.txt", "s", &["s/x.txt"]),
            ("s/*.parquet", "s", &["s/1.parquet"]),
            ("s/**/*.parquet", "s", &["s/1.parquet", "s/t/2.parquet"]),
            ("s*/[0-9].parquet", "", &["s/1.parquet", "st/3.parquet"]),
        ] {
            let address = HubAddress { pattern: pattern.into(), ..hub("hf://datasets/a/b") };
            assert_eq!(address.folder(), folder, "{pattern}");
            let is_match = address.matcher().unwrap();
            let found: Vec<_> = files.iter().filter(|f| is_match(f)).copied().collect();
            let matched: Vec<_> = matched
                .iter()
                .filter(|f| **f != "s/x.txt" || pattern == "s/x.txt")
                .copied()
                .collect();
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
