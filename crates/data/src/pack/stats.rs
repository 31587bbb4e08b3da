//! What packing did to a corpus, in counts; shares are computed from them.

use serde::{Deserialize, Serialize};

/// Counts of one packing. Two identities hold: `tokens_in = tokens_kept + tokens_cropped + tokens_dropped_at_end`, and
/// `rows · (T + 1) = tokens_kept + bos_added`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackStats {
    /// Documents packed.
    pub documents: u64,
    /// Documents without a token, left out.
    pub empty_documents: u64,
    /// Tokens of all documents, one BOS each included.
    pub tokens_in: u64,
    /// Of these, tokens that lie in rows.
    pub tokens_kept: u64,
    /// Of these, tokens cut off and not used (remainder = discard).
    pub tokens_cropped: u64,
    /// Of these, tokens in the last row that was begun and could not be filled.
    pub tokens_dropped_at_end: u64,
    /// BOS tokens in rows that no document brought: before continuation pieces, or filling a row's last position.
    pub bos_added: u64,
    /// Tokens in rows that continue a cut document, their added BOS not counted.
    pub continuation_tokens: u64,
    /// Rows written.
    pub rows: u64,
    /// Tokens that no rule can keep without splitting documents longer than a row: Σ max(length − (T + 1), 0).
    pub bound_tokens: u64,
}

impl PackStats {
    /// Share of the input that is in no row.
    pub fn lost_share(&self) -> f64 {
        share(self.tokens_cropped + self.tokens_dropped_at_end, self.tokens_in)
    }

    /// Share of the input that must be lost if no document is split over rows.
    pub fn bound_share(&self) -> f64 {
        share(self.bound_tokens, self.tokens_in)
    }

    /// Share of the kept tokens that lie in continuation pieces.
    pub fn continuation_share(&self) -> f64 {
        share(self.continuation_tokens, self.tokens_kept)
    }

    /// Share of the positions of `rows` rows of `row_tokens` (T + 1) tokens that hold a token.
    pub fn utilisation(&self, row_tokens: usize) -> f64 {
        share(self.tokens_kept + self.bos_added, self.rows * row_tokens as u64)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
