//! The packer's buffer: documents by length, and the questions that rules ask of it, such as which two fill a row.

use super::bits::Bits;
use super::tokens::{Token, Tokens};
use farthing_base::random::PHI;
use std::collections::{BTreeMap, VecDeque};

const NONE: u32 = u32::MAX;

/// A document, or what is left of one.
#[derive(Debug)]
pub(super) struct Piece<T> {
    /// Tokens without BOS that are not in a row yet.
    pub(super) tokens: Tokens<T>,
    /// Tokens after these that no row can hold and that are not kept in memory.
    pub(super) beyond: usize,
    pub(super) continuation: bool,
}

impl<T: Token> Piece<T> {
    /// Tokens that it has, BOS included.
    pub(super) fn len(&self) -> usize {
        self.tokens.len() + 1 + self.beyond
    }
}

#[derive(Debug)]
struct Node<T> {
    /// `None` while the node is free.
    piece: Option<Piece<T>>,
    /// When it came, in pieces before it.
    born: u64,
    /// The next younger piece of the same length.
    same: u32,
    older: u32,
    younger: u32,
}

/// Lengths up to `cap` (T + 1) have a bit each, in `bits` and mirrored in `mirror`; longer ones lie in a tree. Pieces
/// of one length form a FIFO list, and all pieces one list by age.
///
/// # Cost
/// Insert, remove, the neighbours of a length: O(log T) for lengths up to `cap`, O(log n) beyond. A pair: at most T/128 + 1 words.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    cap: usize,
    bits: Bits,
    /// Bit `cap − L` stands for length L, so that the partners of a run of lengths are a run of bits.
    mirror: Bits,
    heads: Vec<u32>,
    tails: Vec<u32>,
    long: BTreeMap<usize, VecDeque<u32>>,
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    oldest: u32,
    youngest: u32,
    count: usize,
    /// Tokens of all pieces that are in memory.
    tokens: usize,
    /// Pieces that ever came.
    pub(super) born: u64,
    /// Pairs that were ever searched.
    pub(super) searches: u64,
}

