//! `kill -9` at ten moments of a run, and other numbers of threads: the weights are the same to the last bit.

use std::process::Child;
use std::time::{Duration, Instant};

use farthing_base::random::Draws;
use serde_json::Value;

use crate::harness::{Place, json_lines};

/// The training's records without what depends on the clock.
fn records(place: &Place) -> Vec<Value> {
    let mut records = json_lines(&place.entry("train").join("metrics"));
    for record in &mut records {
        let fields = record.as_object_mut().unwrap();
        for clock in ["seconds", "tokens_per_s", "train_seconds"] {
            fields.remove(clock);
        }
    }
    records
}

/// The last step that a training which is not done has recorded; 0 where there is none.
pub(crate) fn recorded(place: &Place) -> u64 {
    let entries = std::fs::read_dir(place.path("store/stages")).into_iter().flatten();
    let partial = entries.map(|e| e.unwrap().path()).filter(|e| e.extension().is_some());
    let metrics = partial.filter_map(|e| std::fs::read_to_string(e.join("metrics")).ok());
    // The last line may be half written.
    let records = metrics.flat_map(|text| {
        text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).collect::<Vec<_>>()
    });
    let steps = records.filter(|r| r["record"] == "step").filter_map(|r| r["step"].as_u64());
    steps.max().unwrap_or(0)
}

/// Waits until the training under way has recorded this step, or the process is over.
pub(crate) fn wait_for(place: &Place, child: &mut Child, step: u64) {
    let began = Instant::now();
    while recorded(place) < step && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_mins(2), "step {step} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn killed_at_ten_moments_it_completes_with_the_same_weights_and_records() {
    const STEPS: u64 = 400;
    let set = format!("train.schedule.steps={STEPS}");
    let sets = [&set, "train.evaluate.every_steps=50", "train.exec.checkpoint_every_steps=5"];
    let args: Vec<&str> =
        ["p.toml"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();

    let whole = Place::new();
    whole.done(&args[1..]);

    let place = Place::new();
    let (mut random, mut alive, mut stages) = (Draws::new(2_024, "kill", 0), 0, Vec::new());
    // Two moments before the training, as a rule, and eight inside it, however fast the machine is: when it has gone 30 steps on, or 5
    // beyond what the attempt before has recorded, and a few milliseconds later.
    for attempt in 0..10 {
        let before = recorded(&place);
        let mut child = place.spawn(&args);
        if attempt >= 2 {
            wait_for(&place, &mut child, (30 * (attempt - 1)).max(before + 5));
        }
        std::thread::sleep(Duration::from_millis(random.below(30) as u64));
        alive += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        let output = place.output(child);
        let last =
            output.stderr.lines().rev().find(|l| l.contains(": runs (") || l.contains("resuming"));
        stages.push(last.unwrap_or("nothing yet").to_owned());
    }
    assert!(alive >= 8, "{alive} of ten found the run alive: {stages:#?}");
    let end = place.done(&args[1..]);
    let resumed = stages.iter().filter(|s| s.contains("resuming")).count();
    assert!(resumed >= 7 && end.stderr.contains("resuming"), "{stages:#?}: {}", end.screen());
    assert!(place.model() == whole.model(), "the weights differ: {stages:#?}");

    let found = records(&place);
    let steps = found.iter().filter(|r| r["record"] == "step").map(|r| r["step"].as_u64().unwrap());
    assert!(steps.eq(1..=STEPS), "{stages:#?}");
    assert_eq!(found, records(&whole));
    assert!(place.done(&args[1..]).ran().is_empty());
}

#[test]
fn threads_do_not_change_a_bit() {
    let models = ["1", "2"].map(|threads| {
        let place = Place::new();
        place.done(&["--until", "train", "--threads", threads]);
        (place.model(), records(&place))
    });
    assert!(models[0].0 == models[1].0, "the weights differ");
    assert_eq!(models[0].1, models[1].1);
}

/// Whether this process, and so what it starts, was told to ignore SIGHUP.
#[cfg(unix)]
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|b| b & 1 == 1)
}

/// A queue's and a terminal's signals leave a checkpoint, and the weights come out the same.
#[cfg(unix)]
#[test]
fn a_training_that_is_asked_to_stop_goes_on_from_a_checkpoint() {
    let set = ["train.schedule.steps=400", "train.exec.checkpoint_every_s=600"];
    let args: Vec<&str> = ["p.toml", "--until", "train"]
        .into_iter()
        .chain(set.iter().flat_map(|s| ["--set", s]))
        .collect();
    let whole = Place::new();
    whole.done(&args[1..]);
    let place = Place::new();
    for (i, (signal, code)) in [("-TERM", 143), ("-HUP", 129), ("-USR1", 138)].iter().enumerate() {
        // Under `nohup` it is ignored, and the runner leaves it so.
        if *signal == "-HUP" && hangups_are_ignored() {
            continue;
        }
        let mut child = place.spawn(&args);
        wait_for(&place, &mut child, 30 * (i as u64 + 1));
        let id = child.id().to_string();
        assert!(
            std::process::Command::new("kill").args([signal, &*id]).status().unwrap().success()
        );
        let output = place.output(child);
        assert_eq!(output.code, Some(*code), "{}", output.screen());
        assert!(output.stderr.contains("resume with\n"), "{}", output.screen());
    }
    let end = place.done(&args[1..]);
    assert!(end.stderr.contains("resuming after step "), "{}", end.screen());
    assert!(place.model() == whole.model(), "the weights differ");
}
