//! Asks the Hub about a dataset: the commit behind a revision, and the files of that commit with their digests. Turns its refusals
//! into errors that say what to do.

use super::address::{HubAddress, safe};
use super::digest::Digest;
use super::http::{Client, Fault, Refusal, answer, encode};
use super::pin::{Pin, PinnedFile, is_commit};
use crate::local::{Format, parse_glob, several};
use crate::{Error, Result};
use farthing_base::names::{did_you_mean, nearest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Pages of a listing; the Hub puts 1,000 entries on one.
const MOST_PAGES: usize = 10_000;

/// Pins a dataset: resolves its revision, then lists the commit, so that both speak of the same files.
///
/// # Errors
/// [`Error::Refused`], [`Error::Unreachable`], [`Error::Answer`], [`Error::NoRemoteFiles`], [`Error::Stopped`].
pub(crate) fn pin(
    client: &Client,
    address: &HubAddress,
    source: &str,
    stop: &dyn Fn() -> bool,
) -> Result<Pin> {
    let commit = commit(client, address, stop)?;
    let is_match = address.matcher()?;
    let folder = address.folder();
    let listed = list(client, address, &commit, folder, stop);
    let absent = matches!(&listed, Err(Fault::Refused(r)) if r.status == 404 && !folder.is_empty());
    let listed = if absent { Ok(vec![]) } else { listed };
    let mut files = listed.map_err(|fault| fault.into_error(address))?;
    files.retain(|file| is_match(&file.path));
    meant(address, source, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    if files.is_empty() {
        return Err(nothing(client, address, source, &commit, stop));
    }
    Ok(Pin { source: source.into(), commit: Some(commit), files })
}

/// Keeps, of files that match, those that are meant: the one that is named, parquet, and what has the extension that a glob says. Without any
/// of them, text in the one other format that there is. Notes and images beside it are nobody's training data.
fn meant(address: &HubAddress, source: &str, files: &mut Vec<PinnedFile>) -> Result<()> {
    let format = |file: &PinnedFile| Format::of_name(Path::new(&file.path));
    let alternatives = parse_glob(&address.pattern).unwrap_or_default();
    let said = alternatives.into_iter().filter_map(|alternative| alternative.extension);
    let said: Vec<String> =
        said.map(|extension| format!(".{}", extension.to_lowercase())).collect();
    let asked = |file: &PinnedFile| {
        let name = file.path.to_lowercase();
        file.path == address.pattern
            || format(file) == Some(Format::Parquet)
            || format(file).is_some() && said.iter().any(|end| name.ends_with(end))
    };
    if files.iter().any(asked) {
        files.retain(asked);
        return Ok(());
    }
    let mut kinds = BTreeMap::new();
    for format in files.iter().filter_map(format) {
        *kinds.entry(format).or_default() += 1;
    }
    if kinds.len() > 1 {
        return Err(several(source, &kinds));
    }
    files.retain(|file| format(file).is_some());
    Ok(())
}

/// The URL of a file of a commit.
pub(crate) fn url(client: &Client, repo: &str, commit: &str, path: &str) -> String {
    let endpoint = &client.settings.endpoint;
    format!("{endpoint}/datasets/{repo}/resolve/{commit}/{}", encode(path, "/"))
}

fn api(client: &Client, address: &HubAddress, what: &str) -> String {
    format!("{}/api/datasets/{}/{what}", client.settings.endpoint, address.repo)
}

fn commit(client: &Client, address: &HubAddress, stop: &dyn Fn() -> bool) -> Result<String> {
    let url = api(client, address, &format!("revision/{}", encode(&address.revision, "")));
    let refused = |fault: Fault| match fault {
        Fault::Refused(r) if r.status == 404 && r.code != "RepoNotFound" => {
            no_revision(client, address, &r, stop)
        }
        other => other.into_error(address),
    };
    let (value, _) = client.json(&url, stop).map_err(refused)?;
    let sha = value["sha"].as_str().unwrap_or_default();
    if !is_commit(sha) {
        return Err(answer(&url, format!("its `sha` is `{sha}`, expected a commit")));
    }
    Ok(sha.to_owned())
}

/// Every file of a commit under a folder.
fn list(
    client: &Client,
    address: &HubAddress,
    commit: &str,
    folder: &str,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<PinnedFile>, Fault> {
    let folder =
        if folder.is_empty() { String::new() } else { format!("/{}", encode(folder, "/")) };
    let mut url = api(client, address, &format!("tree/{commit}{folder}?recursive=true"));
    let mut files = Vec::new();
    for _ in 0..MOST_PAGES {
        let (page, next) = client.json(&url, stop)?;
        let entries =
            page.as_array().ok_or_else(|| answer(&url, "a listing is no array".into()))?;
        for entry in entries.iter().filter(|e| e["type"] == "file") {
            files.push(file(entry).ok_or_else(|| {
                answer(&url, format!("an entry of the listing cannot be read: {entry}"))
            })?);
        }
        match next {
            None => return Ok(files),
            Some(next) => url = next,
        }
    }
    Err(answer(&url, format!("the listing has more than {MOST_PAGES} pages")).into())
}

fn file(entry: &Value) -> Option<PinnedFile> {
    let path = entry["path"].as_str().filter(|path| safe(path))?;
    // A large file is a pointer in Git, and `lfs` has the digest of what it points to.
    let (bytes, digest) = match &entry["lfs"] {
        Value::Null => (entry["size"].as_u64()?, format!("git-sha1:{}", entry["oid"].as_str()?)),
        lfs => {
            let oid = lfs["oid"].as_str()?;
            let oid = oid.strip_prefix("sha256:").unwrap_or(oid);
            (lfs["size"].as_u64()?, format!("sha256:{oid}"))
        }
    };
    Digest::parse(&digest)?;
    Some(PinnedFile { path: path.to_owned(), bytes, digest })
}

/// No file matches: shows what there is.
fn nothing(
    client: &Client,
    address: &HubAddress,
    source: &str,
    commit: &str,
    stop: &dyn Fn() -> bool,
) -> Error {
    let all = match list(client, address, commit, "", stop) {
        Ok(all) => all,
        Err(fault) => return fault.into_error(address),
    };
    let all: Vec<String> = all.into_iter().map(|f| f.path).collect();
    let text: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|path| Format::of_name(Path::new(path)).is_some())
        .collect();
    let parquet: Vec<&str> = text.iter().copied().filter(|p| p.ends_with(".parquet")).collect();
    let meant = did_you_mean(&address.pattern, text.iter().copied());
    let hint = match (meant, parquet.first(), text.first()) {
        (Some(meant), ..) => meant,
        (None, Some(first), _) => {
            format!("it has {} parquet files, the first one is `{first}`", parquet.len())
        }
        (None, None, Some(first)) => {
            format!("it has {} files of text, the first one is `{first}`", text.len())
        }
        (None, None, None) => {
            format!("it has {} files and none of them is parquet, or text by its name", all.len())
        }
    };
    Error::NoRemoteFiles { given: source.into(), commit: commit.into(), hint }
}

/// The revision is not there: looks for one with a similar name.
fn no_revision(
    client: &Client,
    address: &HubAddress,
    refusal: &Refusal,
    stop: &dyn Fn() -> bool,
) -> Error {
    let refs = client.json(&api(client, address, "refs"), stop).map(|(refs, _)| refs);
    let refs = refs.unwrap_or_default();
    let named = |kind: &str| refs[kind].as_array().cloned().unwrap_or_default();
    let names: Vec<String> = ["branches", "tags", "converts"]
        .iter()
        .flat_map(|kind| named(kind))
        .filter_map(|entry| Some(entry["name"].as_str()?.to_owned()))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = match nearest(&address.revision, names.iter().copied()) {
        Some(near) => format!("did you mean `@{near}`?"),
        None if names.is_empty() => "leave `@REVISION` out for the newest commit".into(),
        None => format!("it has {}", names.join(", ")),
    };
    Error::Refused {
        url: super::http::bare(&refusal.url),
        status: refusal.status,
        reason: format!("dataset {} has no revision `{}`", address.repo, address.revision),
        hint,
    }
}

impl Fault {
    /// The error for a user who asked for this dataset.
    pub(crate) fn into_error(self, address: &HubAddress) -> Error {
        match self {
            Self::Final(error) => error,
            Self::Passing { reason, .. } => {
                Error::Unreachable { url: address.repo.clone(), attempts: 1, reason }
            }
            Self::Refused(refusal) => refusal.of_dataset(&address.repo),
        }
    }
}

impl Refusal {
    /// What a refusal means for a dataset.
    pub(crate) fn of_dataset(self, repo: &str) -> Error {
        let gated = self.code == "GatedRepo";
        let (reason, hint) = match self.status {
            // The Hub does not tell strangers whether a private dataset exists.
            401 if !self.token_sent => (
                format!("dataset {repo} is not there, or not for everyone, and no token was sent"),
                if gated {
                    format!(
                        "accept its terms on its page (datasets/{repo}), then set HF_TOKEN to a token of yours"
                    )
                } else {
                    "check the name; for a private or gated dataset set HF_TOKEN to a token of yours".into()
                },
            ),
            401 => (
                format!("the token was refused for dataset {repo}"),
                "check the dataset's name, and that HF_TOKEN holds a token that is still valid"
                    .into(),
            ),
            403 if gated || self.message.contains("gated") => (
                format!("dataset {repo} is gated, and your account has no access"),
                format!(
                    "accept its terms on its page (datasets/{repo}) with the account of your HF_TOKEN"
                ),
            ),
            403 => (
                format!("access to dataset {repo} is forbidden"),
                "set HF_TOKEN to a token that may read this dataset".into(),
            ),
            404 if self.code == "EntryNotFound" => (
                format!("dataset {repo} has no such file"),
                "if the dataset's history was rewritten, remove its pin from the lock file".into(),
            ),
            404 => (format!("dataset {repo} is not there"), "check owner and name".into()),
            _ => self.in_general(),
        };
        let Self { url, status, .. } = self;
        Error::Refused { url: super::http::bare(&url), status, reason, hint }
    }

    /// What a refusal means for any file.
    pub(crate) fn of_url(self) -> Error {
        let (reason, hint) = match self.status {
            401 | 403 => (
                "the server does not give it to everyone".into(),
                "fetch the file by hand and give its path as the source".into(),
            ),
            404 | 410 => ("the file is not there".into(), "check the URL".into()),
            _ => self.in_general(),
        };
        let Self { url, status, .. } = self;
        Error::Refused { url: super::http::bare(&url), status, reason, hint }
    }

    fn in_general(&self) -> (String, String) {
        let said = if self.message.is_empty() { "without a reason" } else { &self.message };
        (
            format!("the server refused, {said}"),
            "check the source's name, or try again later".into(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_of_a_listing() {
        let sha = "ab".repeat(32);
        let oid = "cd".repeat(20);
        let lfs = json!({ "path": "a/b.parquet", "size": 130, "oid": oid, "lfs": { "oid": sha, "size": 7 } });
        let found = file(&lfs).unwrap();
        assert_eq!((found.bytes, found.digest), (7, format!("sha256:{sha}")));
        let plain = json!({ "path": "x", "size": 3, "oid": oid });
        assert_eq!(file(&plain).unwrap().digest, format!("git-sha1:{oid}"));
        for wrong in [
            json!({ "path": "../x", "size": 3, "oid": oid }),
            json!({ "path": "/x", "size": 3, "oid": oid }),
            json!({ "path": "x", "size": -3, "oid": oid }),
            json!({ "path": "x", "size": 3, "oid": "../../etc" }),
            json!({ "path": "x", "size": 3 }),
        ] {
            assert_eq!(file(&wrong), None, "{wrong}");
        }
    }
}
