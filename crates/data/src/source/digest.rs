//! The digests of a file: SHA-256, which the Hub gives for large files, or Git's SHA-1 for small ones; and BLAKE3, which everything
//! after fetching uses.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fmt;
use std::fmt::Write;

/// What a file's bytes must give.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Digest {
    /// SHA-256 of the bytes, in hex.
    Sha256(String),
    /// Git's identifier of a file: SHA-1 of `blob SIZE\0` and the bytes, in hex.
    Git(String),
}

impl Digest {
    /// Reads `sha256:…` or `git-sha1:…`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, hex) = text.split_once(':')?;
        let long =
            |n: usize| hex.len() == n && hex.bytes().all(|b| b"0123456789abcdef".contains(&b));
        match kind {
            "sha256" if long(64) => Some(Self::Sha256(hex.into())),
            "git-sha1" if long(40) => Some(Self::Git(hex.into())),
            _ => None,
        }
    }

    /// The digest alone, which is the file's name in Hugging Face's cache.
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256:{hex}"),
            Self::Git(hex) => write!(f, "git-sha1:{hex}"),
        }
    }
}

/// Digests of bytes as they go by.
#[derive(Clone)]
pub(crate) struct Hasher {
    wanted: Context,
    git: bool,
    blake3: blake3::Hasher,
    bytes: u64,
}

/// What a [`Hasher`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) digest: Digest,
    pub(crate) blake3: String,
    pub(crate) bytes: u64,
}

impl Hasher {
    /// Computes the kind of digest that is wanted, SHA-256 where none is; Git's begins with the size.
    pub(crate) fn new(wanted: Option<&Digest>, bytes: Option<u64>) -> Self {
        let (git, mut context) = match wanted {
            Some(Digest::Git(_)) => (true, Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            _ => (false, Context::new(&SHA256)),
        };
        if git {
            context.update(format!("blob {}\0", bytes.unwrap_or_default()).as_bytes());
        }
        Self { wanted: context, git, blake3: blake3::Hasher::new(), bytes: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.wanted.update(bytes);
        self.blake3.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Found {
        let hex = self.wanted.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let digest = if self.git { Digest::Git(hex) } else { Digest::Sha256(hex) };
        Found { digest, blake3: self.blake3.finalize().to_hex().to_string(), bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let of = |wanted: Option<&Digest>, text: &str| {
            let mut hasher = Hasher::new(wanted, Some(text.len() as u64));
            hasher.update(text.as_bytes());
            hasher.finish()
        };
        // FIPS 180-2, appendix B.1.
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let found = of(None, "abc");
        assert_eq!(found.digest.to_string(), abc);
        assert_eq!(Digest::parse(abc).as_ref(), Some(&found.digest));
        assert_eq!(found.blake3, blake3::hash(b"abc").to_hex().to_string());
        // `printf 'hello\n' | git hash-object --stdin`
        let git = Digest::parse("git-sha1:ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        assert_eq!(of(Some(&git), "hello\n").digest, git);
        for text in ["", "sha256:", "sha256:AB", "md5:00", "git-sha1:ce01"] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }
}
