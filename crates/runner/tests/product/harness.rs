//! Runs the `runner` binary in a folder of its own and makes its screens comparable.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The whole way from raw text to a report with a model of two layers.
pub(crate) const NANO: &str = include_str!("nano.toml");

/// The folder of one test: `p.toml`, a store and runs.
pub(crate) struct Place {
    dir: TempDir,
}

/// What a command printed.
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    place: PathBuf,
}

impl Place {
    /// A folder with the small pipeline.
    pub(crate) fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.file(NANO);
        place
    }

    /// One whose pipeline has run up to a stage.
    pub(crate) fn until(stage: &str) -> Self {
        let place = Self::new();
        place.done(&["--until", stage]);
        place
    }

    /// Writes the pipeline file.
    pub(crate) fn file(&self, text: &str) {
        std::fs::write(self.path("p.toml"), text).unwrap();
    }

    /// Replaces a passage of the pipeline file.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("p.toml")).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from}");
        self.file(&text.replace(from, to));
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.spawn_with(args, &[])
    }

    /// With these variables of the environment, and no other that says how the Hub is reached.
    pub(crate) fn spawn_with(&self, args: &[&str], vars: &[(&str, &str)]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        let own = ["FARTHING_STORE", "FARTHING_RUNS"];
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"]
            .into_iter()
            .chain(own)
        {
            command.env_remove(name);
        }
        command
            .args(args)
            .env("COLUMNS", "100")
            .env("RUST_BACKTRACE", "0")
            .envs(vars.iter().copied())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.output(self.spawn(args))
    }

    pub(crate) fn output(&self, child: Child) -> Output {
        let output = child.wait_with_output().unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            place: self.dir.path().to_owned(),
        }
    }

    /// Runs `p.toml`.
    pub(crate) fn go(&self, args: &[&str]) -> Output {
        let all: Vec<&str> = ["p.toml"].iter().chain(args).copied().collect();
        self.run(&all)
    }

    /// Runs `p.toml`, which must go well.
    pub(crate) fn done(&self, args: &[&str]) -> Output {
        let output = self.go(args);
        assert_eq!(output.code, Some(0), "{}", output.screen());
        output
    }

    /// The whole cache entry of a stage; there must be one.
    pub(crate) fn entry(&self, stage: &str) -> PathBuf {
        let entries = std::fs::read_dir(self.path("store/stages")).unwrap();
        let found: Vec<PathBuf> = entries
            .map(|e| e.unwrap().path())
            .filter(|e| e.extension().is_none() && json(&e.join("stage.json"))["stage"] == stage)
            .collect();
        assert_eq!(found.len(), 1, "{stage}: {found:?}");
        found[0].clone()
    }

    /// The bytes of the trained model.
    pub(crate) fn model(&self) -> Vec<u8> {
        std::fs::read(self.entry("train").join("checkpoint/model.safetensors")).unwrap()
    }

    /// The folder of the last run.
    pub(crate) fn last_run(&self) -> PathBuf {
        let runs = std::fs::read_dir(self.path("runs/nano")).unwrap().map(|e| e.unwrap().path());
        let started = |run: &PathBuf| std::fs::metadata(run).unwrap().modified().unwrap();
        runs.max_by_key(started).unwrap()
    }
}

/// A file's JSON.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A file's JSON lines.
pub(crate) fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Changes one bit in the middle of a file's last quarter, where tensors are and no header.
pub(crate) fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - bytes.len() / 8;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

impl Output {
    /// Everything, with what differs from run to run replaced.
    pub(crate) fn screen(&self) -> String {
        let code = self.code.map_or("by a signal".to_owned(), |code| code.to_string());
        let all = format!("{}──── standard error\n{}──── exit {code}", self.stdout, self.stderr);
        self.normalise(&all)
    }

