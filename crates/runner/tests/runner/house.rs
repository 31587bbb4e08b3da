//! House-keeping: where the store is, which runs leave a folder, what `gc` lets go, and what `runs`, `show` and `diff` tell.

use std::fs;

use crate::harness::{Output, Place};

/// Two stages, of which the second reads the first.
const CHAIN: &str = "[stage.hi]\nuses = \"write\"\ntext = \"hello\"\n\
    [stage.count]\nuses = \"count\"\ninputs = { text = \"hi.text\" }\n";

fn ran(output: &Output) -> usize {
    output.ran().len()
}

/// The folders of runs of the pipeline `p`.
fn runs(place: &Place) -> usize {
    fs::read_dir(place.path("runs/p")).map_or(0, Iterator::count)
}

#[test]
fn the_store_is_beside_the_file_from_wherever_it_is_run() {
    let place = Place::with(CHAIN);
    assert_eq!(ran(&place.go(&[])), 2);
    fs::create_dir_all(place.path("sub/deep")).unwrap();
    let whole = place.path("p.toml");
    let whole = whole.to_str().unwrap();
    for (folder, file) in [("sub", "../p.toml"), ("sub/deep", "../../p.toml"), ("sub", whole)] {
        let there = place.run_in(folder, &[file], &[]);
        assert_eq!(ran(&there), 0, "{folder}: {}", there.screen());
        assert!(
            !place.path(folder).join("store").exists() && !place.path(folder).join("runs").exists()
        );
    }
    // A run that was started elsewhere is found, and so is what it made.
    let forced = place.run_in("sub", &["../p.toml", "--force", "hi"], &[]);
    assert_eq!(ran(&forced), 1, "{}", forced.screen());
    let shown = place.run_in("sub", &["show", "p", "--runs", "../runs"], &[]);
    assert!(shown.stdout.contains("pipeline  p (../p.toml)"), "{}", shown.screen());
    let lineage = newest(&place);
    assert!(place.path(lineage["stages"][0]["folder"].as_str().unwrap()).is_dir(), "{lineage}");
}

#[test]
fn an_option_and_the_environment_name_another_store() {
    let place = Place::with(CHAIN);
    fs::create_dir(place.path("sub")).unwrap();
    let shared = place.path("shared");
    let vars = [("FARTHING_STORE", shared.to_str().unwrap()), ("FARTHING_RUNS", "")];
    assert_eq!(ran(&place.run_in("", &["p.toml"], &vars)), 2);
    assert!(shared.join("stages").is_dir() && !place.path("store").exists());
    // An option wins, and is as the shell means it.
    let own = place.run_in("sub", &["../p.toml", "--store", "own", "--runs", "out"], &vars);
    assert_eq!(ran(&own), 2);
    assert!(place.path("sub/own/stages").is_dir() && place.path("sub/out/p").is_dir());
    assert_eq!(ran(&place.run_in("sub", &["../p.toml"], &vars)), 0);
}

#[test]
fn a_store_that_has_everything_need_not_be_writable() {
    let place = Place::with(CHAIN);
    place.go(&[]);
    // Whoever runs the tests may write to anything but into a file.
    for folder in ["last", "locks"] {
        fs::remove_dir_all(place.path("store").join(folder)).unwrap();
        fs::write(place.path("store").join(folder), "").unwrap();
    }
    let run = place.go(&["--set", "pipeline.name=q"]);
    assert_eq!(ran(&run), 0, "{}", run.screen());
    assert!(run.stderr.contains("hi: not noted as this pipeline's: "), "{}", run.screen());
    let refused = place.go(&["--set", "hi.text=other"]);
    assert!(
        refused.code == 2 && refused.stderr.contains("cannot be written"),
        "{}",
        refused.screen()
    );
}

