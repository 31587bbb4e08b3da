//! What reruns and what does not, and what happens to work that is cut off.

use std::fs;
use std::time::{Duration, Instant};

use insta::assert_snapshot;

use crate::harness::{Output, Place, contents};
use crate::stderr::read_to_line;

const CHAIN: &str = "[stage.hi]\nuses = \"write\"\ntext = \"hello\"\n\n[stage.trim]\nuses = \"trim\"\ninputs = { text = \"hi.text\" }\n\n\
[stage.count]\nuses = \"count\"\ninputs = { text = \"trim.text\" }\n\n[stage.other]\nuses = \"write\"\ntext = \"other\"\n";

#[test]
fn comments_order_and_spelled_out_defaults_change_nothing() {
    let place = Place::with(CHAIN);
    assert_eq!(place.go(&[]).ran(), ["hi", "trim", "count", "other"]);
    let other_spelling = "# a comment\n[stage.other]\nuses = \"write\"\ntext = 'other'\nresources = { threads = 1 }\n\n\
        [stage.count]\nuses = \"count\"\nneeds = [\"other\"]\ninputs.text = \"trim.text\"\n[stage.trim]\nuses = \"trim\"\ninputs = { text = \"hi.text\" }\n\
        [stage.hi]\nstyle = { upper = false }\nlines = 0x1\ntext = \"hel\\u006co\"\nuses = \"write\"\n";
    place.file(other_spelling);
    let again = place.go(&["--threads", "1"]);
    assert!(again.ran().is_empty(), "{}", again.screen());
    assert_eq!(again.why("hi"), "same config and inputs");
}

#[test]
fn a_source_that_changes_while_it_is_read_is_not_kept() {
    let place = Place::with("[stage.grow]\nuses = \"grow\"\npath = \"f\"\n");
    fs::write(place.path("f"), "half").unwrap();
    let torn = |output: &Output| {
        assert_eq!(output.code, 1, "{}", output.screen());
        let said = "a source file changed while the stage read it";
        assert!(output.stderr.contains(said), "{}", output.screen());
    };
    torn(&place.go(&[]));
    torn(&place.go(&[]));
    // It has grown enough.
    assert_eq!(place.go(&[]).ran(), ["grow"]);
    assert!(place.go(&[]).ran().is_empty());
}

#[test]
fn a_change_reruns_what_is_below_and_nothing_else() {
    let place = Place::with(CHAIN);
    place.go(&[]);
    let changed = place.go(&["--set", "hi.text=bye"]);
    assert_eq!(changed.ran(), ["hi", "trim", "count"]);
    assert_eq!(changed.why("hi"), "config changed: text \"hello\" → \"bye\"");
    assert_eq!(changed.why("trim"), "input text changed (stage hi)");
    let back = place.go(&[]);
    assert!(back.ran().is_empty());
    assert_eq!(back.why("hi"), "ran before with this: config changed: text \"bye\" → \"hello\"");
}

#[test]
fn the_seed_reruns_those_that_use_it() {
    let place = Place::with(CHAIN);
    place.go(&[]);
    let changed = place.go(&["--set", "pipeline.seed=8"]);
    assert_eq!(changed.ran(), ["hi", "other"], "the rest has equal inputs and no use for a seed");
    assert_eq!(changed.why("hi"), "seed changed: 7 → 8");
}

#[test]
fn equal_bytes_stop_the_cascade() {
    let place = Place::with(CHAIN);
    place.go(&[]);
    let changed = place.go(&["--set", "hi.text=hello "]);
    assert!(changed.ran().is_empty(), "a bare word is trimmed: {}", changed.screen());
    let changed = place.go(&["--set", "hi.text=\"hello \""]);
    assert_eq!(changed.ran(), ["hi", "trim"], "{}", changed.screen());
    assert_eq!(changed.why("count"), "same config and inputs");
}

#[test]
fn force_only_from_until() {
    let place = Place::with(CHAIN);
    let early = place.go(&["--only", "count"]);
    assert_eq!(early.code, 2);
    assert_snapshot!("only_without_inputs", early.screen());
    assert_eq!(place.go(&["--until", "trim"]).ran(), ["hi", "trim"]);
    assert_eq!(place.go(&["--only", "count"]).ran(), ["count"]);
    assert_eq!(place.go(&["--from", "trim"]).ran(), Vec::<String>::new());
    let forced = place.go(&["--force", "hi", "--force", "count"]);
    assert_eq!(forced.ran(), ["hi", "count", "other"], "trim's input has the bytes it had");
    assert_eq!(forced.why("hi"), "forced");
}

const SLOW: &str = "[stage.slow]\nuses = \"slow\"\nsteps = 60\nexec = { sleep_ms = 20 }\n\n[stage.hi]\nuses = \"write\"\nneeds = [\"slow\"]\ntext = \"a\"\n";

/// Keeps the slow stage from its end until there is a file `gate`.
const GATED: [&str; 3] = ["p.toml", "--set", "slow.exec.gate=\"gate\""];

