//! `Control` and `Comm`: the seam between ranks and whatever carries their bytes.

use std::borrow::Cow;

use farthing_kernels::{Device, Mut, Place, Ref};

use crate::{Error, Pending, Result};

/// What carries a few bytes among N ranks, and knows whether they are there.
///
/// `gather` and `broadcast` are collectives: all ranks call them, in the same order.
pub trait Control: Send + Sync {
    /// This rank, 0 to N − 1.
    fn rank(&self) -> usize;

    /// N.
    fn ranks(&self) -> usize;

    /// Everybody's bytes, of any lengths, at rank 0 in the order of ranks; the others get an empty list.
    ///
    /// # Errors
    /// [`Error::Lost`] and its like, [`Error::Differs`].
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Rank 0's bytes at everybody. What the others pass is ignored.
    ///
    /// # Errors
    /// As [`Control::gather`].
    fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>>;

    /// Whether all ranks are there as far as is known: asked again and again by an engine that waits for them in `during`. No collective.
    ///
    /// # Errors
    /// [`Error::Lost`] and its like.
    fn watch(&self, during: &'static str) -> Result<()>;

    /// Everybody's numbers at everybody, one rank's after the other's; each passes as many as it has. A collective.
    ///
    /// # Errors
    /// As [`Control::gather`].
    fn collect(&self, own: &[f64]) -> Result<Vec<f64>> {
        let all = self.gather(bytemuck::cast_slice(own))?.concat();
        let all = self.broadcast(&all)?;
        Ok(all.as_chunks().0.iter().map(|number| f64::from_ne_bytes(*number)).collect())
    }

    /// The same where each passes as many.
    ///
    /// # Errors
    /// As [`Control::gather`]; [`Error::Argument`].
    fn exchange(&self, own: &[f64]) -> Result<Vec<f64>> {
        let (all, want) = (self.collect(own)?, self.ranks() * own.len());
        if all.len() == want {
            return Ok(all);
        }
        let what = format!("{} numbers, expected {want}", all.len());
        Err(Error::Argument { during: "exchange", what })
    }
}

/// One rank's end of what joins N ranks.
///
/// Every method is a collective: all ranks call it, in the same order, with the same lengths and types. Arrays are flat; where they are dealt
/// out, element i is in block i / `block`, and block j belongs to rank j. The last blocks may be shorter, or missing.
///
/// # Numerics
/// Sums are taken in the arrays' own type (bf16 in f32, rounded once) and in the order of ranks, where an engine does not say otherwise: the same bits on
/// every rank and in every run of N ranks.
pub trait Comm: Control {
    /// Whether the device waits for what is sent, and the host does not: a call returns at once. Else a call returns when it is done, and another thread may call while the device computes.
    fn in_stream(&self) -> bool {
        false
    }

    /// Sums `all` over the ranks; each gets its own block of the sum in `own`. `all` stays as it is.
    ///
    /// # Errors
    /// [`Error::Argument`] for lengths that do not fit; [`Error::Lost`] and its like, [`Error::Differs`]; [`Error::Kernel`].
    ///
    /// # Cost
    /// Each rank sends and receives (N − 1) / N of the elements.
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> Result<()>;

    /// Each rank's own block of `all` becomes everybody's, in place.
    ///
    /// # Errors
    /// As [`Comm::reduce_scatter`].
    ///
    /// # Cost
    /// Each rank sends and receives (N − 1) / N of the elements.
    fn all_gather(&self, dev: &dyn Device, all: Mut<'_>, block: usize) -> Result<()>;

    /// Begins a [`Comm::reduce_scatter`] that is beside what the device is asked for until it is waited for, where an engine can do that; else it is done at once.
    ///
    /// # Errors
    /// As [`Comm::reduce_scatter`].
    fn begin_reduce_scatter<'a>(
        &'a self,
        dev: &'a dyn Device,
        mut own: Mut<'a>,
        all: Ref<'a>,
        block: usize,
    ) -> Result<Pending<'a, Mut<'a>>> {
        self.reduce_scatter(dev, own.reborrow(), all, block)?;
        Ok(Pending::new(move || Ok(own)))
    }

    /// Begins a [`Comm::all_gather`], likewise.
    ///
    /// # Errors
    /// As [`Comm::reduce_scatter`].
    fn begin_all_gather<'a>(
        &'a self,
        dev: &'a dyn Device,
        mut all: Mut<'a>,
        block: usize,
    ) -> Result<Pending<'a, Mut<'a>>> {
        self.all_gather(dev, all.reborrow(), block)?;
        Ok(Pending::new(move || Ok(all)))
    }

    /// `values` become their sum over the ranks, in place.
    ///
    /// # Errors
    /// As [`Comm::reduce_scatter`].
    ///
    /// # Cost
    /// Each rank sends and receives up to 2 · (N − 1) / N of the elements.
    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> Result<()>;
}

/// Refuses an array that N blocks cannot hold, and an own block of another length; returns the own block's place.
pub(crate) fn own_block(
    comm: &dyn Control,
    during: &'static str,
    all: usize,
    block: usize,
    own: Option<usize>,
) -> Result<std::ops::Range<usize>> {
    let (rank, ranks) = (comm.rank(), comm.ranks());
    if block.saturating_mul(ranks) < all {
        let what = format!("{all} elements in {ranks} blocks of {block}");
        return Err(Error::Argument { during, what });
    }
    let range = place(rank, all, block);
    match own {
        Some(own) if own != range.len() => {
            let what = format!("room for {own} elements, rank {rank}'s block has {}", range.len());
            Err(Error::Argument { during, what })
        }
        _ => Ok(range),
    }
}

/// Where rank `rank`'s block is among `all` elements.
pub(crate) fn place(rank: usize, all: usize, block: usize) -> std::ops::Range<usize> {
    let start = rank.saturating_mul(block).min(all);
    start..all.min(start.saturating_add(block))
}

/// An array's bytes in this process.
pub(crate) fn host_bytes<'a>(dev: &dyn Device, array: Ref<'a>) -> Result<Cow<'a, [u8]>> {
    if array.place() == Place::Host {
        return Ok(Cow::Borrowed(array.host_bytes()?));
    }
    let mut bytes = vec![0; array.shape().elements() * array.dtype().bytes()];
    dev.read(&mut bytes, array)?;
    Ok(Cow::Owned(bytes))
}
