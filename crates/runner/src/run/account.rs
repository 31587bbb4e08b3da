//! A run's account: on the screen, in its folder, and at its end.

use std::fmt::Write;
use std::path::PathBuf;

use super::{Done, Outcome, Run, State};
use crate::cache::Record;
use crate::progress::format::duration;
use crate::runs::{StageLineage, Status};
use crate::{Cancelled, Result, failure};

impl Run<'_> {
    /// Says on a terminal how far the run is: which stages are at work, and how long those that said so will take yet.
    pub(super) fn show(&self) {
        let mut at_work = Vec::new();
        let mut left = 0.0;
        let board = self.setup().screen.board.read();
        let chosen = &self.setup().selected.run;
        for (place, &index) in chosen.iter().enumerate() {
            let planned = self.planned[index].seconds;
            match &self.states[index] {
                State::AtWork(since) => {
                    at_work.push((place + 1).to_string());
                    // What it has shown of its rate is better than what was planned.
                    let name = &self.table.pipeline.stages[index].name;
                    left += planned.map_or(0.0, |planned| {
                        let rest = (planned - since.elapsed().as_secs_f64()).max(0.0);
                        board.left_s(name).unwrap_or(rest)
                    });
                }
                State::Waiting | State::Ready(_) | State::Again(_) => {
                    left += planned.unwrap_or(0.0);
                }
                State::Over | State::Failed | State::NotRun(_) => {}
            }
        }
        let n = chosen.len();
        let mut text = match &at_work[..] {
            [] => return,
            [one] => format!("stage {one} of {n}"),
            several => format!("stages {} of {n}", several.join(", ")),
        };
        if left > 0.0 {
            let _ = write!(text, "  about {} left in all", duration(left));
        }
        if !self.failures.is_empty() {
            let _ = write!(text, "  {} failed", self.failures.len());
        }
        self.setup().screen.run(Some(&text));
        self.table.folder.show(&self.setup().screen.board.read());
    }

    /// Writes down how far the run is. What goes wrong with that ends the run, and not the stages at work.
    pub(super) fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.lineage.seconds = self.started.elapsed().as_secs_f64();
        self.lineage.stages = self.lines.values().cloned().collect();
        self.lineage.begun = self.begun.values().cloned().collect();
        let failed = self.failures.iter().filter(|(_, error)| !error.is::<Cancelled>());
        self.lineage.failed = failed.map(|(i, e)| (self.name(*i), failure::said(e))).collect();
        if let Err(error) = self.table.folder.write(&self.lineage) {
            self.trouble.get_or_insert(error);
        }
    }

    pub(super) fn finish(mut self) -> Result<Outcome> {
        let left = (0..self.states.len()).filter(|i| self.setup().selected.run.contains(i));
        let left: Vec<usize> =
            left.filter(|i| matches!(self.states[*i], State::Waiting | State::Ready(_))).collect();
        let stopped = |run: &Self| run.failures.values().any(anyhow::Error::is::<Cancelled>);
        if let Some(first) = left.first()
            && self.setup().cancel.requested()
            && !stopped(&self)
        {
            self.failures.insert(*first, Cancelled.into());
        }
        if let Some(because) = self.halted {
            for index in left {
                self.states[index] = State::NotRun(because);
            }
        }
        for (index, state) in self.states.iter().enumerate() {
            let State::NotRun(because) = *state else { continue };
            let (name, because) = (self.name(index), self.name(because));
            let why = format!("{because} failed");
            let done =
                Done { name: name.clone(), status: "not run", seconds: None, why, record: None };
            self.stages.insert(index, done);
            self.lineage.not_run.insert(name, because);
        }
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        self.lineage.status = match (self.failures.is_empty(), stopped(&self)) {
            (true, _) => Status::Done,
            (false, true) => Status::Stopped,
            (false, false) => Status::Failed,
        };
        let reports: Vec<PathBuf> = self.reports.values().flatten().cloned().collect();
        self.lineage.seconds = self.started.elapsed().as_secs_f64();
        let signed = self.table.folder.sign(&reports, &self.lineage);
        self.changed = true;
        self.save();
        if let Some(trouble) = signed.err().or(self.trouble) {
            return Err(trouble);
        }
        let names = |index: usize| self.table.pipeline.stages[index].name.clone();
        Ok(Outcome {
            stages: self.stages.into_values().collect(),
            reports,
            models: self.models.into_iter().map(|(i, model)| (names(i), model)).collect(),
            seconds: self.lineage.seconds,
            failures: self.failures.into_iter().map(|(i, error)| (names(i), error)).collect(),
        })
    }

    pub(super) fn line_of(&self, index: usize, record: &Record, done: &Done) -> StageLineage {
        let stage = &self.table.pipeline.stages[index];
        let inputs = record.identity.inputs.iter();
        StageLineage {
            name: stage.name.clone(),
            kind: stage.kind.name.to_owned(),
            key: record.key.clone(),
            status: done.status.to_owned(),
            reason: done.why.clone(),
            seconds: record.seconds,
            config: stage.config.clone(),
            seed: record.identity.seed,
            gpus: stage.resources.gpus,
            inputs: inputs.map(|(p, i)| (p.clone(), (i.from.clone(), i.digest.clone()))).collect(),
            outputs: record.outputs.iter().map(|(p, o)| (p.clone(), o.digest.clone())).collect(),
            folder: self.setup().entry_of_runs(&record.key),
            summary: record.summary.clone(),
        }
    }

    /// Where the model is that the stage made, if it made one.
    pub(super) fn model(&self, index: usize, record: &Record) -> Option<PathBuf> {
        let ports = self.table.pipeline.stages[index].kind.outputs;
        let port =
            ports.iter().find(|p| p.kind == "checkpoint" && record.outputs.contains_key(p.name))?;
        Some(self.setup().cache.entry(&record.key).join(port.name))
    }

    /// Copies what a reader of the run's folder looks for.
    pub(super) fn keep(
        &self,
        index: usize,
        record: &Record,
        reports: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let (stage, to) = (&self.table.pipeline.stages[index], self.table.folder);
        // The reports of several variants must not cover each other.
        let folder = (stage.name != stage.base).then_some(stage.name.as_str());
        for port in stage.kind.outputs.iter().filter(|p| record.outputs.contains_key(p.name)) {
            let path = self.setup().cache.entry(&record.key).join(port.name);
            match port.kind {
                "metrics" => to.keep_metrics(&stage.name, port.name, &path)?,
                "results" => {
                    let beside = format!("stages/{}", stage.name);
                    to.keep_report(Some(&beside), port.name, &path)?;
                }
                "report" => reports.extend(to.keep_report(folder, port.name, &path)?),
                _ => {}
            }
        }
        Ok(())
    }
}
