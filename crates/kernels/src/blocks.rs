//! `Blocks`: which rank owns which elements of a slab. This is arithmetic only; nothing is sent from here.

use std::ops::Range;

/// A flat array dealt out in blocks: block j belongs to rank j mod N, as its block j / N (the block-cyclic distribution of ScaLAPACK). The last block
/// may be shorter, and a rank may have none.
///
/// Matrices that are updated whole are a block each; what is updated element by element is cut into N blocks. Neighbouring blocks of N ranks
/// are a bucket: what one reduce-scatter or all-gather moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    elements: usize,
    block: usize,
    rank: usize,
    ranks: usize,
}

/// Blocks that cut an array start at multiples of this many elements, so that they are aligned as tensors are.
const ALIGN: usize = 64;

impl Blocks {
    /// All of the array, on whichever rank.
    pub fn whole(elements: usize) -> Self {
        Self::of(elements, elements, 0, 1)
    }

    /// Blocks of `block` elements, seen from rank `rank` of `ranks`.
    pub fn of(elements: usize, block: usize, rank: usize, ranks: usize) -> Self {
        Self { elements, block: block.max(1), rank, ranks: ranks.max(1) }
    }

    /// At most one block for each rank, of equal length but for the last ones.
    pub fn cut(elements: usize, rank: usize, ranks: usize) -> Self {
        let block = elements.div_ceil(ranks.max(1)).next_multiple_of(ALIGN);
        Self::of(elements, block, rank, ranks)
    }

    /// The same ranks over another array.
    #[must_use]
    pub fn with_block(self, elements: usize, block: usize) -> Self {
        Self::of(elements, block, self.rank, self.ranks)
    }

    /// Whether this rank has everything.
    pub fn is_whole(&self) -> bool {
        self.ranks == 1
    }

    /// Elements of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Elements of all ranks.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// N.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Elements of this rank.
    pub fn own(&self) -> usize {
        self.own_blocks().map(|range| range.len()).sum()
    }

    /// Where this rank's blocks are in the array, in their order in the rank's own.
    pub fn own_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self { elements, block, rank, ranks } = *self;
        let starts = (rank * block..elements).step_by(block * ranks);
        starts.map(move |start| start..elements.min(start + block))
    }

    /// Each bucket's elements in the array, and this rank's of them in its own; the latter may be empty.
    pub fn buckets(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<> {
        let Self { elements, block, rank, ranks } = *self;
        let own = self.own();
        (0..elements).step_by(block * ranks).enumerate().map(move |(bucket, start)| {
            let all = start..elements.min(start + block * ranks);
            let first = (all.start + rank * block).min(all.end);
            let length = (all.end - first).min(block);
            let local = (bucket * block).min(own);
            (all, local..local + length)
        })
    }

    /// Where the elements `range` of the array are: pieces in order, each with its rank and its place in that rank's own.
    pub fn places(
        &self,
        range: Range<usize>,
    ) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let Self { block, ranks, .. } = *self;
        let mut start = range.start;
        std::iter::from_fn(move || {
            if start >= range.end {
                return None;
            }
            let (number, offset) = (start / block, start % block);
            let length = (block - offset).min(range.end - start);
            start += length;
            let local = number / ranks * block + offset;
            Some((number % ranks, local..local + length))
        })
    }

    /// This rank's part of the elements `range`, which lie in at most one block of each rank: the part of `range` counted from its start, and its place in the
    /// rank's own. `None` when the rank has nothing of it.
    pub fn own_part(&self, range: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
        let mut at = 0;
        for (rank, local) in self.places(range) {
            let part = at..at + local.len();
            if rank == self.rank || self.is_whole() {
                return Some((part, local));
            }
            at = part.end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element's rank and place, one by one, by the definition.
    fn by_definition(blocks: Blocks, element: usize) -> (usize, usize) {
        let (number, offset) = (element / blocks.block, element % blocks.block);
        (number % blocks.ranks, number / blocks.ranks * blocks.block + offset)
    }

    #[test]
    fn every_element_is_in_one_place() {
        for (elements, block, ranks) in
            [(12, 3, 2), (15, 3, 2), (3, 3, 4), (0, 3, 2), (100, 64, 3), (7, 7, 1), (130, 64, 2)]
        {
            let mut found = Vec::new();
            for rank in 0..ranks {
                let blocks = Blocks::of(elements, block, rank, ranks);
                let own: Vec<usize> = blocks.own_blocks().flatten().collect();
                assert_eq!(own.len(), blocks.own());
                for (local, &element) in own.iter().enumerate() {
                    assert_eq!(by_definition(blocks, element), (rank, local));
                }
                let of_buckets: Vec<usize> = blocks
                    .buckets()
                    .flat_map(|(all, own)| {
                        let first = (all.start + rank * block).min(all.end);
                        own.clone().map(move |local| (local, first + local - own.start))
                    })
                    .inspect(|&(local, element)| assert_eq!(own[local], element))
                    .map(|(_, element)| element)
                    .collect();
                assert_eq!(of_buckets, own);
                found.extend(own);
                let places: Vec<(usize, usize)> = blocks
                    .places(0..elements)
                    .flat_map(|(rank, local)| local.map(move |local| (rank, local)))
                    .collect();
                assert!(places.iter().enumerate().all(|(e, p)| *p == by_definition(blocks, e)));
            }
            found.sort_unstable();
            assert!(found.iter().copied().eq(0..elements), "{elements} {block} {ranks}: {found:?}");
        }
    }

    #[test]
    fn a_cut_gives_each_rank_one_aligned_block() {
        let sizes = |ranks| -> Vec<usize> {
            (0..ranks).map(|rank| Blocks::cut(1000, rank, ranks).own()).collect()
        };
        assert_eq!(sizes(1), [1000]);
        assert_eq!(sizes(2), [512, 488]);
        assert_eq!(sizes(3), [384, 384, 232]);
        assert_eq!(Blocks::cut(64, 1, 2).own(), 0);
        let third = Blocks::cut(1000, 2, 3);
        assert_eq!(third.own_part(700..900), Some((68..200, 0..132)));
        assert_eq!(third.own_part(0..300), None);
        assert_eq!(Blocks::whole(9).own_part(2..5), Some((0..3, 2..5)));
    }
}
