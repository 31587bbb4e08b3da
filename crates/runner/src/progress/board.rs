//! How far a run is, as its screen shows it, for whoever looks from another terminal: a small file in the run's folder, about a second old.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Board {
    /// Of the run as a whole.
    #[serde(default)]
    pub(crate) run: String,
    /// Of the stages at work, by name.
    #[serde(default)]
    pub(crate) stages: Vec<Line>,
}

impl Board {
    /// Seconds that a stage at work will take yet, as far as it has shown that.
    pub(crate) fn left_s(&self, stage: &str) -> Option<f64> {
        self.stages.iter().find(|line| line.stage == stage)?.left_s
    }
}

/// One stage's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) stage: String,
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) parts: Vec<String>,
    /// 0 where there is nothing to count up to.
    #[serde(default)]
    pub(crate) total: u64,
    #[serde(default)]
    pub(crate) done: u64,
    /// Seconds that the rest takes at the present rate, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left_s: Option<f64>,
}

/// A board that several threads write on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Board>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a stage's line in place of an earlier one.
    pub(super) fn put(&self, line: Line) {
        let stages = &mut self.lock().stages;
        match stages.binary_search_by(|known| known.stage.cmp(&line.stage)) {
            Ok(at) => stages[at] = line,
            Err(at) => stages.insert(at, line),
        }
    }

    /// The stage is not at work any more.
    pub(super) fn take_off(&self, stage: &str) {
        self.lock().stages.retain(|line| line.stage != stage);
    }

    pub(super) fn run(&self, text: &str) {
        text.clone_into(&mut self.lock().run);
    }

    /// What it shows now.
    pub(crate) fn read(&self) -> Board {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_stage_at_work() {
        let board = Shared::default();
        let line = |stage: &str, text: &str| Line {
            stage: stage.to_owned(),
            text: text.to_owned(),
            ..Line::default()
        };
        board.put(line("b", "1"));
        board.put(line("a", "2"));
        board.put(line("b", "3"));
        board.run("stages 1, 2 of 2");
        let shown = board.read();
        assert_eq!(shown.stages, [line("a", "2"), line("b", "3")]);
        board.put(Line { left_s: Some(90.0), ..line("b", "3") });
        let lefts = ["a", "b", "c"].map(|stage| board.read().left_s(stage));
        assert_eq!(lefts, [None, Some(90.0), None]);
        board.put(line("b", "3"));
        board.take_off("a");
        assert_eq!(board.read().stages, [line("b", "3")]);
        // What a later version adds is no reason not to look.
        let text =
            r#"{"run":"stage 1 of 2","stages":[{"stage":"a","text":"x","new":1}],"more":[]}"#;
        assert_eq!(serde_json::from_str::<Board>(text).unwrap().stages, [line("a", "x")]);
    }
}
