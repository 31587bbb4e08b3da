//! The packer: documents wait in a buffer, and a [rule](PackRule) says which of them comes into the row next. What is cut off at the
//! end of a row waits again as a document of its own with BOS, or is discarded.

use super::buffer::{Buffer, Piece};
use super::rule::Choice;
use super::tokens::{Token, Tokens};
use crate::tokenizer::GROUP_BYTES;
use crate::{PackRule, PackSettings, PackStats, Remainder, Result};

/// Turns a stream of documents into a stream of rows. The same documents give the same rows, always. Tokens are `u32` or `u16`.
///
/// # Cost
/// O(log T) per document, O(T/64) words for a search for a pair, one copy of the tokens (two of those of a document that is cut into many
/// rows); memory for `buffer_documents` documents (128 more under the best-fit rules), or for those that hold
/// [`PackSettings::buffer_tokens`] and one more, if these are fewer: at most twice as many bytes as they have tokens left.
#[derive(Debug)]
pub struct Packer<T: Token = u32> {
    rule: PackRule,
    pub(super) cap: usize,
    bos: T,
    capacity: usize,
    /// Tokens that wait at most, but for one document.
    most_tokens: usize,
    requeue: bool,
    pub(super) buffer: Buffer<T>,
    /// Rows, of which the first `whole` tokens are whole rows that nobody has taken, and the rest is the one that is being filled.
    pub(super) rows: Vec<T>,
    pub(super) whole: usize,
    /// Of the row that is being filled: input tokens, added BOS, continuation tokens.
    pub(super) kept: u64,
    pub(super) added: u64,
    pub(super) continued: u64,
    pub(super) stats: PackStats,
}

impl<T: Token> Packer<T> {
    /// An empty packer; `bos` begins every row and every document.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config).
    pub fn new(settings: &PackSettings, bos: T) -> Result<Self> {
        settings.check()?;
        let cap = settings.row_tokens();
        Ok(Self {
            rule: settings.rule,
            cap,
            bos,
            capacity: settings.buffer_documents,
            most_tokens: settings.buffer_tokens(),
            requeue: settings.remainder == Remainder::Requeue,
            buffer: Buffer::new(cap, settings.buffer_documents),
            rows: Vec::with_capacity(cap),
            whole: 0,
            kept: 0,
            added: 0,
            continued: 0,
            stats: PackStats::default(),
        })
    }

    /// Adds one document, `tokens` without BOS, and hands every row that becomes whole to `sink`.
    ///
    /// # Errors
    /// What `sink` returns.
    pub fn push(
        &mut self,
        tokens: Vec<T>,
        sink: &mut impl FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        self.add(tokens.into());
        while let Some(row) = self.next_row(false) {
            sink(row)?;
        }
        Ok(())
    }

    /// Empties the buffer. A last row that cannot be filled is dropped and its tokens counted.
    ///
    /// # Errors
    /// What `sink` returns.
    pub fn finish(mut self, sink: &mut impl FnMut(&[T]) -> Result<()>) -> Result<PackStats> {
        while let Some(row) = self.next_row(true) {
            sink(row)?;
        }
        Ok(self.end())
    }

    /// The counts so far; documents in the buffer are in `tokens_in` only.
    pub fn stats(&self) -> &PackStats {
        &self.stats
    }

    /// The first half of [`Packer::push`]: the document waits. [`Packer::fill_row`] must be called until it fills none.
    pub(crate) fn add(&mut self, mut tokens: Tokens<T>) {
        if tokens.is_empty() {
            self.stats.empty_documents += 1;
            return;
        }
        let length = tokens.len() + 1;
        let mut beyond = length.saturating_sub(self.cap);
        self.stats.documents += 1;
        self.stats.tokens_in += length as u64;
        self.stats.bound_tokens += beyond as u64;
        self.stats.lengths.count(length);
        if self.requeue {
            beyond = 0;
        } else if beyond > 0 {
            // No row will hold the rest, so that memory need not.
            tokens.truncate(self.cap - 1);
            if self.rule.cuts_early() {
                self.stats.tokens_cropped += beyond as u64;
                beyond = 0;
            }
        }
        self.buffer.insert(Piece { tokens, beyond, continuation: false });
    }

    /// The next row that can be filled, valid until the next call; `None` when a document must be added first, or, `at_end`,
    /// when none is left.
    fn next_row(&mut self, at_end: bool) -> Option<&[T]> {
        self.clear_rows();
        self.fill_row(at_end).then_some(&self.rows)
    }

    /// Fills the next row, which waits in [`Packer::whole_rows`]; `false` when a document must be added first, or, `at_end`, when none is
    /// left.
    pub(crate) fn fill_row(&mut self, at_end: bool) -> bool {
        let least = if at_end { 1 } else { self.capacity };
        let between = !self.stats.documents.is_multiple_of(self.rule.batch());
        if !at_end && between && !self.holds_enough() {
            return false;
        }
        while self.room() > 0 {
            if self.closes_alone() {
                self.rows.push(self.bos);
                self.added += 1;
            } else if self.buffer.count() < least && !self.holds_enough() {
                if !(at_end && self.rule.pads() && self.room() < self.cap) {
                    return false;
                }
                self.pad();
            } else {
                self.place();
            }
        }
        self.whole = self.rows.len();
        self.stats.rows += 1;
        self.stats.tokens_kept += std::mem::take(&mut self.kept);
        self.stats.bos_added += std::mem::take(&mut self.added);
        self.stats.continuation_tokens += std::mem::take(&mut self.continued);
        true
    }

