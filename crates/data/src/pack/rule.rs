//! The rules of packing: which document goes into a row next. They see lengths alone, BOS included.

use super::buffer::Buffer;
use crate::token::Token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// By which rule documents are laid into rows.
///
/// Where one position is left in a row it takes a lone BOS, the end of the document before it, and nothing is cut for it; only
/// the rules of others, when they discard, cut a document to its BOS there, as they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PackRule {
    /// A row begins with the document that has waited longest, if that fills the row or if another one fills what it leaves;
    /// else with two others that fill it; else with that document alone. The room that is left is closed by a document
    /// of that length, else by two that add up to it, else by the beginning of one that is a little longer. Where that would waste
    /// much, the oldest document is added if it fits, else the longest that does.
    #[default]
    OldestFirst,
    /// As nanochat: the longest document that fits; when none fits, the shortest is cut. Documents longer than a row never
    /// fit, and nothing is placed between the arrivals of 128 documents, as in its loader.
    BestFitCrop,
    /// As nanochat until July 2026: when none fits, the document that has waited longest is cut.
    BestFitCropFirst,
    /// Documents in their order; the one that does not fit is cut.
    GreedyCrop,
    /// As nanochat packs chats: the longest document that fits; when none fits, BOS to the end of the row. No document is cut but one longer than a row.
    BestFitPad,
}

/// What comes into the row next: lengths of pieces in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// One piece, cut if it is longer than the room.
    One(usize),
    /// Two pieces that fill the room.
    Two(usize, usize),
}

/// The rooms that are closed by cutting a document even if another one would fit, and the most that is cut off then. Short rooms
/// are where it pays: what fits into them is short, and short documents are what closes rows. Best of 30 settings on
/// FineWeb-edu's lengths; half or twice of either changes the loss by less than 0.1 points at T = 512 and less at others.
const CLOSE_ROOM: usize = 512;
const CLOSE_CUT: usize = 256;

/// A document begins a row, whether or not it can be filled, when this many times the buffer's size came after it.
const PATIENCE: u64 = 4;

impl PackRule {
    /// Documents that arrive between placements.
    pub(super) fn batch(self) -> u64 {
        match self {
            Self::BestFitCrop | Self::BestFitCropFirst => 128,
            Self::OldestFirst | Self::GreedyCrop | Self::BestFitPad => 1,
        }
    }

    /// Whether a document is cut to a row's length when it arrives, if what is cut off is not kept. A rule that compares
    /// documents longer than a row needs their lengths.
    pub(super) fn cuts_early(self) -> bool {
        matches!(self, Self::OldestFirst | Self::BestFitPad)
    }

    /// Whether a row that nothing fits into is filled up with BOS.
    pub(super) fn pads(self) -> bool {
        self == Self::BestFitPad
    }

    /// The next piece for `room` positions of a row of `cap`; `capacity` is the buffer's nominal size. `None` if the buffer is empty, or under a rule that
    /// pads if nothing fits.
    pub(super) fn choose<T: Token>(
        self,
        buffer: &mut Buffer<T>,
        room: usize,
        cap: usize,
        capacity: usize,
    ) -> Option<Choice> {
        let (oldest, waited) = buffer.oldest()?;
        Some(match self {
            Self::OldestFirst if room == cap => {
                if oldest >= cap {
                    Choice::One(oldest)
                } else if buffer.has_both(oldest, cap - oldest) {
                    Choice::Two(oldest, cap - oldest)
                } else if waited < PATIENCE * capacity as u64
                    && let Some((a, b)) = buffer.pair(cap)
                {
                    Choice::Two(a, b)
                } else {
                    Choice::One(oldest)
                }
            }
            Self::OldestFirst => {
                if buffer.has(room) {
                    return Some(Choice::One(room));
                }
                if let Some((a, b)) = buffer.pair(room) {
                    return Some(Choice::Two(a, b));
                }
                let above = buffer.above(room);
                let near = above.filter(|l| room <= CLOSE_ROOM && l - room <= CLOSE_CUT);
                let fits = || if oldest <= room { Some(oldest) } else { buffer.at_most(room) };
                Choice::One(near.or_else(fits).or(above)?)
            }
            Self::BestFitCrop => Choice::One(buffer.at_most(room).or_else(|| buffer.above(room))?),
            Self::BestFitCropFirst => Choice::One(buffer.at_most(room).unwrap_or(oldest)),
            Self::GreedyCrop => Choice::One(oldest),
            Self::BestFitPad => {
                // What is longer than a row, where it is not cut when it comes, has a row of its own.
                let longer = |b: &mut Buffer<T>| if room == cap { b.above(room) } else { None };
                Choice::One(buffer.at_most(room).or_else(|| longer(buffer))?)
            }
        })
    }
}
