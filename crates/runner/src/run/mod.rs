//! Runs a pipeline: whatever the cache has is taken from it, the rest is done, side by side where stages don't depend on each other and the machine
//! has room, and the run's folder says what happened. Nothing that is made, and no order in which anything is told at the end, depends on the order in
//! which stages ran.

mod account;
mod room;
mod turn;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cache::{Cache, Record};
use crate::grammar::Pipeline;
use crate::kind::Job;
use crate::plan::{Action, Assessed, Selected, behind};
use crate::progress::Screen;
use crate::retry::Retries;
use crate::runs::{Begun, Lineage, RunFolder, StageLineage};
use crate::{Cancel, Cancelled, Extras, Result, expect, failure};
pub(crate) use room::Shares;
use room::{Need, Room};
#[cfg(unix)]
pub(crate) use turn::caught;
use turn::{Failed, Made, Table, Turn};

/// What a run needs beside the pipeline.
pub(crate) struct Setup {
    pub(crate) cache: Cache,
    pub(crate) selected: Selected,
    pub(crate) verify: bool,
    pub(crate) extras: Arc<Extras>,
    pub(crate) cancel: Cancel,
    pub(crate) screen: Screen,
    /// The store, as a run's lineage names it.
    pub(crate) store_of_runs: PathBuf,
    pub(crate) shares: Shares,
    /// Whether what does not depend on a stage that failed goes on. After a variant of a matrix it does in any case.
    pub(crate) keep_going: bool,
    /// The pipeline's file.
    pub(crate) file: PathBuf,
    /// How a stage is run in a process of its own; without it, on a thread of this one.
    #[cfg(unix)]
    pub(crate) host: Option<crate::child::Host>,
}

impl Setup {
    /// Whether stages run in processes of their own.
    fn has_children(&self) -> bool {
        #[cfg(unix)]
        return self.host.is_some();
        #[cfg(not(unix))]
        return false;
    }

    /// A stage's folder, as a run's lineage names it.
    fn entry_of_runs(&self, key: &str) -> PathBuf {
        self.store_of_runs.join("stages").join(key)
    }
}

/// What became of one stage.
pub(crate) struct Done {
    pub(crate) name: String,
    /// `cached`, `done`, `failed` or `not run`.
    pub(crate) status: &'static str,
    /// Of this run's own work.
    pub(crate) seconds: Option<f64>,
    pub(crate) why: String,
    pub(crate) record: Option<Record>,
}

/// What became of a run. All lists are in the order of the pipeline.
pub(crate) struct Outcome {
    pub(crate) stages: Vec<Done>,
    pub(crate) reports: Vec<PathBuf>,
    /// Folders with a model, each with the stage that made it.
    pub(crate) models: Vec<(String, PathBuf)>,
    pub(crate) seconds: f64,
    /// The stages that failed and their errors.
    pub(crate) failures: Vec<(String, anyhow::Error)>,
}

/// What becomes of a stage.
enum State {
    /// It has not been looked at.
    Waiting,
    /// It is to run as soon as there is room.
    Ready(Box<Assessed>),
    /// It has failed, and is tried again at this time.
    Again(Instant),
    /// It is at work, since then.
    AtWork(Instant),
    /// Cached, done or left out.
    Over,
    Failed,
    /// A stage before it, this one, has failed.
    NotRun(usize),
}

/// What a turn tells.
enum Event {
    Begun(usize, String),
    Ended(usize, Box<Result<Made, Failed>>),
}

/// What a plan knows of a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planned {
    /// The memory that it will hold.
    pub(crate) memory_bytes: Option<u64>,
    /// How long it may take.
    pub(crate) seconds: Option<f64>,
}

