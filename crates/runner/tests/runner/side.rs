//! Stages side by side: what may run together does, nothing that comes out depends on it, and a failure takes along what needs it alone.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Output, Place};

/// Four slow stages that wait for a file at their end, and what reads them.
pub(crate) fn fan(place: &Place, seeds: &[u64], exec: &str) {
    let stages = seeds.iter().map(|seed| {
        format!(
            "[stage.s{seed}]\nuses = \"slow\"\nsteps = 6\nseed = {seed}\nexec = {{ {exec} }}\n\
             [stage.t{seed}]\nuses = \"write\"\ntext = \"x{seed}\"\nneeds = [\"s{seed}\"]\nseed = {seed}\n\
             [stage.c{seed}]\nuses = \"count\"\ninputs = {{ text = \"t{seed}.text\" }}\n"
        )
    });
    place.file(&stages.collect::<String>());
}

fn lineage(place: &Place) -> Value {
    let runs = std::fs::read_dir(place.path("runs/p")).unwrap().map(|run| run.unwrap().path());
    let newest = runs.max().unwrap();
    serde_json::from_slice(&std::fs::read(newest.join("run.json")).unwrap()).unwrap()
}

/// The key of an entry of the store, and its files.
pub(crate) type Entry = (String, Vec<(std::path::PathBuf, Vec<u8>)>);

/// Every output of the store, by key, and what is recorded of it but for times.
pub(crate) fn made(place: &Place) -> Vec<Entry> {
    let entries = place.entries("").into_iter().filter(|entry| entry.extension().is_none());
    let mut made: Vec<_> = entries
        .map(|entry| {
            let mut files = crate::harness::contents(&entry);
            for (path, bytes) in &mut files {
                *path = path.strip_prefix(&entry).unwrap().to_owned();
                if path == Path::new("stage.json") {
                    let mut record: Value = serde_json::from_slice(bytes).unwrap();
                    record.as_object_mut().unwrap().remove("seconds").unwrap();
                    *bytes = record.to_string().into_bytes();
                }
            }
            (entry.file_name().unwrap().to_string_lossy().into_owned(), files)
        })
        .collect();
    made.sort();
    made
}

#[test]
fn independent_stages_are_at_work_together() {
    let place = Place::new();
    fan(&place, &[1, 2, 3], "gate = \"open\"");
    let child = place.spawn(&["p.toml", "--jobs", "2"]);
    place.wait_for(|place| place.entries(".partial").len() == 2);
    // Both at once, by the run's own account.
    place.wait_for(|place| lineage(place)["begun"].as_array().is_some_and(|all| all.len() == 2));
    assert_eq!(place.entries(".partial").len(), 2, "and no third");
    std::fs::write(place.path("open"), "").unwrap();
    let output = Output::of(child);
    assert_eq!(output.code, 0, "{}", output.screen());
    assert_eq!(lineage(&place)["begun"], Value::Null);
    assert_eq!(lineage(&place)["status"], "done");
}

#[test]
fn a_stage_that_says_what_it_takes_leaves_the_rest() {
    let place = Place::new();
    fan(&place, &[1, 2], "gate = \"open\"");
    // Neither of them takes a core away from the other.
    let cores = std::thread::available_parallelism().unwrap().get();
    let threads = (cores / 2).max(1).to_string();
    let text = std::fs::read_to_string(place.path("p.toml")).unwrap();
    let shared = format!("steps = 6\nresources = {{ threads = {threads} }}");
    std::fs::write(place.path("p.toml"), text.replace("steps = 6", &shared)).unwrap();
    let child = place.spawn(&["p.toml"]);
    let both = if cores > 1 { 2 } else { 1 };
    place.wait_for(|place| place.entries(".partial").len() == both);
    std::fs::write(place.path("open"), "").unwrap();
    assert_eq!(Output::of(child).code, 0);
    // Who asks for more memory than is left beside the other comes after it.
    let shared = format!("steps = 7\nresources = {{ threads = {threads}, memory_gb = 900000 }}");
    std::fs::write(place.path("p.toml"), text.replace("steps = 6", &shared)).unwrap();
    std::fs::remove_file(place.path("open")).unwrap();
    let child = place.spawn(&["p.toml"]);
    place.wait_for(|place| place.entries(".partial").len() == 1);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(place.entries(".partial").len(), 1, "the second one waits");
    std::fs::write(place.path("open"), "").unwrap();
    assert_eq!(Output::of(child).code, 0);
}

