//! A training whose ranks are processes, under real launchers where they are installed (with FARTHING_NEEDS_MPI set, as in CI, one that is missing is a failure): the bits of
//! threads; a rank that is killed or stopped ends all, and another number goes on; what contradicts the launcher is refused.
#![allow(clippy::print_stderr, reason = "what was skipped")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Output, Place};
use crate::kill::wait_for;

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
    args: &[&str],
    vars: &[(&str, &str)],
) -> Child {
    let mut command = Command::new(launcher);
    if launcher.ends_with("openmpi") {
        command.args(["--oversubscribe", "--quiet"]);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    command.arg("-n").arg(ranks.to_string()).arg(env!("CARGO_BIN_EXE_runner")).arg("p.toml");
    command.args(args).envs(vars.iter().copied()).current_dir(place.path(""));
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn under(place: &Place, launcher: &str, ranks: usize, args: &[&str]) -> Output {
    place.output(start(place, launcher, ranks, args, &[]))
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
    let set = ["--until", "train", "--set", "train.resources={ ranks = 2, threads = 1 }"];
    let threads = Place::new();
    threads.done(&set);
    for launcher in installed() {
        let place = Place::new();
        let output = under(&place, launcher, 2, &set);
        assert_eq!(output.code, Some(0), "{launcher}: {}", output.screen());
        assert!(output.stderr.contains("on 2 ranks of cpu"), "{}", output.screen());
        assert_eq!(output.stdout.matches("done in").count(), 1, "one process has a screen");
        assert!(place.model() == threads.model(), "{launcher} and threads");
        let again = under(&place, launcher, 2, &set);
        assert_eq!(again.code, Some(0), "{launcher}: {}", again.screen());
        assert!(again.stdout.contains("nothing to do"), "{}", again.screen());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_is_killed_ends_all_and_another_number_goes_on() {
    let steps = [
        "--until",
        "train",
        "--set",
        "train.schedule.steps=200",
        "--set",
        "train.exec.checkpoint_every_steps=5",
    ];
    for launcher in installed() {
        let place = Place::new();
        for (attempt, (ranks, killed)) in [(2, 1), (4, 2), (2, 0)].into_iter().enumerate() {
            let set = format!("train.resources={{ ranks = {ranks}, threads = 1 }}");
            let args = [&steps[..], &["--set", &set]].concat();
            let mut child = start(&place, launcher, ranks, &args, &[]);
            wait_for(&place, &mut child, 20 + 40 * attempt as u64);
            assert!(
                child.try_wait().unwrap().is_none(),
                "{launcher}: {}",
                place.output(child).screen()
            );
            signal(process(&place, killed).expect("the rank's process"), "-9");
            let output = place.output(child);
            assert_ne!(output.code, Some(0), "{launcher}: {}", output.screen());
            assert_eq!(
                output.stderr.contains("resuming after step"),
                attempt > 0,
                "{}",
                output.stderr
            );
            for rank in 0..ranks {
                assert_eq!(process(&place, rank), None, "rank {rank} went on under {launcher}");
            }
        }
        let end = place.go(&[&steps[..], &["--set", "train.resources={ ranks = 1 }"]].concat());
        assert_eq!(end.code, Some(0), "{}", end.screen());
        assert!(end.stderr.contains("there are 1 ranks and were 2"), "{}", end.stderr);
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
        let mut child = start(&place, launcher, 2, &args, &[("FARTHING_DEADLINE_S", "2")]);
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
            &["--set", "bpb.resources={ device = \"cuda\", gpus = 2 }"],
            vec![],
            2,
            "`eval-bpb` computes on one GPU",
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
