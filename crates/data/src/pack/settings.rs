//! How to pack: the settings and their limits.

use super::PackRule;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of the part of a document that is cut off at the end of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
