//! The state of a packer as data, with which packing goes on in another process.

use super::Packer;
use super::buffer::Piece;
use super::tokens::{Token, from_le_bytes, le_bytes};
use crate::{PackSettings, PackStats, Result};
use serde::{Deserialize, Serialize};

/// Everything that a packer's future depends on besides its settings; the tokens lie beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackerState {
    row: usize,
    kept: u64,
    added: u64,
    continued: u64,
    born: u64,
    searches: u64,
    stats: PackStats,
    pieces: Vec<PieceState>,
}

/// A piece in the buffer, the oldest first: tokens kept, tokens beyond, continuation, born.
type PieceState = (usize, usize, bool, u64);

impl<T: Token> Packer<T> {
    /// The packer's state, and its tokens as little-endian bytes behind what `bytes` holds already.
    pub(crate) fn save(&self, bytes: &mut Vec<u8>) -> PackerState {
        let mut put = |tokens: &[T]| bytes.extend_from_slice(&le_bytes(tokens));
        // Whole rows are not part of the future.
        let row = &self.rows[self.whole..];
        put(row);
        let mut pieces = Vec::with_capacity(self.buffer.count());
        for (piece, born) in self.buffer.by_age() {
            put(piece.tokens.as_slice());
            pieces.push((piece.tokens.len(), piece.beyond, piece.continuation, born));
        }
        PackerState {
            row: row.len(),
            kept: self.kept,
            added: self.added,
            continued: self.continued,
            born: self.buffer.born,
            searches: self.buffer.searches,
            stats: self.stats,
            pieces,
        }
    }

    /// The packer that [`Packer::save`] saw; `None` if state and tokens contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for settings without meaning.
    pub(crate) fn restore(
        settings: &PackSettings,
        bos: T,
        state: &PackerState,
        tokens: &[u8],
    ) -> Result<Option<Self>> {
        let mut this = Self::new(settings, bos)?;
        let mut rest = tokens;
        let mut take = |n: usize| -> Option<Vec<T>> {
            let (taken, left) = rest.split_at_checked(n.checked_mul(size_of::<T>())?)?;
            rest = left;
            Some(from_le_bytes(taken))
        };
        let Some(row) = take(state.row).filter(|row| row.len() < this.cap) else { return Ok(None) };
        this.rows.extend(row);
        for &(length, beyond, continuation, born) in &state.pieces {
            let Some(tokens) = take(length).filter(|_| born < state.born) else { return Ok(None) };
            let tokens = tokens.into();
            this.buffer.insert_born(Piece { tokens, beyond, continuation }, born);
        }
        if !rest.is_empty() {
            return Ok(None);
        }
        (this.buffer.born, this.buffer.searches) = (state.born, state.searches);
        (this.kept, this.added, this.continued) = (state.kept, state.added, state.continued);
        this.stats = state.stats;
        Ok(Some(this))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PackRule, Remainder};
    use proptest::prelude::*;

    proptest! {
        /// Saved and restored after any document, the packer goes on as if nothing had happened.
        #[test]
        fn a_restored_packer_gives_the_same_rows(
            context in 1usize..60,
            buffer_documents in 1usize..40,
            rule in prop::sample::select(vec![
                PackRule::OldestFirst, PackRule::BestFitCrop, PackRule::BestFitCropFirst, PackRule::GreedyCrop, PackRule::BestFitPad,
            ]),
            requeue in any::<bool>(),
            lengths in prop::collection::vec(prop_oneof![0usize..12, 0usize..200], 1..400),
            at in any::<prop::sample::Index>(),
        ) {
            let remainder = if requeue { Remainder::Requeue } else { Remainder::Discard };
            let settings = PackSettings { rule, context, buffer_documents, remainder };
            let mut rows = vec![];
            let mut sink = |row: &[u32]| {
                rows.push(row.to_vec());
                Ok(())
            };
            let mut packer = Packer::new(&settings, 0).unwrap();
            let at = at.index(lengths.len());
            let mut saved = None;
            for (i, &length) in lengths.iter().enumerate() {
                packer.push((1..=length as u32).collect(), &mut sink).unwrap();
                if i == at {
                    let mut bytes = vec![];
                    saved = Some((packer.save(&mut bytes), bytes, packer.stats().rows as usize));
                }
            }
            let stats = packer.finish(&mut sink).unwrap();

            let (state, bytes, before) = saved.unwrap();
            let json = serde_json::to_string(&state).unwrap();
            let state: PackerState = serde_json::from_str(&json).unwrap();
            let mut packer = Packer::restore(&settings, 0u32, &state, &bytes).unwrap().unwrap();
            let mut again = vec![];
            let mut sink = |row: &[u32]| {
                again.push(row.to_vec());
                Ok(())
            };
            for &length in &lengths[at + 1..] {
                packer.push((1..=length as u32).collect(), &mut sink).unwrap();
            }
            prop_assert_eq!(packer.finish(&mut sink).unwrap(), stats);
            prop_assert_eq!(&again, &rows[before..]);

            // Tokens too few or too many are noticed.
            if !bytes.is_empty() {
                prop_assert!(Packer::restore(&settings, 0u32, &state, &bytes[4..]).unwrap().is_none());
            }
            let more = [&bytes[..], &[0; 4]].concat();
            prop_assert!(Packer::restore(&settings, 0u32, &state, &more).unwrap().is_none());
        }
    }
}
