//! Decides which documents are read, and counts those that are not.

use crate::{Error, ReadStats, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which documents to keep. Without a key nothing is asked; documents that lack the value asked for (null, NaN) are rejected.
///
/// ```toml
/// filter = { min_score = 3.0, language = "en", min_chars = 200, max_chars = 1_000_000 }
/// filter = { min_score = 3, score_column = "int_score" }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextFilter {
    /// The least score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// The column of the score, of floats or integers; `score` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_column: Option<String>,
    /// The language, exactly as the column has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The column of the language; `language` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language_column: Option<String>,
    /// The fewest characters (Unicode scalar values).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_chars: Option<u64>,
    /// The most characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_chars: Option<u64>,
}

impl TextFilter {
    /// Whether every document passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the settings mean something.
    ///
    /// # Errors
    /// [`Error::Config`] for a score that is no number, a column without the value that it is for, limits that no text meets.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String, hint: &str| Err(Error::Config { what, hint: hint.into() });
        if let Some(score) = self.min_score.filter(|score| !score.is_finite()) {
            return wrong(format!("min_score = {score} is not a number"), "give a finite number");
        }
        let lonely = [
            ("score_column", &self.score_column, "min_score", self.min_score.is_some()),
            ("language_column", &self.language_column, "language", self.language.is_some()),
        ];
        for (key, column, value, given) in lonely {
            if let Some(column) = column.as_ref().filter(|_| !given) {
                return wrong(
                    format!("{key} = {column:?} is set, but {value} is not"),
                    "give both, or neither",
                );
            }
        }
        let (least, most) = (self.min_chars.unwrap_or(0), self.max_chars.unwrap_or(u64::MAX));
        if least > most {
            return wrong(
                format!("no text has at least {least} and at most {most} characters"),
                "min_chars must not exceed max_chars",
            );
        }
        Ok(())
    }

    /// The column of the score, if one is asked for.
    pub(super) fn score(&self) -> Option<&str> {
        self.min_score.map(|_| self.score_column.as_deref().unwrap_or("score"))
    }

    /// The column of the language, if one is asked for.
    pub(super) fn language(&self) -> Option<&str> {
        self.language.as_ref().map(|_| self.language_column.as_deref().unwrap_or("language"))
    }

    /// Whether the text's length is within the limits; if not, which count it belongs to.
    pub(super) fn length(&self, text: &str) -> Option<Rejected> {
        // A character has at most 4 bytes and at least 1: most texts need not be counted.
        let (least, most) = (self.min_chars.unwrap_or(0), self.max_chars.unwrap_or(u64::MAX));
        let bytes = text.len() as u64;
        if bytes >= least.saturating_mul(4) && bytes <= most {
            return None;
        }
        let chars = text.chars().count() as u64;
        match chars {
            _ if chars < least => Some(Rejected::Short),
            _ if chars > most => Some(Rejected::Long),
            _ => None,
        }
    }
}

/// A column of text and which of its documents to read; a name alone reads all.
#[derive(Debug, Clone, Copy)]
pub struct TextColumn<'a> {
    /// The column that holds the text.
    pub name: &'a str,
    /// Which documents to read.
    pub filter: &'a TextFilter,
}

impl<'a, S: AsRef<str> + ?Sized> From<&'a S> for TextColumn<'a> {
    fn from(name: &'a S) -> Self {
        static ALL: TextFilter = TextFilter {
            min_score: None,
            score_column: None,
            language: None,
            language_column: None,
            min_chars: None,
            max_chars: None,
        };
        Self { name: name.as_ref(), filter: &ALL }
    }
}

/// Why a document is not read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rejected {
    Null,
    Score,
    Language,
    Short,
    Long,
}

/// Counting; what the counts are is said at [`ReadStats`].
impl ReadStats {
    /// Counts a document that passed.
    pub(crate) fn count_read(&mut self, text: &str) {
        self.documents += 1;
        self.text_bytes += text.len() as u64;
    }

    /// Counts a row that did not.
    pub(crate) fn count_rejected(&mut self, rejected: Rejected) {
        *match rejected {
            Rejected::Null => &mut self.null_texts,
            Rejected::Score => &mut self.low_score,
            Rejected::Language => &mut self.other_language,
            Rejected::Short => &mut self.too_short,
            Rejected::Long => &mut self.too_long,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_count_characters() {
        let filter = TextFilter { min_chars: Some(3), max_chars: Some(4), ..Default::default() };
        for (text, passes) in [
            ("", false),
            ("ab", false),
            ("äöü", true),
            ("abcd", true),
            ("🦀🦀🦀🦀", true),
            ("abcde", false),
        ] {
            assert_eq!(filter.length(text).is_none(), passes, "{text}");
        }
    }

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        let check = |filter: TextFilter| filter.check().unwrap_err().to_string();
        let nan = TextFilter { min_score: Some(f64::NAN), ..Default::default() };
        assert!(check(nan).contains("NaN"));
        let lonely = TextFilter { score_column: Some("s".into()), ..Default::default() };
        assert!(check(lonely).contains("score_column = \"s\" is set, but min_score is not"));
        let none = TextFilter { min_chars: Some(3), max_chars: Some(2), ..Default::default() };
        assert!(check(none).contains("at least 3 and at most 2"));
        assert!(serde_json::from_str::<TextFilter>(r#"{"score": 3}"#).is_err());
        assert_eq!(serde_json::to_string(&TextFilter::default()).unwrap(), "{}");
    }
}