impl<T: Token> Buffer<T> {
    pub(super) fn new(cap: usize, expected: usize) -> Self {
        Self {
            cap,
            bits: Bits::new(cap + 1),
            mirror: Bits::new(cap + 1),
            heads: vec![NONE; cap + 1],
            tails: vec![NONE; cap + 1],
            long: BTreeMap::new(),
            nodes: Vec::with_capacity(expected.min(1 << 16) + 2),
            free: Vec::new(),
            oldest: NONE,
            youngest: NONE,
            count: 0,
            tokens: 0,
            born: 0,
            searches: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Tokens that wait, as far as they are kept in memory.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn insert(&mut self, piece: Piece<T>) {
        let born = self.born;
        self.born += 1;
        self.insert_born(piece, born);
    }

    /// Puts a piece back that came when `born` others had; pieces must be put back in the order they came in.
    pub(super) fn insert_born(&mut self, piece: Piece<T>, born: u64) {
        let length = piece.len();
        self.tokens += piece.tokens.len();
        let node =
            Node { piece: Some(piece), born, same: NONE, older: self.youngest, younger: NONE };
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
            self.bits.set(length);
            self.mirror.set(self.cap - length);
        } else {
            let tail = self.tails[length];
            self.nodes[tail as usize].same = id;
            self.tails[length] = id;
        }
    }

    /// Takes the oldest piece of that length out.
    pub(super) fn remove(&mut self, length: usize) -> Option<Piece<T>> {
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
                self.bits.clear(length);
                self.mirror.clear(self.cap - length);
            }
            id
        };
        let node = &mut self.nodes[id as usize];
        let (older, younger) = (node.older, node.younger);
        let piece = node.piece.take();
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
        self.tokens -= piece.as_ref().map_or(0, |piece| piece.tokens.len());
        piece
    }

    /// The length of the piece that has waited longest, and how many came after it.
    pub(super) fn oldest(&self) -> Option<(usize, u64)> {
        let node = self.nodes.get(self.oldest as usize).filter(|_| self.oldest != NONE)?;
        Some((node.piece.as_ref()?.len(), self.born - node.born - 1))
    }

    /// Every piece with the time it came, the oldest first.
    pub(super) fn by_age(&self) -> impl Iterator<Item = (&Piece<T>, u64)> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let node = self.nodes.get(next as usize).filter(|_| next != NONE)?;
            next = node.younger;
            Some((node.piece.as_ref()?, node.born))
        })
    }

    /// Whether there is a piece of that length, at most `cap`.
    pub(super) fn has(&self, length: usize) -> bool {
        self.heads.get(length).is_some_and(|&head| head != NONE)
    }

    /// Whether there are two pieces of these lengths.
    pub(super) fn has_both(&self, a: usize, b: usize) -> bool {
        self.has(a) && self.has(b) && (a != b || self.nodes[self.heads[a] as usize].same != NONE)
    }

    /// The greatest length ≤ `room`, which is at most `cap`.
    pub(super) fn at_most(&self, room: usize) -> Option<usize> {
        self.bits.at_most(room.min(self.cap))
    }

    /// The smallest length > `room`.
    pub(super) fn above(&self, room: usize) -> Option<usize> {
        self.bits
            .at_least(room + 1)
            .or_else(|| self.long.range(room + 1..).next().map(|(&length, _)| length))
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
        self.searches = self.searches.wrapping_add(PHI);
        let first = ((u128::from(self.searches) * words as u128) >> 64) as usize;
        for word in (first..words).chain(0..first) {
            let mut both = self.bits.word(word);
            if both == 0 {
                continue;
            }
            both &= self.mirror.window(self.cap - room + word * 64);
            if word == words - 1 {
                both &= u64::MAX >> (63 - half % 64);
            }
            while both != 0 {
                let x = word * 64 + both.trailing_zeros() as usize;
                // A length that pairs with itself needs two pieces.
                if 2 * x != room || self.has_both(x, x) {
                    return Some((room - x, x));
                }
                both &= both - 1;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(length: usize) -> Piece<u16> {
        Piece { tokens: vec![7; length - 1].into(), beyond: 0, continuation: false }
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
            for (born, &length) in lengths.iter().enumerate() {
                buffer.insert(piece(length));
                list.push((length, born as u64));
            }
            for &room in &rooms {
                let room = room.min(cap);
                prop_assert_eq!(buffer.count(), list.len());
                prop_assert_eq!(buffer.tokens(), list.iter().map(|&(l, _)| l - 1).sum::<usize>());
                let oldest = list.first().map(|&(l, born)| (l, lengths.len() as u64 - born - 1));
                prop_assert_eq!(buffer.oldest(), oldest);
                let by_age: Vec<_> = buffer.by_age().map(|(p, born)| (p.len(), born)).collect();
                prop_assert_eq!(&by_age, &list);
                let all = || list.iter().map(|&(l, _)| l);
                prop_assert_eq!(buffer.has(room), all().any(|l| l == room));
                let fits = all().filter(|&l| l <= room).max();
                prop_assert_eq!(buffer.at_most(room), fits);
                let above = all().filter(|&l| l > room).min();
                prop_assert_eq!(buffer.above(room), above);
                let exists = (0..list.len())
                    .any(|i| (0..i).any(|j| list[i].0 + list[j].0 == room));
                let found = buffer.pair(room);
                prop_assert_eq!(found.is_some(), exists);
                if let Some((a, b)) = found {
                    prop_assert_eq!(a + b, room);
                    prop_assert!(buffer.has_both(a, b));
                }
                // Take something out, so that the lists are exercised too.
                if let Some(length) = fits.or(above) {
                    let taken = buffer.remove(length).map(|p| p.len());
                    prop_assert_eq!(taken, Some(length));
                    let at = list.iter().position(|&(l, _)| l == length).unwrap();
                    list.remove(at);
                }
            }
        }
    }
}
