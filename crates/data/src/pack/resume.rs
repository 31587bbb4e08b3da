//! The resume point, a file that packing leaves beside its shards after each one. A later call goes on from there. It is replaced as
//! a whole; a damaged one is ignored, and packing begins again.

use super::Packer;
use super::encoding::Mark;
use super::state::PackerState;
use super::tokens::Token;
use crate::{Error, ManifestShard, PackSettings, Result, Shard};
use farthing_base::files;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file's name beside the shards.
const RESUME: &str = "resume.bin";

/// Its name before it is whole.
pub(crate) const TEMPORARY: &str = "resume.bin.tmp";

/// The value of its key `format`.
const FORMAT: &str = "farthing-resume-2";

/// Bytes of the digest at its end.
const DIGEST: usize = 32;

/// Where packing stood when the last of `shards` was written. The file is the header's length (8 bytes, little-endian), the
/// header as JSON, the tokens of the packer, and the BLAKE3 digest of all that.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    /// The digest of text, tokenizer and settings.
    input: String,
    mark: Mark,
    shards: Vec<ManifestShard>,
    packer: PackerState,
}

/// Where packing stood, taken while it stands there.
#[derive(Debug)]
pub(crate) struct Snapshot {
    mark: Mark,
    packer: PackerState,
    tokens: Vec<u8>,
}

impl Snapshot {
    /// Of `packer`, whose last document ended at `mark`.
    ///
    /// # Cost
    /// A copy of every token that waits in the packer's buffer.
    pub(crate) fn new<T: Token>(mark: Mark, packer: &Packer<T>) -> Self {
        let mut tokens = vec![];
        Self { mark, packer: packer.save(&mut tokens), tokens }
    }
}

/// A resume point that was read, with its packer.
pub(crate) struct Point<T: Token> {
    pub(crate) mark: Mark,
    pub(crate) shards: Vec<ManifestShard>,
    pub(crate) packer: Packer<T>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join(RESUME)
}

/// Replaces the resume point of `dir`.
///
/// # Errors
/// [`Error::Io`]; the old resume point is then still there.
pub(crate) fn save(
    dir: &Path,
    input: &str,
    point: Snapshot,
    shards: &[ManifestShard],
) -> Result<()> {
    let Snapshot { mark, packer, tokens } = point;
    let header = Header {
        format: FORMAT.into(),
        input: input.into(),
        mark,
        shards: shards.to_vec(),
        packer,
    };
    let header =
        serde_json::to_vec(&header).map_err(|e| Error::io("write", path(dir))(e.into()))?;
    let length = (header.len() as u64).to_le_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length).update(&header).update(&tokens);
    let digest = hasher.finalize();
    Ok(files::write(&path(dir), &[&length, &header, &tokens, digest.as_bytes()])?)
}

/// The resume point of `dir`, if there is one, whole, for this input, and its shards are as they were written.
///
/// # Errors
/// [`Error::Io`] when a file that is there cannot be read; [`Error::Config`].
pub(crate) fn load<T: Token>(
    dir: &Path,
    input: &str,
    settings: &PackSettings,
    bos: T,
) -> Result<Option<Point<T>>> {
    let bytes = match files::read(&path(dir)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path(dir))(e)),
    };
    let Some((header, tokens)) = parse(&bytes) else { return Ok(None) };
    if header.format != FORMAT || header.input != input {
        return Ok(None);
    }
    let whole = |entry: &ManifestShard| {
        let shard = Shard::open(dir.join(&entry.file))?;
        shard.verify_all(&entry.header_blake3)
    };
    if header.shards.iter().any(|entry| whole(entry).is_err()) {
        return Ok(None);
    }
    let packer = Packer::restore(settings, bos, &header.packer, tokens)?;
    Ok(packer.map(|packer| Point { mark: header.mark, shards: header.shards, packer }))
}

/// Header and tokens, if the digest is right.
fn parse(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (rest, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    if blake3::hash(rest).as_bytes() != digest {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (header, tokens) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(header).ok()?, tokens))
}

/// Removes the resume point, if there is one.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_file(path(dir)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path(dir))(e)),
        _ => Ok(()),
    }
}
