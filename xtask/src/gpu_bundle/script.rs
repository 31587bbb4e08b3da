//! `run.sh` with stubs for the bundle's executables, nanochat and NVIDIA's tools: what it reports, in which order it runs things, and that
//! nothing outlives it. How long anything takes is not asserted.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{RUN, build, pack};

/// A script that another thread's fork still holds open cannot be run, so that tests which run scripts take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The head of a stub: `$here` is the bundle's `bin`, `$json` what `--json` names, `$all` the arguments.
const HEAD: &str = r#"#!/bin/sh
here=${0%/*} json=/dev/null all=" $* " last=
for word in "$@"; do [ "$last" = --json ] && json=$word; last=$word; done
"#;
const CONFORM: &str = r#"
echo "rms_norm: passed"
echo '{"device": {"model": "NVIDIA H200"}, "bodies": [{"name": "rms_norm", "passed": true, "kernels": ["rms_norm_warp"]}]}' >"$json"
"#;
const SAME_BITS: &str = r#"
case $all in
*" --exact device "*) echo "test device ... device: NVIDIA H200 (capability 9.0; 132 multiprocessors; 139.8 GiB)" ;;
*)
    echo "running 1 test"
    echo "test x ... cast: exact, 3 launches, 0 differ, in 0 bytes"
    echo "rms_norm_warp: approximate, 17 launches, 2 differ, in 9 bytes"
    echo "test result: ok. 1 passed; 0 failed"
    ;;
esac
"#;
const CEILINGS: &str = r#"
printf 'some words\n| what | GB/s |\n| --- | ---: |\n| copy | 4300 |\n'
echo '{"copy": 4300}' >"$json"
"#;
const GPU_STEP: &str = r#"
case $all in *" --depth 24 "*) ms=400.5 ;; *) ms=60 ;; esac
printf '| kernel | ms |\n| --- | ---: |\n| attention_128 | 1.5 |\n'
printf '{"micro_ms": %s,\n "table": [["attention_128", 1.5e0]], "paper": []}\n' "$ms" >"$json"
"#;
const NCCL_ONE: &str = r#"
echo "NCCL 2.27.5"
echo "passed, a communicator in 0.30 s"
echo '{"version": 22705}' >"$json"
"#;

/// A bundle of stubs, and a folder of the programs that `run.sh` may use.
struct Stage {
    _turn: MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
}

/// What a run left.
struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
    summary: String,
    json: Value,
}

impl Stage {
    /// Stubs that do well, with those given in their place.
    fn new(others: &[(&str, &str)]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let stubs = [
            ("conform", CONFORM),
            ("same_bits", SAME_BITS),
            ("ceilings", CEILINGS),
            ("gpu_step", GPU_STEP),
            ("nccl_one", NCCL_ONE),
        ];
        let built: Vec<build::Built> = stubs
            .iter()
            .map(|&(name, usual)| {
                let other = others.iter().find(|(other, _)| *other == name);
                let path = folder.path().join(name);
                fs::write(&path, format!("{HEAD}{}", other.map_or(usual, |(_, text)| text)))
                    .unwrap();
                build::Built { name: name.to_owned(), path }
            })
            .collect();
        let stage = Self { _turn: turn, folder };
        pack::fill(&stage.path("bundle"), RUN, &built).unwrap();
        fs::write(stage.path("bundle/MANIFEST.toml"), "").unwrap();
        fs::write(stage.path("bundle/COMMIT"), "0123abc\n").unwrap();
        fs::create_dir(stage.path("path")).unwrap();
        fs::create_dir(stage.path("tmp")).unwrap();
        // bash, awk and coreutils; sh for the stubs alone.
        let programs = [
            "bash", "sh", "awk", "cat", "cp", "date", "dirname", "env", "head", "mkdir", "mktemp",
            "mv", "nice", "nproc", "readlink", "rm", "sleep", "tail", "timeout", "uname", "wc",
        ];
        for program in programs {
            symlink(in_path(program), stage.path("path").join(program)).unwrap();
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program of the machine, found in PATH.
    fn program(&self, name: &str, text: &str) {
        let file = self.path(&format!("{name}-itself"));
        fs::write(&file, format!("{HEAD}{text}")).unwrap();
        pack::make_executable(&file).unwrap();
        // Behind two links, as distributions have python3.
        symlink(&file, self.path(&format!("{name}-link"))).unwrap();
        symlink(self.path(&format!("{name}-link")), self.path("path").join(name)).unwrap();
    }

    /// nanochat in the bundle, and a python3 for it.
    fn nanochat(&self) {
        fs::create_dir(self.path("bundle/nanochat")).unwrap();
        fs::write(self.path("bundle/nanochat/gpu_nanochat.py"), "").unwrap();
        self.program("python3", PYTHON);
    }

    /// `run.sh` in an environment with nothing but that folder.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(self.path("bundle/run.sh"));
        command
            .arg(self.path("results"))
            .args(arguments.split_whitespace())
            .env_clear()
            .env("PATH", self.path("path"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &str) -> Ran {
        self.ran(self.command(arguments).output().unwrap())
    }

    fn ran(&self, output: Output) -> Ran {
        let read =
            |name: &str| fs::read_to_string(self.path("results").join(name)).unwrap_or_default();
        let json = read("summary.json");
        let left: Vec<_> = fs::read_dir(self.path("tmp")).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        Ran {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            summary: read("summary.md"),
            json: if json.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
            },
        }
    }

    /// The lines that stubs wrote into a file of the bundle's `bin`.
    fn noted(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("bundle/bin").join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Ran {
    /// A part's result and why.
    fn part(&self, name: &str) -> (&str, &str) {
        let parts = self.json["parts"]
            .as_array()
            .unwrap_or_else(|| panic!("{}{}", self.stdout, self.stderr));
        let part = parts
            .iter()
            .find(|part| part["name"] == name)
            .unwrap_or_else(|| panic!("no part {name}: {parts:?}"));
        (part["result"].as_str().unwrap(), part["why"].as_str().unwrap_or_default())
    }

    /// Every part's result, for what a failing test says.
    fn results(&self) -> String {
        let mut text = String::new();
        for part in self.json["parts"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "{}: {} {}", part["name"], part["result"], part["why"]);
        }
        text
    }
}

fn in_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("no {program} in PATH"))
}

/// Processes that live and whose command line names the folder.
fn alive(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap().path();
            let said =
                String::from_utf8_lossy(&fs::read(entry.join("cmdline")).ok()?).replace('\0', " ");
            said.contains(folder).then(|| format!("{}: {said}", entry.display()))
        })
        .collect()
}

/// Waits until `ticks`, to which nanochat's compilation appends, grows.
const GOES_ON: &str = r#"
    seen=$(wc -c <"$here/ticks" 2>/dev/null || echo 0); tries=0
    until [ "$(wc -c <"$here/ticks" 2>/dev/null || echo 0)" -gt "$seen" ]; do
        sleep 0.05; tries=$((tries + 1)); [ $tries -lt 600 ] || { echo "error: the warm-up does not go on"; exit 1; }
    done
"#;
/// Fails if it grows.
const STANDS_STILL: &str = r#"
    seen=$(wc -c <"$here/ticks"); sleep 0.4
    [ "$(wc -c <"$here/ticks")" = "$seen" ] || { echo "error: the warm-up goes on beside $0 $*"; exit 1; }
"#;
/// A python3 with torch, for which nanochat's compilation takes until `enough` is there: a child of its own appends to `ticks` meanwhile.
const PYTHON: &str = r#"
    case $all in
    *importlib*) echo "3.12.3 torch 2.11.0"; exit ;;
    *is_available*) exit 0 ;;
    *" --depths 12 "*) depth=12 both=60.5 ;;
    *" --depths 24 "*) depth=24 both=400 ;;
    esac
    [ -f "$NANOCHAT_DIR/gpu_nanochat.py" ] && [ -n "$TORCHINDUCTOR_CACHE_DIR$TRITON_CACHE_DIR" ] || exit 3
    bin=$NANOCHAT_DIR/../bin
    case $all in
    *" --warm 1 --steps 1 "*)
        echo "warm $depth" >>"$bin/order"
        sh -c "until [ -e '$bin/enough' ]; do printf x >>'$bin/ticks'; sleep 0.05; done" &
        wait ;;
    *)
        echo "timed $depth" >>"$bin/order"
        seen=$(wc -c <"$bin/ticks"); sleep 0.3
        [ "$(wc -c <"$bin/ticks")" = "$seen" ] || { echo "error: a warm-up goes on beside it"; exit 4; }
        for precision in bfloat16 fp8; do
            echo "{\"side\": \"nanochat\", \"depth\": $depth, \"precision\": \"$precision\", \"micro_ms\": $both, \"attention_ms\": {\"512\": {\"layers\": 3, \"forward_ms\": 1.0, \"both_ms\": 4.0}}}"
        done
        echo '{"half": [1, 2' ;;
    esac
"#;

#[test]
fn a_whole_run_with_nothing_but_bash_coreutils_and_awk() {
    let conform = format!("{GOES_ON}{CONFORM}");
    let ceilings = format!("{STANDS_STILL}{CEILINGS}");
    let gpu_step = format!("case $all in *' --once '*) ;; *) {STANDS_STILL} ;; esac\n{GPU_STEP}");
    let same_bits = format!(
        "case $all in *' device '*) ;; *) {GOES_ON} : >\"$here/enough\" ;; esac\n{SAME_BITS}"
    );
    let stage = Stage::new(&[
        ("conform", &conform),
        ("ceilings", &ceilings),
        ("gpu_step", &gpu_step),
        ("same_bits", &same_bits),
    ]);
    stage.nanochat();
    stage.program(
        "ncu",
        "for n in 1 2 3 4 5; do echo \"==PROF== Profiling kernel\"; done; exit 9\n",
    );
    stage.program(
        "compute-sanitizer",
        "echo \"$2\" >>\"${9%/*}/sanitizer\"\nshift 8; exec \"$@\"\n",
    );
    let ran = stage.run("");
    assert_eq!(ran.status, Some(0), "{}{}{}", ran.results(), ran.stdout, ran.stderr);
    assert_eq!(ran.stderr, "", "a program that is not there is missed on stderr");
    for part in ran.json["parts"].as_array().unwrap() {
        assert_eq!(part["result"], "passed", "{}", ran.results());
    }
    // The one that d24 needed the memory of began again; nothing was timed before all had ended.
    assert_eq!(stage.noted("order"), ["warm 12", "warm 12", "warm 24", "timed 12", "timed 24"]);
    assert!(ran.summary.contains("ran before nanochat"), "{}", ran.summary);
    assert_eq!(stage.noted("sanitizer"), ["memcheck", "racecheck"]);
    assert_eq!(ran.json["gpu"], "NVIDIA H200");
    assert_eq!(ran.json["commit"], "0123abc");
    assert_eq!(ran.json["conformance"]["bodies"][0]["name"], "rms_norm");
    assert_eq!(ran.json["same_bits"]["kernels"][1]["differ"], 2);
    assert_eq!(ran.json["same_bits"]["kernels"][0]["name"], "cast");
    assert_eq!(ran.json["nanochat"].as_array().unwrap().len(), 4, "{}", ran.json["nanochat"]);
    assert_eq!(ran.json["ratio"]["d12"]["bf16"], 0.9917);
    assert_eq!(ran.json["ratio"]["d24"]["ours_ms"], 400.5);
    for line in [
        "2",
        "NVIDIA H200, `./run.sh RESULTS --seconds 540 --device cuda:0`, commit 0123abc\n",
        "| copy | 4300 |",
        "| attention_128 | 1.5 |",
        "FlexAttention",
        "| 24 | 400.5 | 400 | 1.001 | 400 | 1.001 |",
        "| d12 fp8 | 60.5 | 12.0 |",
    ] {
        assert!(ran.summary.contains(line), "{line}: {}", ran.summary);
    }
    let (_, last) = ran.stdout.split_once(&ran.summary).expect("the summary is printed");
    assert_eq!(last.lines().count(), 1 + 12, "and after it what became of each part: {last}");
    assert!(fs::read_dir(stage.path("results")).unwrap().count() <= 8);
    assert!(
        fs::read_to_string(stage.path("results/parts.log")).unwrap().contains("==== ceilings\n")
    );
    assert_eq!(alive(stage.folder.path()), [""; 0]);
}

#[test]
fn a_warm_up_that_was_stopped_goes_on_and_what_is_not_timed_comes_before_nanochat() {
    let ceilings = format!("{STANDS_STILL}{CEILINGS}");
    let same_bits = format!(
        "case $all in *' device '*) ;; *) {GOES_ON} echo bits >>\"$here/order\"; : >\"$here/enough\" ;; esac\n{SAME_BITS}"
    );
    let conform = format!("{GOES_ON}{CONFORM}");
    let stage =
        Stage::new(&[("conform", &conform), ("ceilings", &ceilings), ("same_bits", &same_bits)]);
    stage.nanochat();
    let ran = stage.run("--seconds 60 --parts conformance,ceilings,nanochat,same_bits");
    assert_eq!(ran.status, Some(0), "{}{}", ran.results(), ran.stderr);
    assert_eq!(stage.noted("order"), ["warm 12", "bits", "warm 24", "timed 12", "timed 24"]);
}

#[test]
fn a_warm_up_that_does_not_end_is_ended_and_nanochat_timed_all_the_same() {
    let stage = Stage::new(&[]);
    stage.nanochat();
    let ran = stage.run("--seconds 20 --parts nanochat");
    assert_eq!(ran.status, Some(0), "{}{}", ran.results(), ran.stderr);
    assert_eq!(stage.noted("order"), ["warm 12", "timed 12", "timed 24"]);
    assert_eq!(alive(stage.folder.path()), [""; 0]);
}

/// Ignores TERM, and so do its child and an orphan of it; ends by itself after a while, so that a test that fails does end.
const HANGS: &str = r#"
    trap '' TERM
    (n=0; while [ $n -lt 600 ]; do n=$((n + 1)); sleep 0.2; done) &
    ( (n=0; while [ $n -lt 600 ]; do n=$((n + 1)); sleep 0.2; done) & )
    echo begun >"$here/begun"
    n=0; while [ $n -lt 600 ]; do n=$((n + 1)); sleep 0.2; done
"#;

#[test]
fn one_part_fails_and_one_hangs_and_the_rest_is_whole() {
    let conform = format!("case $all in *' --large '*) {HANGS} ;; esac\n{CONFORM}");
    let gpu_step = format!(
        "case $all in *' --depth 12 '*) echo 'error: the device | is \"away\"'; echo more; exit 1 ;; esac\n{GPU_STEP}"
    );
    let same_bits = format!(
        "case $all in *the_gpu_gives*) printf 'thread x panicked at a.rs:1:2:\\ndiffer: cast\\nnote: see\\n\\ntest x ... FAILED\\nfailures:\\n    x\\ntest result: FAILED.\\n'; exit 101 ;; esac\n{SAME_BITS}"
    );
    let stage =
        Stage::new(&[("conform", &conform), ("gpu_step", &gpu_step), ("same_bits", &same_bits)]);
    let ran = stage.run("--seconds 40 --parts same_bits,check,d12,large,conformance");
    assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
    let (result, why) = ran.part("large");
    assert!(
        result == "ran out of time" && why.starts_with("conform: not done after"),
        "{}",
        ran.results()
    );
    assert_eq!(ran.part("d12"), ("FAILED", "gpu_step: status 1, error: the device | is \"away\""));
    assert_eq!(ran.part("same_bits"), ("FAILED", "same_bits: status 101, differ: cast"));
    for part in ["environment", "conformance", "check"] {
        assert_eq!(ran.part(part).0, "passed", "{}", ran.results());
    }
    assert!(
        ran.json["large"].is_null()
            && ran.json["d12"].is_null()
            && ran.json["check"]["micro_ms"] == 60
    );
    assert!(
        ran.summary
            .contains("| d12 | FAILED: gpu_step: status 1, error: the device / is \"away\" |"),
        "{}",
        ran.summary
    );
    assert_eq!(stage.noted("begun"), ["begun"]);
    assert_eq!(alive(stage.folder.path()), [""; 0]);
}

#[test]
fn without_a_gpu_the_script_says_so_and_runs_nothing() {
    let reached = "touch \"$here/reached\"\n";
    let stage = Stage::new(&[
        ("same_bits", "echo 'no CUDA driver: libcuda.so.1 is not there' >&2; exit 101\n"),
        ("conform", reached),
        ("ceilings", reached),
        ("gpu_step", reached),
    ]);
    let ran = stage.run("");
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no usable GPU") && ran.stderr.contains("libcuda.so.1 is not there"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.part("environment").0, "FAILED");
    assert_eq!(ran.part("conformance"), ("skipped", "there is no usable GPU"));
    assert!(!stage.path("bundle/bin/reached").exists(), "went on without a GPU");
}

#[test]
fn the_emulator_needs_no_gpu_and_what_it_cannot_do_is_skipped_with_the_reason() {
    let same_bits = "case $all in *' --exact two_emulators_give_the_same_bits '*) echo 'test result: ok. 1 passed; 0 failed' ;; *) exit 1 ;; esac\n";
    let gpu_step = format!("case $all in *' --toy '*) ;; *) exit 1 ;; esac\n{GPU_STEP}");
    let stage = Stage::new(&[("same_bits", same_bits), ("gpu_step", &gpu_step)]);
    let ran = stage.run("--device emulated --toy");
    assert_eq!(ran.status, Some(0), "{}{}", ran.results(), ran.stderr);
    for (part, why) in [
        ("large", "hours"),
        ("nanochat", "GPU"),
        ("counters", "ncu"),
        ("sanitizer", "compute-sanitizer"),
    ] {
        let (result, said) = ran.part(part);
        assert!(result == "skipped" && said.contains(why), "{}", ran.results());
    }
    for part in ["conformance", "ceilings", "check", "d12", "d24", "same_bits"] {
        assert_eq!(ran.part(part).0, "passed", "{}", ran.results());
    }
    assert!(ran.json["gpu"].is_null() && ran.json["toy"] == true);
}

#[test]
fn a_filter_that_runs_no_test_is_no_success() {
    let stage = Stage::new(&[(
        "same_bits",
        "echo 'test result: ok. 0 passed; 0 failed; 9 filtered out'\n",
    )]);
    let ran = stage.run("--device emulated --toy --parts same_bits");
    assert_eq!(ran.status, Some(1), "{}", ran.results());
    assert!(ran.part("same_bits").1.contains("no test two_emulators"), "{}", ran.results());
}

#[test]
fn halves_of_json_and_long_logs_do_no_harm() {
    let conform = "echo '{\"bodies\": [' >\"$json\"\n";
    let ceilings = "echo first; n=0; while [ $n -lt 40000 ]; do echo 'a line that fills the log, and another forty bytes'; n=$((n + 1)); done; echo last\n";
    let stage = Stage::new(&[("conform", conform), ("ceilings", ceilings)]);
    let ran = stage.run("--parts conformance,ceilings,d24");
    assert_eq!(ran.status, Some(0), "{}", ran.results());
    assert!(
        ran.json["conformance"].is_null()
            && ran.json["d24"]["micro_ms"] == 400.5
            && ran.json["d24_rows_32"]["micro_ms"] == 400.5
    );
    let log = fs::read_to_string(stage.path("results/parts.log")).unwrap();
    assert!(
        log.len() < 1_500_000
            && log.contains("\nfirst\n")
            && log.contains("\nlast\n")
            && log.contains("bytes left out"),
        "{}",
        log.len()
    );
}

#[test]
fn a_script_that_is_told_to_stop_still_says_what_it_has() {
    let gpu_step = format!("{HANGS}{GPU_STEP}");
    let stage = Stage::new(&[("gpu_step", &gpu_step)]);
    let child: Child =
        stage.command("").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !stage.path("bundle/bin/begun").exists() {
        assert!(began.elapsed() < Duration::from_mins(2), "check does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    // What a KILL at this moment would leave.
    let interim: Value =
        serde_json::from_str(&fs::read_to_string(stage.path("results/summary.json")).unwrap())
            .unwrap();
    assert_eq!(interim["parts"][1]["result"], "passed", "{interim}");
    assert!(
        Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success()
    );
    let ran = stage.ran(child.wait_with_output().unwrap());
    assert_eq!(ran.status, Some(143), "{}", ran.stderr);
    assert_eq!(ran.part("conformance").0, "passed");
    assert_eq!(ran.part("check"), ("stopped", "run.sh was told to stop (TERM)"));
    assert_eq!(ran.part("d24"), ("skipped", "run.sh was told to stop (TERM)"));
    assert!(
        ran.stdout.contains(&ran.summary) && ran.summary.contains("| check | stopped"),
        "{}",
        ran.stdout
    );
    assert_eq!(alive(stage.folder.path()), [""; 0]);
}

#[test]
fn arguments_that_are_wrong_are_refused() {
    let stage = Stage::new(&[]);
    for (arguments, said) in [
        ("--parts d13", "unknown part d13"),
        ("--seconds soon", "no number of seconds"),
        ("--seconds 3", "too little"),
        ("--device cuda:1", "unknown device"),
        ("--fast", "unknown option"),
        ("elsewhere", "two folders"),
        ("--parts", "has no value"),
    ] {
        let ran = stage.run(arguments);
        assert_eq!(ran.status, Some(2), "{arguments}");
        assert!(
            ran.stderr.contains(said) && ran.stderr.contains("hint: "),
            "{arguments}: {}",
            ran.stderr
        );
    }
    assert!(!stage.path("results").exists());
}

#[test]
fn the_script_calls_every_part_and_no_other() {
    let called = RUN.matches("$bin/").count();
    let mut known = 0;
    for part in super::PARTS {
        let times = RUN.matches(&format!("\"$bin/{}\"", part.name)).count();
        assert!(times > 0, "run.sh does not call {}", part.name);
        known += times;
    }
    assert_eq!(called, known, "run.sh calls something that is not bundled");
}
