//! The rules of packing: which document goes into a row next, by lengths alone, BOS included.

use super::buffer::Buffer;
use super::tokens::Token;
use crate::PackRule;

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
