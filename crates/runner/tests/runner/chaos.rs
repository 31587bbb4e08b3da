//! Runs that are killed, told to stop, out of disk, without a store to write to, and two at once: whatever happened, the same command goes on, ends, and has
//! the outputs of a run that nobody disturbed; and no run says of itself what is not so. Ten rounds; `FARTHING_CHAOS=100` makes as many.
#![allow(clippy::print_stderr, reason = "what was tried, and what could not be")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use farthing_base::random::Draws;
use serde_json::Value;

use crate::crash::{children, kill};
use crate::harness::{Output, PROCESSES, Place};
use crate::side::{Entry, fan, made};

const OWN: [(&str, &str); 1] = [(PROCESSES, "1")];

/// What is done to a run.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    /// A signal to the runner.
    Signal(&'static str),
    /// One to a stage's process.
    Child(&'static str),
    /// Files may not grow beyond so many blocks of 512 bytes.
    Limit(usize),
    /// The store lies on a disk of so many kB.
    Full(usize),
    ReadOnly,
}

const KINDS: [Disturbance; 12] = [
    Disturbance::Signal("-9"),
    Disturbance::Signal("-15"),
    Disturbance::Signal("-1"),
    Disturbance::Signal("-2"),
    Disturbance::Child("-9"),
    Disturbance::Child("-15"),
    Disturbance::Child("-SEGV"),
    Disturbance::Limit(1),
    Disturbance::Limit(3),
    Disturbance::Full(24),
    Disturbance::Full(60),
    Disturbance::ReadOnly,
];

/// What came of all rounds.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    killed: usize,
    stopped: usize,
    failed: usize,
    done: usize,
    resumed: usize,
    skipped: usize,
}

fn below(draws: &mut Draws, n: usize) -> usize {
    draws.below(n)
}

/// A disk of its own under the store, if this user may have one.
struct Disk(PathBuf);

