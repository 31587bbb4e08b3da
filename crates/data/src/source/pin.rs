//! What a remote source was when it was first looked at: the commit, and the size and digest of every file. Who keeps a [`Pin`] gets
//! the same bytes a year later, or an error.

use super::address::public;
use super::digest::Digest;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A remote source, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The source as a pipeline writes it, the query of a URL apart, of which the digest stands here.
    pub source: String,
    /// The commit of a dataset; files elsewhere on the web have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Of a dataset, every file that the source names, in the order of their names. Of files elsewhere, those that were
    /// fetched.
    pub files: Vec<PinnedFile>,
}

/// A file of a [`Pin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Its path in the dataset, or its URL with the digest of its query.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// `sha256:…`, or `git-sha1:…` for a small file that the Hub keeps in Git.
    pub digest: String,
}

impl PinnedFile {
    /// The digest, understood.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn wanted(&self) -> Result<Digest> {
        Digest::parse(&self.digest).ok_or_else(|| Error::Pin {
            source_text: self.path.clone(),
            reason: format!("`{}` is no digest", self.digest),
        })
    }
}

impl Pin {
    /// Whether it is the pin of this source.
    pub fn is_of(&self, source: &str) -> bool {
        public(&self.source) == public(source)
    }

    /// The same, with the digests of queries in place of queries, as older versions noted them.
    #[must_use]
    pub fn without_queries(mut self) -> Self {
        self.source = public(&self.source).into_owned();
        for file in &mut self.files {
            file.path = public(&file.path).into_owned();
        }
        self
    }

    /// Refuses what nobody would have pinned: a pin comes from a file that people edit and merge.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub fn check(&self) -> Result<()> {
        let wrong = |reason: String| Error::Pin { source_text: self.source.clone(), reason };
        let hub = self.source.starts_with("hf://");
        if let Some(commit) = &self.commit
            && !is_commit(commit)
        {
            return Err(wrong(format!("`{commit}` is no commit, 40 hexadecimal digits")));
        }
        if hub != self.commit.is_some() {
            return Err(wrong("a dataset has a commit, a URL has none".into()));
        }
        for file in &self.files {
            file.wanted()?;
            if hub && !super::address::safe(&file.path) {
                return Err(wrong(format!("`{}` is no path inside a dataset", file.path)));
            }
        }
        if hub && !self.files.windows(2).all(|pair| pair[0].path < pair[1].path) {
            return Err(wrong("its files are not in the order of their names".into()));
        }
        Ok(())
    }
}

/// Whether a revision is a whole commit.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b"0123456789abcdef".contains(&b))
}
