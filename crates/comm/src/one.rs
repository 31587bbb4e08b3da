//! `One`: a job of one rank.

use farthing_kernels::{Device, Mut, Ref};

use crate::comm::own_block;
use crate::{Comm, Control, Result};

/// A job of one rank: what it says, it hears.
#[derive(Clone, Copy, Debug, Default)]
pub struct One;

impl Control for One {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own.to_vec()])
    }

    fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }

    fn watch(&self, _: &'static str) -> Result<()> {
        Ok(())
    }
}

impl Comm for One {
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> Result<()> {
        let (n, given) = (all.shape().elements(), own.shape().elements());
        own_block(self, "reduce_scatter", n, block, Some(given))?;
        Ok(dev.copy(own.reshape([n])?, all.reshape([n])?)?)
    }

    fn all_gather(&self, _: &dyn Device, all: Mut<'_>, block: usize) -> Result<()> {
        own_block(self, "all_gather", all.shape().elements(), block, None).map(drop)
    }

    fn all_reduce(&self, _: &dyn Device, _: Mut<'_>) -> Result<()> {
        Ok(())
    }
}