/// Waits until a stage's work is under way.
fn wait_for_work(place: &Place) {
    let began = Instant::now();
    while place.entries(".partial").is_empty() {
        assert!(began.elapsed() < Duration::from_mins(1), "no stage began");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_any_moment_it_completes_with_equal_bytes() {
    let whole = Place::with(SLOW);
    assert_eq!(whole.go(&["--set", "slow.exec.sleep_ms=0"]).ran(), ["slow", "hi"]);
    let truth: Vec<_> = ["rows", "metrics"]
        .iter()
        .flat_map(|port| {
            let entry = whole.entries("").into_iter().find(|e| e.join("rows").exists()).unwrap();
            contents(&entry.join(port)).into_iter().map(|(_, bytes)| bytes)
        })
        .collect();

    let place = Place::with(SLOW);
    // Ten moments spread over the work by the golden ratio.
    for i in 1..=10 {
        let mut child = place.spawn(&GATED);
        wait_for_work(&place);
        std::thread::sleep(Duration::from_millis(20 + 150 * (i * 618 % 1000) / 1000));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            place
                .entries("")
                .iter()
                .filter(|e| !e.to_string_lossy().ends_with(".partial"))
                .all(|e| e.join("stage.json").exists())
        );
    }
    let planned = place.go(&["--plan"]);
    assert!(planned.stdout.contains("resumes what was cut off"), "{}", planned.screen());
    let end = place.go(&[]);
    assert_eq!(end.code, 0, "{}", end.screen());
    let entry = place.entries("").into_iter().find(|e| e.join("rows").exists()).unwrap();
    let found: Vec<_> =
        ["rows", "metrics"].iter().flat_map(|p| contents(&entry.join(p))).map(|(_, b)| b).collect();
    assert_eq!(found, truth);
    assert!(place.entries(".partial").is_empty());
    assert!(!entry.join(".scratch").exists());
    assert!(place.go(&[]).ran().is_empty());
}

#[test]
fn killed_while_it_recorded_what_it_made_leaves_nothing_more_than_that() {
    let place = Place::with(SLOW);
    assert_eq!(place.go(&["--set", "slow.exec.sleep_ms=0"]).code, 0);
    let entry = place.entries("").into_iter().find(|e| e.join("rows").exists()).unwrap();
    let names = || contents(&entry).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    let whole = names();
    let partial = entry.with_extension("partial");
    std::fs::rename(&entry, &partial).unwrap();
    std::fs::rename(partial.join("stage.json"), partial.join("stage.json.tmp")).unwrap();
    assert_eq!(place.go(&["--set", "slow.exec.sleep_ms=0"]).code, 0);
    assert_eq!(names(), whole);
}

#[test]
fn two_runners_do_the_work_once() {
    let place = Place::with(SLOW);
    let first = place.spawn(&GATED);
    wait_for_work(&place);
    let waits = format!("slow: waits for process {}", first.id());
    let mut second = place.spawn(&["p.toml"]);
    read_to_line(&mut second, &waits);
    fs::write(place.path("gate"), "").unwrap();
    let (first, second) = (Output::of(first), Output::of(second));
    // Whoever is quicker does the second stage.
    assert_eq!(first.ran()[0], "slow");
    assert_eq!([first.ran(), second.ran()].concat(), ["slow", "hi"], "{}", second.screen());
}

#[test]
fn a_lock_dies_with_its_process() {
    let place = Place::with(SLOW);
    let mut child = place.spawn(&GATED);
    wait_for_work(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    let next = place.go(&[]);
    assert_eq!(next.ran(), ["slow", "hi"]);
    assert!(!next.stderr.contains("waits"), "{}", next.screen());
    assert_eq!(next.why("slow"), "never run; resumes what was cut off");
}

#[test]
fn damaged_entries_are_made_again() {
    let place = Place::with(CHAIN);
    place.go(&[]);
    let entry = place.entries("").into_iter().find(|e| e.join("metrics").exists()).unwrap();
    let whole = fs::read(entry.join("metrics")).unwrap();

    fs::write(entry.join("metrics"), &whole[..whole.len() - 2]).unwrap();
    let short = place.go(&[]);
    assert_eq!(short.ran(), ["count"]);
    assert_snapshot!("damaged_size", short.screen());
    assert_eq!(fs::read(entry.join("metrics")).unwrap(), whole);

    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    fs::write(entry.join("metrics"), &flipped).unwrap();
    assert!(place.go(&[]).ran().is_empty(), "sizes alone are compared without --verify");
    let verified = place.go(&["--verify"]);
    assert_eq!(verified.ran(), ["count"]);
    assert_eq!(verified.why("count"), "the cache entry is damaged: the bytes of metrics changed");

    fs::remove_file(entry.join("metrics")).unwrap();
    assert!(place.go(&[]).why("count").starts_with("the cache entry is damaged: metrics"));
    fs::write(entry.join("stage.json"), "{").unwrap();
    assert_eq!(
        place.go(&[]).why("count"),
        "the cache entry is damaged: its stage.json cannot be read"
    );
}

#[test]
fn a_rerun_with_nothing_to_do_is_quick() {
    let place = Place::with(CHAIN);
    place.go(&[]);
    let began = Instant::now();
    assert!(place.go(&[]).ran().is_empty());
    // Speed is measured elsewhere: this only tells a rerun from a run of work.
    assert!(began.elapsed() < Duration::from_secs(5));
}
