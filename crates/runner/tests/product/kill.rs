//! `kill -9` at ten moments of a run, and other numbers of threads: the weights are the same to the last bit.

use std::time::{Duration, Instant};

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

#[test]
fn killed_at_ten_moments_it_completes_with_the_same_weights_and_records() {
    const STEPS: u64 = 400;
    let set = format!("train.schedule.steps={STEPS}");
    let args = ["p.toml", "--set", &set, "--set", "train.evaluate.every_steps=50"];

    let whole = Place::new();
    let began = Instant::now();
    whole.done(&args[1..]);
    let duration = began.elapsed();

    let place = Place::new();
    // Attempts of 3 to 18 hundredths of the run's time each, from a congruential generator.
    let (mut random, mut alive, mut stages) = (2_024_u64, 0, Vec::new());
    for _ in 0..10 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let share = 0.03 + 0.15 * (random >> 40) as f64 / (1 << 24) as f64;
        let mut child = place.spawn(&args);
        std::thread::sleep(duration.mul_f64(share).max(Duration::from_millis(20)));
        alive += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        let output = place.output(child);
        let last =
            output.stderr.lines().rev().find(|l| l.contains(": runs (") || l.contains("resuming"));
        stages.push(last.unwrap_or("nothing yet").to_owned());
    }
    assert!(alive >= 8, "{alive} of ten found the run alive: {stages:#?}");
    let end = place.done(&args[1..]);
    assert!(
        stages.iter().any(|s| s.contains("resuming")) || end.stderr.contains("resuming"),
        "{stages:#?}"
    );
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
