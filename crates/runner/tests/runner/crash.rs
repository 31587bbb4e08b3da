//! Stages in processes of their own: what ends one is named and takes nothing else along, what it says comes back whole, and no process outlives its run.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use crate::harness::{Output, PROCESSES, Place};
use crate::side::made;

const OWN: [(&str, &str); 1] = [(PROCESSES, "1")];

fn go(place: &Place, args: &[&str]) -> Output {
    let args: Vec<&str> = ["p.toml"].iter().chain(args).copied().collect();
    place.run_in("", &args, &OWN)
}

/// The processes that a process has started.
pub(crate) fn children(id: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap();
    let ids = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let parent = |of: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    ids.filter(|of| parent(of) == Some(id)).collect()
}

pub(crate) fn kill(id: u32, signal: &str) {
    // It may be over by now.
    let _ = Command::new("kill").args([signal, &id.to_string()]).output();
}

/// Waits for the next checkpoint; the runner, and its child.
fn at_work(place: &Place) -> (Child, u32) {
    let saved = |place: &Place| {
        let partial = place.entries(".partial");
        partial.iter().find_map(|entry| std::fs::read(entry.join(".scratch/checkpoint")).ok())
    };
    let before = saved(place);
    let runner = place.spawn_in("", &["p.toml"], &OWN);
    place.wait_for(|place| saved(place).is_some_and(|now| before.as_ref() != Some(&now)));
    let of = children(runner.id());
    assert_eq!(of.len(), 1, "one stage, one process");
    (runner, of[0])
}

fn is_there(id: u32) -> bool {
    // What nobody has waited for yet does nothing any more.
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn a_crash_is_named_and_loses_no_other_stage() {
    let place = Place::with(
        "[stage.v]\nuses = \"fail\"\nhow = \"${how}\"\nmatrix = { how = [\"segv\", \"fine\", \"abort\", \"exit\", \"stack\", \"good\"] }\n\
         [stage.t]\nuses = \"trim\"\ninputs = { text = \"v.text\" }\n",
    );
    let output = go(&place, &["--jobs", "3"]);
    assert_eq!(output.code, 1, "{}", output.screen());
    for (how, said) in [
        ("segv", "was ended by SIGSEGV: it touched memory that is not its own"),
        ("abort", "was ended by SIGABRT: it gave up"),
        ("exit", "ended with exit code 3 and without a word"),
        ("stack", "has overflowed its stack"),
    ] {
        let failed = format!("error: stage `v@how={how}` failed\n  the stage's process ");
        let at = output.stderr.find(&failed).unwrap_or_else(|| panic!("{}", output.screen()));
        let rest = &output.stderr[at + failed.len()..];
        let rest = rest.split("error: stage").next().unwrap();
        assert!(rest.contains(said), "{how}: {rest}");
        assert!(output.why(&format!("t@how={how}")).contains(&format!("v@how={how} failed")));
    }
    let done = output.statuses().into_iter().filter(|(_, status)| status == "done");
    let done: Vec<String> = done.map(|(name, _)| name).collect();
    assert_eq!(done, ["v@how=fine", "v@how=good", "t@how=fine", "t@how=good"]);
    // A crash would come again.
    assert!(output.stderr.contains("the same would fail again"), "{}", output.screen());
}

#[test]
fn who_is_refused_memory_says_so_and_its_sister_is_done() {
    let place = Place::with(
        "[stage.v]\nuses = \"fail\"\nhow = \"${how}\"\nmatrix = { how = [\"hungry\", \"fine\"] }\n",
    );
    let limit = format!("ulimit -v {}", 8 << 20);
    let output = Output::of(place.spawn_after(&limit, &["p.toml"], &OWN));
    assert_eq!(output.code, 1, "{}", output.screen());
    let said = "was ended by SIGABRT: it was refused the memory that it asked for";
    assert!(output.stderr.contains(said), "{}", output.screen());
    assert!(output.stderr.contains("memory allocation of 68719476736 bytes failed"));
    assert!(output.stderr.contains("hint: give it more memory"), "{}", output.screen());
    assert!(output.statuses().contains(&("v@how=fine".to_owned(), "done".to_owned())));
}

const SLOW: &str = "[stage.slow]\nuses = \"slow\"\nsteps = 400\nexec = { sleep_ms = 2 }\n";

/// The store of a run that nothing has disturbed.
fn undisturbed() -> Place {
    let place = Place::with(SLOW);
    assert_eq!(go(&place, &[]).code, 0);
    place
}

#[test]
fn a_child_that_is_killed_is_named_and_goes_on_from_its_checkpoint() {
    let place = Place::with(SLOW);
    for (signal, said) in [
        ("-KILL", "was ended by SIGKILL: "),
        ("-SEGV", "was ended by SIGSEGV: "),
        ("-TERM", "somebody asked the stage's process to stop, and not the run"),
    ] {
        let (runner, child) = at_work(&place);
        kill(child, signal);
        // The standard library looks at the first one.
        kill(child, signal);
        let output = Output::of(runner);
        assert_eq!(output.code, 1, "{signal}: {}", output.screen());
        assert!(output.stderr.contains(said), "{signal}: {}", output.screen());
    }
    let end = go(&place, &[]);
    assert_eq!(end.code, 0, "{}", end.screen());
    assert!(end.why("slow").ends_with("resumes what was cut off"), "{}", end.screen());
    same_outputs(&place, &undisturbed());
}

#[test]
fn a_child_dies_with_its_parent_and_its_work_is_taken_over_at_once() {
    let place = Place::with(SLOW);
    for _ in 0..4 {
        let (mut runner, child) = at_work(&place);
        runner.kill().unwrap();
        // Nobody waits here: the next one has to.
        drop(Output::of(runner));
        place.wait_for(|_| !is_there(child));
    }
    let end = go(&place, &[]);
    assert_eq!(end.code, 0, "{}", end.screen());
    assert!(end.why("slow").ends_with("resumes what was cut off"), "{}", end.screen());
    same_outputs(&place, &undisturbed());
}

#[test]
fn a_child_whose_parent_is_gone_before_it_begins_is_no_run_of_its_own() {
    let place = Place::with("[stage.a]\nuses = \"write\"\ntext = \"a\"\n");
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let (of_parent, its) = UnixStream::pair().unwrap();
    drop(of_parent);
    let parent = gone.id().to_string();
    let vars = [OWN[0], ("FARTHING_STAGE_OF", &parent)];
    let this = Command::new(std::env::current_exe().unwrap());
    let mut child = place.command(this, "", &["p.toml"], &vars);
    let output = Output::of(child.stdin(OwnedFd::from(its)).spawn().unwrap());
    assert_eq!(output.code, 2, "{}", output.screen());
    assert!(output.stderr.contains("the run of this stage is gone"), "{}", output.screen());
    assert!(!place.path("runs").exists() && !place.path("store").exists());
    // A runner that a stage starts is a run.
    let output = place.run_in("", &["p.toml"], &vars);
    assert_eq!(output.ran(), ["a"]);
}

#[test]
fn signals_reach_the_child() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129), ("-USR1", 138)] {
        let place = Place::with(SLOW);
        let (runner, child) = at_work(&place);
        kill(runner.id(), signal);
        let output = Output::of(runner);
        assert_eq!(output.code, code, "{}", output.screen());
        assert!(output.stderr.contains("stopped in stage `slow`"), "{}", output.screen());
        assert!(!is_there(child));
    }
}