#[test]
fn what_comes_out_does_not_depend_on_who_ran_beside_whom() {
    let seeds = [5, 3, 9, 1];
    let all: Vec<_> = [("1", "0"), ("2", "3"), ("7", "1")]
        .into_iter()
        .map(|(jobs, ms)| {
            let place = Place::new();
            fan(&place, &seeds, &format!("sleep_ms = {ms}"));
            let output = place.go(&["--jobs", jobs]);
            assert_eq!(output.code, 0, "{}", output.screen());
            let stages = lineage(&place)["stages"].clone();
            let keys: Vec<(Value, Value)> = stages
                .as_array()
                .unwrap()
                .iter()
                .map(|stage| (stage["name"].clone(), stage["key"].clone()))
                .collect();
            (output.statuses(), keys, made(&place))
        })
        .collect();
    assert_eq!(all[0].0.len(), 12);
    for other in &all[1..] {
        assert_eq!(all[0].0, other.0);
        assert_eq!(all[0].1, other.1);
        assert!(all[0].2 == other.2, "other bytes");
    }
}

#[test]
fn two_of_one_key_work_once() {
    let place = Place::new();
    let slow = "uses = \"slow\"\nsteps = 20\nexec = { sleep_ms = 10 }\n";
    place.file(&format!("[stage.a]\n{slow}[stage.b]\n{slow}"));
    let output = place.go(&["--jobs", "2"]);
    assert_eq!(output.code, 0, "{}", output.screen());
    let mut how: Vec<String> = output.statuses().into_iter().map(|(_, how)| how).collect();
    how.sort();
    assert_eq!(how, ["cached", "done"], "{}", output.screen());
}

