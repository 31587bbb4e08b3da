//! A bundle of tasks on disk: the list of tasks, and where their items are. Knows the project's own `tasks.json`; another list
//! (the published bundle's) becomes the same [`Task`]s, which is all that the evaluation sees.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The list of tasks in a bundle's directory.
pub const TASKS: &str = "tasks.json";

/// How a task's items are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskType {
    /// One query, several continuations: the one with the lowest mean loss is chosen.
    MultipleChoice,
    /// Several contexts, one continuation: the context that gives it the lowest mean loss is chosen.
    Schema,
    /// One context, one continuation: every token of it must be the greedy prediction.
    LanguageModeling,
}

impl TaskType {
    /// The name in task lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::MultipleChoice => "multiple_choice",
            Self::Schema => "schema",
            Self::LanguageModeling => "language_modeling",
        }
    }
}

/// One task of CORE.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name, unique in the bundle.
    pub label: String,
    /// The file of items, JSON lines, relative to the bundle's directory.
    pub uri: PathBuf,
    /// How items are scored.
    pub task_type: TaskType,
    /// Solved examples before each item.
    pub num_fewshot: usize,
    /// The accuracy of guessing, in percent, 0 to below 100.
    pub random_baseline: f64,
    /// What stands between a context and its continuation.
    #[serde(default = "space")]
    pub continuation_delimiter: String,
}

fn space() -> String {
    " ".into()
}

/// Tasks and the directory that their files are in.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    root: PathBuf,
    tasks: Vec<Task>,
}

impl Bundle {
    /// Reads `tasks.json` in the directory `root`. Items are read when they are evaluated.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Tasks`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let list = root.as_ref().join(TASKS);
        let hint = "a bundle is a directory with a tasks.json and the files that it names";
        let text = std::fs::read_to_string(&list).map_err(|source| Error::Read {
            path: list.clone(),
            source,
            hint,
        })?;
        let tasks = serde_json::from_str(&text).map_err(|e| Error::Tasks {
            path: list.clone(),
            reason: e.to_string(),
            hint: "it must be a list of objects with label, uri, task_type (multiple_choice, schema or language_modeling), num_fewshot, random_baseline in percent and, if not a space, continuation_delimiter".into(),
        })?;
        Self::checked(root.as_ref(), tasks, &list)
    }

    /// A bundle of `tasks` whose files are under `root`, for lists that are not a `tasks.json`.
    ///
    /// # Errors
    /// [`Error::Tasks`] when there are none, when two have one label, or when a baseline is not a percentage below 100.
    pub fn new(root: impl AsRef<Path>, tasks: Vec<Task>) -> Result<Self> {
        Self::checked(root.as_ref(), tasks, root.as_ref())
    }

    fn checked(root: &Path, tasks: Vec<Task>, list: &Path) -> Result<Self> {
        let bad = |reason, hint: &str| {
            Err(Error::Tasks { path: list.into(), reason, hint: hint.to_string() })
        };
        if tasks.is_empty() {
            return bad("it names no task".into(), "name at least one task");
        }
        let mut labels = BTreeSet::new();
        for task in &tasks {
            let base = task.random_baseline;
            if !labels.insert(&task.label) {
                return bad(
                    format!("the label {:?} occurs twice", task.label),
                    "give each task a label of its own",
                );
            }
            if !(0.0..100.0).contains(&base) {
                return bad(
                    format!("task {} has a random_baseline of {base}", task.label),
                    "it is the accuracy of guessing in percent, at least 0 and below 100",
                );
            }
        }
        Ok(Self { root: root.into(), tasks })
    }

    /// The tasks, in the order of the list.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Where the items of `task` are.
    pub fn path(&self, task: &Task) -> PathBuf {
        self.root.join(&task.uri)
    }
}
