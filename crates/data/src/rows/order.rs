//! The order of rows in training, computed from (seed, step) in constant memory.

use crate::{Error, Result};
use farthing_base::random::{PHI, mix};

const ROUNDS: u64 = 6;

/// Which rows each step sees. Every epoch visits every row once, in its own order; a batch may
/// cross from one epoch into the next.
///
/// # Numerics
/// A keyed Feistel network over the smallest 4^k ≥ n values; a value ≥ n is put through it again
/// (cycle walking), which keeps it a permutation of 0..n.
///
/// # Cost
/// At most about four Feistel evaluations per row on average, no memory.
///
/// # Source
/// Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    rows: u64,
    batch_rows: u64,
    seed: u64,
}

impl Order {
    /// The order over `rows` rows, `batch_rows` of them per step.
    ///
    /// # Errors
    /// [`Error::Config`] when either is zero.
    pub fn new(rows: u64, batch_rows: usize, seed: u64) -> Result<Self> {
        if rows == 0 || batch_rows == 0 {
            return Err(Error::Config {
                what: format!("an order over {rows} rows in batches of {batch_rows} is empty"),
                hint: "both must be at least 1".into(),
            });
        }
        Ok(Self { rows, batch_rows: batch_rows as u64, seed })
    }

    /// Rows in one epoch.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows per step.
    pub fn batch_rows(&self) -> usize {
        self.batch_rows as usize
    }

    /// The rows of step `step`, in order.
    pub fn batch(&self, step: u64) -> impl ExactSizeIterator<Item = u64> + use<> {
        let order = *self;
        (0..self.batch_rows as usize).map(move |j| order.row(step, j))
    }

    /// Row `j` of step `step`.
    pub fn row(&self, step: u64, j: usize) -> u64 {
        let position = u128::from(step) * u128::from(self.batch_rows) + j as u128;
        let n = u128::from(self.rows);
        self.permute((position / n) as u64, (position % n) as u64)
    }

    /// The part of each step's rows that rank `rank` of `ranks` takes: ranges in the order of the ranks that make up the step; where the
    /// division leaves a rest, the first ranks take one row more.
    ///
    /// # Errors
    /// [`Error::Config`] for a rank that does not exist, or more ranks than rows in a step.
    pub fn share(&self, rank: usize, ranks: usize) -> Result<std::ops::Range<usize>> {
        let rows = self.batch_rows();
        if rank >= ranks || ranks > rows {
            return Err(Error::Config {
                what: format!("rank {rank} of {ranks} cannot share steps of {rows} rows"),
                hint: "ranks count from 0, and each needs at least one row of a step".into(),
            });
        }
        let (each, rest) = (rows / ranks, rows % ranks);
        let start = rank * each + rank.min(rest);
        Ok(start..start + each + usize::from(rank < rest))
    }

    /// The epoch in which row `j` of step `step` lies, counted from 0.
    pub fn epoch(&self, step: u64, j: usize) -> u64 {
        let position = u128::from(step) * u128::from(self.batch_rows) + j as u128;
        (position / u128::from(self.rows)) as u64
    }

    fn permute(&self, epoch: u64, index: u64) -> u64 {
        let bits = 64 - (self.rows - 1).leading_zeros();
        let half = bits.div_ceil(2).max(1);
        let mask = (1u64 << half) - 1;
        let key = mix(mix(self.seed.wrapping_add(PHI)) ^ epoch);
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> half, value & mask);
            for round in 0..ROUNDS {
                let f = mix(key ^ mix((right << 3) | round)) & mask;
                (left, right) = (right, left ^ f);
            }
            value = (left << half) | right;
            if value < self.rows {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation_and_epochs_differ() {
        for n in [1u64, 2, 3, 5, 64, 65, 1000, 4097] {
            let order = Order::new(n, 1, 7).unwrap();
            let mut orders = vec![];
            for epoch in 0..3u64 {
                let rows: Vec<u64> = (0..n).map(|i| order.row(epoch * n + i, 0)).collect();
                let mut sorted = rows.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>(), "n = {n}, epoch {epoch}");
                orders.push(rows);
            }
            if n > 10 {
                assert_ne!(orders[0], orders[1]);
                assert_ne!(orders[0], (0..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn batches_cross_epochs_without_a_gap() {
        let order = Order::new(10, 4, 3).unwrap();
        let flat: Vec<u64> = (0..5).flat_map(|s| order.batch(s)).collect();
        for epoch in flat.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_eq!(order.epoch(2, 1), 0);
        assert_eq!(order.epoch(2, 2), 1);
    }

    #[test]
    fn seeds_differ_and_huge_positions_work() {
        let a: Vec<u64> = Order::new(1000, 100, 1).unwrap().batch(0).collect();
        let b: Vec<u64> = Order::new(1000, 100, 2).unwrap().batch(0).collect();
        assert_ne!(a, b);
        let order = Order::new(u64::MAX, 3, 1).unwrap();
        assert!(order.batch(u64::MAX - 1).all(|r| r < u64::MAX));
    }

    #[test]
    fn neighbours_are_spread() {
        // The mean |difference| of two uniform picks from 0..n is n / 3.
        let n = 10_000u64;
        let order = Order::new(n, 1, 5).unwrap();
        let sum: u64 = (0..n - 1).map(|i| order.row(i, 0).abs_diff(order.row(i + 1, 0))).sum();
        let mean = sum as f64 / (n - 1) as f64;
        assert!((mean / n as f64 - 1.0 / 3.0).abs() < 0.02, "{mean}");
    }

    #[test]
    fn ranks_share_a_step_without_gap_or_overlap() {
        for rows in 1..30 {
            let order = Order::new(1000, rows, 3).unwrap();
            for ranks in 1..=rows {
                let shares: Vec<_> = (0..ranks).map(|r| order.share(r, ranks).unwrap()).collect();
                let joined: Vec<usize> = shares.iter().cloned().flatten().collect();
                assert_eq!(joined, (0..rows).collect::<Vec<_>>());
                let longest = shares.iter().map(ExactSizeIterator::len).max();
                assert!(longest <= shares.iter().map(|s| s.len() + 1).min());
            }
            assert!(order.share(0, rows + 1).is_err());
            assert!(order.share(rows, rows).is_err());
        }
    }

    #[test]
    fn zero_is_an_error() {
        assert!(Order::new(0, 4, 1).is_err());
        assert!(Order::new(4, 0, 1).is_err());
    }
}
