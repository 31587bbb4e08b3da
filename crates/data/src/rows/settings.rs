//! How rows are packed, or were: rule, sizes and their limits. They stand in the manifest of every packed folder.

use crate::{Error, Result};
#[cfg(feature = "text")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// By which rule documents are laid into rows.
///
/// Where one position is left in a row it takes a lone BOS, the end of the document before it, and nothing is cut for it; only
/// the rules of others, when they discard, cut a document to its BOS there, as they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "text", derive(JsonSchema))]
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

/// What becomes of the part of a document that is cut off at the end of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "text", derive(JsonSchema))]
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
    /// Documents waiting before one is placed. Under [`PackRule::GreedyCrop`], which takes them in their order, it only decides
    /// where the rest of a cut document is queued. Where documents are long, fewer wait: see [`PackSettings::buffer_tokens`].
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

    /// Tokens that wait at most, so that memory follows what documents hold and not how many they are: with as many, documents are placed
    /// as if the buffer had all of its documents, until fewer are left. That is room for `buffer_documents` documents, or 1,000 if that is
    /// more, of 65,536 tokens each; where they are shorter on average, the bound is never reached and changes nothing.
    pub fn buffer_tokens(&self) -> usize {
        self.buffer_documents.max(1000).saturating_mul(1 << 16)
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
