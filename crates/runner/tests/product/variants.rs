//! Ablations and precision: each is one key, trains, survives being cut off, and is read by the stages after training.

use crate::damage::{LONG, cut_off};
use crate::harness::{Place, json_lines};

const VARIANTS: [&str; 4] = [
    "train.model.rotary_fraction=0.5",
    "train.model.mlp=\"swiglu\"",
    "train.model.backout=false",
    "train.precision=\"bf16\"",
];

/// Enough to leave the warm-up behind.
const STEPS: &str = "train.schedule.steps=150";

/// Bits per byte before the first step and after the last.
fn learned(place: &Place) -> [f64; 2] {
    let records = json_lines(&place.entry("train").join("metrics"));
    let last = records.last().unwrap();
    ["bpb_start", "bpb_end"].map(|key| last[key].as_f64().unwrap())
}

#[test]
fn each_variant_is_one_key_and_learns_and_is_its_own_model() {
    let plain = Place::new();
    plain.done(&["--until", "train", "--set", STEPS]);
    let [start, end] = learned(&plain);
    assert!(end < 0.8 * start, "{start} {end}");
    let mut models = vec![plain.model()];
    for variant in VARIANTS {
        let place = Place::new();
        place.done(&["--until", "sample", "--set", STEPS, "--set", variant]);
        let [start, varied] = learned(&place);
        assert!(varied < 0.8 * start, "{variant}: {start} {varied}");
        assert!((varied - end).abs() < 0.1 * end, "{variant}: {varied}, {end} without");
        let model = place.model();
        assert!(!models.contains(&model), "{variant} changes nothing");
        models.push(model);
    }
}

#[test]
fn a_variant_that_was_cut_off_ends_with_the_same_weights() {
    for variant in &VARIANTS[1..] {
        let args = [&["--until", "train", "--set", variant], &LONG[..]].concat();
        let whole = Place::new();
        whole.done(&args);
        let place = Place::new();
        cut_off(&place, &["--set", variant]);
        let output = place.done(&[&args[..], &["--threads", "1"]].concat());
        assert!(output.stderr.contains("train: resuming after step"), "{}", output.screen());
        assert!(place.model() == whole.model(), "{variant}: the weights differ");
    }
}
