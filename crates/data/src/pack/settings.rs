//! How to pack: the settings and their limits.

use super::PackRule;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

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
    /// Documents waiting before one is placed. Under [`PackRule::GreedyCrop`], which takes them in their order, it only decides
    /// where the rest of a cut document is queued.
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
