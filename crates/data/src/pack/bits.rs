//! A set of small numbers as bits, with summaries above them that answer which number is next.

/// A set of numbers below a fixed limit: a bit each, and above every 64 words one more word that says which of them have
/// a bit.
///
/// # Cost
/// Every question is answered in O(log₆₄ limit) words.
#[derive(Debug)]
pub(super) struct Bits {
    /// The bits first, the coarsest summary (one word) last.
    levels: Vec<Vec<u64>>,
}

impl Bits {
    pub(super) fn new(limit: usize) -> Self {
        let mut words = limit.div_ceil(64).max(1);
        let mut levels = vec![vec![0; words]];
        while words > 1 {
            words = words.div_ceil(64);
            levels.push(vec![0; words]);
        }
        Self { levels }
    }

    pub(super) fn set(&mut self, mut i: usize) {
        for level in &mut self.levels {
            level[i / 64] |= 1 << (i % 64);
            i /= 64;
        }
    }

    pub(super) fn clear(&mut self, mut i: usize) {
        for level in &mut self.levels {
            level[i / 64] &= !(1 << (i % 64));
            if level[i / 64] != 0 {
                return;
            }
            i /= 64;
        }
    }

    /// 64 bits from bit `word · 64` on.
    pub(super) fn word(&self, word: usize) -> u64 {
        self.levels[0].get(word).copied().unwrap_or(0)
    }

    /// 64 bits from bit `at` on.
    pub(super) fn window(&self, at: usize) -> u64 {
        let (word, shift) = (at / 64, at % 64);
        let low = self.word(word) >> shift;
        if shift == 0 { low } else { low | (self.word(word + 1) << (64 - shift)) }
    }

    /// The greatest number ≤ `i`.
    pub(super) fn at_most(&self, i: usize) -> Option<usize> {
        let mut last = i.min(self.levels[0].len() * 64 - 1);
        for (height, level) in self.levels.iter().enumerate() {
            let bits = level[last / 64] & (u64::MAX >> (63 - last % 64));
            if bits != 0 {
                let found = last / 64 * 64 + 63 - bits.leading_zeros() as usize;
                return Some(self.descend(height, found, |word| word.ilog2()));
            }
            last = (last / 64).checked_sub(1)?;
        }
        None
    }

    /// The smallest number ≥ `i`.
    pub(super) fn at_least(&self, i: usize) -> Option<usize> {
        let mut from = i;
        for (height, level) in self.levels.iter().enumerate() {
            let bits = level.get(from / 64)? & (u64::MAX << (from % 64));
            if bits != 0 {
                let found = from / 64 * 64 + bits.trailing_zeros() as usize;
                return Some(self.descend(height, found, u64::trailing_zeros));
            }
            from = from / 64 + 1;
        }
        None
    }

    /// From bit `at` of a summary down to a number, by `pick` in every word on the way.
    fn descend(&self, height: usize, mut at: usize, pick: impl Fn(u64) -> u32) -> usize {
        for level in self.levels[..height].iter().rev() {
            at = at * 64 + pick(level[at]) as usize;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn answers_equal_a_tree_set(
            limit in 1usize..20_000,
            moves in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..80),
        ) {
            let (mut bits, mut set) = (Bits::new(limit), BTreeSet::new());
            for (add, at) in moves {
                let i = at.index(limit);
                if add {
                    bits.set(i);
                    set.insert(i);
                } else {
                    bits.clear(i);
                    set.remove(&i);
                }
                for probe in [0, i.saturating_sub(1), i, i + 1, i ^ 64, limit - 1, limit, limit + 70] {
                    let below = set.range(..=probe).next_back().copied();
                    prop_assert_eq!(bits.at_most(probe), below, "at most {}", probe);
                    let above = set.range(probe..).next().copied();
                    prop_assert_eq!(bits.at_least(probe), above, "at least {}", probe);
                    let window = bits.window(probe);
                    for k in 0..64 {
                        prop_assert_eq!(window >> k & 1 == 1, set.contains(&(probe + k)));
                    }
                }
            }
        }
    }
}
