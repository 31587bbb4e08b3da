//! How a child ended that said nothing: by a signal, which is named, or by an exit code.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV};
use signal_hook::low_level::signal_name;

use crate::failure::Told;

/// Of ulimit's two, which are no constants of the library.
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// How often the system has ended a process because memory ran out, as far as it says: in this container, and on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfMemory(u64);

impl OutOfMemory {
    /// So far.
    pub(super) fn so_far() -> Self {
        let count = |file: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        Self(count("/sys/fs/cgroup/memory.events") + count("/proc/vmstat"))
    }
}

/// The error of a stage whose process has ended without a word; `last` are the last lines that it wrote.
pub(super) fn told(status: ExitStatus, last: &VecDeque<String>, before: OutOfMemory) -> Told {
    let (what, hint, may_pass) = match status.signal() {
        Some(signal) => by_signal(signal, last, OutOfMemory::so_far() != before),
        None => {
            let code = status.code().unwrap_or_default();
            (format!("ended with exit code {code} and without a word"), None, false)
        }
    };
    let core = if status.core_dumped() { " (core dumped)" } else { "" };
    let mut said = format!("the stage's process {what}{core}");
    let words: Vec<&str> = last.iter().map(String::as_str).collect();
    if !words.is_empty() {
        said = format!("{said}; its last words: {}", words.join(" / "));
    }
    if let Some(hint) = hint {
        said = format!("{said}\nhint: {hint}");
    }
    Told { said: vec![said], may_pass, code: 1 }
}

const LESS_MEMORY: &str = "give it more memory or less to hold, such as fewer rows in a micro-batch; `resources = { memory_gb = N }` keeps other stages from running beside it";

fn by_signal(
    signal: i32,
    last: &VecDeque<String>,
    out_of_memory: bool,
) -> (String, Option<&'static str>, bool) {
    let name = signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned);
    let name = match signal {
        SIGXCPU => "SIGXCPU".to_owned(),
        SIGXFSZ => "SIGXFSZ".to_owned(),
        _ => name,
    };
    let refused = last.iter().any(|line| line.contains("memory allocation of"));
    let (what, hint, may_pass) = match signal {
        SIGKILL if out_of_memory => {
            ("the system ended it because memory ran out", Some(LESS_MEMORY), true)
        }
        SIGKILL => ("somebody killed it, or the system, for want of memory", None, true),
        SIGABRT if refused => {
            ("it was refused the memory that it asked for", Some(LESS_MEMORY), false)
        }
        SIGABRT => ("it gave up", None, false),
        SIGSEGV | SIGBUS => ("it touched memory that is not its own", None, false),
        SIGILL | SIGFPE => ("it did what this processor cannot do", None, false),
        SIGXFSZ => ("a file grew beyond what `ulimit -f` allows", None, false),
        SIGXCPU => ("it took more of the processor than `ulimit -t` allows", None, false),
        _ => ("somebody ended it", None, true),
    };
    (format!("was ended by {name}: {what}"), hint, may_pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_words() {
        let none = VecDeque::new();
        let refused = VecDeque::from(["memory allocation of 12 bytes failed".to_owned()]);
        for (raw, last, words, may_pass) in [
            (11, &none, "was ended by SIGSEGV: it touched memory", false),
            (9, &none, "was ended by SIGKILL: somebody killed it", true),
            (6, &none, "was ended by SIGABRT: it gave up", false),
            (
                6,
                &refused,
                "it was refused the memory that it asked for; its last words: memory allocation of 12",
                false,
            ),
            (25, &none, "was ended by SIGXFSZ: a file grew", false),
            (3 << 8, &none, "ended with exit code 3 and without a word", false),
        ] {
            let told = told(ExitStatus::from_raw(raw), last, OutOfMemory::so_far());
            assert!(told.said[0].contains(words), "{told:?}");
            assert_eq!(told.may_pass, may_pass, "{told:?}");
        }
        let (killed, hint, _) = by_signal(SIGKILL, &none, true);
        assert!(killed.contains("memory ran out") && hint.is_some());
    }
}
