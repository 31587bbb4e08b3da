//! Packing of documents into rows of T + 1 tokens that begin with BOS, without padding. It knows neither files nor text.
//!
//! The rule, oldest first: a row begins with the document that has waited longest, cut at T + 1. The row is
//! closed by one document of exactly the length that is left, else by a pair that adds up to it; else the oldest
//! document is added if it fits, else the longest that does, else the shortest that does not is cut to fill
//! the row. What is cut off is queued again as a document of its own with BOS, or discarded. Where
//! one position is left it takes a lone BOS, the end of the document before it, and nothing is cut for it.

mod buffer;
mod stats;

use crate::{Error, Result};
use buffer::{Buffer, Piece};
use serde::{Deserialize, Serialize};
pub use stats::PackStats;

/// By which rule documents are laid into rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PackRule {
    /// The rule of this module.
    #[default]
    OldestFirst,
}

/// What becomes of the part of a document that is cut off at the end of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remainder {
    /// It waits as a document of its own, with a BOS; nothing is lost.
    #[default]
    Requeue,
    /// It is thrown away and counted as cropped.
    Discard,
}

/// How to pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackSettings {
    /// The rule.
    pub rule: PackRule,
    /// T: positions that a model sees; rows have one token more.
    pub context: usize,
    /// Documents waiting before one is placed.
    pub buffer_documents: usize,
    /// What becomes of cut-off text.
    pub remainder: Remainder,
}

impl Default for PackSettings {
    fn default() -> Self {
        Self {
            rule: PackRule::OldestFirst,
            context: 2048,
            buffer_documents: 1000,
            remainder: Remainder::Requeue,
        }
    }
}

impl PackSettings {
    /// T + 1.
    pub fn row_tokens(&self) -> usize {
        self.context + 1
    }

    /// Whether the settings mean something.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        if !(1..=1 << 24).contains(&self.context) {
            return Err(Error::Config {
                what: format!("rows of {} positions cannot be packed", self.context),
                hint: "the context must be between 1 and 16,777,216".into(),
            });
        }
        if self.buffer_documents == 0 {
            return Err(Error::Config {
                what: "a packing buffer of 0 documents holds nothing to choose from".into(),
                hint: "buffer_documents must be at least 1; 1,000 loses little".into(),
            });
        }
        Ok(())
    }
}

/// Turns a stream of documents into a stream of rows. The same documents give the same rows, always.
///
/// # Cost
/// O(T/64) words per document and one copy of its tokens; memory for `buffer_documents` documents.
#[derive(Debug)]
pub struct Packer {
    cap: usize,
    bos: u32,
    capacity: usize,
    requeue: bool,
    buffer: Buffer,
    row: Vec<u32>,
    /// Of the row that is being filled: input tokens, added BOS, continuation tokens.
    kept: u64,
    added: u64,
    continued: u64,
    stats: PackStats,
}

impl Packer {
    /// An empty packer; `bos` begins every row and every document.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn new(settings: &PackSettings, bos: u32) -> Result<Self> {
        settings.check()?;
        let PackRule::OldestFirst = settings.rule;
        let cap = settings.row_tokens();
        Ok(Self {
            cap,
            bos,
            capacity: settings.buffer_documents,
            requeue: settings.remainder == Remainder::Requeue,
            buffer: Buffer::new(cap, settings.buffer_documents),
            row: Vec::with_capacity(cap),
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
        mut tokens: Vec<u32>,
        sink: &mut impl FnMut(&[u32]) -> Result<()>,
    ) -> Result<()> {
        if tokens.is_empty() {
            self.stats.empty_documents += 1;
            return Ok(());
        }
        let over = (tokens.len() + 1).saturating_sub(self.cap);
        self.stats.documents += 1;
        self.stats.tokens_in += tokens.len() as u64 + 1;
        self.stats.bound_tokens += over as u64;
        if over > 0 && !self.requeue {
            tokens.truncate(self.cap - 1);
            self.stats.tokens_cropped += over as u64;
        }
        self.buffer.insert(Piece { tokens, start: 0, continuation: false });
        while self.buffer.count() >= self.capacity {
            self.place(sink)?;
        }
        Ok(())
    }

    /// Empties the buffer. A last row that cannot be filled is dropped and its tokens counted.
    ///
    /// # Errors
    /// What `sink` returns.
    pub fn finish(mut self, sink: &mut impl FnMut(&[u32]) -> Result<()>) -> Result<PackStats> {
        while self.buffer.count() > 0 {
            self.place(sink)?;
        }
        self.stats.tokens_dropped_at_end = self.kept;
        Ok(self.stats)
    }

    /// The counts so far; documents in the buffer are in `tokens_in` only.
    pub fn stats(&self) -> &PackStats {
        &self.stats
    }

    /// Puts one document, or one pair, or a lone BOS into the row.
    fn place(&mut self, sink: &mut impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
        let room = self.cap - self.row.len();
        if room == 1 {
            self.row.push(self.bos);
            self.added += 1;
            return self.close(sink);
        }
        let oldest = self.buffer.oldest();
        if self.row.is_empty() {
            self.take(oldest, room);
        } else if self.buffer.has(room) {
            self.take(Some(room), room);
        } else if let Some((a, b)) = self.buffer.pair(room) {
            self.take(Some(a), a);
            self.take(Some(b), b);
        } else {
            let fits = oldest.filter(|&l| l <= room).or_else(|| self.buffer.at_most(room));
            self.take(fits.or_else(|| self.buffer.above(room)), room);
        }
        if self.row.len() == self.cap { self.close(sink) } else { Ok(()) }
    }

    /// Moves a document of that length into the row, cut where `room` ends.
    fn take(&mut self, length: Option<usize>, room: usize) {
        let Some(mut piece) = length.and_then(|length| self.buffer.remove(length)) else { return };
        let body = (piece.len() - 1).min(room - 1);
        self.row.push(self.bos);
        self.row.extend_from_slice(&piece.tokens[piece.start..piece.start + body]);
        self.kept += body as u64;
        if piece.continuation {
            self.added += 1;
            self.continued += body as u64;
        } else {
            self.kept += 1;
        }
        piece.start += body;
        let rest = piece.tokens.len() - piece.start;
        if rest > 0 {
            if self.requeue {
                piece.continuation = true;
                self.buffer.insert(piece);
            } else {
                self.stats.tokens_cropped += rest as u64;
            }
        }
    }

    fn close(&mut self, sink: &mut impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
        sink(&self.row)?;
        self.row.clear();
        self.stats.rows += 1;
        self.stats.tokens_kept += std::mem::take(&mut self.kept);
        self.stats.bos_added += std::mem::take(&mut self.added);
        self.stats.continuation_tokens += std::mem::take(&mut self.continued);
        Ok(())
    }
}
