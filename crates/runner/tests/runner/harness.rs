//! Runs the command line in a process of its own: this test binary again, told to be the runner.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

const ARGS: &str = "FARTHING_TEST_ARGS";

/// Whether stages run in processes of their own.
pub(crate) const PROCESSES: &str = "FARTHING_TEST_PROCESSES";

/// The test that is the runner when the parent says so.
#[test]
fn child() {
    let Ok(args) = std::env::var(ARGS) else { return };
    let args: Vec<String> = serde_json::from_str(&args).unwrap();
    let app = crate::toys::app();
    let app = if std::env::var_os(PROCESSES).is_some() { app.with_processes() } else { app };
    std::process::exit(i32::from(app.run(args)));
}

/// A folder with pipeline files, a store and runs.
pub(crate) struct Place {
    dir: TempDir,
}

/// What a command printed.
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A folder with `p.toml`, `[pipeline]` being added.
    pub(crate) fn with(stages: &str) -> Self {
        let place = Self::new();
        place.file(stages);
        place
    }

    pub(crate) fn file(&self, stages: &str) {
        let head = "[pipeline]\nname = \"p\"\nformat = 1\nseed = 7\n\n";
        std::fs::write(self.path("p.toml"), format!("{head}{stages}")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.spawn_in("", args, &[])
    }

    /// From a folder inside, with these variables of the environment.
    pub(crate) fn spawn_in(&self, folder: &str, args: &[&str], vars: &[(&str, &str)]) -> Child {
        self.command(Command::new(std::env::current_exe().unwrap()), folder, args, vars)
            .spawn()
            .unwrap()
    }

    /// After these commands of a shell.
    #[cfg(unix)]
    pub(crate) fn spawn_after(
        &self,
        commands: &str,
        args: &[&str],
        vars: &[(&str, &str)],
    ) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{commands}; exec \"$0\" \"$@\"")]);
        shell.arg(std::env::current_exe().unwrap());
        self.command(shell, "", args, vars).spawn().unwrap()
    }

    /// What starts the runner: this command, with these arguments after its own.
    pub(crate) fn command(
        &self,
        mut command: Command,
        folder: &str,
        args: &[&str],
        vars: &[(&str, &str)],
    ) -> Command {
        let all: Vec<&str> = ["runner"].iter().chain(args).copied().collect();
        command
            .args(["harness::child", "--exact", "--nocapture", "--test-threads=2"])
            .env(ARGS, serde_json::to_string(&all).unwrap())
            .env("COLUMNS", "100")
            .env("RUST_BACKTRACE", "0")
            .env_remove("FARTHING_STORE")
            .env_remove("FARTHING_RUNS")
            .envs(vars.iter().copied())
            .current_dir(self.dir.path().join(folder))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        Output::of(self.spawn(args))
    }

    pub(crate) fn run_in(&self, folder: &str, args: &[&str], vars: &[(&str, &str)]) -> Output {
        Output::of(self.spawn_in(folder, args, vars))
    }

    /// Waits until something has come about.
    pub(crate) fn wait_for(&self, is: impl Fn(&Self) -> bool) {
        let began = std::time::Instant::now();
        while !is(self) {
            assert!(began.elapsed() < std::time::Duration::from_mins(1), "it did not come");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Runs `p.toml`.
    pub(crate) fn go(&self, args: &[&str]) -> Output {
        let all: Vec<&str> = ["p.toml"].iter().chain(args).copied().collect();
        self.run(&all)
    }

    /// Folders in the store's `stages` whose names end so.
    pub(crate) fn entries(&self, end: &str) -> Vec<PathBuf> {
        let Ok(list) = std::fs::read_dir(self.path("store/stages")) else { return Vec::new() };
        let mut list: Vec<PathBuf> = list.map(|e| e.unwrap().path()).collect();
        list.retain(|p| p.to_string_lossy().ends_with(end));
        list.sort();
        list
    }
}

impl Output {
    pub(crate) fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        // The test harness speaks before the runner does.
        let stdout = stdout.split_once("running 1 test\n").map_or("", |(_, rest)| rest).to_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Everything, with times and run folders replaced.
    pub(crate) fn screen(&self) -> String {
        let text =
            format!("{}──── standard error\n{}──── exit {}", self.stdout, self.stderr, self.code);
        normalise(&text)
    }

    /// Each stage's status in the final table.
    pub(crate) fn statuses(&self) -> Vec<(String, String)> {
        let lines = self.stdout.lines().skip_while(|l| !l.contains("status  "));
        lines
            .skip(1)
            .take_while(|l| !l.is_empty())
            .map(|l| {
                let mut words = l.split_whitespace().map(str::to_owned);
                (words.next().unwrap(), words.next().unwrap())
            })
            .collect()
    }

    /// The stages that did work.
    pub(crate) fn ran(&self) -> Vec<String> {
        assert_eq!(self.code, 0, "{}", self.screen());
        let done = self.statuses().into_iter().filter(|(_, status)| status == "done");
        done.map(|(name, _)| name).collect()
    }

    pub(crate) fn why(&self, stage: &str) -> String {
        let line = self.stdout.lines().find(|l| l.trim_start().starts_with(&format!("{stage} ")));
        let line = line.unwrap_or_else(|| panic!("no stage {stage}: {}", self.screen()));
        line.split("  ").last().unwrap().trim().to_owned()
    }
}

/// Replaces times (`1.2 s`, `12 s`) and the names of run folders; what a slow machine shows of its progress is left out.
fn normalise(text: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let word = |(i, word): (usize, &&str)| {
            let seconds =
                words.get(i + 1).is_some_and(|next| next.starts_with('s') && next.len() <= 2);
            if seconds && word.parse::<f64>().is_ok() {
                return "0.0".to_owned();
            }
            let is_run = |part: &str| part.len() == 20 && part.as_bytes()[15] == b'-';
            let parts = word.split('/').map(|part| if is_run(part) { "TIME-ID" } else { part });
            parts.collect::<Vec<_>>().join("/")
        };
        words.iter().enumerate().map(word).collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    let is_progress = |l: &&str| l.starts_with("  ") && l.contains(": running for ");
    text.lines().filter(|l| !is_progress(l)).map(line).collect::<Vec<_>>().join("\n")
}

/// Every file under a folder with its bytes.
pub(crate) fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}
