//! The packer's buffer: a multiset of document lengths with the questions that packing asks of it.
//! It knows neither rows nor BOS.

use std::collections::{BTreeMap, VecDeque};

const NONE: u32 = u32::MAX;

/// A document, or what is left of one.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Tokens without BOS; those before `start` are already in a row.
    pub(super) tokens: Vec<u32>,
    pub(super) start: usize,
    pub(super) continuation: bool,
}

impl Piece {
    /// Tokens that it takes in a row, BOS included.
    pub(super) fn len(&self) -> usize {
        self.tokens.len() - self.start + 1
    }
}

#[derive(Debug)]
struct Node {
    piece: Piece,
    /// The next younger piece of the same length.
    same: u32,
    older: u32,
    younger: u32,
}

/// Lengths up to `cap` (T + 1) have a bit each, in `bits` and mirrored in `mirror`; longer ones lie in a tree. Pieces
/// of one length form a FIFO list, and all pieces one list by age.
///
/// # Cost
/// Insert, remove, largest that fits: O(T/64) words at worst; a pair: at most T/128 + 1 words.
#[derive(Debug)]
pub(super) struct Buffer {
    cap: usize,
    bits: Vec<u64>,
    /// Bit `cap − L` stands for length L, so that the partners of a run of lengths are a run of bits.
    mirror: Vec<u64>,
    heads: Vec<u32>,
    tails: Vec<u32>,
    long: BTreeMap<usize, VecDeque<u32>>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    oldest: u32,
    youngest: u32,
    count: usize,
    searches: u64,
}

impl Buffer {
    pub(super) fn new(cap: usize, expected: usize) -> Self {
        let words = cap / 64 + 1;
        Self {
            cap,
            bits: vec![0; words],
            // One word more: a window may begin inside the last one.
            mirror: vec![0; words + 1],
            heads: vec![NONE; cap + 1],
            tails: vec![NONE; cap + 1],
            long: BTreeMap::new(),
            nodes: Vec::with_capacity(expected.min(1 << 16) + 2),
            free: Vec::new(),
            oldest: NONE,
            youngest: NONE,
            count: 0,
            searches: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, piece: Piece) {
        let length = piece.len();
        let node = Node { piece, same: NONE, older: self.youngest, younger: NONE };
        let id = if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            id
        } else {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        };
        match self.youngest {
            NONE => self.oldest = id,
            youngest => self.nodes[youngest as usize].younger = id,
        }
        self.youngest = id;
        self.count += 1;
        if length > self.cap {
            self.long.entry(length).or_default().push_back(id);
        } else if self.heads[length] == NONE {
            self.heads[length] = id;
            self.tails[length] = id;
            self.flip(length);
        } else {
            let tail = self.tails[length];
            self.nodes[tail as usize].same = id;
            self.tails[length] = id;
        }
    }

    /// Takes the oldest piece of that length out.
    pub(super) fn remove(&mut self, length: usize) -> Option<Piece> {
        let id = if length > self.cap {
            let queue = self.long.get_mut(&length)?;
            let id = queue.pop_front()?;
            if queue.is_empty() {
                self.long.remove(&length);
            }
            id
        } else {
            let id = *self.heads.get(length)?;
            if id == NONE {
                return None;
            }
            self.heads[length] = self.nodes[id as usize].same;
            if self.heads[length] == NONE {
                self.tails[length] = NONE;
                self.flip(length);
            }
            id
        };
        let node = &mut self.nodes[id as usize];
        let (older, younger) = (node.older, node.younger);
        let piece = std::mem::take(&mut node.piece);
        match older {
            NONE => self.oldest = younger,
            older => self.nodes[older as usize].younger = younger,
        }
        match younger {
            NONE => self.youngest = older,
            younger => self.nodes[younger as usize].older = older,
        }
        self.free.push(id);
        self.count -= 1;
        Some(piece)
    }

    /// The length of the piece that has waited longest.
    pub(super) fn oldest(&self) -> Option<usize> {
        (self.oldest != NONE).then(|| self.nodes[self.oldest as usize].piece.len())
    }

    pub(super) fn has(&self, length: usize) -> bool {
        self.heads.get(length).is_some_and(|&head| head != NONE)
    }

