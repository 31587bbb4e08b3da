//! Learning merges from counted pieces: the most frequent pair of neighbouring tokens becomes a token, again and again; of
//! equally frequent pairs the one with the lowest ids.
//!
//! The counting is that of the `tokenizers` crate's trainer, to the last detail, so that the files are equal: where a token that
//! exists already is made from another pair, the counts of its pairs are those at hand, and a pair may be merged twice. Its data
//! structures are ours, which is what makes it faster: words in one array, one table of pairs, words of a pair in a list.
//! `tests/tokenizer_training.rs` compares the two.

use super::key::ByKey;
use std::collections::{BinaryHeap, HashMap};

/// A pair of tokens, left and right.
pub(super) type Pair = (u32, u32);

/// What was learnt.
pub(super) struct Learnt {
    /// The bytes of each token; first the 256 single bytes, in the order given.
    pub(super) tokens: Vec<Vec<u8>>,
    /// The merges by rank.
    pub(super) merges: Vec<Pair>,
}

/// A pair that may be merged next, and the words it was seen in. Its count may be out of date, but only too high.
#[derive(PartialEq, Eq)]
struct Candidate {
    count: i64,
    pair: Pair,
    words: Vec<u32>,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.count.cmp(&other.count).then_with(|| other.pair.cmp(&self.pair))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How often a pair occurs, and where in `fresh` the words are that the current merge made it in.
#[derive(Default)]
struct Seen {
    count: i64,
    merge: u32,
    fresh: u32,
}

struct Word {
    start: usize,
    tokens: u32,
    count: i64,
}

/// Learns until there are `entries` tokens or no pair is left. `byte_order` lists the bytes by id; `merged` is called after
/// each merge.
///
/// # Cost
/// Memory for the distinct pieces, 4 bytes for each of their bytes, and for their pairs.
pub(super) fn learn(
    pieces: &[(Box<[u8]>, u64)],
    byte_order: &[u8; 256],
    entries: usize,
    mut merged: impl FnMut(),
) -> Learnt {
    let mut tokens: Vec<Vec<u8>> = byte_order.iter().map(|&b| vec![b]).collect();
    let mut id_of_byte = [0u32; 256];
    byte_order.iter().zip(0..).for_each(|(&b, id)| id_of_byte[usize::from(b)] = id);
    let mut ids: HashMap<Vec<u8>, u32> = tokens.iter().cloned().zip(0..).collect();

    // All words' tokens, one after another. A word of one byte has no pairs.
    let (mut text, mut words) = (vec![], vec![]);
    for (piece, count) in pieces.iter().filter(|p| p.0.len() > 1) {
        words.push(Word { start: text.len(), tokens: piece.len() as u32, count: *count as i64 });
        text.extend(piece.iter().map(|&b| id_of_byte[usize::from(b)]));
    }

    let mut pairs: HashMap<u64, Seen, ByKey> = HashMap::default();
    let mut fresh: Vec<(Pair, Vec<u32>)> = vec![];
    let mut change =
        |pair: Pair, by: i64, word: u32, merge: u32, fresh: &mut Vec<(Pair, Vec<u32>)>| {
            let seen = pairs.entry(u64::from(pair.0) << 32 | u64::from(pair.1)).or_default();
            seen.count += by;
            if by > 0 {
                if seen.merge != merge {
                    (seen.merge, seen.fresh) = (merge, fresh.len() as u32);
                    fresh.push((pair, vec![]));
                }
                let list = &mut fresh[seen.fresh as usize].1;
                if list.last() != Some(&word) {
                    list.push(word);
                }
            }
            seen.count
        };
    // Merge 0 is none; 1 stands for the beginning.
    let mut merge = 1;
    for (i, word) in words.iter().enumerate() {
        for pair in text[word.start..word.start + word.tokens as usize].windows(2) {
            change((pair[0], pair[1]), word.count, i as u32, merge, &mut fresh);
        }
    }

    let mut queue = BinaryHeap::new();
    let mut merges: Vec<Pair> = vec![];
    loop {
        for (pair, words) in fresh.drain(..) {
            let count = change(pair, 0, 0, merge, &mut vec![]);
            if count > 0 {
                queue.push(Candidate { count, pair, words });
            }
        }
        if tokens.len() >= entries {
            break;
        }
        let Some(mut top) = queue.peek_mut() else { break };
        let count = change(top.pair, 0, 0, merge, &mut vec![]);
        if top.count != count {
            // It goes down to its place.
            top.count = count;
            continue;
        }
        if count < 1 {
            break;
        }
        let Candidate { pair: (left, right), words: places, .. } =
            std::collections::binary_heap::PeekMut::pop(top);
        let joined = [&tokens[left as usize][..], &tokens[right as usize]].concat();
        let new = *ids.entry(joined).or_insert_with_key(|joined| {
            tokens.push(joined.clone());
            tokens.len() as u32 - 1
        });
        merges.push((left, right));
        merge += 1;
        for i in places {
            let word = &mut words[i as usize];
            let (count, all) = (word.count, word.tokens as usize);
            let t = &mut text[word.start..word.start + all];
            let (mut read, mut write) = (0, 0);
            while read < all {
                if read + 1 == all || t[read] != left || t[read + 1] != right {
                    t[write] = t[read];
                    (read, write) = (read + 1, write + 1);
                    continue;
                }
                if write > 0 {
                    let before = t[write - 1];
                    change((before, left), -count, i, merge, &mut fresh);
                    change((before, new), count, i, merge, &mut fresh);
                }
                if read + 2 < all {
                    let after = t[read + 2];
                    change((right, after), -count, i, merge, &mut fresh);
                    change((new, after), count, i, merge, &mut fresh);
                }
                t[write] = new;
                (read, write) = (read + 2, write + 1);
            }
            word.tokens = write as u32;
        }
        merged();
    }
    Learnt { tokens, merges: last_of_each(merges) }
}

/// Of a pair that was merged twice the later rank counts.
fn last_of_each(merges: Vec<Pair>) -> Vec<Pair> {
    let mut seen = std::collections::BTreeSet::new();
    let mut kept: Vec<Pair> = merges.into_iter().rev().filter(|&pair| seen.insert(pair)).collect();
    kept.reverse();
    kept
}