const ABLATION: &str = "
[stage.v]
uses   = \"fail\"
how    = \"${how}\"
matrix = { how = [\"fine\", \"error\", \"good\"] }

[stage.t]
uses   = \"trim\"
inputs = { text = \"v.text\" }

[stage.all]
uses   = \"join\"
inputs = { texts = \"t.text\" }

[stage.other]
uses = \"write\"
text = \"other\"
";

fn status(output: &Output) -> Vec<String> {
    output.statuses().into_iter().map(|(name, status)| format!("{name} {status}")).collect()
}

#[test]
fn a_variant_that_fails_does_not_stop_its_sisters() {
    for args in [&[][..], &["--jobs", "3"], &["--keep-going"]] {
        let place = Place::with(ABLATION);
        let output = place.go(args);
        assert_eq!(output.code, 1, "{}", output.screen());
        let failed = "v@how=error";
        for line in [
            "v@how=fine done",
            "v@how=error failed",
            "t@how=fine done",
            "t@how=error not",
            "all not",
            "other done",
        ] {
            assert!(status(&output).contains(&line.to_owned()), "{line}: {}", output.screen());
        }
        assert_eq!(output.why("all"), format!("{failed} failed"));
        assert!(
            output.stderr.contains(&format!("error: stage `{failed}` failed\n  reading shard"))
        );
        let lineage = lineage(&place);
        assert_eq!(lineage["status"], "failed");
        assert!(lineage["failed"][failed].as_str().unwrap().contains("row 812"), "{lineage}");
        assert_eq!(lineage["not_run"]["all"], failed);
        assert_eq!(lineage["not_run"]["t@how=error"], failed);
        assert_eq!(lineage["begun"], Value::Null);
        // Only what failed is left to do.
        let again = place.go(&["--plan"]);
        assert!(again.stdout.contains("5 cached, 1 to run"), "{}", again.screen());
    }
}

#[test]
fn any_other_failure_stops_what_has_not_begun_unless_told_otherwise() {
    let text = "[stage.bad]\nuses = \"fail\"\nhow = \"error\"\n\
                [stage.worse]\nuses = \"fail\"\nhow = \"nothing\"\n\
                [stage.reads]\nuses = \"trim\"\ninputs = { text = \"bad.text\" }\n\
                [stage.free]\nuses = \"write\"\ntext = \"free\"\n";
    let stops = Place::with(text).go(&[]);
    assert_eq!(stops.code, 1);
    assert_eq!(status(&stops), ["bad failed", "worse not", "reads not", "free not"]);
    let goes_on = Place::with(text).go(&["--keep-going"]);
    assert_eq!(goes_on.code, 1);
    assert_eq!(status(&goes_on), ["bad failed", "worse failed", "reads not", "free done"]);
    for stage in ["bad", "worse"] {
        let said = format!("error: stage `{stage}` failed\n");
        assert!(goes_on.stderr.contains(&said), "{}", goes_on.screen());
    }
    assert!(goes_on.stderr.contains("runner p.toml --keep-going"), "{}", goes_on.screen());
}

#[cfg(unix)]
#[test]
fn a_signal_stops_all_of_them_with_a_checkpoint_each() {
    let place = Place::new();
    fan(&place, &[1, 2], "sleep_ms = 5, gate = \"open\"");
    let child = place.spawn(&["p.toml", "--jobs", "2"]);
    let saved = |place: &Place| {
        let partial = place.entries(".partial");
        partial.iter().filter(|entry| entry.join(".scratch/checkpoint").exists()).count() == 2
    };
    place.wait_for(saved);
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let output = Output::of(child);
    assert_eq!(output.code, 143, "{}", output.screen());
    assert!(output.stderr.contains("stopped in stages `s1`, `s2`\n"), "{}", output.screen());
    assert!(output.stderr.contains("p.toml --jobs 2\n"), "{}", output.screen());
    assert_eq!(lineage(&place)["status"], "stopped");
    std::fs::write(place.path("open"), "").unwrap();
    let end = place.go(&["--jobs", "2"]);
    assert_eq!(end.code, 0, "{}", end.screen());
    assert_eq!(end.why("s1"), "never run; resumes what was cut off");
}

#[test]
fn what_nobody_can_have_is_refused() {
    let place = Place::with("[stage.a]\nuses = \"write\"\ntext = \"a\"\n");
    let none = place.go(&["--jobs", "0"]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("0 stages at a time do nothing"), "{}", none.screen());
    for (gb, said) in [
        ("-1", "`memory_gb = -1`"),
        ("0.0", "`memory_gb = 0`"),
        ("1e9", "`memory_gb = 1000000000`"),
    ] {
        let output = place.go(&["--set", &format!("a.resources.memory_gb={gb}")]);
        assert_eq!(output.code, 2, "{}", output.screen());
        assert!(output.stderr.contains(said), "{}", output.screen());
    }
}

#[test]
fn a_run_can_be_watched_from_elsewhere() {
    let place = Place::new();
    fan(&place, &[1, 2], "gate = \"open\"");
    let run = place.spawn(&["p.toml", "--jobs", "2"]);
    let board = |place: &Place| {
        let runs = std::fs::read_dir(place.path("runs/p")).into_iter().flatten();
        let mut text =
            runs.filter_map(|run| std::fs::read(run.unwrap().path().join("screen.json")).ok());
        text.find_map(|text| serde_json::from_slice::<Value>(&text).ok())
    };
    place.wait_for(|place| board(place).is_some_and(|all| all["stages"][1]["total"] == 6));
    let shown = board(&place).unwrap();
    assert_eq!(shown["run"], "stages 1, 4 of 6");
    assert_eq!(
        (&shown["stages"][0]["stage"], &shown["stages"][1]["stage"]),
        (&"s1".into(), &"s2".into())
    );
    // Metrics are there while they come.
    place.wait_for(|place| {
        let runs = std::fs::read_dir(place.path("runs/p")).unwrap().map(|run| run.unwrap().path());
        let metrics = runs.max().unwrap().join("stages/s1/metrics.jsonl");
        std::fs::read_to_string(metrics).is_ok_and(|text| text.lines().count() == 5)
    });
    let watched = place.spawn(&["watch"]);
    std::fs::write(place.path("open"), "").unwrap();
    assert_eq!(Output::of(run).code, 0);
    let watched = Output::of(watched);
    assert_eq!(watched.code, 0, "{}", watched.screen());
    assert!(watched.stderr.contains("watching "), "{}", watched.screen());
    assert!(watched.stdout.contains("status    done after"), "{}", watched.screen());
    assert!(board(&place).is_none(), "a run that is over shows nothing");
    let none = Place::new().run(&["watch"]);
    assert!(none.code == 2 && none.stderr.contains("there are no runs"), "{}", none.screen());
}
