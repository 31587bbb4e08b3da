//! `PlannedComm`: a rank whose peers are not there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use farthing_kernels::{Device, Mut, Ref};

use crate::comm::own_block;
use crate::{Comm, Control, Result};

/// What a rank would have sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Collectives on arrays.
    pub collectives: u64,
    /// Bytes sent of gradients; as many are received.
    pub gradients: u64,
    /// Bytes sent of weights; as many are received.
    pub weights: u64,
}

/// Rank 0 of N, alone: nothing moves, and what would move is counted. Its peers' numbers are its own.
#[derive(Debug)]
pub struct PlannedComm {
    ranks: usize,
    sent: Mutex<Sent>,
}

impl PlannedComm {
    /// Rank 0 of a job of `ranks` ranks, at least 1.
    pub fn new(ranks: usize) -> Self {
        Self { ranks: ranks.max(1), sent: Mutex::default() }
    }

    /// What would have been sent so far.
    pub fn sent(&self) -> Sent {
        *self.counted()
    }

    fn counted(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `times` · (N − 1) / N of an array's bytes.
    fn share(&self, array: Ref<'_>, times: u64) -> u64 {
        let bytes = (array.shape().elements() * array.dtype().bytes()) as u64;
        let n = self.ranks as u64;
        times * bytes.div_ceil(n) * (n - 1)
    }
}

impl Control for PlannedComm {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own.to_vec(); self.ranks])
    }

    fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }

    fn watch(&self, _: &'static str) -> Result<()> {
        Ok(())
    }
}

impl Comm for PlannedComm {
    fn reduce_scatter(
        &self,
        _: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> Result<()> {
        let (n, given) = (all.shape().elements(), own.shape().elements());
        own_block(self, "reduce_scatter", n, block, Some(given))?;
        let mut sent = self.counted();
        sent.collectives += 1;
        sent.gradients += self.share(all, 1);
        Ok(())
    }

    fn all_gather(&self, _: &dyn Device, all: Mut<'_>, block: usize) -> Result<()> {
        own_block(self, "all_gather", all.shape().elements(), block, None)?;
        let mut sent = self.counted();
        sent.collectives += 1;
        sent.weights += self.share(all.view(), 1);
        Ok(())
    }

    fn all_reduce(&self, _: &dyn Device, values: Mut<'_>) -> Result<()> {
        let mut sent = self.counted();
        sent.collectives += 1;
        sent.gradients += self.share(values.view(), 2);
        Ok(())
    }
}
