//! Signals that ask a run to stop: the first one lets the stage leave a checkpoint, a second one ends the process.
//!
//! Ctrl-C is SIGINT. SIGTERM is how batch queues, containers and service managers end a process before they kill it, SIGHUP how a terminal that
//! closes does, SIGUSR1 how a batch queue tells beforehand (Slurm's `--signal=USR1@300`).

use crate::Cancel;
use crate::progress::Screen;

/// What a process's exit code is when a signal ended it.
pub(crate) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// Listens from now on. Where that cannot be, signals do what they always do.
#[cfg(unix)]
pub(crate) fn listen(cancel: &Cancel, screen: &Screen) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

    let mut heard = vec![SIGINT, SIGTERM, SIGUSR1];
    // Who started the run with `nohup` wants it to outlive the terminal.
    if !is_ignored(SIGHUP) {
        heard.push(SIGHUP);
    }
    let Ok(mut signals) = signal_hook::iterator::Signals::new(heard) else { return };
    let (cancel, screen) = (cancel.clone(), screen.clone());
    let listen = move || {
        let mut last = None;
        for signal in signals.forever() {
            let now = std::time::Instant::now();
            match last {
                None => {
                    cancel.request_by(signal);
                    screen.line(&told(signal));
                }
                Some((before, when)) if is_second(before, signal, now - when) => {
                    std::process::exit(i32::from(exit_code(signal)));
                }
                Some(_) => {}
            }
            last = Some((signal, now));
        }
    };
    // Without the thread nobody would hear them.
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(listen);
}

/// Has a file that may not grow any more (`ulimit -f`) be an error of who writes it, and not the end of the process.
#[cfg(unix)]
pub(crate) fn survive_large_files() {
    /// On Linux and macOS.
    const SIGXFSZ: i32 = 25;
    // Where that cannot be, the signal's name says what was wrong.
    let _ = signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default());
}

/// Whether a signal after another one is meant as "at once". Terminals and launchers send some twice in the same moment, and a queue that
/// told beforehand still gives the time that it said.
#[cfg(unix)]
fn is_second(before: i32, signal: i32, after: std::time::Duration) -> bool {
    use signal_hook::consts::{SIGINT, SIGUSR1};

    let told_beforehand = before == SIGUSR1 && signal != SIGINT;
    !told_beforehand && signal != SIGUSR1 && after >= std::time::Duration::from_millis(50)
}

#[cfg(unix)]
fn told(signal: i32) -> String {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let (name, again) = match signal {
        SIGINT => {
            return "stopping as soon as the stage can; press Ctrl-C again to stop at once"
                .to_owned();
        }
        SIGTERM => ("SIGTERM", "a second one stops at once"),
        SIGHUP => ("SIGHUP", "a second one stops at once"),
        _ => ("SIGUSR1", "Ctrl-C stops at once"),
    };
    format!("{name}: stopping as soon as the stage can; {again}")
}

/// Whether whoever started this process had it ignore a signal; only Linux says.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The first Ctrl-C asks the stage to stop, the second ends the process.
#[cfg(not(unix))]
pub(crate) fn listen(cancel: &Cancel, screen: &Screen) {
    const SIGINT: i32 = 2;
    let (cancel, screen) = (cancel.clone(), screen.clone());
    let handler = move || {
        if cancel.requested() {
            std::process::exit(i32::from(exit_code(SIGINT)));
        }
        cancel.request_by(SIGINT);
        screen.line("stopping as soon as the stage can; press Ctrl-C again to stop at once");
    };
    // Fails where another handler is in place: then that one decides.
    let _ = ctrlc::set_handler(handler);
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

    use super::*;

    #[test]
    fn a_second_signal_is_one_that_somebody_sent_on_purpose() {
        let (moment, later) = (Duration::from_millis(2), Duration::from_secs(2));
        for (before, signal, after, at_once) in [
            (SIGINT, SIGINT, later, true),
            (SIGTERM, SIGTERM, later, true),
            (SIGTERM, SIGINT, later, true),
            (SIGHUP, SIGHUP, moment, false),
            (SIGINT, SIGINT, moment, false),
            (SIGUSR1, SIGTERM, later, false),
            (SIGUSR1, SIGUSR1, later, false),
            (SIGUSR1, SIGINT, later, true),
        ] {
            assert_eq!(is_second(before, signal, after), at_once, "{before} then {signal}");
        }
        assert_eq!([exit_code(SIGINT), exit_code(SIGTERM), exit_code(SIGHUP)], [130, 143, 129]);
    }
}
