//! Where the bytes of a remote source come from: the cache, if they are there in the right digest, else a server.

use super::address::Address;
use super::cache::{HubCache, Kept, Place, kept, put_aside, web_place};
use super::digest::{Digest, Found};
use super::download::{Wanted, download};
use super::http::{Client, Fault, bare};
use super::{Fetcher, PinnedFile, hub};
use crate::side_by_side::Part;
use crate::{Error, Result};
use std::fs;
use std::path::Path;

/// One file on its way.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) place: Place,
    pub(super) bytes: Option<u64>,
    pub(super) digest: Option<Digest>,
    /// Path in the dataset.
    pub(super) path: Option<String>,
}

impl Part for Item {
    fn name(&self) -> &str {
        &self.name
    }

    fn bytes(&self) -> Option<u64> {
        self.bytes
    }
}

/// Looks at a file of the web that has arrived, before anybody pins it: its path, and its URL for the error.
pub(super) type Check<'a> = dyn Fn(&Path, &str) -> Result<()> + Sync + 'a;

/// Where the bytes of a source come from.
pub(super) struct Origin<'a> {
    pub(super) client: Client,
    /// The dataset and its cache.
    pub(super) hub: Option<(&'a str, HubCache)>,
    check: &'a Check<'a>,
}

impl<'a> Origin<'a> {
    pub(super) fn new(fetcher: &Fetcher, address: &'a Address, check: &'a Check<'a>) -> Self {
        let client = Client::new(fetcher.settings.clone());
        let hub = match address {
            Address::Hub(hub) => {
                Some((hub.repo.as_str(), HubCache::new(&fetcher.settings.cache, &hub.repo)))
            }
            _ => None,
        };
        Self { client, hub, check }
    }

    /// The file, which is at `url` where it is not of a dataset.
    pub(super) fn item(
        &self,
        file: &PinnedFile,
        url: Option<&str>,
        commit: Option<&str>,
    ) -> Result<Item> {
        let url = url.unwrap_or(&file.path);
        let digest = file.wanted()?;
        Ok(match (&self.hub, commit) {
            (Some((repo, cache)), Some(commit)) => Item {
                name: file.path.clone(),
                url: hub::url(&self.client, repo, commit, &file.path),
                place: cache.place(&digest),
                bytes: Some(file.bytes),
                digest: Some(digest),
                path: Some(file.path.clone()),
            },
            _ => Item {
                name: last(&file.path),
                url: url.to_owned(),
                place: web_place(&self.client.settings.downloads, url, Some(&digest)),
                bytes: Some(file.bytes),
                digest: Some(digest),
                path: None,
            },
        })
    }

    fn refused(&self, fault: Fault) -> Error {
        match (fault, &self.hub) {
            (Fault::Final(error), _) => error,
            (Fault::Refused(refusal), Some((repo, _))) => refusal.of_dataset(repo),
            (Fault::Refused(refusal), None) => refusal.of_url(),
            (Fault::Passing { reason, .. }, _) => Error::Unreachable {
                url: self.client.settings.endpoint.clone(),
                attempts: 1,
                reason,
            },
        }
    }

    /// Makes sure that a file is in the cache, verified.
    pub(super) fn bring(
        &self,
        item: &Item,
        stop: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Found> {
        let mut place = item.place.clone();
        let known = (place.blob.clone(), item.bytes, &item.digest);
        let look = |tell: &mut dyn FnMut(u64)| match &known {
            (Some(blob), Some(bytes), Some(digest)) => kept(blob, *bytes, digest, stop, tell),
            _ => Ok(Kept::Absent),
        };
        if let Kept::Good(found) = look(tell)? {
            return Ok(found);
        }
        if self.client.settings.offline {
            return Err(offline(&item.name));
        }
        let _lock = place.lock(stop)?;
        // Whoever held the lock may have brought it.
        match (look(tell)?, &known.0) {
            (Kept::Good(found), _) => return Ok(found),
            (Kept::Damaged, Some(blob)) => put_aside(blob)?,
            _ => {}
        }
        let wanted = Wanted {
            url: &item.url,
            name: &item.name,
            bytes: item.bytes,
            digest: item.digest.as_ref(),
        };
        let found =
            download(&self.client, &wanted, &place, &|fault| self.refused(fault), stop, tell)?;
        if self.hub.is_none() {
            if place.blob.is_none() {
                if let Err(error) = (self.check)(&place.partial, &item.url) {
                    let _ = fs::remove_file(&place.partial);
                    let _ = fs::remove_file(place.version());
                    return Err(error);
                }
                let blob = place.partial.with_file_name(found.digest.hex());
                fs::rename(&place.partial, &blob).map_err(Error::io("rename", &place.partial))?;
            }
            // What is left of it says nothing any more.
            let _ = fs::remove_file(place.version());
        }
        Ok(found)
    }
}

pub(super) fn offline(name: &str) -> Error {
    Error::Offline {
        what: format!("{name} is not in the cache"),
        hint: "run once where there is a network, with the same cache folder (HF_HOME)".into(),
    }
}

/// The last part of a URL's path.
pub(super) fn last(url: &str) -> String {
    bare(url).rsplit('/').next().unwrap_or_default().to_owned()
}