    /// The greatest length ≤ `room`.
    pub(super) fn at_most(&self, room: usize) -> Option<usize> {
        let room = room.min(self.cap);
        let mut word = room / 64;
        let mut bits = self.bits[word] & (u64::MAX >> (63 - room % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + 63 - bits.leading_zeros() as usize);
            }
            word = word.checked_sub(1)?;
            bits = self.bits[word];
        }
    }

    /// The smallest length > `room`.
    pub(super) fn above(&self, room: usize) -> Option<usize> {
        let from = room + 1;
        let mut word = from / 64;
        if word < self.bits.len() {
            let mut bits = self.bits[word] & (u64::MAX << (from % 64));
            loop {
                if bits != 0 {
                    return Some(word * 64 + bits.trailing_zeros() as usize);
                }
                word += 1;
                if word == self.bits.len() {
                    break;
                }
                bits = self.bits[word];
            }
        }
        self.long.range(from..).next().map(|(&length, _)| length)
    }

    /// Two lengths that add up to `room` exactly, the longer one first.
    ///
    /// For 64 lengths x at once: `bits[x]` and the mirror's window at `cap − room + x`, which stands for `room − x`.
    /// The search begins at a word that changes from call to call: always beginning at the shortest would use the
    /// short pieces up, which are the ones that close rows.
    pub(super) fn pair(&mut self, room: usize) -> Option<(usize, usize)> {
        let half = room / 2;
        if half == 0 {
            return None;
        }
        let words = half / 64 + 1;
        self.searches = self.searches.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let first = ((u128::from(self.searches) * words as u128) >> 64) as usize;
        for word in (first..words).chain(0..first) {
            let mut both = self.bits[word] & self.window(self.cap - room + word * 64);
            if word == words - 1 {
                both &= u64::MAX >> (63 - half % 64);
            }
            while both != 0 {
                let x = word * 64 + both.trailing_zeros() as usize;
                // A length that pairs with itself needs two pieces.
                if 2 * x != room || self.nodes[self.heads[x] as usize].same != NONE {
                    return Some((room - x, x));
                }
                both &= both - 1;
            }
        }
        None
    }

    /// 64 bits of the mirror from bit `at` on.
    fn window(&self, at: usize) -> u64 {
        let (word, shift) = (at / 64, at % 64);
        let low = self.mirror.get(word).copied().unwrap_or(0) >> shift;
        if shift == 0 {
            return low;
        }
        low | (self.mirror.get(word + 1).copied().unwrap_or(0) << (64 - shift))
    }

    fn flip(&mut self, length: usize) {
        self.bits[length / 64] ^= 1 << (length % 64);
        let mirrored = self.cap - length;
        self.mirror[mirrored / 64] ^= 1 << (mirrored % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(length: usize) -> Piece {
        Piece { tokens: vec![7; length - 1], start: 0, continuation: false }
    }

    proptest! {
        /// Every question is answered as a plain list answers it.
        #[test]
        fn answers_equal_a_plain_list(
            cap in 2usize..400,
            lengths in prop::collection::vec(2usize..450, 0..60),
            rooms in prop::collection::vec(1usize..400, 1..40),
        ) {
            let mut buffer = Buffer::new(cap, 8);
            let mut list = vec![];
            for &length in &lengths {
                buffer.insert(piece(length));
                list.push(length);
            }
            for &room in &rooms {
                let room = room.min(cap);
                prop_assert_eq!(buffer.count(), list.len());
                prop_assert_eq!(buffer.oldest(), list.first().copied());
                prop_assert_eq!(buffer.has(room), list.contains(&room));
                let fits = list.iter().copied().filter(|&l| l <= room).max();
                prop_assert_eq!(buffer.at_most(room), fits);
                let above = list.iter().copied().filter(|&l| l > room).min();
                prop_assert_eq!(buffer.above(room), above);
                let exists = (0..list.len())
                    .any(|i| (0..i).any(|j| list[i] + list[j] == room));
                let found = buffer.pair(room);
                prop_assert_eq!(found.is_some(), exists);
                if let Some((a, b)) = found {
                    prop_assert_eq!(a + b, room);
                }
                // Take something out, so that the lists are exercised too.
                if let Some(length) = fits.or(above) {
                    let taken = buffer.remove(length).map(|p| p.len());
                    prop_assert_eq!(taken, Some(length));
                    let at = list.iter().position(|&l| l == length).unwrap();
                    list.remove(at);
                }
            }
        }
    }
}