#[test]
fn a_run_that_is_cached_leaves_no_folder_and_names_the_one_that_has_it_all() {
    let report = "[stage.report]\nuses = \"report\"\ninputs = { count = \"count.metrics\" }\n";
    let place = Place::with(&format!("{CHAIN}{report}"));
    let first = place.go(&[]);
    assert_eq!((ran(&first), runs(&place)), (3, 1));
    for args in [&[][..], &["--until", "count"], &["--verify"], &["--set", "hi.lines=1"]] {
        let again = place.go(args);
        assert_eq!((ran(&again), runs(&place)), (0, 1), "{}", again.screen());
        let named = |output: &Output| {
            let lines =
                output.stdout.lines().filter(|l| l.starts_with("report ") || l.starts_with("run "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(named(&again), named(&first));
    }
    // Other results than those of any run so far, or a report that is gone: its own folder.
    assert_eq!(ran(&place.go(&["--set", "hi.text=bye"])), 3);
    assert_eq!(runs(&place), 2);
    place.go(&[]);
    assert_eq!(runs(&place), 2);
    fs::remove_dir_all(place.path("runs")).unwrap();
    let anew = place.go(&[]);
    assert_eq!((ran(&anew), runs(&place)), (0, 1), "{}", anew.screen());
    assert!(anew.stdout.contains("report  runs/p/"), "{}", anew.screen());
}

/// The lineage of the newest run.
fn newest(place: &Place) -> serde_json::Value {
    let runs = fs::read_dir(place.path("runs/p")).unwrap().map(|e| e.unwrap().path());
    let mut runs: Vec<_> = runs.collect();
    runs.sort_by_key(|run| fs::metadata(run.join("run.json")).unwrap().modified().unwrap());
    serde_json::from_slice(&fs::read(runs.pop().unwrap().join("run.json")).unwrap()).unwrap()
}

#[test]
fn gc_says_first_and_deletes_what_nobody_had_last() {
    let place = Place::with(CHAIN);
    place.go(&["--set", "hi.text=old"]);
    place.go(&[]);
    assert_eq!(place.entries("").len(), 4);
    let dry = place.run(&["gc"]);
    assert_eq!(dry.code, 0, "{}", dry.screen());
    assert!(dry.stdout.contains("2 of 4 go, "), "{}", dry.screen());
    assert!(dry.stdout.contains("nothing was deleted; the same with --delete does it"));
    assert!(dry.stdout.contains("hi (write)") && dry.stdout.contains("the last of p: count"));
    assert_eq!(place.entries("").len(), 4);

    let done = place.run(&["gc", "p.toml", "--delete"]);
    assert!(done.code == 0 && done.stdout.ends_with("deleted\n"), "{}", done.screen());
    assert_eq!(place.entries("").len(), 2);
    assert_eq!(ran(&place.go(&[])), 0, "what is used is there");
    let forgotten = place.run(&["gc", "--delete", "--forget", "p"]);
    assert_eq!((forgotten.code, place.entries("").len()), (0, 0), "{}", forgotten.screen());
    assert_eq!(ran(&place.go(&[])), 2);
}

#[cfg(unix)]
#[test]
fn gc_follows_no_link_and_takes_nothing_that_is_not_the_stores() {
    let place = Place::with(CHAIN);
    place.go(&["--set", "hi.text=old"]);
    place.go(&[]);
    let stages = place.path("store/stages");
    let precious = place.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("stage.json"), "{}").unwrap();
    // An entry that was moved away, a link by an entry's name, a link inside of an entry, folders and files of somebody.
    let moved = place.entries("").into_iter().next().unwrap();
    fs::rename(&moved, place.path("moved")).unwrap();
    std::os::unix::fs::symlink(place.path("moved"), &moved).unwrap();
    std::os::unix::fs::symlink(&precious, stages.join("0".repeat(32))).unwrap();
    for entry in place.entries("") {
        std::os::unix::fs::symlink(&precious, entry.join("more")).unwrap();
    }
    fs::create_dir(stages.join("mine")).unwrap();
    fs::create_dir(stages.join("1".repeat(32))).unwrap();
    fs::write(stages.join("2".repeat(32)), "a file").unwrap();
    let done = place.run(&["gc", "--delete", "--forget", "p"]);
    assert_eq!(done.code, 0, "{}", done.screen());
    assert!(done.stdout.contains("3 of 8 go, "), "{}", done.screen());
    assert_eq!(fs::read(precious.join("stage.json")).unwrap(), b"{}");
    assert!(place.path("moved/stage.json").is_file());
    assert_eq!(place.entries("").len(), 5, "{}", done.screen());
    // The whole folder elsewhere.
    let away = place.path("away");
    fs::rename(&stages, &away).unwrap();
    std::os::unix::fs::symlink(&away, &stages).unwrap();
    let refused = place.run(&["gc", "--delete"]);
    assert!(refused.code == 2 && refused.stderr.contains("is a link"), "{}", refused.screen());
}

#[test]
fn gc_waits_for_nobody_and_disturbs_nobody() {
    let place = Place::with(
        "[stage.slow]\nuses = \"slow\"\nsteps = 6\nexec = { sleep_ms = 5, gate = \"gate\" }\n",
    );
    let child = place.spawn(&["p.toml"]);
    place.wait_for(|place| !place.entries(".partial").is_empty());
    let refused = place.run(&["gc", "--delete", "--partial"]);
    assert_eq!(refused.code, 2, "{}", refused.screen());
    assert!(refused.stderr.contains("a run is using the store"), "{}", refused.screen());
    let dry = place.run(&["gc", "--partial"]);
    assert!(dry.stdout.contains("a run is at work on it"), "{}", dry.screen());
    assert!(place.run(&["runs"]).stdout.contains("  running  "));
    fs::write(place.path("gate"), "").unwrap();
    assert_eq!(Output::of(child).ran(), ["slow"]);
    assert!(place.run(&["runs"]).stdout.contains("  done  "));

    // Cut off: kept, unless it is let go.
    fs::remove_file(place.path("gate")).unwrap();
    let mut child = place.spawn(&["p.toml", "--force", "slow"]);
    place.wait_for(|place| !place.entries(".partial").is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let lineage = newest(&place);
    assert_eq!(lineage["status"], "begun", "nothing says that a dead run is at work");
    assert!(place.run(&["runs"]).stdout.contains("  died  "));
    assert!(place.run(&["show", "p"]).stdout.contains("status    died"));
    let partial = place.entries(".partial");
    fs::rename(&partial[0], partial[0].with_file_name(format!("{}.partial", "3".repeat(32))))
        .unwrap();
    let kept = place.run(&["gc", "--delete"]);
    assert_eq!((kept.code, place.entries(".partial").len()), (0, 1), "{}", kept.screen());
    place.run(&["gc", "--delete", "--partial"]);
    assert_eq!(place.entries(".partial").len(), 0);
}

#[test]
fn runs_are_listed_shown_and_compared() {
    let place = Place::with(CHAIN);
    let none = place.run(&["runs"]);
    assert!(
        none.code == 2 && none.stderr.contains("there are no runs in runs"),
        "{}",
        none.screen()
    );
    place.go(&[]);
    place.go(&["--set", "hi.text=goodbye", "--set", "pipeline.seed=9"]);
    let listed = place.run(&["runs", "p"]);
    assert_eq!(listed.stdout.lines().count(), 3, "{}", listed.screen());
    let names: Vec<String> =
        listed.stdout.lines().skip(1).map(|l| l.rsplit('/').next().unwrap().into()).collect();
    let shown = place.run(&["show", &names[1]]);
    for fact in [
        "set       hi.text=goodbye  pipeline.seed=9",
        "seed      9",
        "status    done",
        "count  letters  7",
    ] {
        assert!(shown.stdout.contains(fact), "{fact}: {}", shown.screen());
    }
    let diff = place.run(&["diff", &names[0], &names[1]]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = diff.stdout.lines().map(words).collect();
    for row in [&["hi.text", "hello", "goodbye"], &["count.letters", "5", "7"], &["seed", "7", "9"]]
    {
        assert!(rows.iter().any(|found| found == row), "{row:?}: {}", diff.screen());
    }
    assert!(!diff.stdout.contains("hi.lines"), "what is the same: {}", diff.screen());
    for (args, said) in [
        (&["show", "nothing"][..], "no run is called `nothing` in runs"),
        (&["diff", "p"], "2 more values required by"),
        (&["gc", "--forget", "q"], "--forget q: no pipeline of that name"),
        (&["gc", "--store", "nowhere"], "nowhere is no store"),
    ] {
        let refused = place.run(args);
        assert!(refused.code == 2, "{}", refused.screen());
        assert!(refused.stderr.contains(said) || args[0] == "diff", "{said}: {}", refused.screen());
    }
}
