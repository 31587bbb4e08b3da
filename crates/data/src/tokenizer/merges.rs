//! The merges of a BPE model as tables, and the tokens of one piece of text by them: the pair of lowest rank is joined, the
//! leftmost first among equals, until no pair of neighbours is in the tables.

use super::table::Table;
use crate::Token;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No merge.
const NONE: u32 = u32::MAX;

/// Pieces up to this many bytes look through all pairs for the lowest rank; longer ones keep a heap.
const SHORT: usize = 48;

/// Pieces beyond this many bytes are encoded window by window.
const WINDOW: usize = 1 << 14;

/// What joins with what.
#[derive(Debug)]
pub(super) struct Merges {
    /// The token of each byte.
    of_byte: [u32; 256],
    /// The rank of two bytes' tokens.
    of_bytes: Vec<u32>,
    /// The rank of two tokens.
    ranks: Table<u64>,
    /// The token that a merge of this rank makes.
    made: Vec<u32>,
}

/// What merging writes while it works; kept, so that nothing is allocated for each piece.
#[derive(Debug, Default)]
pub(super) struct Work {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<u64>>,
    window: Vec<u32>,
    joint: Vec<u8>,
}

impl Merges {
    /// `merges` in the order of their ranks: two tokens and the one they make. Of equal pairs the last counts.
    pub(super) fn new(of_byte: &[u32; 256], merges: &[(u32, u32, u32)]) -> Self {
        let mut this = Self {
            of_byte: *of_byte,
            of_bytes: vec![],
            ranks: Table::new(merges.len()),
            made: merges.iter().map(|m| m.2).collect(),
        };
        for (rank, &(left, right, _)) in merges.iter().enumerate() {
            this.ranks.insert(pair(left, right), rank as u32);
        }
        let bytes = (0..1usize << 16).map(|i| this.rank(of_byte[i >> 8], of_byte[i & 255]));
        this.of_bytes = bytes.collect();
        this
    }

    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.get(pair(left, right)).unwrap_or(NONE)
    }

    /// Appends the tokens of `piece`. `bytes` are those of every token.
    ///
    /// # Cost
    /// O(n log n) time and memory for a window of the piece, as long as two windows agree within a few tokens of their boundary;
    /// a piece on which they never do is merged as a whole, still exactly.
    pub(super) fn merge<T: Token>(
        &self,
        piece: &[u8],
        bytes: &[Vec<u8>],
        work: &mut Work,
        out: &mut Vec<T>,
    ) {
        if piece.len() <= SHORT {
            self.merge_short(piece, work, out);
        } else if piece.len() <= WINDOW {
            self.merge_heap(piece, work, out);
        } else {
            self.merge_windows(piece, bytes, work, out);
        }
    }

    fn start(&self, piece: &[u8], work: &mut Work) {
        work.ids.clear();
        work.ids.extend(piece.iter().map(|&b| self.of_byte[usize::from(b)]));
        work.ranks.clear();
        let rank = |w: &[u8]| self.of_bytes[usize::from(w[0]) << 8 | usize::from(w[1])];
        work.ranks.extend(piece.windows(2).map(rank));
        // The last token has no neighbour.
        work.ranks.push(NONE);
    }

    fn merge_short<T: Token>(&self, piece: &[u8], work: &mut Work, out: &mut Vec<T>) {
        self.start(piece, work);
        let (ids, ranks) = (&mut work.ids, &mut work.ranks);
        loop {
            let (mut at, mut lowest) = (0, NONE);
            for (i, &rank) in ranks.iter().enumerate() {
                if rank < lowest {
                    (at, lowest) = (i, rank);
                }
            }
            if lowest == NONE {
                break;
            }
            ids[at] = self.made[lowest as usize];
            ids.remove(at + 1);
            ranks.remove(at + 1);
            ranks[at] = ids.get(at + 1).map_or(NONE, |&right| self.rank(ids[at], right));
            if at > 0 {
                ranks[at - 1] = self.rank(ids[at - 1], ids[at]);
            }
        }
        out.extend(ids.iter().map(|&id| T::new(id)));
    }

    fn merge_heap<T: Token>(&self, piece: &[u8], work: &mut Work, out: &mut Vec<T>) {
        self.start(piece, work);
        let n = piece.len();
        let Work { ids, ranks, next, previous, heap, .. } = work;
        next.clear();
        next.extend(1..=n as u32);
        previous.clear();
        previous.extend((0..n as u32).map(|i| i.wrapping_sub(1)));
        heap.clear();
        let entry = |rank: u32, at: usize| Reverse(u64::from(rank) << 32 | at as u64);
        heap.extend(
            ranks.iter().enumerate().filter(|(_, r)| **r != NONE).map(|(i, &r)| entry(r, i)),
        );
        while let Some(Reverse(top)) = heap.pop() {
            let (rank, at) = ((top >> 32) as u32, (top & 0xFFFF_FFFF) as usize);
            // What has changed since it was queued was queued again.
            if ranks[at] != rank {
                continue;
            }
            let gone = next[at] as usize;
            ids[at] = self.made[rank as usize];
            ranks[gone] = NONE;
            next[at] = next[gone];
            let after = next[at] as usize;
            ranks[at] = NONE;
            if after < n {
                previous[after] = at as u32;
                ranks[at] = self.rank(ids[at], ids[after]);
                if ranks[at] != NONE {
                    heap.push(entry(ranks[at], at));
                }
            }
            let before = previous[at] as usize;
            if before < n {
                ranks[before] = self.rank(ids[before], ids[at]);
                if ranks[before] != NONE {
                    heap.push(entry(ranks[before], before));
                }
            }
        }
        let mut at = 0;
        while at < n {
            out.push(T::new(ids[at]));
            at = next[at] as usize;
        }
    }

    /// A long piece, exactly, in memory for a window.
    ///
    /// Two neighbouring texts, each merged alone, are merged together without a change if no merge reaches over the boundary,
    /// and whether one does depends on the last token of the first and the first of the second alone: what happens in other
    /// tokens delays what happens in these two, but changes neither their states nor the order of them. So the tokens of a
    /// beginning stand as soon as its last one and the first of the next window, merged together, stay as they are; if they
    /// do not, the window begins some tokens earlier.
    fn merge_windows<T: Token>(
        &self,
        piece: &[u8],
        bytes: &[Vec<u8>],
        work: &mut Work,
        out: &mut Vec<T>,
    ) {
        let begin = out.len();
        // Tokens of `piece[..at]` are in `out`; all before `end` has been seen.
        let (mut at, mut end) = (0, 0);
        while at < piece.len() {
            end = (end + WINDOW).min(piece.len());
            let mut back = 1;
            loop {
                let mut window = std::mem::take(&mut work.window);
                window.clear();
                self.merge_heap(&piece[at..end], work, &mut window);
                let stands = out.len() == begin
                    || match (out.last(), window.first()) {
                        (Some(&left), Some(&right)) => self.stay(left.id(), right, bytes, work),
                        _ => true,
                    };
                if stands {
                    out.extend(window.iter().map(|&id| T::new(id)));
                }
                work.window = window;
                if stands {
                    break;
                }
                let keep = (out.len() - back.min(out.len() - begin)).max(begin);
                at -= out[keep..].iter().map(|t| bytes[t.id() as usize].len()).sum::<usize>();
                out.truncate(keep);
                back *= 4;
            }
            at = end;
        }
    }

    /// Whether the bytes of two tokens, merged together, are these two tokens.
    fn stay(&self, left: u32, right: u32, bytes: &[Vec<u8>], work: &mut Work) -> bool {
        let mut joint = std::mem::take(&mut work.joint);
        joint.clear();
        joint.extend_from_slice(&bytes[left as usize]);
        joint.extend_from_slice(&bytes[right as usize]);
        let mut tokens: Vec<u32> = Vec::with_capacity(2);
        self.merge_heap(&joint, work, &mut tokens);
        work.joint = joint;
        tokens == [left, right]
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Random merges over the letters a to d, each of two tokens that exist when it is made; equal texts are one token, as
    /// when they are trained.
    fn model(choices: &[(usize, usize)]) -> (Merges, Vec<Vec<u8>>) {
        let mut bytes: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        let mut alive: Vec<u32> = (b'a'..=b'd').map(u32::from).collect();
        let mut merges = vec![];
        for &(i, j) in choices {
            let (left, right) = (alive[i % alive.len()], alive[j % alive.len()]);
            let text = [&bytes[left as usize][..], &bytes[right as usize]].concat();
            let id = bytes.iter().position(|b| *b == text).unwrap_or_else(|| {
                bytes.push(text);
                alive.push(bytes.len() as u32 - 1);
                bytes.len() - 1
            });
            merges.push((left, right, id as u32));
        }
        (Merges::new(&std::array::from_fn(|i| i as u32), &merges), bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn all_ways_give_the_same_tokens(
            choices in prop::collection::vec((0..40usize, 0..40usize), 0..40),
            piece in "[abcd]{0,120}",
        ) {
            let (merges, bytes) = model(&choices);
            let mut work = Work::default();
            let (mut short, mut heap): (Vec<u32>, Vec<u32>) = (vec![], vec![]);
            merges.merge_short(piece.as_bytes(), &mut work, &mut short);
            merges.merge_heap(piece.as_bytes(), &mut work, &mut heap);
            prop_assert_eq!(&short, &heap);
            let joined: Vec<u8> = short.iter().flat_map(|&t| bytes[t as usize].clone()).collect();
            prop_assert_eq!(joined, piece.as_bytes());
        }

        #[test]
        fn windows_change_nothing(
            choices in prop::collection::vec((0..40usize, 0..40usize), 0..40),
            unit in "[abcd]{1,30}",
            times in 1500..4000usize,
            tail in "[abcd]{0,30}",
        ) {
            let (merges, bytes) = model(&choices);
            let piece = unit.repeat(times) + &tail;
            let mut work = Work::default();
            let (mut windows, mut heap) = (vec![7u32], vec![7u32]);
            merges.merge_windows(piece.as_bytes(), &bytes, &mut work, &mut windows);
            merges.merge_heap(piece.as_bytes(), &mut work, &mut heap);
            prop_assert!(windows == heap);
        }
    }
}
