//! A bundle of tasks on disk: the list of tasks, and where their items are. The project's own `tasks.json` and the published bundle's lists
//! become the same [`Task`]s, which is all that the evaluation sees.

use super::files::Files;
use super::{Line, parse_items, published};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

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
    /// The file of items, JSON lines, relative to the bundle's folder and inside of it.
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

pub(super) fn space() -> String {
    " ".into()
}

/// Tasks and the folder or zip that their files are in.
#[derive(Debug, Clone)]
pub struct Bundle {
    files: Files,
    /// The lists of tasks that were read.
    lists: Vec<&'static str>,
    tasks: Vec<Task>,
}

impl Bundle {
    /// Reads the list of tasks in a folder or in a zip: a `tasks.json`, or the published bundle's `core.yaml` and `eval_meta_data.csv`.
    /// Items are read when they are evaluated. Nothing of a zip is ever written to the disk.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Tasks`]; [`Error::Archive`] for a zip that is damaged, or made to do harm.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let (files, list) = Files::open(path.as_ref(), &[TASKS, published::TASKS])?;
        let hint = "the list of tasks is part of the bundle";
        let text = files.read(list.as_ref(), hint)?;
        let bad = |list: &str, reason, hint: &str| Error::Tasks {
            path: files.shown(list.as_ref()),
            reason,
            hint: hint.into(),
        };
        let (lists, tasks) = if list == TASKS {
            let hint = "it must be a list of objects with label, uri, task_type (multiple_choice, schema or language_modeling), num_fewshot, random_baseline in percent and, if not a space, continuation_delimiter";
            let tasks = serde_json::from_str(&text).map_err(|e| bad(list, e.to_string(), hint))?;
            (vec![TASKS], tasks)
        } else {
            let csv = files.read(published::BASELINES.as_ref(), hint)?;
            let tasks = published::tasks(&text, &csv)
                .map_err(|(list, reason)| bad(list, reason, published::HINT))?;
            (vec![published::TASKS, published::BASELINES], tasks)
        };
        let shown = files.shown(list.as_ref());
        Self::checked(files, lists, tasks, &shown)
    }

    /// A bundle of `tasks` whose files are under the folder `root`, for other lists.
    ///
    /// # Errors
    /// [`Error::Tasks`] when there are none, when two have one label, when a baseline is not a percentage below 100, or when a file is not
    /// inside of the folder.
    pub fn new(root: impl AsRef<Path>, tasks: Vec<Task>) -> Result<Self> {
        let root = root.as_ref();
        Self::checked(Files::Folder(root.into()), vec![], tasks, root)
    }

    fn checked(
        files: Files,
        lists: Vec<&'static str>,
        tasks: Vec<Task>,
        list: &Path,
    ) -> Result<Self> {
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
            let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            if !task.uri.components().all(inside) {
                return bad(
                    format!(
                        "the items of {} are not inside of the bundle: {}",
                        task.label,
                        task.uri.display()
                    ),
                    "name a file in the bundle's folder or below it, without `..`",
                );
            }
        }
        Ok(Self { files, lists, tasks })
    }

    /// The tasks, in the order of the list.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The folder or the zip.
    pub fn place(&self) -> &Path {
        self.files.place()
    }

    /// Where the items of `task` are, for messages: inside of a zip it is the zip's path and the name in it.
    pub fn path(&self, task: &Task) -> PathBuf {
        self.files.shown(&task.uri)
    }

    /// Reads the items of `task`.
    ///
    /// # Errors
    /// Those of [`read_items`](super::read_items); [`Error::Archive`].
    pub fn items(&self, task: &Task) -> Result<Vec<Line>> {
        let text = self.files.read(&task.uri, super::item::HINT)?;
        parse_items(&text, &self.path(task), task.task_type)
    }

    /// The files on the disk that the bundle is made of, each once: the lists and the items, or the zip.
    pub fn sources(&self) -> Vec<PathBuf> {
        let lists = self.lists.iter().map(Path::new);
        let names = lists.chain(self.tasks.iter().map(|task| task.uri.as_path()));
        let mut seen = BTreeSet::new();
        names.map(|name| self.files.source(name)).filter(|path| seen.insert(path.clone())).collect()
    }
}
