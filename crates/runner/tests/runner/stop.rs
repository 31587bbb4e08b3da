//! Signals: the first one stops with what is done so far, its number is in the exit code, a second one stops at once.
#![cfg(unix)]

use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use crate::harness::Place;

const SLOW: &str = "[stage.slow]\nuses = \"slow\"\nsteps = 1000000\nexec = { sleep_ms = 2 }\n";

/// Waits for the first checkpoint.
fn at_work(place: &Place) -> Child {
    let child = place.spawn(&["p.toml"]);
    let saved = |place: &Place| {
        let partial = place.entries(".partial");
        partial.iter().any(|entry| entry.join(".scratch/checkpoint").exists())
    };
    place.wait_for(saved);
    child
}

fn send(child: &Child, signal: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

fn ended(child: Child) -> (ExitStatus, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

#[test]
fn each_signal_stops_and_is_named_by_the_exit_code() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129), ("-USR1", 138)] {
        let place = Place::with(SLOW);
        let child = at_work(&place);
        send(&child, signal);
        let (status, _, stderr) = ended(child);
        assert_eq!(status.code(), Some(code), "{signal}: {stderr}");
        assert!(stderr.contains("stopped in stage `slow`"), "{signal}: {stderr}");
        assert!(stderr.contains("what is done so far is kept; resume with\n"), "{stderr}");
        let runs = std::fs::read_dir(place.path("runs/p")).unwrap();
        let run = runs.map(|run| run.unwrap().path()).next().unwrap();
        let lineage = std::fs::read_to_string(run.join("run.json")).unwrap();
        assert!(lineage.contains("\"status\": \"stopped\""), "{lineage}");
        assert!(!run.join(".alive").exists());
        let planned = place.go(&["--plan"]);
        assert!(planned.stdout.contains("resumes what was cut off"), "{}", planned.screen());
    }
}

#[test]
fn a_second_one_stops_what_does_not_listen() {
    for (first, second, code) in
        [("-INT", "-INT", 130), ("-TERM", "-TERM", 143), ("-USR1", "-INT", 130)]
    {
        // A step of a minute: the stage cannot look before that.
        let place = Place::with(&SLOW.replace("sleep_ms = 2", "sleep_ms = 60000"));
        let child = place.spawn(&["p.toml"]);
        place.wait_for(|place| !place.entries(".partial").is_empty());
        std::thread::sleep(Duration::from_millis(200));
        send(&child, first);
        std::thread::sleep(Duration::from_millis(400));
        send(&child, second);
        let (status, _, stderr) = ended(child);
        assert_eq!(status.code(), Some(code), "{stderr}");
        assert!(stderr.contains("stopping as soon as the stage can"), "{stderr}");
    }
}

#[test]
fn a_queue_that_told_beforehand_gives_the_time_that_it_said() {
    let place = Place::with(&SLOW.replace("sleep_ms = 2", "sleep_ms = 900"));
    let child = place.spawn(&["p.toml"]);
    place.wait_for(|place| !place.entries(".partial").is_empty());
    std::thread::sleep(Duration::from_millis(200));
    send(&child, "-USR1");
    std::thread::sleep(Duration::from_millis(200));
    send(&child, "-TERM");
    let (status, _, stderr) = ended(child);
    assert_eq!(status.code(), Some(138), "{stderr}");
    assert!(stderr.contains("stopped in stage `slow`"), "{stderr}");
}
