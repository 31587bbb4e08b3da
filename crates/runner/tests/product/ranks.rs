//! A training on several ranks: led by one screen, the same but for rounding, cut off and gone on with by any number of them.

use serde_json::Value;

use crate::harness::{Place, json_lines};
use crate::kill::wait_for;

pub(crate) fn losses(place: &Place) -> Vec<f64> {
    let records = json_lines(&place.entry("train").join("metrics"));
    let steps = records.iter().filter(|record| record["record"] == "step");
    steps.map(|record| record["loss"].as_f64().unwrap()).collect()
}

pub(crate) fn bits(place: &Place) -> Vec<f64> {
    let records = json_lines(&place.entry("train").join("metrics"));
    records.iter().filter_map(|record| record.get("val_bpb").and_then(Value::as_f64)).collect()
}

pub(crate) fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn on(ranks: usize) -> Place {
    let place = Place::new();
    let set = format!("train.resources={{ ranks = {ranks} }}");
    let output = place.done(&["--until", "train", "--set", &set]);
    let said = if ranks == 1 { "on cpu".to_owned() } else { format!("on {ranks} ranks of cpu") };
    assert!(output.stderr.contains(&said), "{}", output.screen());
    place
}

#[test]
fn ranks_learn_what_one_learns_and_the_same_bits_every_time() {
    let [one, two, again, four] = [1, 2, 2, 4].map(on);
    for many in [&two, &four] {
        // The first steps, in which rounding has not grown yet.
        let (a, b) = (losses(&one), losses(many));
        assert!(apart(&a[..10], &b[..10]) < 1e-5, "{a:?} and {b:?}");
        assert!(apart(&bits(&one), &bits(many)) < 0.05, "{:?} and {:?}", bits(&one), bits(many));
    }
    assert!(two.model() == again.model(), "two ranks, twice");
    assert_eq!(losses(&two), losses(&again));
    // How many there were is no reason to train again.
    let plan = four.done(&["--plan", "--until", "train"]);
    assert!(!plan.stdout.contains("run  "), "{}", plan.screen());
    assert!(four.done(&["--until", "train"]).ran().is_empty());
}

#[test]
fn killed_at_three_moments_and_gone_on_with_by_other_numbers_of_ranks() {
    let steps =
        ["--set", "train.schedule.steps=240", "--set", "train.exec.checkpoint_every_steps=5"];
    let until = ["p.toml", "--until", "train"];
    let whole = Place::new();
    whole.done(&[&until[1..], &steps].concat());

    let place = Place::new();
    for (attempt, ranks) in [2, 4, 1].into_iter().enumerate() {
        let set = format!("train.resources={{ ranks = {ranks} }}");
        let args = [&until[..], &steps, &["--set", &set]].concat();
        let mut child = place.spawn(&args);
        wait_for(&place, &mut child, 20 + 40 * attempt as u64);
        assert!(child.try_wait().unwrap().is_none(), "it was over before it was killed");
        child.kill().unwrap();
        let output = place.output(child);
        assert_eq!(output.stderr.contains("resuming after step"), attempt > 0, "{}", output.stderr);
    }
    let set = "train.resources={ ranks = 8 }";
    let end = place.go(&[&until[1..], &steps, &["--set", set]].concat());
    assert_eq!(end.code, Some(0), "{}", end.screen());
    assert!(end.stderr.contains("there are 8 ranks and were 1"), "{}", end.stderr);
    let (a, b) = (losses(&whole), losses(&place));
    assert_eq!(b.len(), 240);
    assert!(apart(&a[..10], &b[..10]) < 1e-5, "{a:?} and {b:?}");
    let ends = [&whole, &place].map(|place| *bits(place).last().unwrap());
    assert!((ends[0] - ends[1]).abs() < 0.05, "{ends:?}");
}

/// A stage's records.
fn records(place: &Place, stage: &str) -> Vec<Value> {
    json_lines(&place.entry(stage).join("metrics"))
}

#[test]
fn evaluations_on_ranks_find_what_one_finds() {
    let one = Place::until("core");
    one.done(&["--until", "bpb"]);
    for ranks in [2, 3] {
        let place = Place::new();
        let sets = ["bpb", "core"].map(|s| format!("{s}.resources={{ ranks = {ranks} }}"));
        let args = ["--set", &sets[0], "--set", &sets[1]];
        let plan = place.done(&[&["--plan", "--until", "core"], &args[..]].concat());
        assert!(plan.stdout.contains("eval-core"), "{}", plan.screen());
        place.done(&[&["--until", "bpb"], &args[..]].concat());
        place.done(&[&["--until", "core"], &args[..]].concat());
        assert_eq!(records(&place, "bpb"), records(&one, "bpb"), "{ranks} ranks");
        for (found, wanted) in records(&place, "core").iter().zip(records(&one, "core")) {
            assert_eq!(*found, wanted, "{ranks} ranks");
        }
        let items = |place: &Place| json_lines(&place.entry("core").join("items"));
        let (found, wanted) = (items(&place), items(&one));
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            for key in ["index", "line", "prompts", "gold", "chosen", "correct"] {
                assert_eq!(found[key], wanted[key], "{ranks} ranks: {found} and {wanted}");
            }
        }
    }
}

#[test]
fn numbers_of_ranks_that_cannot_be_are_said_before_anything_runs() {
    let place = Place::new();
    let said = |set: &str| {
        let output = place.go(&["--set", set]);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        output.stderr
    };
    for (set, what) in [
        ("train.resources={ ranks = 0 }", "`ranks = 0`, expected at least 1"),
        ("train.resources={ ranks = 300 }", "`ranks = 300`, expected at most 256"),
        ("train.resources={ device = \"cuda\", ranks = 2 }", "each of its `gpus` is a rank"),
        ("sample.resources={ ranks = 2 }", "`sample` computes on one rank"),
        ("train.resources={ ranks = 3 }", "a step has 8 rows, which 3 ranks cannot share evenly"),
        ("train.resources={ ranks = 16 }", "a step has 8 rows, which 16 ranks cannot share evenly"),
    ] {
        let stderr = said(set);
        assert!(stderr.contains(what), "{set}: {stderr}");
    }
    place.edit("exec   = { checkpoint_every_s = 0.2 }", "exec   = { micro_batch_rows = 8 }");
    let stderr = said("train.resources={ ranks = 2 }");
    assert!(
        stderr.contains("exec.micro_batch_rows is 8, but each of 2 ranks has 4 rows"),
        "{stderr}"
    );
}
