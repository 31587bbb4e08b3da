//! A training whose ranks are processes, under real launchers where they are installed (with FARTHING_NEEDS_MPI set, as in CI, one that is missing is a failure): the bits of
//! threads; a rank that is killed or stopped ends all, and another number goes on; what contradicts the launcher is refused.
#![allow(clippy::print_stderr, reason = "what was skipped")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farthing_base::random::Draws;

use crate::harness::{Output, Place};
use crate::kill::{recorded, wait_for};
use crate::ranks::{apart, bits, losses};

const LAUNCHERS: [&str; 2] = ["mpirun.openmpi", "mpirun.mpich"];

fn installed() -> impl Iterator<Item = &'static str> {
    LAUNCHERS.into_iter().filter(|launcher| {
        let found = Command::new(launcher).arg("--version").output().is_ok();
        if !found {
            assert!(std::env::var_os("FARTHING_NEEDS_MPI").is_none(), "there is no {launcher}");
            eprintln!("skipped: there is no {launcher}");
        }
        found
    })
}

/// Starts `p.toml` on several ranks.
fn start(
    place: &Place,
    launcher: &str,
    ranks: usize,
    wrapped: &[&str],
    args: &[&str],
    vars: &[(&str, &str)],
) -> Child {
    let mut command = Command::new(launcher);
    if launcher.ends_with("openmpi") {
        command.args(["--oversubscribe", "--quiet"]);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    command
        .arg("-n")
        .arg(ranks.to_string())
        .args(wrapped)
        .arg(env!("CARGO_BIN_EXE_runner"))
        .arg("p.toml");
    command.args(args).envs(vars.iter().copied()).current_dir(place.path(""));
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn under(place: &Place, launcher: &str, ranks: usize, args: &[&str]) -> Output {
    place.output(start(place, launcher, ranks, &[], args, &[]))
}

/// The process of a rank.
#[cfg(target_os = "linux")]
fn process(place: &Place, rank: usize) -> Option<u32> {
    let wanted = [format!("OMPI_COMM_WORLD_RANK={rank}"), format!("PMI_RANK={rank}")];
    let here = std::fs::canonicalize(place.path("")).unwrap();
    let runner = std::fs::canonicalize(env!("CARGO_BIN_EXE_runner")).unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let link = |name: &str| std::fs::read_link(entry.path().join(name)).ok();
        let is = |name, path: &PathBuf| link(name).is_some_and(|found| found == *path);
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let ours = environment.split('\0').any(|pair| wanted.iter().any(|wanted| wanted == pair));
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (ours && is("cwd", &here) && is("exe", &runner)).then_some(pid)
    })
}

#[cfg(target_os = "linux")]
fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn processes_give_the_bits_of_threads() {
    let sets =
        ["train", "bpb", "core"].map(|s| format!("{s}.resources={{ ranks = 2, threads = 1 }}"));
    let [train, bpb, core] = &sets;
    let set = ["--set", train, "--set", bpb, "--set", core];
    let threads = Place::new();
    threads.done(&set);
    for launcher in installed() {
        let place = Place::new();
        let output = under(&place, launcher, 2, &set);
        assert_eq!(output.code, Some(0), "{launcher}: {}", output.screen());
        assert!(output.stderr.contains("on 2 ranks of cpu"), "{}", output.screen());
        assert_eq!(output.stdout.matches("done in").count(), 1, "one process has a screen");
        assert!(place.model() == threads.model(), "{launcher} and threads");
        for records in ["bpb", "core"].map(|stage| (place.entry(stage), threads.entry(stage))) {
            let read = |entry: PathBuf| std::fs::read(entry.join("metrics")).unwrap();
            assert!(read(records.0) == read(records.1), "{launcher} and threads evaluate");
        }
        let again = under(&place, launcher, 2, &set);
        assert_eq!(again.code, Some(0), "{launcher}: {}", again.screen());
        assert!(again.stdout.contains("nothing to do"), "{}", again.screen());
    }
}

