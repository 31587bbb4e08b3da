//! Downloads one file. It goes on where an earlier attempt stopped, and gives the file its name when every byte has arrived and the
//! digest is right.

use super::cache::{Place, hash};
use super::digest::{Digest, Found, Hasher};
use super::http::{Client, Fault, Reply, answer, bare, broken, text};
use super::waits::Tries;
use crate::{Error, Result};
use farthing_base::files;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};

/// An attempt that brought at least this much was no failure.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What is to be downloaded.
pub(crate) struct Wanted<'a> {
    pub(crate) url: &'a str,
    /// As a user knows it.
    pub(crate) name: &'a str,
    pub(crate) bytes: Option<u64>,
    pub(crate) digest: Option<&'a Digest>,
}

/// Which version of a URL the bytes of a partial file are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    etag: Option<String>,
    modified: Option<String>,
    bytes: Option<u64>,
}

/// A download under way.
struct Transfer<'a> {
    client: &'a Client,
    wanted: &'a Wanted<'a>,
    place: &'a Place,
    file: File,
    hasher: Hasher,
    /// Of the bytes so far.
    version: Option<Version>,
    bytes: Option<u64>,
}

/// Brings a file to its place; the caller holds its lock. Returns its digests. Where the digest was not known before, the
/// file is left at `place.partial`.
///
/// # Errors
/// [`Error::Refused`], [`Error::Unreachable`], [`Error::Answer`], [`Error::WrongBytes`], [`Error::Io`], [`Error::Stopped`].
pub(crate) fn download(
    client: &Client,
    wanted: &Wanted<'_>,
    place: &Place,
    refused: &dyn Fn(Fault) -> Error,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(u64),
) -> Result<Found> {
    let path = &place.partial;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(Error::io("open", path))?;
    let hasher = Hasher::new(wanted.digest, wanted.bytes);
    let bytes = wanted.bytes;
    let mut transfer = Transfer { client, wanted, place, file, hasher, version: None, bytes };
    transfer.take_up(stop, tell)?;
    let mut second = false;
    loop {
        transfer.complete(refused, stop, tell)?;
        let found = transfer.hasher.clone().finish();
        if wanted.digest.is_none_or(|digest| *digest == found.digest) {
            return transfer.keep(found);
        }
        // Once more from the start: a partial file may have been of another version, and networks flip bits.
        transfer.start_again()?;
        if std::mem::replace(&mut second, true) {
            let _ = fs::remove_file(path);
            let wanted_digest = wanted.digest.map(ToString::to_string).unwrap_or_default();
            return Err(Error::WrongBytes {
                name: wanted.name.into(),
                url: bare(wanted.url),
                expected: wanted_digest,
                found: found.digest.to_string(),
            });
        }
    }
}

