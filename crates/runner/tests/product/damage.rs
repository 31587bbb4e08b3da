//! Files damaged behind the product's back: noticed before they are used, named, and made again on request.

use std::fs;
use std::path::PathBuf;

use insta::assert_snapshot;

use crate::harness::{Place, flip};

/// The first shard of packed rows.
fn shard(place: &Place) -> PathBuf {
    let rows = place.entry("pack").join("train");
    let files = fs::read_dir(rows).unwrap().map(|e| e.unwrap().path());
    files.filter(|f| f.extension().is_some_and(|e| e == "safetensors")).min().unwrap()
}

#[test]
fn a_truncated_shard_is_packed_again() {
    let place = Place::until("pack");
    let path = shard(&place);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 130]).unwrap();
    let output = place.done(&["--until", "train"]);
    assert_eq!(output.ran(), ["pack", "train"]);
    assert_snapshot!(output.masked());
    assert_eq!(fs::read(shard(&place)).unwrap(), whole);
}

#[test]
fn a_flipped_byte_in_a_shard_stops_training_before_its_first_step() {
    let place = Place::until("pack");
    let whole = fs::read(shard(&place)).unwrap();
    flip(&shard(&place));
    let output = place.go(&[]);
    assert_eq!(output.code, Some(1), "{}", output.screen());
    assert_snapshot!(output.fault());
    assert!(!output.stderr.contains("before the first step"), "{}", output.screen());
    // What the hint says.
    let output = place.done(&["--verify"]);
    assert_eq!(output.ran()[0], "pack");
    assert_eq!(fs::read(shard(&place)).unwrap(), whole);
}

#[test]
fn a_flipped_byte_in_a_model_stops_those_that_read_it() {
    let place = Place::until("train");
    let whole = place.model();
    flip(&place.entry("train").join("checkpoint/model.safetensors"));
    for stage in ["bpb", "core", "sample"] {
        let output = place.go(&["--only", stage]);
        assert_eq!(output.code, Some(1), "{}", output.screen());
        assert_snapshot!(format!("flipped_model_{stage}"), output.fault());
    }
    let output = place.done(&["--verify"]);
    assert_eq!(output.ran()[0], "train");
    assert!(place.model() == whole, "the model that is trained again is another one");
}

/// Steps for a training that is to be cut off: seconds, so that whoever cuts it off is in time on a busy machine too.
pub(crate) const LONG: [&str; 2] = ["--set", "train.schedule.steps=200"];

/// The checkpoints of a training of [`LONG`] that was cut off once it had two, oldest first.
pub(crate) fn cut_off(place: &Place, args: &[&str]) -> Vec<PathBuf> {
    let checkpoint_always = ["--set", "train.exec.checkpoint_every_s=0"];
    let mut child = place.spawn(&[&["p.toml"], &LONG[..], &checkpoint_always, args].concat());
    let checkpoints = || {
        let folders = fs::read_dir(place.path("store/stages")).into_iter().flatten();
        let scratch = folders.map(|e| e.unwrap().path().join(".scratch"));
        let files = scratch.flat_map(|dir| fs::read_dir(dir).into_iter().flatten());
        let mut found: Vec<PathBuf> = files.map(|e| e.unwrap().path()).collect();
        found.retain(|f| {
            f.to_string_lossy().contains("/step-")
                && f.extension().is_some_and(|e| e == "safetensors")
        });
        found.sort();
        found
    };
    while checkpoints().len() < 2 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = checkpoints();
    assert!(kept.len() >= 2, "the run was over before it was cut off: {kept:?}");
    kept
}

#[test]
fn a_flipped_byte_in_a_checkpoint_costs_the_steps_since_the_one_before() {
    let whole = Place::new();
    whole.done(&[&["--until", "train"], &LONG[..]].concat());
    let place = Place::new();
    let kept = cut_off(&place, &[]);
    let newest = kept.last().unwrap();
    flip(newest);

    let output = place.done(&[&["--until", "train"], &LONG[..]].concat());
    assert_eq!(output.why("train"), "never run; resumes what was cut off");
    let name = newest.file_name().unwrap().to_string_lossy().into_owned();
    let passed = output.stderr.lines().find(|l| l.contains("passing over")).unwrap_or_default();
    assert!(passed.contains(&name) && passed.contains("checksum"), "{}", output.screen());
    assert!(output.stderr.contains("train: resuming after step"), "{}", output.screen());
    assert!(place.model() == whole.model(), "the weights differ from an uninterrupted run's");
}

#[test]
fn a_checkpoint_of_another_shape_is_passed_over_by_name() {
    let whole = Place::new();
    whole.done(&[&["--until", "train"], &LONG[..]].concat());
    let (place, deeper) = (Place::new(), Place::new());
    let kept = cut_off(&place, &[]);
    let foreign = cut_off(&deeper, &["--set", "train.model.depth=3"]);
    let newer = kept[0].with_file_name("step-0000009999.safetensors");
    fs::copy(foreign.last().unwrap(), newer).unwrap();

    let output = place.done(&[&["--until", "train"], &LONG[..]].concat());
    let mut lines = output.stderr.lines().skip_while(|l| !l.contains("passing over"));
    let passed: Vec<&str> = lines.by_ref().take(2).collect();
    let file = passed[0].split_once("step-").map_or(passed[0], |(_, rest)| rest);
    assert_snapshot!(format!("{file}\n{}\n──── exit {:?}", passed[1], output.code));
    assert!(output.stderr.contains("train: resuming after step"), "{}", output.screen());
    assert!(place.model() == whole.model(), "the weights differ from an uninterrupted run's");
}