impl Disk {
    fn mount(place: &Place, options: &str) -> Option<Self> {
        let at = place.path("store");
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&at);
        mount.output().is_ok_and(|out| out.status.success()).then_some(Self(at))
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn start(place: &Place, jobs: &str, runs: &str, before: &str) -> Child {
    let args = ["p.toml", "--jobs", jobs, "--runs", runs];
    if before.is_empty() {
        place.spawn_in("", &args, &OWN)
    } else {
        place.spawn_after(before, &args, &OWN)
    }
}

/// That a run's own account agrees with how its process ended; its folder's lock is free.
fn no_lie(place: &Place, runs: &str, output: &Output) {
    let Ok(list) = std::fs::read_dir(place.path(runs).join("p")) else { return };
    for run in list.map(|run| run.unwrap().path()) {
        let Ok(text) = std::fs::read(run.join("run.json")) else { continue };
        let lineage: Value = serde_json::from_slice(&text).expect("run.json is whole");
        let status = lineage["status"].as_str().unwrap();
        let said = match output.code {
            0 => status == "done",
            1 | 2 => ["failed", "begun", "stopped"].contains(&status),
            // By a signal that it heard; one that it did not hear leaves what was last written.
            129..=143 => status == "stopped",
            // It may be killed when all is done and written down.
            _ => status == "begun" || status == "done",
        };
        assert!(said, "{} and {status}: {}", output.code, output.screen());
        let stages = lineage["stages"].as_array().unwrap();
        for stage in stages.iter().filter(|stage| stage["status"] != "failed") {
            let entry = place.path("store/stages").join(stage["key"].as_str().unwrap());
            let record =
                std::fs::read(entry.join("stage.json")).expect("an entry that a run names");
            let record: Value = serde_json::from_slice(&record).unwrap();
            assert_eq!(record["key"], stage["key"]);
        }
    }
    let listed = place.run(&["runs", "--runs", runs]);
    assert!(!listed.stdout.contains("  running  "), "{}", listed.screen());
}

/// Every output of the store; records without how they came about.
fn outputs(place: &Place) -> Vec<Entry> {
    let mut all = made(place);
    for (_, files) in &mut all {
        files.retain(|(path, _)| path != Path::new("stage.json"));
    }
    all
}

#[test]
fn whatever_happens_to_runs_they_end_with_the_same_outputs() {
    let rounds = std::env::var("FARTHING_CHAOS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let seed = std::env::var("FARTHING_CHAOS_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut tally = Tally::default();
    for round in 0..rounds {
        one(&mut Draws::new(seed, "chaos", round), &mut tally);
    }
    eprintln!("{rounds} rounds: {tally:?}");
    assert!(tally.done >= rounds as usize);
    assert!(tally.killed + tally.stopped + tally.failed > rounds as usize / 2, "{tally:?}");
}

fn one(draws: &mut Draws, tally: &mut Tally) {
    let seeds: Vec<u64> = (1..=2 + below(draws, 3) as u64).collect();
    let jobs = (2 + below(draws, 2)).to_string();
    let place = Place::new();
    fan(&place, &seeds, "sleep_ms = 12");
    let whole = Place::new();
    fan(&whole, &seeds, "sleep_ms = 0");
    assert_eq!(whole.go(&["--jobs", "1"]).code, 0);
    for attempt in 0..=below(draws, 3) {
        let what = KINDS[below(draws, KINDS.len())];
        let together = 1 + usize::from(below(draws, 4) == 0);
        let disk = match what {
            Disturbance::Full(kb) => Disk::mount(&place, &format!("size={kb}k")),
            Disturbance::ReadOnly => Disk::mount(&place, "size=10M,ro"),
            _ => None,
        };
        if matches!(what, Disturbance::Full(_) | Disturbance::ReadOnly) && disk.is_none() {
            eprintln!("not tried: {what:?}, since this user may not mount a disk");
            tally.skipped += 1;
            continue;
        }
        let before = match what {
            Disturbance::Limit(blocks) => format!("ulimit -f {blocks}"),
            _ => String::new(),
        };
        let runs: Vec<String> = (0..together).map(|i| format!("runs-{attempt}-{i}")).collect();
        let all: Vec<Child> = runs.iter().map(|runs| start(&place, &jobs, runs, &before)).collect();
        std::thread::sleep(Duration::from_millis(below(draws, 400) as u64));
        match what {
            Disturbance::Signal(signal) => kill(all[0].id(), signal),
            Disturbance::Child(signal) => {
                let of = children(all[0].id());
                if !of.is_empty() {
                    let child = of[below(draws, of.len())];
                    kill(child, signal);
                    kill(child, signal);
                }
            }
            _ => {}
        }
        for (runs, child) in runs.iter().zip(all) {
            let output = Output::of(child);
            tally.runs += 1;
            match output.code {
                0 => tally.done += 1,
                129..=143 => tally.stopped += 1,
                -1 => tally.killed += 1,
                _ => tally.failed += 1,
            }
            no_lie(&place, runs, &output);
        }
        if let Some(disk) = disk {
            // Somebody makes room, and what was half done there goes on.
            disk.remount("size=50M,rw");
            finish(&place, &whole, &jobs, tally, &format!("{what:?}"));
            return;
        }
    }
    finish(&place, &whole, &jobs, tally, "in the end");
}

fn finish(place: &Place, whole: &Place, jobs: &str, tally: &mut Tally, what: &str) {
    let end = Output::of(start(place, jobs, "runs-end", ""));
    assert_eq!(end.code, 0, "{what}: {}", end.screen());
    tally.runs += 1;
    tally.done += 1;
    tally.resumed += end.stdout.matches("resumes what was cut off").count();
    no_lie(place, "runs-end", &end);
    same(&outputs(place), &outputs(whole), what);
    for left in [".partial", ".old", ".damaged"] {
        assert_eq!(place.entries(left), Vec::<PathBuf>::new(), "{what}");
    }
    let again = Output::of(start(place, jobs, "runs-end", ""));
    assert!(again.stdout.contains("nothing to do in "), "{what}: {}", again.screen());
}

/// That both stores have the same files; says which are not.
fn same(ours: &[Entry], whole: &[Entry], what: &str) {
    let files = |entries: &[Entry]| -> BTreeMap<PathBuf, String> {
        let all = entries
            .iter()
            .flat_map(|(entry, files)| files.iter().map(move |(path, bytes)| (entry, path, bytes)));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        all.map(|(entry, path, bytes)| (Path::new(entry).join(path), text(bytes))).collect()
    };
    let (ours, whole) = (files(ours), files(whole));
    let all: BTreeSet<&PathBuf> = ours.keys().chain(whole.keys()).collect();
    let other = all.into_iter().filter(|path| ours.get(*path) != whole.get(*path));
    let other: Vec<_> = other.map(|path| (path, ours.get(path), whole.get(path))).collect();
    assert!(other.is_empty(), "{what}: not as undisturbed: {other:#?}");
}
