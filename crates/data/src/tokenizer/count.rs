//! How often each piece of a text occurs: all that training needs of it.

use super::classes::Classes;
use super::key::{ByKey, Key, SHORT, key, piece};
use super::split::{Gpt4, Pattern};
use rayon::prelude::*;
use std::collections::HashMap;

/// The counts are kept in so many parts, which are added up side by side.
const SHARDS: usize = 16;

/// Bytes of text that one thread counts at a time.
const GROUP_BYTES: usize = 4 << 20;

/// Counts of pieces.
#[derive(Default)]
pub(super) struct Counts {
    shards: [Shard; SHARDS],
}

#[derive(Default)]
struct Shard {
    short: HashMap<Key, u64, ByKey>,
    long: HashMap<Box<[u8]>, u64>,
}

impl Counts {
    /// Adds texts, split by GPT-4's pattern with so many digits, on all cores.
    pub(super) fn add(&mut self, texts: &[String], classes: &'static Classes, digits: u8) {
        let mut groups = vec![vec![]];
        let mut bytes = 0;
        for text in texts {
            if bytes >= GROUP_BYTES {
                groups.push(vec![]);
                bytes = 0;
            }
            bytes += text.len();
            if let Some(group) = groups.last_mut() {
                group.push(text.as_bytes());
            }
        }
        let counted: Vec<Self> = groups
            .par_iter()
            .map(|group| {
                let mut counts = Self::default();
                for text in group {
                    counts.count(text, Gpt4 { classes, digits });
                }
                counts
            })
            .collect();
        self.shards.par_iter_mut().enumerate().for_each(|(i, shard)| {
            for counts in &counted {
                shard.add(&counts.shards[i]);
            }
        });
    }

    fn count(&mut self, text: &[u8], pattern: impl Pattern) {
        let mut at = 0;
        while at < text.len() {
            let end = pattern.end(text, at);
            let shard = &mut self.shards[usize::from(text[end - 1]) % SHARDS];
            if end - at <= SHORT {
                *shard.short.entry(key(text, at, end - at)).or_default() += 1;
            } else if let Some(count) = shard.long.get_mut(&text[at..end]) {
                *count += 1;
            } else {
                shard.long.insert(text[at..end].into(), 1);
            }
            at = end;
        }
    }

    /// The pieces and their counts, in the order of the pieces' bytes.
    pub(super) fn into_sorted(self) -> Vec<(Box<[u8]>, u64)> {
        let mut all: Vec<(Box<[u8]>, u64)> = self
            .shards
            .into_iter()
            .flat_map(|shard| {
                let short = shard.short.into_iter().map(|(key, n)| (piece(key).into(), n));
                short.chain(shard.long).collect::<Vec<_>>()
            })
            .collect();
        all.par_sort_unstable();
        all
    }
}

impl Shard {
    fn add(&mut self, other: &Self) {
        other.short.iter().for_each(|(&key, n)| *self.short.entry(key).or_default() += n);
        other.long.iter().for_each(|(piece, n)| *self.long.entry(piece.clone()).or_default() += n);
    }
}
