//! A short piece of text as one number, and its hash.

use std::hash::{BuildHasherDefault, Hasher};

/// A short piece with its length.
pub(super) type Key = u128;

/// Bytes of a short piece: one less than a key's, for the length.
pub(super) const SHORT: usize = 15;

/// The piece of `bytes` ≤ [`SHORT`] bytes at `at`, its length in the highest byte. Never 0, because no piece is empty.
#[inline]
pub(super) fn key(text: &[u8], at: usize, bytes: usize) -> Key {
    let mut sixteen = [0u8; 16];
    if let Some(there) = text.get(at..at + 16) {
        sixteen.copy_from_slice(there);
    } else {
        sixteen[..bytes].copy_from_slice(&text[at..at + bytes]);
    }
    let all = u128::from_le_bytes(sixteen);
    (all & ((1 << (8 * bytes)) - 1)) | (bytes as u128) << 120
}

/// The piece of a key.
pub(super) fn piece(key: Key) -> Vec<u8> {
    let bytes = (key >> 120) as usize;
    key.to_le_bytes()[..bytes].to_vec()
}

/// One multiplication to 128 bits, folded.
#[inline]
pub(super) fn hash(key: Key) -> u64 {
    let low = (key as u64) ^ 0x9E37_79B9_7F4A_7C15;
    let high = ((key >> 64) as u64) ^ 0xD1B5_4A32_D192_ED03;
    let product = u128::from(low) * u128::from(high);
    (product >> 64) as u64 ^ product as u64
}

/// [`hash`] for a hash map of numbers.
#[derive(Default)]
pub(super) struct KeyHasher(u64);

/// Builds [`KeyHasher`]s.
pub(super) type ByKey = BuildHasherDefault<KeyHasher>;

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.write_u128(u128::from(number) | u128::from(self.0) << 64);
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = hash(number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_piece() {
        let text = b"a\0\0\0bcdefghijklmnopqrst";
        for at in 0..text.len() {
            for bytes in 1..=SHORT.min(text.len() - at) {
                assert_eq!(piece(key(text, at, bytes)), &text[at..at + bytes]);
            }
        }
        assert_ne!(key(text, 0, 1), key(text, 0, 2));
    }
}
