//! Which short pieces are tokens. Most pieces of a text are, so that this is looked at more than all else: the table is small, to stay in a
//! core's cache.

use super::key::{Key, hash};

/// Short pieces and the tokens that they are.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Open addressing: a token's id plus one in the lower bits, bits of its key's hash in the others; 0 where empty. Four bytes a
    /// slot, and the key of a piece that is no token is hardly ever looked up.
    slots: Vec<u32>,
    /// The bits of an id.
    ids: u32,
    /// By id, because frequent tokens have neighbouring ids; 0 for those that are not here.
    keys: Vec<Key>,
}

impl Pieces {
    /// For ids below `ids`, less than 2^32.
    pub(super) fn new(ids: usize) -> Self {
        Self {
            slots: vec![0; (2 * ids).next_power_of_two()],
            ids: u32::MAX >> (ids as u32).leading_zeros().min(31),
            keys: vec![0; ids],
        }
    }

    /// Makes `id` the token of a piece.
    pub(super) fn insert(&mut self, key: Key, id: u32) {
        let hash = hash(key);
        let (slot, _) = self.find(key, hash);
        self.slots[slot] = ((hash >> 32) as u32 & !self.ids) | (id + 1);
        self.keys[id as usize] = key;
    }

    /// The token of a piece.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<u32> {
        self.find(key, hash(key)).1
    }

    /// The slot of a key and its token, or the empty slot where it would be.
    #[inline]
    fn find(&self, key: Key, hash: u64) -> (usize, Option<u32>) {
        let mask = self.slots.len() - 1;
        let tag = (hash >> 32) as u32;
        let mut at = hash as usize & mask;
        loop {
            let found = self.slots[at];
            if found == 0 {
                return (at, None);
            }
            if (found ^ tag) & !self.ids == 0 {
                let id = (found & self.ids) - 1;
                if self.keys[id as usize] == key {
                    return (at, Some(id));
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

    #[test]
    fn what_was_inserted_last_is_found_and_nothing_else() {
        for ids in [1, 2, 3, 255, 256, 5000] {
            let mut pieces = Pieces::new(ids);
            let name = |i: usize| format!("piece {i}").into_bytes();
            let number = |i| key(&name(i), 0, name(i).len());
            for id in 0..ids {
                pieces.insert(number(id), id as u32);
            }
            for id in 0..ids {
                assert_eq!(pieces.get(number(id)), Some(id as u32));
                assert_eq!(pieces.get(number(id + ids)), None);
            }
            // Of two tokens of the same bytes, the one that came last.
            pieces.insert(number(0), ids as u32 - 1);
            assert_eq!(pieces.get(number(0)), Some(ids as u32 - 1));
        }
    }
}
