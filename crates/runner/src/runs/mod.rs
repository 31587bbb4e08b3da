//! The folder of one run: its lineage, each stage's log and metrics, and copies of the reports.

mod dag;
pub(crate) mod diff;
mod events;
mod follow;
pub(crate) mod list;
pub(crate) mod sign;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cache::Lock;
use crate::cache::files::{read_json, write_json};
use crate::hidden::Hidden;
use crate::machine::Machine;
use crate::progress::Board;
use crate::{Figure, Result};
pub(crate) use follow::Follow;

/// The name of a run's lineage in its folder.
pub(crate) const RUN: &str = "run.json";

/// What its screen shows, while it is at work.
const SCREEN: &str = "screen.json";

/// Held while the run's process lives.
const ALIVE: &str = ".alive";

/// The [`RUN`] of a run, rewritten after each stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lineage {
    pub(crate) pipeline: String,
    pub(crate) file: String,
    /// BLAKE3 of the file's text.
    pub(crate) file_digest: String,
    pub(crate) set: Vec<String>,
    pub(crate) seed: u64,
    /// The version of this program.
    pub(crate) runner: String,
    /// The commit of the repository that the pipeline's file is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    #[serde(default)]
    pub(crate) machine: Machine,
    /// What an hour of the machine costs, if the pipeline says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dollars_per_hour: Option<f64>,
    /// Seconds since 1970.
    pub(crate) started: u64,
    pub(crate) status: Status,
    pub(crate) seconds: f64,
    pub(crate) stages: Vec<StageLineage>,
    /// The stages that were begun and have not ended. Earlier versions had one at most, and called it `running`.
    #[serde(
        default,
        alias = "running",
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) begun: Vec<Begun>,
    /// What the stages that failed said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failed: BTreeMap<String, String>,
    /// The stages that did not run, each with one that failed before it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) not_run: BTreeMap<String, String>,
}

/// Nothing, one, or a list.
pub(crate) fn one_or_many<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given<T> {
        Many(Vec<T>),
        One(T),
    }
    Ok(match Option::<Given<T>>::deserialize(from)? {
        None => Vec::new(),
        Some(Given::One(one)) => vec![one],
        Some(Given::Many(many)) => many,
    })
}

/// How far a run came. Nothing says that it is at work: it may be killed at any moment, and who wants to know asks its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// It has begun, and not ended by itself.
    #[serde(alias = "running")]
    Begun,
    /// All of it went well.
    Done,
    /// A stage failed.
    Failed,
    /// It was asked to stop, and did.
    Stopped,
}

/// A stage that was begun. Until it is done, its folder has `.partial` at its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

/// One stage of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StageLineage {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) key: String,
    /// `cached`, `done` or `failed`.
    pub(crate) status: String,
    pub(crate) reason: String,
    /// Of the run that made the outputs, be it this one or an earlier.
    pub(crate) seconds: f64,
    pub(crate) config: serde_json::Value,
    /// That it computed on.
    #[serde(default)]
    pub(crate) gpus: u32,
    /// `None` where the stage makes no use of one.
    #[serde(default)]
    pub(crate) seed: Option<u64>,
    /// Port to `stage.port` and digest.
    pub(crate) inputs: BTreeMap<String, (String, Option<String>)>,
    /// Port to digest.
    pub(crate) outputs: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
    pub(crate) summary: Vec<(String, Figure)>,
}

/// The folder `runs/NAME/TIME-ID`.
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    hidden: Hidden,
    /// Of an earlier run that did the same: nothing is written there.
    earlier: bool,
    alive: Mutex<Option<Lock>>,
}

impl RunFolder {
    /// Makes a new folder.
    ///
    /// # Errors
    /// It cannot be made; the message says what to do.
    pub(crate) fn create(root: &Path, pipeline: &str, hidden: Hidden) -> Result<Self> {
        let all = root.join(pipeline);
        let make = || {
            fs::create_dir_all(&all)?;
            loop {
                let path = all.join(id());
                match fs::create_dir(&path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    made => {
                        return made
                            .and_then(|()| fs::create_dir(path.join("stages")))
                            .map(|()| path);
                    }
                }
            }
        };
        let path = make().with_context(|| {
            let root = root.display();
            format!(
                "the runs folder {root} cannot be written\nhint: name another one with --runs DIR"
            )
        })?;
        // Where a file system has no locks, the run is not seen to live.
        let alive = Lock::take(&path.join(ALIVE), &crate::Cancel::default(), |_| {}).ok();
        Ok(Self { path, hidden, earlier: false, alive: Mutex::new(alive) })
    }

    /// The folder of the newest run that was done with these stages, each with its key: it has all that a run which takes them from the cache could
    /// write.
    pub(crate) fn earlier(
        root: &Path,
        pipeline: &str,
        stages: &[(&str, &str)],
        hidden: Hidden,
    ) -> Option<Self> {
        let mut runs = folders(&root.join(pipeline));
        runs.reverse();
        let same = |run: &PathBuf| {
            let Some(lineage) = lineage(run) else { return false };
            let its = lineage.stages.iter().map(|stage| (&*stage.name, &*stage.key));
            lineage.status == Status::Done && its.eq(stages.iter().copied())
        };
        let path = runs.into_iter().find(same)?;
        Some(Self { path, hidden, earlier: true, alive: Mutex::new(None) })
    }

    /// The run has ended: its lock goes.
    pub(crate) fn end(&self) {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(alive) = alive {
            let _ = fs::remove_file(self.path.join(SCREEN));
            let _ = fs::remove_file(self.path.join(ALIVE));
            drop(alive);
        }
    }

