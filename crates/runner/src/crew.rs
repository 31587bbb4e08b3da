//! Processes that a launcher started together. The first one is the runner. The others have no plan, no screen and no files of their own: they connect to the first, do their part of every stage that
//! computes on several ranks, and end when it lets them go.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use farthing_comm::{About, Job, Launch, Patience};
use serde::{Deserialize, Serialize};

use crate::grammar::Pipeline;
use crate::stages::{evaluation, seat::Seat, train_gpt};
use crate::{Extras, RankEngine, Result, failure, hidden::Hidden};

/// The exit code of a process that stops because another rank is missing or has stopped: what sees it may start the job again.
pub(crate) const LOST: u8 = 75;

/// How long a rank is waited for in a collective, in seconds.
const DEADLINE: &str = "FARTHING_DEADLINE_S";

/// What the environment says of a launcher, if this process is one of several.
///
/// # Errors
/// It contradicts itself.
pub(crate) fn launched() -> Result<Option<Launch>> {
    let launch = Launch::of(&|name| std::env::var(name).ok())?;
    Ok(launch.filter(|launch| launch.ranks > 1))
}

/// Among the extras of the first process: the job that it leads, once its others are there.
pub(crate) struct Crew {
    expected: bool,
    job: OnceLock<Job>,
}

/// What the first process tells the others, between stages.
#[derive(Serialize, Deserialize)]
pub(crate) enum Order {
    Train(Box<train_gpt::Task>),
    Evaluate(evaluation::Task),
    End,
}

/// A process that has read its command line and its file.
pub(crate) struct Started {
    launch: Launch,
    engine: RankEngine,
    /// Where the job's secret may be left.
    store: PathBuf,
    about: About,
}

impl Crew {
    /// The job, if this process leads one.
    pub(crate) fn job(extras: &Extras) -> Option<&Job> {
        extras.get::<Self>()?.job.get()
    }

    /// That of a process that a launcher has, or has not, started with others.
    pub(crate) fn new(expected: bool) -> Self {
        Self { expected, job: OnceLock::new() }
    }

    /// Whether other processes are there, or to come.
    pub(crate) fn is_expected(&self) -> bool {
        self.expected
    }

    /// Whether this process leads others.
    pub(crate) fn is_led(extras: &Extras) -> bool {
        extras.get::<Self>().is_some_and(Self::is_expected)
    }

    /// Brings all processes together.
    ///
    /// # Errors
    /// They do not come, or run something else; the engine's library is not there.
    pub(crate) fn lead(extras: &Extras, started: &Started, log: &dyn Fn(&str)) -> Result<()> {
        let job = started.join(log)?;
        if let Some(crew) = extras.get::<Self>() {
            // Once in a process.
            let _ = crew.job.set(job);
        }
        Ok(())
    }

    /// Lets the others go: all is done, or `failure` is why it is not.
    pub(crate) fn end(extras: &Extras, failure: Option<&anyhow::Error>) {
        let Some(job) = Self::job(extras) else { return };
        match failure {
            Some(error) => job.fail(&failure::said(error)),
            None => {
                if say(job, &Order::End).is_ok() {
                    job.finish();
                }
            }
        }
    }
}

/// Has the other processes do as this one says.
///
/// # Errors
/// They are not there any more.
pub(crate) fn say(job: &Job, order: &Order) -> Result<()> {
    let said = serde_json::to_vec(order)?;
    job.control().broadcast(&said).map_err(farthing_train::Error::from)?;
    Ok(())
}

impl Started {
    /// # Errors
    /// No stage of the file computes on several ranks; this program cannot be read.
    pub(crate) fn new(
        launch: Launch,
        pipeline: &Pipeline,
        store: PathBuf,
        digest: &str,
        set: &[String],
    ) -> Result<Self> {
        let ranked = || pipeline.stages.iter().map(|s| &s.resources).filter(|r| r.all_ranks() > 1);
        // One that needs MPI has it from the start.
        let engine = ranked().map(|r| r.engine).find(|engine| *engine == RankEngine::Mpi);
        let Some(engine) = engine.or_else(|| ranked().map(|r| r.engine).next()) else {
            let Launch { launcher, ranks, .. } = launch;
            anyhow::bail!(
                "{launcher} has started {ranks} ranks, and no stage of the file computes on more than one\n\
                 hint: set `resources = {{ ranks = {ranks} }}` in the stage that trains, or start it alone"
            );
        };
        Ok(Self { launch, engine, store, about: about(digest, set)? })
    }

