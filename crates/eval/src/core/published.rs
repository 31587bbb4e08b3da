//! The published bundle's own lists, `core.yaml` and `eval_meta_data.csv`, as [`Task`]s.
//!
//! # Source
//! The lists of mosaicml/llm-foundry's evaluation, as the bundle that nanochat's `base_eval` fetches has them: items under `eval_data`, the
//! accuracy of guessing in percent.

use super::{Task, TaskType};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The list of tasks.
pub(crate) const TASKS: &str = "core.yaml";
/// What guessing reaches on each of them, and on others.
pub(crate) const BASELINES: &str = "eval_meta_data.csv";
/// Where the items are.
const ITEMS: &str = "eval_data";

/// What every entry of the list must look like.
pub(crate) const HINT: &str = "it must have a list `icl_tasks` of entries with label, dataset_uri, num_fewshot (a list of one number), icl_task_type (multiple_choice, schema or language_modeling) and, if not a space, continuation_delimiter";

/// No other key: one that changes a prompt must not be passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    icl_tasks: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    label: String,
    dataset_uri: String,
    num_fewshot: Vec<usize>,
    icl_task_type: TaskType,
    continuation_delimiter: Option<String>,
    /// Whether accuracies of categories are to be averaged; CORE is of items.
    #[serde(default, rename = "has_categories")]
    _has_categories: bool,
}

/// The tasks of a `core.yaml`, with the baselines of an `eval_meta_data.csv`.
///
/// # Errors
/// What is wrong, and with which of the two.
pub(crate) fn tasks(yaml: &str, csv: &str) -> Result<Vec<Task>, (&'static str, String)> {
    let list: List = serde_saphyr::from_str(yaml).map_err(|e| (TASKS, one_line(&e.to_string())))?;
    let baselines = baselines(csv).map_err(|reason| (BASELINES, reason))?;
    let task = |entry: Entry| {
        let Entry { label, dataset_uri, num_fewshot, icl_task_type, .. } = entry;
        let &[num_fewshot] = &num_fewshot[..] else {
            let n = num_fewshot.len();
            return Err((TASKS, format!("num_fewshot of {label} has {n} numbers, 1 is evaluated")));
        };
        let Some(&random_baseline) = baselines.get(&label) else {
            return Err((BASELINES, format!("it has no line for {label}, which {TASKS} names")));
        };
        Ok(Task {
            label,
            uri: Path::new(ITEMS).join(dataset_uri),
            task_type: icl_task_type,
            num_fewshot,
            random_baseline,
            continuation_delimiter: entry
                .continuation_delimiter
                .unwrap_or_else(super::bundle::space),
        })
    };
    list.icl_tasks.into_iter().map(task).collect()
}

/// By task, in percent.
fn baselines(csv: &str) -> Result<BTreeMap<String, f64>, String> {
    const COLUMNS: [&str; 2] = ["Eval Task", "Random baseline"];
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let columns = reader.headers().map_err(|e| e.to_string())?.clone();
    let [label, baseline] = COLUMNS.map(|name| columns.iter().position(|column| column == name));
    let (Some(label), Some(baseline)) = (label, baseline) else {
        return Err(format!(
            "its first line must name the columns {:?} and {:?}",
            COLUMNS[0], COLUMNS[1]
        ));
    };
    let mut found = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|e| e.to_string())?;
        // A row has as many fields as the first line, or is an error of the reader.
        let (Some(label), Some(text)) = (row.get(label), row.get(baseline)) else { continue };
        let value: f64 = text
            .trim()
            .parse()
            .map_err(|_| format!("the random baseline of {label} is {text:?}, no number"))?;
        if found.insert(label.to_owned(), value).is_some_and(|old| old != value) {
            return Err(format!("it has two random baselines for {label}"));
        }
    }
    Ok(found)
}

/// The first line of a message that shows the place in the text below.
fn one_line(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first.trim_start_matches("error: ").trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "Eval Task,Task Category,Random baseline,Description\n\
        a,words,25,\"one, two\"\nb,words,0,\nc,sums,1e1,\n";

    fn entry(more: &str) -> String {
        format!(
            "icl_tasks:\n-\n  label: a\n  dataset_uri: words/a.jsonl\n  num_fewshot: [3]\n  icl_task_type: schema\n{more}"
        )
    }

    #[test]
    fn both_lists_become_tasks() {
        let yaml = entry("  continuation_delimiter: \"\\nAnswer: \"\n  has_categories: true\n")
            + "-\n  label: b\n  dataset_uri: b.jsonl\n  num_fewshot: [0]\n  icl_task_type: language_modeling\n";
        let found = tasks(&yaml, CSV).unwrap();
        assert_eq!(found.len(), 2);
        let expected = Task {
            label: "a".into(),
            uri: "eval_data/words/a.jsonl".into(),
            task_type: TaskType::Schema,
            num_fewshot: 3,
            random_baseline: 25.0,
            continuation_delimiter: "\nAnswer: ".into(),
        };
        assert_eq!(found[0], expected);
        assert_eq!((found[1].random_baseline, &*found[1].continuation_delimiter), (0.0, " "));
    }

    #[test]
    fn what_cannot_be_evaluated_is_named() {
        for (yaml, csv, list, what) in [
            (
                entry("  question_prelude: \"Read: \"\n"),
                CSV,
                TASKS,
                "unknown field `question_prelude`",
            ),
            (entry("").replace("schema", "question_answering"), CSV, TASKS, "question_answering"),
            (entry("").replace("[3]", "[0, 5]"), CSV, TASKS, "num_fewshot of a has 2 numbers"),
            (entry("").replace("[3]", "[-1]"), CSV, TASKS, "line 5 column 17: "),
            ("icl_tasks: {".into(), CSV, TASKS, ""),
            (entry(""), "Eval Task,Baseline\na,1\n", BASELINES, "\"Random baseline\""),
            (entry(""), "Eval Task,Random baseline\nb,1\n", BASELINES, "no line for a"),
            (entry(""), "Eval Task,Random baseline\na,25%\n", BASELINES, "\"25%\", no number"),
            (entry(""), "Eval Task,Random baseline\na,1\na,2\n", BASELINES, "two random baselines"),
            (entry(""), "Eval Task,Random baseline\na,1,2\n", BASELINES, "fields"),
        ] {
            let (found, reason) = tasks(&yaml, csv).unwrap_err();
            assert!(found == list && reason.contains(what), "{yaml}: {found}: {reason}");
        }
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned();
        let line = |i: usize| {
            let of = vec![format!("*a{}", i - 1); 10].join(", ");
            format!("a{i}: &a{i} [{of}]")
        };
        let lines: Vec<String> = std::iter::once(first).chain((1..10).map(line)).collect();
        assert!(tasks(&(lines.join("\n") + "\nicl_tasks: *a9\n"), CSV).is_err());
    }
}
