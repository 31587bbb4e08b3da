//! Brings one file of the web that is not text to train on, such as a bundle of tasks. It is pinned, verified and kept like the files
//! of a source.

use super::address::Address;
use super::http::bare;
use super::{FetchSettings, Fetcher, PinnedFile, remote};
use crate::{Error, Progress, Result};
use std::path::{Path, PathBuf};

/// A URL of one file as the source that it would be.
fn source(url: &str) -> Result<FetchSettings> {
    match Address::parse(url)? {
        Address::Web(urls) if urls.len() == 1 => {
            Ok(FetchSettings { source: url.into(), ..FetchSettings::default() })
        }
        _ => Err(Error::Address {
            given: url.into(),
            reason: "it is not the URL of one file".into(),
            hint: "write `https://host/path`",
        }),
    }
}

impl Fetcher {
    /// What the file of a URL is pinned to; `None` where it is not. No network is asked.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::UnknownSource`], [`Error::Pin`].
    pub fn pinned_file(&self, url: &str) -> Result<Option<PinnedFile>> {
        Ok(self.pinned(&source(url)?)?.and_then(|files| files.into_iter().next()))
    }

    /// Whether the pinned file is in the cache in its size.
    ///
    /// # Errors
    /// Those of [`Fetcher::pinned_file`].
    pub fn has_file(&self, url: &str) -> Result<bool> {
        Ok(self.cached(&source(url)?)?.0 == 1)
    }

    /// Downloads the file of a URL into the cache, or finds it there, and returns where it is. Its bytes are those that it is pinned to;
    /// where it is not pinned, `check` looks at it, and what it refuses for a reason is thrown away, else it is pinned from now on. Called
    /// again after a kill it goes on with the download. Polls [`Progress::stopped`].
    ///
    /// # Errors
    /// Those of [`Fetcher::pinned_file`]; [`Error::OtherFile`] with the reason of `check`; [`Error::WrongBytes`], [`Error::Refused`],
    /// [`Error::Unreachable`], [`Error::Answer`], [`Error::Offline`], [`Error::Stopped`], [`Error::Io`].
    pub fn fetch_file(
        &mut self,
        url: &str,
        check: &(dyn Fn(&Path) -> Result<(), String> + Sync),
        progress: &mut dyn Progress,
    ) -> Result<PathBuf> {
        let source = source(url)?;
        let looked = |path: &Path, url: &str| {
            check(path).map_err(|found| Error::OtherFile { url: bare(url), found })
        };
        remote::pin(self, &source, &looked, progress)?;
        let unpinned = || Error::Pin {
            source_text: url.into(),
            reason: "it does not have the file that is asked for".into(),
        };
        let file = self.pinned_file(url)?.ok_or_else(unpinned)?;
        remote::bring_one(self, url, &file, progress)
    }
}