impl Transfer<'_> {
    /// Goes on from what an earlier attempt left, if it fits.
    fn take_up(&mut self, stop: &dyn Fn() -> bool, tell: &mut dyn FnMut(u64)) -> Result<()> {
        let path = &self.place.partial;
        let left = self.file.metadata().map_err(Error::io("read the size of", path))?.len();
        if left == 0 {
            return Ok(());
        }
        if self.wanted.digest.is_none() {
            let version = fs::read(self.place.version()).ok();
            let version: Option<Version> = version.and_then(|v| serde_json::from_slice(&v).ok());
            // Without a digest only the server's own word ties two halves of a file together.
            let Some(version) = version.filter(|v| v.etag.is_some() || v.modified.is_some()) else {
                return self.start_again();
            };
            self.bytes = self.bytes.or(version.bytes);
            self.version = Some(version);
        }
        if self.bytes.is_some_and(|bytes| left > bytes) {
            return self.start_again();
        }
        hash(&mut self.file, path, &mut self.hasher, stop, tell)
    }

    fn start_again(&mut self) -> Result<()> {
        let path = &self.place.partial;
        self.file.set_len(0).map_err(Error::io("truncate", path))?;
        self.file.rewind().map_err(Error::io("rewind", path))?;
        self.hasher = Hasher::new(self.wanted.digest, self.wanted.bytes);
        self.version = None;
        self.bytes = self.wanted.bytes;
        Ok(())
    }

    /// Requests until every byte is there.
    fn complete(
        &mut self,
        refused: &dyn Fn(Fault) -> Error,
        stop: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut tries = Tries::new(self.client, self.wanted.url);
        let mut asked = false;
        loop {
            // A size that is not known is learnt from the first answer; an empty file needs none.
            if self.bytes == Some(self.hasher.bytes()) && (asked || self.hasher.bytes() > 0) {
                return Ok(());
            }
            asked = true;
            let before = self.hasher.bytes();
            let fault = match self.attempt(stop, tell) {
                Ok(()) if self.bytes.is_none() => {
                    self.bytes = Some(self.hasher.bytes());
                    continue;
                }
                Ok(()) => continue,
                Err(fault) => fault,
            };
            let Fault::Passing { reason, wait } = fault else { return Err(refused(fault)) };
            if self.hasher.bytes() >= before + PROGRESS_BYTES {
                tries.progressed();
            }
            let reason = match self.bytes {
                Some(bytes) => format!("{reason}, after {} of {bytes} bytes", self.hasher.bytes()),
                None => reason,
            };
            tries.again(reason, wait, stop)?;
        }
    }

    /// One request for what is missing.
    fn attempt(&mut self, stop: &dyn Fn() -> bool, tell: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        let from = self.hasher.bytes();
        let reply = match self.client.get(self.wanted.url, from) {
            // What is here is longer than what is there.
            Err(Fault::Refused(refusal)) if refusal.status == 416 && from > 0 => {
                self.start_again()?;
                let reason = "the server has less than what is here already".into();
                return Err(Fault::Passing { reason, wait: None });
            }
            other => other?,
        };
        let from = self.begin(&reply, from)?;
        self.receive(reply, from, stop, tell)
    }

    /// Checks that an answer is about the same file and says from which byte on it is.
    fn begin(&mut self, reply: &Reply, asked: u64) -> Result<u64, Fault> {
        let url = self.wanted.url;
        if let Some(coding) = text(&reply.headers, "content-encoding").filter(|c| c != "identity") {
            return Err(
                answer(url, format!("it is encoded as {coding}, which was not asked for")).into()
            );
        }
        let mut from = 0;
        let mut total = reply.body.content_length();
        if reply.status == 206 {
            let range = text(&reply.headers, "content-range").unwrap_or_default();
            let (first, all) = content_range(&range)
                .ok_or_else(|| answer(url, format!("its content-range is `{range}`")))?;
            if first != asked {
                let what = format!("it begins at byte {first}, byte {asked} was asked for");
                return Err(answer(url, what).into());
            }
            (from, total) = (first, all);
        }
        let version = Version {
            etag: text(&reply.headers, "etag"),
            modified: text(&reply.headers, "last-modified"),
            bytes: total,
        };
        let same = self.version.as_ref().is_none_or(|old| {
            let differ =
                |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
            !differ(&old.etag, &version.etag)
                && (old.etag.is_some() || !differ(&old.modified, &version.modified))
                && (old.bytes.is_none() || version.bytes.is_none() || old.bytes == version.bytes)
        });
        if from > 0 && !same {
            self.start_again()?;
            let reason = "the file changed on the server while it was fetched".into();
            return Err(Fault::Passing { reason, wait: None });
        }
        if from == 0 && self.hasher.bytes() > 0 {
            // A server that knows no ranges sends everything.
            self.start_again()?;
        }
        if let (Some(expected), Some(total)) = (self.wanted.bytes, total)
            && expected != total
        {
            let (expected, found) = (format!("{expected} bytes"), format!("{total} bytes"));
            let name = self.wanted.name.into();
            return Err(Error::WrongBytes { name, url: bare(url), expected, found }.into());
        }
        self.bytes = self.bytes.or(total);
        if self.wanted.digest.is_none() && self.version.as_ref() != Some(&version) {
            let json = serde_json::to_vec(&version).unwrap_or_default();
            files::write(&self.place.version(), &[&json]).map_err(Error::from)?;
        }
        self.version = Some(version);
        Ok(from)
    }

    fn receive(
        &mut self,
        reply: Reply,
        from: u64,
        stop: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let path = &self.place.partial;
        // The file's end is where the next byte belongs, whatever was read of it before.
        self.file.seek(std::io::SeekFrom::Start(from)).map_err(Error::io("seek in", path))?;
        let mut body = reply.body.into_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            if stop() {
                return Err(Error::Stopped.into());
            }
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(error) => return Err(Fault::Passing { reason: broken(&error), wait: None }),
            };
            if n == 0 {
                break;
            }
            if let Some(bytes) = self.bytes
                && self.hasher.bytes() + n as u64 > bytes
            {
                self.start_again()?;
                return Err(Fault::Passing {
                    reason: format!("the server sent more than the {bytes} bytes it has"),
                    wait: None,
                });
            }
            self.file.write_all(&buffer[..n]).map_err(Error::io("write", path))?;
            self.hasher.update(&buffer[..n]);
            tell(self.hasher.bytes());
        }
        match self.bytes {
            Some(bytes) if self.hasher.bytes() < bytes => {
                Err(Fault::Passing { reason: "the answer ended early".into(), wait: None })
            }
            _ => Ok(()),
        }
    }

    /// Gives the whole file its name.
    fn keep(self, found: Found) -> Result<Found> {
        match &self.place.blob {
            Some(blob) => files::put(&self.file, &self.place.partial, blob)?,
            None => self.file.sync_all().map_err(Error::io("sync", &self.place.partial))?,
        }
        Ok(found)
    }
}

/// First byte and, if it is known, the size of the whole, of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, all) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let all = if all.trim() == "*" { None } else { Some(all.trim().parse().ok()?) };
    (first <= last && all.is_none_or(|all| last < all)).then_some((first, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "bytes */10", "bytes 5-9", "bytes 9-5/10", "bytes 5-10/10", "bytes -5/10"]
        {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
