//! What the evaluation found: per example, per task, and as the one number CORE.

use super::{Task, TaskType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

/// One item's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Its place after the shuffle, from 0.
    pub index: usize,
    /// Its line in the task's file, from 1.
    pub line: usize,
    /// Which prompts the model read: BLAKE3, in hex, of its texts as [`prompts`](super::prompts) gives them, each with a zero byte behind it.
    pub prompts: String,
    /// Per option, the mean loss of what is scored, in nats per token; none of an option without a token to score. In language
    /// modelling there is one, of the continuation.
    pub losses: Vec<Option<f64>>,
    /// The right option, from 0; none in language modelling.
    pub gold: Option<usize>,
    /// The option chosen, from 0; none in language modelling.
    pub chosen: Option<usize>,
    /// Whether that is right.
    pub correct: bool,
}

/// One task's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task's name.
    pub label: String,
    /// How it was scored.
    pub task_type: TaskType,
    /// Solved examples before each item.
    pub num_fewshot: usize,
    /// Items evaluated.
    pub items: usize,
    /// Those answered correctly.
    pub correct: usize,
    /// correct / items.
    pub accuracy: f64,
    /// What guessing reaches, as a fraction.
    pub random_baseline: f64,
    /// (accuracy − baseline) / (1 − baseline).
    pub centered: f64,
    /// Every item, in the order of evaluation.
    pub examples: Vec<Example>,
}

impl TaskReport {
    pub(crate) fn new(task: &Task, examples: Vec<Example>) -> Self {
        let correct = examples.iter().filter(|e| e.correct).count();
        let accuracy = correct as f64 / examples.len() as f64;
        let baseline = 0.01 * task.random_baseline;
        Self {
            label: task.label.clone(),
            task_type: task.task_type,
            num_fewshot: task.num_fewshot,
            items: examples.len(),
            correct,
            accuracy,
            random_baseline: baseline,
            centered: centered(accuracy, baseline),
            examples,
        }
    }
}

/// The outcome of all tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoreReport {
    /// CORE: the mean of the tasks' centred accuracies.
    pub core: f64,
    /// The tasks, in the bundle's order.
    pub tasks: Vec<TaskReport>,
}

/// (accuracy − baseline) / (1 − baseline), both as fractions: 0 for guessing, 1 for an answer that is always right.
pub fn centered(accuracy: f64, random_baseline: f64) -> f64 {
    (accuracy - random_baseline) / (1.0 - random_baseline)
}

/// CORE of tasks with these centred accuracies: their mean.
pub fn core_metric(centered: &[f64]) -> f64 {
    centered.iter().sum::<f64>() / centered.len() as f64
}

impl CoreReport {
    pub(crate) fn new(tasks: Vec<TaskReport>) -> Self {
        let centered: Vec<f64> = tasks.iter().map(|t| t.centered).collect();
        Self { core: core_metric(&centered), tasks }
    }

    /// The table that nanochat's `base_eval` writes: a line per task, accuracy and centred accuracy as fractions of six digits, and CORE last.
    pub fn to_csv(&self) -> String {
        let mut text = format!("{:<35}, {:<10}, {:<10}\n", "Task", "Accuracy", "Centered");
        for TaskReport { label, accuracy, centered, .. } in &self.tasks {
            let _ = writeln!(text, "{label:<35}, {accuracy:<10.6}, {centered:<10.6}");
        }
        let _ = writeln!(text, "{:<35}, {:<10}, {:<10.6}", "CORE", "", self.core);
        text
    }

    /// The same as JSON, with nanochat's names: accuracies and centred accuracies by task, and the one number.
    pub fn to_json(&self) -> serde_json::Value {
        let by_task = |value: fn(&TaskReport) -> f64| -> BTreeMap<&str, f64> {
            self.tasks.iter().map(|task| (task.label.as_str(), value(task))).collect()
        };
        serde_json::json!({
            "results": by_task(|task| task.accuracy),
            "centered_results": by_task(|task| task.centered),
            "core_metric": self.core,
        })
    }

    /// A record per item as a line of JSON: the task's label, and the fields of [`Example`].
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_items(&self, out: &mut dyn Write) -> std::io::Result<()> {
        #[derive(Serialize)]
        struct Record<'a> {
            task: &'a str,
            #[serde(flatten)]
            example: &'a Example,
        }
        for task in &self.tasks {
            for example in &task.examples {
                serde_json::to_writer(&mut *out, &Record { task: &task.label, example })?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> CoreReport {
        let task = |label: &str, baseline, right: &[bool]| {
            let task = Task {
                label: label.into(),
                uri: "t.jsonl".into(),
                task_type: TaskType::MultipleChoice,
                num_fewshot: 0,
                random_baseline: baseline,
                continuation_delimiter: " ".into(),
            };
            let example = |(index, &correct): (usize, &bool)| Example {
                index,
                line: index + 1,
                prompts: "ab".into(),
                losses: vec![Some(1.5), None],
                gold: Some(1),
                chosen: Some(usize::from(correct)),
                correct,
            };
            TaskReport::new(&task, right.iter().enumerate().map(example).collect())
        };
        CoreReport::new(vec![task("b", 25.0, &[true, false, false]), task("a", 0.0, &[true])])
    }

    #[test]
    fn the_table_is_laid_out_as_nanochat_s() {
        let blanks = |n| " ".repeat(n);
        let expected = [
            format!("Task{}, Accuracy  , Centered  ", blanks(31)),
            format!("b{}, 0.333333  , 0.111111  ", blanks(34)),
            format!("a{}, 1.000000  , 1.000000  ", blanks(34)),
            format!("CORE{}, {}, 0.555556  ", blanks(31), blanks(10)),
        ];
        assert_eq!(report().to_csv(), expected.join("\n") + "\n");
        let json = report().to_json();
        assert_eq!(json["results"]["b"], 1.0 / 3.0);
        assert_eq!(json["centered_results"]["a"], 1.0);
        assert!((json["core_metric"].as_f64().unwrap() - 5.0 / 9.0).abs() < 1e-15);
    }

    #[test]
    fn every_item_has_a_line() {
        let mut lines = Vec::new();
        report().write_items(&mut lines).unwrap();
        let lines = String::from_utf8(lines).unwrap();
        assert_eq!(lines.lines().count(), 4);
        assert_eq!(
            lines.lines().nth(1).unwrap(),
            r#"{"task":"b","index":1,"line":2,"prompts":"ab","losses":[1.5,null],"gold":1,"chosen":0,"correct":false}"#
        );
    }
}