    /// The error screen without the progress before it, and the exit code.
    pub(crate) fn fault(&self) -> String {
        let from = self.stderr.find("error: ").or(self.stderr.find("error[")).unwrap_or(0);
        let code = self.code.map_or("by a signal".to_owned(), |code| code.to_string());
        self.normalise(&format!("{}──── exit {code}", &self.stderr[from..]))
    }

    /// A screen in which each number is `0` and gaps have one width, without what a model wrote and what a slow machine
    /// shows of its progress.
    pub(crate) fn masked(&self) -> String {
        let screen = self.screen();
        let is_progress =
            |l: &&str| l.starts_with("  ") && (l.contains("/s") || l.contains("running"));
        let shown = screen.lines().filter(|l| !is_progress(l)).map(|line| {
            let parts = [line.find("sample: "), line.find("sample 1 "), line.find("sample 2 ")];
            match parts.into_iter().flatten().min() {
                Some(at) if line.starts_with("  ") => format!("{}…", &line[..at + 8]),
                _ => line.to_owned(),
            }
        });
        shown.map(|line| mask(&line)).collect::<Vec<_>>().join("\n")
    }

    fn normalise(&self, text: &str) -> String {
        let text = text.replace(env!("CARGO_BIN_EXE_runner"), "runner");
        let place = std::fs::canonicalize(&self.place).unwrap_or_else(|_| self.place.clone());
        let text = text.replace(&*place.to_string_lossy(), "PLACE");
        let text = text.replace(&*self.place.to_string_lossy(), "PLACE");
        let mut out = String::new();
        let mut word = String::new();
        for c in text.chars().chain(['\n']) {
            if c.is_ascii_alphanumeric() || c == '-' {
                word.push(c);
                continue;
            }
            out.push_str(&replaced(&word));
            word.clear();
            out.push(c);
        }
        out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// The stages that did work.
    pub(crate) fn ran(&self) -> Vec<String> {
        assert_eq!(self.code, Some(0), "{}", self.screen());
        let lines = self.stdout.lines().skip_while(|l| !l.contains("status  ")).skip(1);
        let words = lines.take_while(|l| !l.is_empty()).map(|l| {
            let mut words = l.split_whitespace();
            (words.next().unwrap().to_owned(), words.next().unwrap())
        });
        words.filter(|(_, status)| *status == "done").map(|(name, _)| name).collect()
    }

    /// Why a stage ran or not, from the table at the end.
    pub(crate) fn why(&self, stage: &str) -> String {
        let line = self.stdout.lines().find(|l| l.trim_start().starts_with(&format!("{stage} ")));
        let line = line.unwrap_or_else(|| panic!("no stage {stage}: {}", self.screen()));
        line.split("  ").last().unwrap().trim().to_owned()
    }
}

/// Keys, digests and the names of run folders.
fn replaced(word: &str) -> String {
    let hex = |w: &str| w.bytes().all(|b| b.is_ascii_hexdigit());
    match word.len() {
        32 if hex(word) => "KEY".into(),
        64 if hex(word) => "DIGEST".into(),
        20 if word.as_bytes()[8] == b'-' && word.as_bytes()[15] == b'-' => "TIME-ID".into(),
        _ => word.into(),
    }
}

/// Every number as `0`, gaps of one width. The exit code stays.
pub(crate) fn mask(text: &str) -> String {
    if text.contains('\n') {
        return text.lines().map(mask).collect::<Vec<_>>().join("\n");
    }
    if text.starts_with("──── exit") {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let inside = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if c.is_ascii_digit() && !inside {
            let mut ahead = chars.clone();
            while let Some(c) = ahead.next() {
                if c.is_ascii_digit()
                    || ".,".contains(c) && ahead.peek().is_some_and(char::is_ascii_digit)
                {
                    chars.next();
                } else {
                    break;
                }
            }
            if out.ends_with('-') {
                out.pop();
            }
            out.push('0');
        } else if c == ' ' && out.ends_with("  ") {
        } else {
            out.push(c);
        }
    }
    out
}
