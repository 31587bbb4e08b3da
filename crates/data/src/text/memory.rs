//! Memory for pages that is used again. A page is about a megabyte; asked from the system each time, its memory would cost as much as
//! reading it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept for later, at most; what comes back beyond is given up.
const KEPT_BYTES: usize = 64 << 20;

/// Where memory comes from and goes back to. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// Memory on loan, given back when it is dropped, or with the last [`Bytes`] that was made of it. What it holds at first is arbitrary.
pub(super) struct Lent {
    memory: Vec<u8>,
    bytes: usize,
    pool: Pool,
}

impl Pool {
    pub(super) fn lend(&self, bytes: usize) -> Lent {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = memory.filter(|memory| memory.len() >= bytes);
        // Zeroed memory of some size comes from the system as it is.
        let memory = memory.unwrap_or_else(|| vec![0; bytes]);
        Lent { memory, bytes, pool: self.clone() }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.bytes]
    }
}

impl From<Lent> for Bytes {
    fn from(lent: Lent) -> Self {
        Self::from_owner(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut kept = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().map(Vec::len).sum::<usize>() + self.memory.len() <= KEPT_BYTES {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}
