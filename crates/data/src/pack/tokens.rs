//! A token in memory as it will lie in a shard: two bytes where the vocabulary allows, else four. Documents are views into tokens that
//! several documents share: the encoder writes a token once, and it is copied once, into its row.

use crate::TokenType;
use std::borrow::Cow;
use std::sync::Arc;

/// A number that holds tokens: `u16` or `u32`.
pub trait Token: bytemuck::Pod + Send + Sync + Eq + std::fmt::Debug + sealed::Sealed {
    /// As what it is stored.
    const TYPE: TokenType;

    /// The token of an id that [`Token::TYPE`] holds; of others, its lower bits.
    fn new(id: u32) -> Self;

    /// Its id.
    fn id(self) -> u32;

    /// The token whose bytes are these in the opposite order.
    #[must_use]
    fn swap_bytes(self) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
}

impl Token for u16 {
    const TYPE: TokenType = TokenType::U16;

    #[inline]
    fn new(id: u32) -> Self {
        id as Self
    }

    #[inline]
    fn id(self) -> u32 {
        self.into()
    }

    #[inline]
    fn swap_bytes(self) -> Self {
        self.swap_bytes()
    }
}

impl Token for u32 {
    const TYPE: TokenType = TokenType::U32;

    #[inline]
    fn new(id: u32) -> Self {
        id
    }

    #[inline]
    fn id(self) -> u32 {
        self
    }

    #[inline]
    fn swap_bytes(self) -> Self {
        self.swap_bytes()
    }
}

/// The bytes of tokens as files hold them, little-endian.
pub(crate) fn le_bytes<T: Token>(tokens: &[T]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return bytemuck::cast_slice(tokens).into();
    }
    let swapped: Vec<T> = tokens.iter().map(|t| t.swap_bytes()).collect();
    bytemuck::cast_slice(&swapped).to_vec().into()
}

/// The tokens of bytes as files hold them; what is left over at the end is left out.
pub(crate) fn from_le_bytes<T: Token>(bytes: &[u8]) -> Vec<T> {
    let little = cfg!(target_endian = "little");
    let token = |b: &[u8]| {
        let token: T = bytemuck::pod_read_unaligned(b);
        if little { token } else { token.swap_bytes() }
    };
    bytes.chunks_exact(size_of::<T>()).map(token).collect()
}

/// Tokens that lie among others: all are in memory as long as one such view of them is.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<T> {
    all: Arc<Vec<T>>,
    start: usize,
    end: usize,
}

impl<T: Token> Tokens<T> {
    /// `all[start..end]`, which must exist.
    pub(crate) fn of(all: &Arc<Vec<T>>, start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= all.len());
        Self { all: Arc::clone(all), start, end }
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.all[self.start..self.end]
    }

    /// Tokens that this view keeps in memory.
    pub(crate) fn held(&self) -> usize {
        self.all.len()
    }

    /// Leaves the first `n` out.
    pub(crate) fn advance(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Moves into memory of its own where it keeps more than `most` tokens and has less than half of them: what was left out is let go,
    /// and over all calls no more is copied than that.
    pub(crate) fn let_go(&mut self, most: usize) {
        if self.held() > most && self.len() < self.held() / 2 {
            *self = self.as_slice().to_vec().into();
        }
    }

    /// Keeps the first `n` alone, in memory of their own.
    pub(crate) fn truncate(&mut self, n: usize) {
        if n < self.len() {
            *self = self.as_slice()[..n].to_vec().into();
        }
    }
}

impl<T: Token> From<Vec<T>> for Tokens<T> {
    fn from(all: Vec<T>) -> Self {
        Self { start: 0, end: all.len(), all: Arc::new(all) }
    }
}
