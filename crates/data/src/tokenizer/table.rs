//! A hash table from keys to small numbers. The encoder has two: the token of a piece, and the rank of a pair of tokens. Encoding
//! spends most of its time here, so the table is small enough to stay in a core's cache.

use super::key::{Key, hash};

/// What a table looks up.
pub(super) trait Hashed: Copy + Eq {
    /// A key that is not looked up.
    const NONE: Self;
    /// Evenly spread bits.
    fn hash(self) -> u64;
}

/// A short piece.
impl Hashed for Key {
    const NONE: Self = 0;

    #[inline]
    fn hash(self) -> u64 {
        hash(self)
    }
}

/// A pair of tokens, the left one in the upper half.
impl Hashed for u64 {
    const NONE: Self = Self::MAX;

    /// Fibonacci hashing; the halves are mixed first because ids are small, and after it because the upper bits are the better ones.
    #[inline]
    fn hash(self) -> u64 {
        let product = (self ^ (self >> 29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        product ^ (product >> 32)
    }
}

/// Numbers by key.
#[derive(Debug)]
pub(super) struct Table<K> {
    /// Open addressing: a number plus one in the lower bits, bits of its key's hash in the others; 0 where empty. Four bytes a slot,
    /// and a key that is not here is hardly ever compared with one that is.
    slots: Vec<u32>,
    /// The bits of a number.
    numbers: u32,
    /// By number, because what is frequent has neighbouring numbers.
    keys: Vec<K>,
}

impl<K: Hashed> Table<K> {
    /// For numbers below `numbers`, less than 2^32.
    pub(super) fn new(numbers: usize) -> Self {
        Self {
            slots: vec![0; (2 * numbers).next_power_of_two().max(2)],
            numbers: u32::MAX >> (numbers as u32).leading_zeros().min(31),
            keys: vec![K::NONE; numbers],
        }
    }

    /// Makes `number` that of a key.
    pub(super) fn insert(&mut self, key: K, number: u32) {
        let hash = key.hash();
        let (slot, _) = self.find(key, hash);
        self.slots[slot] = ((hash >> 32) as u32 & !self.numbers) | (number + 1);
        self.keys[number as usize] = key;
    }

    /// The number of a key.
    #[inline]
    pub(super) fn get(&self, key: K) -> Option<u32> {
        self.find(key, key.hash()).1
    }

    /// The slot of a key and its number, or the empty slot where it would be.
    #[inline]
    fn find(&self, key: K, hash: u64) -> (usize, Option<u32>) {
        let mask = self.slots.len() - 1;
        let tag = (hash >> 32) as u32;
        let mut at = hash as usize & mask;
        loop {
            let found = self.slots[at];
            if found == 0 {
                return (at, None);
            }
            if (found ^ tag) & !self.numbers == 0 {
                let number = (found & self.numbers) - 1;
                if self.keys[number as usize] == key {
                    return (at, Some(number));
                }
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::key;
    use super::*;

    fn check<K: Hashed>(keys: impl Fn(usize) -> K) {
        for numbers in [1, 2, 3, 255, 256, 5000] {
            let mut table = Table::new(numbers);
            assert_eq!(table.get(keys(0)), None);
            for number in 0..numbers {
                table.insert(keys(number), number as u32);
            }
            for number in 0..numbers {
                assert_eq!(table.get(keys(number)), Some(number as u32));
                assert_eq!(table.get(keys(number + numbers)), None);
            }
            // Of two numbers of one key, the one that came last.
            table.insert(keys(0), numbers as u32 - 1);
            assert_eq!(table.get(keys(0)), Some(numbers as u32 - 1));
        }
    }

    #[test]
    fn what_was_inserted_last_is_found_and_nothing_else() {
        check(|i| {
            let piece = format!("piece {i}").into_bytes();
            key(&piece, 0, piece.len())
        });
        check(|i| ((i as u64 % 97) << 32) | (i as u64 / 97));
    }
}
