//! `Shape`: up to four dimensions, kept inline so that views are `Copy` and building one allocates nothing.

use std::fmt;
use std::ops::Deref;

/// The dimensions of a row-major array, outermost first; at most four.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// The most dimensions a shape can have.
    pub const MAX_RANK: usize = 4;

    /// A shape from its dimensions, or `None` when there are more than [`Shape::MAX_RANK`].
    pub fn from_dims(dims: &[usize]) -> Option<Self> {
        let mut inline = [1; 4];
        inline.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(Self { dims: inline, rank: dims.len() })
    }

    /// The number of elements: the product of the dimensions, 1 for a scalar shape, `usize::MAX` where it would overflow.
    pub fn elements(&self) -> usize {
        self.iter().fold(1, |n, &dim| n.saturating_mul(dim))
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        const { assert!(N <= Shape::MAX_RANK, "at most four dimensions") };
        let mut inline = [1; 4];
        inline[..N].copy_from_slice(&dims);
        Self { dims: inline, rank: N }
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(")?;
        for (i, dim) in self.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, ")")
    }
}