/// Runs a command and stays a while after it: so that its launcher does not end the others before they have found out that it is gone.
#[cfg(target_os = "linux")]
const PATIENT: &str = r#""$0" "$@"; code=$?; echo "rank ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} ended with $code" >&2; sleep 4; exit $code"#;

/// Three rounds for each launcher, or as many as `FARTHING_CHAOS` says: a random rank of a random number is killed at a random moment, and another number goes on. Where it has
/// trained, every other time, the launcher is kept from ending the others: they find out themselves, and say so.
#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_is_killed_at_any_moment_ends_all_and_another_number_goes_on() {
    let rounds = std::env::var("FARTHING_CHAOS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let steps = format!("train.schedule.steps={}", 40 * (rounds + 1));
    let steps =
        ["--until", "train", "--set", &steps, "--set", "train.exec.checkpoint_every_steps=5"];
    let whole = Place::new();
    whole.done(&steps);
    for launcher in installed() {
        let place = Place::new();
        let (mut draws, mut resumed, mut slowest) = (Draws::new(15, launcher, 0), 0, 0.0_f64);
        for round in 0..rounds {
            let ranks = [2, 4][draws.below(2)];
            // One in four while they come together, before anything is trained.
            let (killed, training) = (draws.below(ranks), draws.below(4) > 0);
            let left_alone = training && round % 2 == 0;
            let set = format!("train.resources={{ ranks = {ranks}, threads = 1 }}");
            let args = [&steps[..], &["--set", &set]].concat();
            let wrapped: &[&str] = if left_alone { &["sh", "-c", PATIENT] } else { &[] };
            let before = recorded(&place);
            let mut child = start(&place, launcher, ranks, wrapped, &args, &[("UCX_TLS", "^cma")]);
            if training {
                wait_for(&place, &mut child, before + 6 + draws.below(20) as u64);
            }
            std::thread::sleep(Duration::from_millis(draws.below(40) as u64));
            let pid = loop {
                let found = process(&place, killed);
                let over = child.try_wait().unwrap().is_some();
                assert!(found.is_some() || !over, "{launcher}: {}", place.output(child).screen());
                if let Some(pid) = found {
                    break pid;
                }
            };
            signal(pid, "-9");
            let began = Instant::now();
            while (0..ranks).any(|rank| process(&place, rank).is_some()) {
                assert!(
                    began.elapsed() < Duration::from_mins(1),
                    "a rank went on under {launcher}"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            slowest = slowest.max(began.elapsed().as_secs_f64());
            let output = place.output(child);
            assert_ne!(output.code, Some(0), "{launcher}: {}", output.screen());
            resumed += usize::from(output.stderr.contains("resuming after step"));
            if left_alone {
                let gone = format!("rank {killed} of {ranks} is gone");
                assert!(output.stderr.contains(&gone), "{launcher}: {}", output.screen());
                for rank in (0..ranks).filter(|rank| *rank != killed) {
                    let ended = format!("rank {rank} ended with 75");
                    assert!(output.stderr.contains(&ended), "{launcher}: {}", output.screen());
                }
            }
        }
        eprintln!(
            "{launcher}: {rounds} kills, all ranks over after {slowest:.1} s at most, {resumed} resumed"
        );
        assert!(resumed >= rounds / 3, "{resumed} of {rounds}");
        let end = place.go(&[&steps[..], &["--set", "train.resources={ ranks = 1 }"]].concat());
        assert_eq!(end.code, Some(0), "{}", end.screen());
        assert!(end.stderr.contains("there are 1 ranks and were "), "{}", end.stderr);
        let (a, b) = (losses(&whole), losses(&place));
        assert_eq!(a.len(), b.len());
        assert!(apart(&a[..10], &b[..10]) < 1e-5, "{a:?} and {b:?}");
        let ends = [&whole, &place].map(|place| *bits(place).last().unwrap());
        assert!((ends[0] - ends[1]).abs() < 0.05, "{ends:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_is_stopped_is_named() {
    for launcher in installed() {
        let place = Place::new();
        let args = [
            "--set",
            "train.resources={ ranks = 2, threads = 1 }",
            "--set",
            "train.schedule.steps=5000",
        ];
        let mut child = start(&place, launcher, 2, &[], &args, &[("FARTHING_DEADLINE_S", "2")]);
        wait_for(&place, &mut child, 5);
        signal(process(&place, 1).expect("the rank's process"), "-STOP");
        // That nobody waits for ever.
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_mins(1) {
            if process(&place, 0).is_none() {
                // Launchers wait for whoever is stopped.
                let _ = process(&place, 1)
                    .map(|pid| Command::new("kill").args(["-9", &pid.to_string()]).output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = place.output(child);
        let wanted = "rank 1 of 2 has said nothing for 2 s";
        assert!(output.stderr.contains(wanted), "{launcher}: {}", output.screen());
        assert!(output.stderr.contains("or its machine, is stopped"), "{}", output.screen());
    }
}

#[test]
fn what_contradicts_the_launcher_is_refused_before_anything_runs() {
    let place = Place::new();
    let said = |args: &[&str], vars: &[(&str, &str)]| {
        let args: Vec<&str> = ["p.toml"].iter().chain(args).copied().collect();
        let output = place.output(place.spawn_with(&args, vars));
        (output.code, output.stderr)
    };
    let two = ["--set", "train.resources={ ranks = 2 }"];
    let rank = |rank, ranks| {
        vec![
            ("RANK", rank),
            ("WORLD_SIZE", ranks),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "1"),
        ]
    };
    for (args, vars, code, what) in [
        (&two[..], rank("0", "4"), 2, "torchrun has started 4 ranks, and 2 are asked for"),
        (
            &[],
            rank("0", "2"),
            2,
            "torchrun has started 2 ranks, and no stage of the file computes on more",
        ),
        (&two, vec![("RANK", "0")], 2, "RANK is set and WORLD_SIZE is not"),
        (&two, rank("2", "2"), 2, "torchrun says that this is rank 2 of 2"),
        (
            &["--set", "train.resources={ ranks = 2, engine = \"mpi\" }"],
            vec![],
            2,
            "and no mpirun has started this process",
        ),
        (
            &["--set", "train.resources={ ranks = 2, engine = \"nccl\" }"],
            vec![],
            2,
            "`engine = \"nccl\"` joins GPUs",
        ),
        (
            &["--set", "train.resources={ ranks = 2, engine = \"threads\" }"],
            rank("0", "2"),
            2,
            "`engine = \"threads\"` joins threads of one process, and torchrun has started 2",
        ),
        (
            &["--set", "train.resources={ ranks = 2, min_ranks = 3 }"],
            vec![],
            2,
            "`min_ranks = 3`, expected 1 to 2",
        ),
        (
            &["--set", "train.resources={ ranks = 8, min_ranks = 4 }"],
            rank("0", "2"),
            2,
            "torchrun has started 2 ranks, and 4 to 8 are asked for",
        ),
        (
            &["--set", "sample.resources={ device = \"cuda\", gpus = 2 }"],
            vec![],
            2,
            "`sample` computes on one GPU",
        ),
    ] {
        let (found, stderr) = said(args, &vars);
        assert!(stderr.contains(what), "{args:?} {vars:?}: {stderr}");
        assert_eq!(found, Some(code), "{stderr}");
    }
    // Other ranks than the first say nothing of what all of them find.
    let (code, stderr) = said(&two, &rank("1", "4"));
    assert_eq!((code, stderr.as_str()), (Some(2), ""));
    // A batch script of Slurm is one process, whatever its environment says of tasks.
    let slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "16"), ("SLURM_LOCALID", "0")];
    let (code, stderr) = said(&["--plan", "--until", "train"], &slurm);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!place.path("store/stages").exists(), "nothing ran");
}
