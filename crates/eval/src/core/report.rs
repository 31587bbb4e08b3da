//! What the evaluation found: per example, per task, and as the one number CORE.

use super::{Task, TaskType};
use serde::{Deserialize, Serialize};

/// One item's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Its place after the shuffle, from 0.
    pub index: usize,
    /// Its line in the task's file, from 1.
    pub line: usize,
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
            centered: (accuracy - baseline) / (1.0 - baseline),
            examples,
        }
    }
}

/// The outcome of all tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// CORE: the mean of the tasks' centred accuracies.
    pub core: f64,
    /// The tasks, in the bundle's order.
    pub tasks: Vec<TaskReport>,
}

impl Report {
    pub(crate) fn new(tasks: Vec<TaskReport>) -> Self {
        let core = tasks.iter().map(|t| t.centered).sum::<f64>() / tasks.len() as f64;
        Self { core, tasks }
    }
}
