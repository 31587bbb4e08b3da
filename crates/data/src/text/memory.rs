//! Memory for pages that is used again. A page is about a megabyte; asked from the system each time, its memory would cost as much as
//! reading it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept for later, at most; what comes back beyond is given up.
const KEPT_BYTES: usize = 128 << 20;

/// Less than this is not worth keeping.
const LEAST_BYTES: usize = 1 << 16;

/// Where memory comes from and goes back to. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// Memory on loan, given back when it is dropped, or with the last [`Bytes`] that was made of it. What it holds at first is arbitrary.
pub(super) struct Lent {
    memory: Vec<u8>,
    bytes: usize,
    /// With the slack.
    least: usize,
    pool: Pool,
}

impl Pool {
    /// Memory for `bytes` bytes, and for `slack` more while they are filled.
    pub(super) fn lend(&self, bytes: usize, slack: usize) -> Lent {
        let least = bytes.saturating_add(slack);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough; of equal ones that which came back last, which may still be in a cache.
        let enough = kept.iter().enumerate().rev().filter(|(_, memory)| memory.len() >= least);
        let found = enough.min_by_key(|(_, memory)| memory.len()).map(|(i, _)| i);
        let memory = found.filter(|_| least >= LEAST_BYTES).map(|i| kept.swap_remove(i));
        drop(kept);
        // A page that is a little larger than the last shall find room in its memory.
        let step = (least.next_power_of_two() / 8).max(1);
        let usual = LEAST_BYTES..KEPT_BYTES / 8;
        let size = if usual.contains(&least) { least.next_multiple_of(step) } else { least };
        let memory = memory.unwrap_or_else(|| vec![0; size]);
        Lent { memory, bytes, least, pool: self.clone() }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl AsMut<[u8]> for Lent {
    /// The bytes and the slack.
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.least]
    }
}

impl From<Lent> for Bytes {
    fn from(lent: Lent) -> Self {
        Self::from_owner(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.memory.len() < LEAST_BYTES {
            return;
        }
        let mut kept = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().map(Vec::len).sum::<usize>() + self.memory.len() <= KEPT_BYTES {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_is_bounded() {
        let pool = Pool::default();
        let address = |lent: &Lent| lent.memory.as_ptr();
        let mut first = pool.lend(100_000, 64);
        assert_eq!((first.as_ref().len(), first.as_mut().len()), (100_000, 100_064));
        let at = address(&first);
        let bytes = Bytes::from(first);
        let second = pool.lend(100_000, 64);
        assert_ne!(address(&second), at, "what is read is not lent again");
        drop(bytes);
        assert_eq!(
            address(&pool.lend(114_688, 0)),
            at,
            "a page may be a little larger than the last"
        );
        assert_ne!(address(&pool.lend(114_689, 0)), at);

        let many: Vec<_> = (0..5).map(|_| pool.lend(KEPT_BYTES / 4, 0)).collect();
        drop(many);
        let kept = |pool: &Pool| pool.0.lock().unwrap().iter().map(Vec::len).sum::<usize>();
        assert!(kept(&pool) <= KEPT_BYTES);
        let before = kept(&pool);
        drop(pool.lend(10, 0));
        assert_eq!(kept(&pool), before, "little is not kept");
    }
}