    /// A stage's folder with its log, opened.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn log(&self, stage: &str) -> Result<File> {
        let path = self.stage(stage)?.join("log.txt");
        // A stage may have written to it before, when it asked what its sources hold.
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("creating {}", path.display()))
    }

    fn stage(&self, stage: &str) -> Result<PathBuf> {
        let path = self.path.join("stages").join(stage);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Copies a metrics output beside the log: `metrics.jsonl`, or `PORT.jsonl` for a port of another name; and for TensorBoard.
    ///
    /// # Errors
    /// The copy fails.
    pub(crate) fn keep_metrics(&self, stage: &str, port: &str, source: &Path) -> Result<()> {
        if source.is_file() && !self.earlier {
            let target = self.stage(stage)?.join(format!("{port}.jsonl"));
            follow::keep(source, &target)
                .with_context(|| format!("writing {}", target.display()))?;
        }
        Ok(())
    }

    /// Copies the metrics outputs of a stage at work while they come; `ports` are in `dir`.
    pub(crate) fn follow<'p>(
        &self,
        stage: &str,
        ports: impl Iterator<Item = &'p str>,
        dir: &Path,
    ) -> Result<Follow> {
        let folder = self.stage(stage)?;
        let files = ports.map(|port| (dir.join(port), folder.join(format!("{port}.jsonl"))));
        Ok(Follow::start(files.collect()))
    }

    /// Writes down what the screen shows. Who looks finds the file whole; that a disk refuses it is no matter.
    pub(crate) fn show(&self, board: &Board) {
        let Ok(mut shown) = serde_json::to_value(board) else { return };
        if !self.earlier {
            let (path, new) = (self.path.join(SCREEN), self.path.join(".screen.new"));
            self.hidden.hide(&mut shown);
            let _ = fs::write(&new, shown.to_string()).and_then(|()| fs::rename(&new, path));
        }
    }

    /// Copies a report's files into the run's folder, or into a folder there of the name given, and returns where they are.
    ///
    /// # Errors
    /// The copy fails.
    pub(crate) fn keep_report(
        &self,
        folder: Option<&str>,
        port: &str,
        source: &Path,
    ) -> Result<Vec<PathBuf>> {
        let into = folder.map_or_else(|| self.path.clone(), |name| self.path.join(name));
        let copy = |source: &Path, target: &Path| {
            if self.earlier { Ok(target.to_owned()) } else { copy(source, target) }
        };
        if !self.earlier {
            fs::create_dir_all(&into).with_context(|| format!("making {}", into.display()))?;
        }
        if source.is_file() {
            return Ok(vec![copy(source, &into.join(port))?]);
        }
        let mut copies = Vec::new();
        let mut entries: Vec<PathBuf> = fs::read_dir(source)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect())
            .with_context(|| format!("reading {}", source.display()))?;
        entries.sort();
        for entry in entries.iter().filter(|e| e.is_file()) {
            copies.push(copy(entry, &into.join(entry.file_name().unwrap_or_default()))?);
        }
        Ok(copies)
    }

    /// Has the copies of reports say of which run they are.
    ///
    /// # Errors
    /// A copy cannot be written.
    pub(crate) fn sign(&self, reports: &[PathBuf], lineage: &Lineage) -> Result<()> {
        if self.earlier { Ok(()) } else { sign::sign(reports, lineage, &self.hidden) }
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn write(&self, lineage: &Lineage) -> Result<()> {
        if self.earlier {
            return Ok(());
        }
        let path = self.path.join(RUN);
        write_json(&path, lineage, &self.hidden)
            .with_context(|| format!("writing {}", path.display()))
    }
}

fn copy(source: &Path, target: &Path) -> Result<PathBuf> {
    fs::copy(source, target).with_context(|| format!("writing {}", target.display()))?;
    Ok(target.to_owned())
}

/// The lineage in a run's folder, if that is one.
pub(crate) fn lineage(run: &Path) -> Option<Lineage> {
    read_json(&run.join(RUN))
}

/// The folders of a pipeline's runs, the oldest first: their names begin with the time.
fn folders(pipeline: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(pipeline).into_iter().flatten();
    let mut runs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    runs.retain(|run| run.join(RUN).is_file());
    runs.sort();
    runs
}

/// Whether the process of a run that has not ended lives.
fn is_alive(run: &Path) -> bool {
    File::open(run.join(ALIVE)).is_ok_and(|lock| lock.try_lock_shared().is_err())
}

/// The name of a run that begins now: the time in seconds, and the rest of it in 65,536th, so that names stand in the order of time.
fn id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rest = (u64::from(now.subsec_nanos()) << 16) / 1_000_000_000;
    format!("{}-{rest:04x}", timestamp(now.as_secs()))
}

/// `20261123-205242`, UTC.
fn timestamp(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (h, m, s) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}{month:02}{day:02}-{h:02}{m:02}{s:02}")
}

/// `2026-11-23 20:52`, UTC.
pub(crate) fn minute(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (h, m) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}")
}

/// The Gregorian date of a day since 1970-01-01, counted from a March so that leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days / 146_097; // 400 years
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // Values of `date -u -d @SECONDS +%Y%m%d-%H%M%S`.
        assert_eq!(timestamp(0), "19700101-000000");
        assert_eq!(timestamp(951_782_400), "20000229-000000");
        assert_eq!(timestamp(1_795_467_162), "20261123-205242");
        assert_eq!(timestamp(4_107_542_399), "21000228-235959");
    }
}