    /// The rows that were filled since [`Packer::clear_rows`], one after another.
    pub(crate) fn whole_rows(&self) -> &[T] {
        &self.rows[..self.whole]
    }

    /// Forgets the rows that were filled.
    pub(crate) fn clear_rows(&mut self) {
        self.rows.drain(..self.whole);
        self.whole = 0;
    }

    /// The counts of a packer that has given its last row.
    pub(crate) fn end(mut self) -> PackStats {
        self.stats.tokens_dropped_at_end = self.kept;
        self.stats
    }

    /// Whether the row's last position takes a lone BOS, the end of the document before it, so that no document is cut for it.
    /// Those who crop do cut one, and so do their rules here where what is cut off is not kept.
    fn closes_alone(&self) -> bool {
        self.room() == 1 && (self.requeue || self.rule == PackRule::OldestFirst)
    }

    /// Whether as many tokens wait as may, however few documents they are.
    fn holds_enough(&self) -> bool {
        self.buffer.tokens() >= self.most_tokens
    }

    /// Tokens that the row still takes.
    fn room(&self) -> usize {
        self.cap - (self.rows.len() - self.whole)
    }

    /// Puts one document, or two, into the row.
    fn place(&mut self) {
        let room = self.room();
        match self.rule.choose(&mut self.buffer, room, self.cap, self.capacity) {
            Some(Choice::One(length)) => self.take(length, room),
            Some(Choice::Two(a, b)) => {
                self.take(a, a);
                self.take(b, b);
            }
            None if self.rule.pads() => self.pad(),
            None => {}
        }
    }

    /// Fills the row up with BOS.
    fn pad(&mut self) {
        let room = self.room();
        self.rows.resize(self.rows.len() + room, self.bos);
        self.added += room as u64;
    }

    /// Moves a document of that length into the row, cut where `room` ends.
    fn take(&mut self, length: usize, room: usize) {
        let Some(mut piece) = self.buffer.remove(length) else { return };
        let body = (piece.len() - 1).min(room - 1);
        self.rows.push(self.bos);
        self.rows.extend_from_slice(&piece.tokens.as_slice()[..body]);
        self.kept += body as u64;
        if piece.continuation {
            self.added += 1;
            self.continued += body as u64;
        } else {
            self.kept += 1;
        }
        piece.tokens.advance(body);
        let rest = piece.len() - 1;
        if rest > 0 {
            if self.requeue {
                piece.continuation = true;
                piece.tokens.let_go(GROUP_BYTES);
                self.buffer.insert(piece);
            } else {
                self.stats.tokens_cropped += rest as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: [PackRule; 5] = [
        PackRule::OldestFirst,
        PackRule::BestFitCrop,
        PackRule::BestFitCropFirst,
        PackRule::GreedyCrop,
        PackRule::BestFitPad,
    ];

    /// Rows, counts, and the most tokens that ever waited.
    fn pack(
        settings: &PackSettings,
        most_tokens: Option<usize>,
        lengths: &[usize],
    ) -> (Vec<Vec<u32>>, PackStats, usize) {
        let mut rows = vec![];
        let mut sink = |row: &[u32]| {
            rows.push(row.to_vec());
            Ok(())
        };
        let mut packer = Packer::new(settings, 0).unwrap();
        packer.most_tokens = most_tokens.unwrap_or(packer.most_tokens);
        let mut held = 0;
        for &length in lengths {
            packer.push((1..=length as u32).collect(), &mut sink).unwrap();
            held = held.max(packer.buffer.tokens());
        }
        let stats = packer.finish(&mut sink).unwrap();
        (rows, stats, held)
    }

    proptest! {
        /// A bound on tokens that is not reached changes no row; one that is reached is held, and nothing is lost to it.
        #[test]
        fn the_buffer_is_bounded_by_tokens_too(
            context in 1usize..60,
            buffer_documents in 1usize..40,
            rule in prop::sample::select(RULES.to_vec()),
            requeue in any::<bool>(),
            lengths in prop::collection::vec(prop_oneof![0usize..12, 0usize..900], 1..300),
            most in 1usize..3000,
        ) {
            let remainder = if requeue { Remainder::Requeue } else { Remainder::Discard };
            let settings = PackSettings { rule, context, buffer_documents, remainder };
            let free = pack(&settings, None, &lengths);
            let room = pack(&settings, Some(free.2 + 1_000_000), &lengths);
            prop_assert_eq!(&free, &room);
            let (_, stats, held) = pack(&settings, Some(most), &lengths);
            prop_assert!(held < most, "{} of {}", held, most);
            prop_assert_eq!(stats.tokens_in, free.1.tokens_in);
            prop_assert_eq!(
                stats.tokens_in,
                stats.tokens_kept + stats.tokens_cropped + stats.tokens_dropped_at_end
            );
        }
    }

    #[test]
    fn what_is_in_rows_is_let_go() {
        let (most, all) = (GROUP_BYTES, 40 * GROUP_BYTES);
        let mut tokens: Tokens<u32> = (0..all as u32).collect::<Vec<_>>().into();
        while tokens.len() > 10 {
            tokens.advance(1 + tokens.len() / 7);
            tokens.let_go(most);
            assert!(
                tokens.held() <= most.max(2 * tokens.len()),
                "{} {}",
                tokens.held(),
                tokens.len()
            );
            assert_eq!(tokens.as_slice().last(), Some(&(all as u32 - 1)));
        }
    }
}