/// Runs until the end. `planned` is what is known of each stage beforehand; `again` reads the pipeline once more.
///
/// # Errors
/// The run's own folder cannot be written; a stage's failure is part of the outcome.
pub(crate) fn run(
    mut pipeline: Pipeline,
    setup: &Setup,
    folder: &RunFolder,
    lineage: Lineage,
    planned: &[Planned],
    again: &dyn Fn() -> Option<Pipeline>,
) -> Result<Outcome> {
    let jobs = pipeline.stages.iter_mut().map(|stage| stage.job.take()).collect();
    let stages = pipeline.stages.iter().zip(planned);
    let needs =
        stages.map(|(stage, planned)| setup.shares.need(stage, planned.memory_bytes)).collect();
    let n = pipeline.stages.len();
    let table = Table {
        pipeline: &pipeline,
        setup,
        folder,
        outputs: RwLock::new((0..n).map(|_| None).collect()),
        resolving: Mutex::default(),
    };
    let mut run = Run {
        table: &table,
        again,
        planned,
        behind: pipeline.stages.iter().map(|s| behind(s).into_iter().collect()).collect(),
        states: (0..n).map(|_| State::Waiting).collect(),
        jobs,
        needs,
        room: setup.shares.room(setup.has_children()),
        devices: vec![Vec::new(); n],
        retries: Retries::of(&pipeline),
        halted: None,
        changed: true,
        trouble: None,
        lineage,
        lines: BTreeMap::new(),
        begun: BTreeMap::new(),
        stages: BTreeMap::new(),
        reports: BTreeMap::new(),
        models: BTreeMap::new(),
        failures: BTreeMap::new(),
        started: Instant::now(),
    };
    folder.write(&run.lineage)?;
    std::thread::scope(|scope| {
        let (tell, events) = mpsc::channel();
        loop {
            for (index, job, seen) in run.next() {
                let stage = &table.pipeline.stages[index];
                let (resources, devices) = (setup.shares.resources(stage), run.devices(index));
                let turn = Turn { table: &table, index, resources, devices };
                let tell = tell.clone();
                let work = move || {
                    // Who hears this lives as long as the scope.
                    let begun = |key: &str| drop(tell.send(Event::Begun(index, key.to_owned())));
                    let ended = turn.take(job, *seen, begun);
                    let _ = tell.send(Event::Ended(index, Box::new(ended)));
                };
                let thread = std::thread::Builder::new().name(stage.name.clone());
                let thread = thread.stack_size(STACK_BYTES);
                if let Err(error) = thread.spawn_scoped(scope, work) {
                    let error = anyhow::Error::from(error).context("starting the stage's thread");
                    run.ended(index, Err((error, String::new())));
                }
            }
            run.save();
            run.show();
            match run.wait(&events) {
                Some(Event::Begun(index, key)) => run.begins(index, &key),
                Some(Event::Ended(index, ended)) => run.ended(index, *ended),
                None if run.is_over() => break,
                None => {}
            }
        }
    });
    setup.screen.run(None);
    run.finish()
}

/// A run under way, on the thread that decides.
struct Run<'s> {
    table: &'s Table<'s>,
    again: &'s dyn Fn() -> Option<Pipeline>,
    planned: &'s [Planned],
    /// The stages before each, at one step.
    behind: Vec<Vec<usize>>,
    states: Vec<State>,
    jobs: Vec<Option<Box<dyn Job>>>,
    needs: Vec<Need>,
    room: Room,
    /// The GPUs that each stage at work has.
    devices: Vec<Vec<String>>,
    retries: Retries,
    /// The stage after whose failure no other begins.
    halted: Option<usize>,
    /// Whether there is something that is not written down.
    changed: bool,
    /// Why the run's folder could not be written.
    trouble: Option<anyhow::Error>,
    lineage: Lineage,
    lines: BTreeMap<usize, StageLineage>,
    begun: BTreeMap<usize, Begun>,
    stages: BTreeMap<usize, Done>,
    reports: BTreeMap<usize, Vec<PathBuf>>,
    models: BTreeMap<usize, PathBuf>,
    failures: BTreeMap<usize, anyhow::Error>,
    started: Instant,
}

