//! A task's items: JSON lines into checked values. Fields beyond those of the type are passed over, as published files have some.

use super::TaskType;
use crate::{Error, Result};
use farthing_base::files;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Which of `choices` goes on from `query`.
    MultipleChoice {
        /// The text before the choice.
        query: String,
        /// At least two.
        choices: Vec<String>,
        /// The right one's index.
        gold: usize,
    },
    /// Which of `contexts` leads to `continuation`.
    Schema {
        /// At least two.
        contexts: Vec<String>,
        /// The text after each of them.
        continuation: String,
        /// The right one's index.
        gold: usize,
    },
    /// How `context` goes on, to the letter.
    LanguageModeling {
        /// The text before.
        context: String,
        /// The text to be predicted.
        continuation: String,
    },
}

impl Item {
    /// The number of texts that the model is asked about.
    pub fn options(&self) -> usize {
        match self {
            Self::MultipleChoice { choices, .. } => choices.len(),
            Self::Schema { contexts, .. } => contexts.len(),
            Self::LanguageModeling { .. } => 1,
        }
    }
}

/// An item and its line in the file, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line's number.
    pub line: usize,
    /// What it says.
    pub item: Item,
}

#[derive(Deserialize)]
struct MultipleChoice {
    query: String,
    choices: Vec<String>,
    gold: usize,
}

#[derive(Deserialize)]
struct Schema {
    context_options: Vec<String>,
    continuation: String,
    gold: usize,
}

#[derive(Deserialize)]
struct LanguageModeling {
    context: String,
    continuation: String,
}

impl TaskType {
    /// What a line of this type looks like.
    fn example(self) -> &'static str {
        match self {
            Self::MultipleChoice => {
                r#"a multiple_choice item is {"query": "…", "choices": ["…", "…"], "gold": 0}, gold counting from 0"#
            }
            Self::Schema => {
                r#"a schema item is {"context_options": ["…", "…"], "continuation": "…", "gold": 0}, gold counting from 0"#
            }
            Self::LanguageModeling => {
                r#"a language_modeling item is {"context": "…", "continuation": "…"}"#
            }
        }
    }
}

/// Reads a file of items, one JSON object per line; empty lines are passed over.
///
/// # Errors
/// [`Error::Read`]; [`Error::Item`] with the line for one that is not JSON, lacks a field, has fewer than two options or a
/// `gold` that is none of them, and for a file without items.
pub fn read_items(path: &Path, kind: TaskType) -> Result<Vec<Line>> {
    let text = files::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
        hint: HINT,
    })?;
    parse_items(&text, path, kind)
}

/// What helps where a file of items cannot be read.
pub(super) const HINT: &str =
    "the task list names this file; fetch or generate the bundle again, or correct the uri";

/// The items of a file's text; `path` is what errors call it.
pub(super) fn parse_items(text: &str, path: &Path, kind: TaskType) -> Result<Vec<Line>> {
    let mut items = Vec::new();
    for (at, json) in text.lines().enumerate().filter(|(_, json)| !json.trim().is_empty()) {
        let line = at + 1;
        let item = parse(json, kind).map_err(|reason| Error::Item {
            path: path.into(),
            line,
            reason,
            hint: kind.example(),
        })?;
        items.push(Line { line, item });
    }
    if items.is_empty() {
        let (path, hint) = (path.into(), kind.example());
        return Err(Error::Item { path, line: 1, reason: "the file holds no items".into(), hint });
    }
    Ok(items)
}

fn parse(json: &str, kind: TaskType) -> Result<Item, String> {
    match kind {
        TaskType::MultipleChoice => {
            let MultipleChoice { query, choices, gold } = object(json)?;
            check("choices", choices.len(), gold)?;
            Ok(Item::MultipleChoice { query, choices, gold })
        }
        TaskType::Schema => {
            let Schema { context_options: contexts, continuation, gold } = object(json)?;
            check("context_options", contexts.len(), gold)?;
            Ok(Item::Schema { contexts, continuation, gold })
        }
        TaskType::LanguageModeling => {
            let LanguageModeling { context, continuation } = object(json)?;
            Ok(Item::LanguageModeling { context, continuation })
        }
    }
}

fn object<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    // serde_json counts lines inside the line; only its column says something here.
    serde_json::from_str(json).map_err(|e| {
        let text = e.to_string();
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        format!("{reason} (column {})", e.column())
    })
}

fn check(field: &str, options: usize, gold: usize) -> Result<(), String> {
    if options < 2 {
        return Err(format!("{field} has {options} entries, at least 2 are needed to choose from"));
    }
    if gold >= options {
        return Err(format!("gold is {gold}, but {field} has {options} entries"));
    }
    Ok(())
}