/// Outputs without what depends on how a stage came to its end.
fn same_outputs(one: &Place, two: &Place) {
    let outputs = |place: &Place| {
        let mut made = made(place);
        for (_, files) in &mut made {
            files.retain(|(path, _)| path.as_os_str() != "stage.json");
        }
        made
    };
    assert!(outputs(one) == outputs(two), "other bytes");
}

#[test]
fn what_a_stage_makes_and_says_is_the_same_as_in_one_process() {
    let text = "
[stage.hi]
uses  = \"write\"
text  = \"a \\\"quoted\\\" line\\t\\\\ \"
lines = 0x2
style = { upper = true, weight = 1e-3 }

[stage.more]
uses   = \"write\"
text   = \"${text}\"
matrix = { text = [\"x\", \"y\"] }

[stage.count]
uses   = \"count\"
inputs = { text = \"hi.text\" }

[stage.all]
uses   = \"join\"
inputs = { texts = \"more.text\", counts = \"count.metrics\" }

[stage.slow]
uses  = \"slow\"
steps = 3

[stage.report]
uses   = \"report\"
inputs = { count = \"count.metrics\" }
expect = { \"count.letters\" = { min = 4 } }
";
    let (one, own) = (Place::with(text), Place::with(text));
    let (here, there) = (one.go(&[]), go(&own, &[]));
    assert_eq!((here.code, there.code), (0, 0), "{}", there.screen());
    assert_eq!(here.statuses(), there.statuses());
    assert!(made(&one) == made(&own), "other bytes");
    let figures = |output: &Output| {
        let all = output.stdout.lines().map(str::trim).map(str::to_owned);
        all.filter(|line| line.contains("letters") || line.contains("state")).collect::<Vec<_>>()
    };
    assert_eq!(figures(&here), figures(&there));
    assert!(there.stderr.contains("  count: counted\n"), "{}", there.screen());
    for how in ["error", "nothing"] {
        let text = format!("[stage.bad]\nuses = \"fail\"\nhow = \"{how}\"\n");
        let (here, there) = (Place::with(&text).go(&[]), go(&Place::with(&text), &[]));
        let fault = |output: &Output| {
            let from = output.stderr.find("error: ").unwrap();
            output.stderr[from..].to_owned()
        };
        assert_eq!(fault(&here), fault(&there));
        assert_eq!(here.code, there.code);
    }
    let panic = go(&Place::with("[stage.bad]\nuses = \"fail\"\nhow = \"panic\"\n"), &[]);
    assert!(panic.stderr.contains("the stage panicked: index 3 is out of range"));
    let later =
        "[stage.bad]\nuses = \"fail\"\nhow = \"later\"\nretry = { attempts = 3, backoff_s = 0 }\n";
    assert_eq!(go(&Place::with(later), &[]).code, 0);
}