/// A stage to begin with.
type Begin = (usize, Box<dyn Job>, Box<Assessed>);

/// Of a stage's thread: as much as the first thread of a process has.
const STACK_BYTES: usize = 8 << 20;

impl Run<'_> {
    fn setup(&self) -> &Setup {
        self.table.setup
    }

    fn name(&self, index: usize) -> String {
        self.table.pipeline.stages[index].name.clone()
    }

    /// Whether no further stage is to begin.
    fn stops(&self) -> bool {
        self.halted.is_some() || self.trouble.is_some() || self.setup().cancel.requested()
    }

    /// Takes what is cached, and gives the stages that can begin now, in the order of the pipeline.
    fn next(&mut self) -> Vec<Begin> {
        let mut begin = Vec::new();
        for index in 0..self.states.len() {
            match &self.states[index] {
                State::Waiting => self.look(index),
                State::Again(at) if self.setup().cancel.requested() || Instant::now() >= *at => {
                    self.look_again(index);
                }
                _ => {}
            }
            if !matches!(self.states[index], State::Ready(_)) || self.stops() {
                continue;
            }
            let Some(devices) = self.room.take(self.needs[index]) else { continue };
            self.devices[index] = devices;
            let state = std::mem::replace(&mut self.states[index], State::AtWork(Instant::now()));
            if let (State::Ready(seen), Some(job)) = (state, self.jobs[index].take()) {
                begin.push((index, job, seen));
            }
        }
        begin
    }

    /// The GPUs of a stage at work, as CUDA takes their names; `None` where it sees all there are.
    fn devices(&self, index: usize) -> Option<String> {
        let devices = &self.devices[index];
        (!devices.is_empty() && self.room.gpus() > devices.len()).then(|| devices.join(","))
    }

    /// Looks at a stage whose turn it may be.
    fn look(&mut self, index: usize) {
        let chosen = self.setup().selected.run.contains(&index);
        let mut because = None;
        for up in &self.behind[index] {
            match self.states[*up] {
                State::Over => {}
                State::Failed => because = because.or(Some(*up)),
                State::NotRun(first) => because = because.or(Some(first)),
                _ => return,
            }
        }
        if let Some(because) = because {
            self.states[index] = if chosen { State::NotRun(because) } else { State::Over };
            return;
        }
        if self.halted.is_some() || self.trouble.is_some() {
            return;
        }
        if chosen && self.setup().cancel.requested() {
            return;
        }
        let Some(job) = self.jobs[index].as_deref() else { return };
        match self.table.look(index, job) {
            Err(error) => self.failed(index, error, String::new(), None),
            Ok(mut seen) => match std::mem::replace(&mut seen.action, Action::Run) {
                Action::Absent => self.states[index] = State::Over,
                Action::Waits(on) => {
                    let error = anyhow!("the outputs of {} are not there", on.join(", "));
                    self.failed(index, error, seen.reason, None);
                }
                Action::Cached(record) => {
                    let made = self.table.cached(index, *record, &seen);
                    self.made(index, made, None);
                }
                Action::Run => self.states[index] = State::Ready(Box::new(seen)),
            },
        }
    }

    /// Looks at a stage that is to be tried again, with its settings read anew.
    fn look_again(&mut self, index: usize) {
        if self.setup().cancel.requested() {
            return self.failed(index, Cancelled.into(), String::new(), None);
        }
        let job = (self.again)().and_then(|mut read| read.stages.get_mut(index)?.job.take());
        match job {
            Some(job) => {
                self.jobs[index] = Some(job);
                self.states[index] = State::Waiting;
                self.look(index);
            }
            None => self.states[index] = State::Failed,
        }
    }

    /// When a stage is to be tried again, if one is.
    fn next_attempt(&self) -> Option<Instant> {
        let times = self.states.iter().filter_map(|state| match state {
            State::Again(at) => Some(*at),
            _ => None,
        });
        times.min()
    }

    fn is_over(&self) -> bool {
        self.room.at_work() == 0 && self.next_attempt().is_none()
    }

    /// The next event; `None` where there is none to wait for, or it is time to look again.
    fn wait(&self, events: &Receiver<Event>) -> Option<Event> {
        if self.is_over() {
            return None;
        }
        let rest = match self.next_attempt() {
            // The time that is left is said anew meanwhile.
            None => Duration::from_secs(1),
            // A signal is looked for meanwhile.
            Some(at) => at.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)),
        };
        events.recv_timeout(rest).ok()
    }

    fn begins(&mut self, index: usize, key: &str) {
        self.changed = true;
        let (name, folder) = (self.name(index), self.setup().entry_of_runs(key));
        self.begun.insert(index, Begun { name, folder });
    }

    fn ended(&mut self, index: usize, ended: Result<Made, Failed>) {
        let devices = std::mem::take(&mut self.devices[index]);
        self.room.give_back(self.needs[index], devices);
        let seconds = match self.states[index] {
            State::AtWork(since) => Some(since.elapsed().as_secs_f64()),
            _ => None,
        };
        match ended {
            Ok(made) => {
                self.begun.remove(&index);
                let seconds = seconds.filter(|_| made.ran);
                self.made(index, made, seconds);
            }
            Err((error, why)) => self.failed(index, error, why, seconds),
        }
    }

    /// A stage's outputs are there.
    fn made(&mut self, index: usize, made: Made, seconds: Option<f64>) {
        self.changed = true;
        let Made { record, why, ran } = made;
        let name = self.name(index);
        let status = if ran { "done" } else { "cached" };
        let mut done = Done { name, status, seconds, why, record: Some(record.clone()) };
        let mut reports = Vec::new();
        let kept = self.keep(index, &record, &mut reports);
        self.reports.insert(index, reports);
        self.models.extend(self.model(index, &record).map(|model| (index, model)));
        let mut outputs = self.table.outputs.write().unwrap_or_else(PoisonError::into_inner);
        let met = expect::check(self.table.pipeline, index, &outputs);
        outputs[index] = Some(record.clone());
        drop(outputs);
        self.states[index] = State::Over;
        if let Err(error) = kept.and(met) {
            done.status = "failed";
            self.fails(index, error);
        }
        self.lines.insert(index, self.line_of(index, &record, &done));
        self.stages.insert(index, done);
    }

    /// A stage has not come to its end. It is tried again where its file says so and it may end otherwise.
    fn failed(&mut self, index: usize, error: anyhow::Error, why: String, seconds: Option<f64>) {
        let (name, screen) = (self.name(index), self.setup().screen.clone());
        let stops = self.stops();
        let pause = self.retries.pause(&name, &error, |line| screen.line(line));
        // Processes that a launcher started are a job once: its launcher starts it again.
        let alone = !crate::crew::Crew::is_led(&self.setup().extras);
        if let Some(pause) = pause.filter(|_| alone && !stops) {
            self.states[index] = State::Again(Instant::now() + pause);
            return;
        }
        // What was cut off has a folder still.
        if !error.is::<Cancelled>() {
            self.begun.remove(&index);
        }
        self.stages.insert(index, Done { name, status: "failed", seconds, why, record: None });
        self.fails(index, error);
    }

    fn fails(&mut self, index: usize, error: anyhow::Error) {
        let stage = &self.table.pipeline.stages[index];
        // The sisters of a variant go on, and whatever else does not need it.
        if !self.setup().keep_going && stage.name == stage.base && !error.is::<Cancelled>() {
            self.halted.get_or_insert(index);
        }
        // The others may go on for days, and who watches wants to know.
        if self.room.at_work() > 0 && !error.is::<Cancelled>() {
            let said = failure::said(&error);
            self.setup().screen.line(&format!("{}: failed: {said}", stage.name));
        }
        self.changed = true;
        self.states[index] = State::Failed;
        self.failures.insert(index, error);
    }
}
