//! Counts of what was read of a corpus and of what packing did to it, and the shares computed from them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What became of the rows that were read. A document is counted once: as null, else under the first of score, language, length
/// that rejects it, else as read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadStats {
    /// Documents that passed.
    pub documents: u64,
    /// Their UTF-8 bytes.
    pub text_bytes: u64,
    /// Rows whose text is null.
    pub null_texts: u64,
    /// Documents of too low a score, or without one.
    pub low_score: u64,
    /// Documents in another language, or in none that is named.
    pub other_language: u64,
    /// Documents of too few characters.
    pub too_short: u64,
    /// Documents of too many characters.
    pub too_long: u64,
}

impl ReadStats {
    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.documents + self.null_texts + self.rejected()
    }

    /// Documents that the filter rejected.
    pub fn rejected(&self) -> u64 {
        self.low_score + self.other_language + self.too_short + self.too_long
    }
}

impl std::ops::AddAssign for ReadStats {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.text_bytes += other.text_bytes;
        self.null_texts += other.null_texts;
        self.low_score += other.low_score;
        self.other_language += other.other_language;
        self.too_short += other.too_short;
        self.too_long += other.too_long;
    }
}

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
    /// Documents by length.
    #[serde(default)]
    pub lengths: Lengths,
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

/// Buckets of [`Lengths`].
const BUCKETS: usize = 32;

/// Documents by length: bucket k counts those of 2^k to 2^(k+1) − 1 tokens, BOS included; the last one all longer ones too.
///
/// Shown (`{}`) it is a histogram of text lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lengths([u64; BUCKETS]);

/// Documents of `from ..= to` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthCount {
    /// The least length, BOS included: a power of two.
    pub from: u64,
    /// The greatest.
    pub to: u64,
    /// How many documents.
    pub documents: u64,
}

impl Lengths {
    #[cfg_attr(not(feature = "text"), allow(dead_code, reason = "packing counts"))]
    pub(crate) fn count(&mut self, length: usize) {
        let k = length.checked_ilog2().unwrap_or(0) as usize;
        self.0[k.min(BUCKETS - 1)] += 1;
    }

    /// The buckets from the first that counts a document to the last.
    pub fn buckets(&self) -> impl Iterator<Item = LengthCount> {
        let first = self.0.iter().position(|&n| n > 0).unwrap_or(BUCKETS);
        let end = self.0.iter().rposition(|&n| n > 0).map_or(0, |last| last + 1);
        let bucket =
            |k: usize| LengthCount { from: 1 << k, to: (2 << k) - 1, documents: self.0[k] };
        (first..end).map(bucket)
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: u64 = 50;
        let most = self.buckets().map(|b| b.documents).max().unwrap_or(0).max(1);
        for b in self.buckets() {
            // The smallest bar that is not empty has one mark.
            let marks = (b.documents * WIDTH).div_ceil(most) as usize;
            let marks = "#".repeat(marks);
            writeln!(f, "{:>8} to {:>8} tokens {:>10}  {marks}", b.from, b.to, b.documents)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fall_into_powers_of_two_and_are_drawn() {
        let mut lengths = Lengths::default();
        assert_eq!(lengths.buckets().count(), 0);
        assert_eq!(lengths.to_string(), "");
        for length in [2, 3, 3, 4, 7, 16, usize::MAX] {
            lengths.count(length);
        }
        let found: Vec<_> =
            lengths.buckets().take(4).map(|b| (b.from, b.to, b.documents)).collect();
        assert_eq!(found, [(2, 3, 3), (4, 7, 2), (8, 15, 0), (16, 31, 1)]);
        assert_eq!(lengths.buckets().last().map(|b| b.documents), Some(1));
        let text = lengths.to_string();
        assert!(
            text.starts_with(&format!(
                "       2 to        3 tokens          3  {}\n",
                "#".repeat(50)
            ))
        );
        assert_eq!(text.lines().count(), 31);
        let json = serde_json::to_string(&lengths).unwrap();
        assert_eq!(serde_json::from_str::<Lengths>(&json).unwrap(), lengths);
    }
}