    fn join(&self, log: &dyn Fn(&str)) -> Result<Job> {
        let secret = self.store.join("ranks.secret");
        let (launch, engine) = (self.launch.clone(), self.engine.into());
        Ok(Job::start(launch, engine, &secret, &self.about, patience()?, log)?)
    }
}

/// What has to be equal on all ranks.
fn about(digest: &str, set: &[String]) -> Result<About> {
    let program = std::env::current_exe().and_then(|exe| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap(exe).map(|hasher| hasher.finalize().to_hex().to_string())
    });
    let program = program.context("reading this program")?;
    let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
    let version = format!("{} ({})", env!("CARGO_PKG_VERSION"), short(&program));
    // Values may be secret; that they are the same is not.
    let set = blake3::hash(serde_json::to_string(set)?.as_bytes()).to_hex().to_string();
    Ok(vec![
        ("the program".to_owned(), version),
        ("the pipeline file".to_owned(), short(digest)),
        ("what --set says".to_owned(), short(&set)),
    ])
}

fn patience() -> Result<Patience> {
    let Some(text) = std::env::var(DEADLINE).ok().filter(|text| !text.trim().is_empty()) else {
        return Ok(Patience::default());
    };
    let seconds = text.trim().parse::<u64>().ok().filter(|seconds| (1..=86_400).contains(seconds));
    let seconds = seconds.with_context(|| {
        format!("{DEADLINE} is `{text}`\nhint: a number of seconds, 1 to 86400; 100 when unset")
    })?;
    let deadline = Duration::from_secs(seconds);
    let Patience { silence, .. } = Patience::default();
    Ok(Patience {
        meeting: 3 * deadline,
        first: 3 * deadline,
        deadline,
        silence: silence.min(deadline),
    })
}

/// Another process than the first: joins it and does as it says. The exit code.
pub(crate) fn follow(started: &Started, extras: &Extras) -> u8 {
    let rank = started.launch.rank;
    let say = |line: &str| super::cli::err(&Hidden::default(), &format!("{line}\n"));
    // Whether and when to stop is the first's to say; who sends a second signal means it.
    crate::signals::listen(&crate::Cancel::default(), &crate::progress::Screen::silent());
    let job = match started.join(&say) {
        Ok(job) => job,
        Err(error) => {
            say(&told(rank, &error));
            return code(&error);
        }
    };
    match obey(&job, extras) {
        Ok(()) => {
            job.finish();
            0
        }
        Err(error) => {
            say(&told(rank, &error));
            job.fail(&failure::said(&error));
            code(&error)
        }
    }
}

fn obey(job: &Job, extras: &Extras) -> Result<()> {
    loop {
        let said = job.control().broadcast(&[]).map_err(farthing_train::Error::from)?;
        let order = serde_json::from_slice(&said).context("reading what rank 0 said")?;
        match order {
            Order::Train(task) => train_gpt::follow(&task, job, extras)?,
            Order::Evaluate(task) => task.follow(Seat::Process(job))?,
            Order::End => return Ok(()),
        }
    }
}

fn told(rank: usize, error: &anyhow::Error) -> String {
    format!("rank {rank} stops: {}", failure::lines(error).join("\n"))
}

/// The exit code of a process that failed of this.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    use farthing_comm::Error;

    if let Some(told) = error.chain().find_map(|cause| cause.downcast_ref::<failure::Told>()) {
        return told.code;
    }
    let comm = error.chain().find_map(failure::comm);
    let lost = comm.is_some_and(|error| {
        error.is_only_missed()
            || matches!(error, Error::Stopped { .. } | Error::Meeting { .. } | Error::Engine { .. })
    });
    if lost { LOST } else { 1 }
}
