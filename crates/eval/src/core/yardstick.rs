//! What GPT-2 reached on CORE, to hold others against.

use super::CoreReport;

/// Parameters in millions and CORE of the four sizes of GPT-2.
///
/// # Source
/// The tables `openai-community-gpt2*.csv` in nanochat's evaluation bundle.
pub const GPT2: [(u32, f64); 4] =
    [(124, 0.113_891), (355, 0.184_903), (774, 0.214_641), (1_558, 0.256_525)];

/// The labels of the published bundle's tasks, sorted.
pub const PUBLISHED: [&str; 22] = [
    "agi_eval_lsat_ar",
    "arc_challenge",
    "arc_easy",
    "bigbench_cs_algorithms",
    "bigbench_dyck_languages",
    "bigbench_language_identification",
    "bigbench_operators",
    "bigbench_qa_wikidata",
    "bigbench_repeat_copy_logic",
    "boolq",
    "commonsense_qa",
    "copa",
    "coqa",
    "hellaswag",
    "hellaswag_zeroshot",
    "jeopardy",
    "lambada_openai",
    "openbook_qa",
    "piqa",
    "squad",
    "winograd",
    "winogrande",
];

/// Whether tasks of these labels are those of the published bundle, which [`GPT2`]'s figures are of.
pub fn is_published<'a>(labels: impl IntoIterator<Item = &'a str>) -> bool {
    let mut labels: Vec<&str> = labels.into_iter().collect();
    labels.sort_unstable();
    labels == PUBLISHED
}

impl CoreReport {
    /// GPT-2's figures in a line, where the tasks are those that they are of.
    pub fn beside_gpt2(&self) -> Option<String> {
        let same = is_published(self.tasks.iter().map(|task| task.label.as_str()));
        let figures: Vec<String> =
            GPT2.iter().map(|(size, core)| format!("{core:.6} ({size}M)")).collect();
        same.then(|| format!("CORE {:.6}; GPT-2's: {}", self.core, figures.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Task, TaskReport, TaskType};
    use super::*;

    fn report(labels: &[&str]) -> CoreReport {
        let task = |label: &&str| Task {
            label: (*label).into(),
            uri: "t.jsonl".into(),
            task_type: TaskType::Schema,
            num_fewshot: 0,
            random_baseline: 0.0,
            continuation_delimiter: " ".into(),
        };
        let example = super::super::Example {
            index: 0,
            line: 1,
            prompts: String::new(),
            losses: vec![],
            gold: Some(0),
            chosen: Some(0),
            correct: true,
        };
        let tasks = labels.iter().map(|label| TaskReport::new(&task(label), vec![example.clone()]));
        CoreReport::new(tasks.collect())
    }

    #[test]
    fn gpt2_stands_beside_the_tasks_that_it_was_evaluated_on_and_no_others() {
        let mut labels = PUBLISHED.to_vec();
        assert!(PUBLISHED.is_sorted());
        labels.reverse();
        let line = report(&labels).beside_gpt2().unwrap();
        assert!(line.starts_with("CORE 1.000000; GPT-2's: 0.113891 (124M), "), "{line}");
        assert_eq!(report(&labels[1..]).beside_gpt2(), None);
        labels[3] = "mine";
        assert_eq!(report(&labels).beside_gpt2(), None);
    }
}
