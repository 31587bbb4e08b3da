//! Checkpoints of a training: resumed from any of them it ends bit-equal, with every group's optimizer state; under another
//! micro-batch equal to rounding; the best weights and the exported ones are what they say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use farthing_data::Tokenizer;
use farthing_model::Checkpoint;
use farthing_runner::stages::train_gpt::TrainGpt;
use farthing_runner::{Ctx, Extras, Resources, Stage};
use serde_json::{Value, json};

use crate::harness::{Place, json as read_json, json_lines};

const STEPS: u64 = 60;

/// Trains in a folder on the rows that a pipeline packed.
fn train(place: &Place, dir: &Path, exec: &Value, resumed: bool, threads: usize) {
    let config = json!({
        "model": { "depth": 2, "aspect_ratio": 16, "head_dim": 16 },
        "schedule": { "batch_tokens": 512, "steps": STEPS },
        "evaluate": { "every_steps": 15, "tokens": 2_048 },
        "keep_best": true,
    });
    let pack = place.entry("pack");
    let inputs = [
        ("train", pack.join("train")),
        ("val", pack.join("val")),
        ("bpe", place.entry("tokenizer").join("bpe")),
    ];
    let mut extras = Extras::default();
    extras.insert(farthing_optim::Registry::standard());
    let mut ctx = Ctx::detached(dir, inputs).with_extras(extras.into());
    (ctx.seed, ctx.resumed) = (7, resumed);
    ctx.resources = Resources { threads, ..Resources::default() };
    let config = serde_json::from_value(config).unwrap();
    TrainGpt::run(config, serde_json::from_value(exec.clone()).unwrap(), &mut ctx).unwrap();
}

fn weights(dir: &Path, port: &str) -> Vec<u8> {
    std::fs::read(dir.join(port).join("model.safetensors")).unwrap()
}

/// The records without what depends on the clock.
fn records(dir: &Path) -> Vec<Value> {
    let mut records = json_lines(&dir.join("metrics"));
    for record in &mut records {
        let fields = record.as_object_mut().unwrap();
        for clock in ["seconds", "tokens_per_s", "train_seconds", "memory_bytes"] {
            fields.remove(clock);
        }
    }
    records
}

/// A folder as a kill leaves it: the checkpoint of one step, whatever bests were written by the end, all the metrics.
fn cut_off(whole: &Path, step: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".scratch")).unwrap();
    for entry in std::fs::read_dir(whole.join(".scratch")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("best-") || name == format!("step-{step:010}.safetensors") {
            let file = Path::new(".scratch").join(&name);
            std::fs::copy(whole.join(&file), dir.path().join(&file)).unwrap();
        }
    }
    std::fs::copy(whole.join("metrics"), dir.path().join("metrics")).unwrap();
    dir
}

fn step_file(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!(".scratch/step-{step:010}.safetensors"))
}

#[test]
fn resumed_at_every_tenth_step_it_ends_bit_equal() {
    let place = Place::until("pack");
    let whole = tempfile::tempdir().unwrap();
    let whole = whole.path();
    let exec =
        json!({ "checkpoint_every_steps": 10, "checkpoint_every_s": 1e6, "keep_checkpoints": 100 });
    train(&place, whole, &exec, false, 2);

    // The state of every group that the preset has, NorMuon's and AdamW's alike.
    let checkpoint = Checkpoint::open(&step_file(whole, 10)).unwrap();
    let names = checkpoint.state_names();
    let groups: BTreeSet<&str> = names.iter().filter_map(|name| name.split('.').nth(2)).collect();
    let all =
        ["lm_head", "matrices", "resid_lambdas", "smear", "value_embeds", "wte", "x0_lambdas"];
    assert!(all.iter().all(|group| groups.contains(group)), "{groups:?}");

    for step in (10..STEPS).step_by(10) {
        let dir = cut_off(whole, step);
        assert!(step_file(dir.path(), step).exists());
        // Another number of threads, and fewer checkpoints: neither is part of what is computed.
        let exec = json!({ "checkpoint_every_s": 1e6, "keep_checkpoints": 1 });
        train(&place, dir.path(), &exec, true, 1 + (step / 10 % 2) as usize);
        for port in ["checkpoint", "best"] {
            assert!(weights(whole, port) == weights(dir.path(), port), "{port}, resumed at {step}");
        }
        assert_eq!(records(whole), records(dir.path()), "resumed at {step}");
    }

    // The best are the weights of the evaluation with the fewest bits per byte, the first of them.
    let evals: Vec<(u64, f64)> = records(whole)
        .iter()
        .filter(|r| r["record"] == "eval" && r["step"] != 0)
        .map(|r| (r["step"].as_u64().unwrap(), r["val_bpb"].as_f64().unwrap()))
        .collect();
    let best = evals.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let kept = Checkpoint::open(&whole.join("best/model.safetensors")).unwrap();
    assert_eq!(kept.step(), best.0, "{evals:?}");
}

#[test]
fn resumed_under_another_micro_batch_it_ends_equal_to_rounding() {
    let place = Place::until("pack");
    let whole = tempfile::tempdir().unwrap();
    let exec = json!({ "checkpoint_every_steps": 30, "checkpoint_every_s": 1e6, "keep_checkpoints": 100, "micro_batch_rows": 8 });
    train(&place, whole.path(), &exec, false, 2);
    let dir = cut_off(whole.path(), 30);
    train(&place, dir.path(), &json!({ "micro_batch_rows": 2 }), true, 2);
    let losses = |dir: &Path| -> Vec<f64> {
        let records = records(dir);
        let steps = records.iter().filter(|r| r["record"] == "step");
        steps.skip(30).map(|r| r["loss"].as_f64().unwrap()).collect()
    };
    let (a, b) = (losses(whole.path()), losses(dir.path()));
    assert_eq!((a.len(), b.len()), (30, 30));
    let apart: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / a).collect();
    // The first step starts from the same weights; what rounding does to a young model's weights grows from step to step.
    assert!(apart[0] < 1e-6, "{apart:?}");
    assert!(apart[1..5].iter().all(|&x| x < 1e-4), "{apart:?}");
    assert!(apart.iter().all(|&x| x < 1e-2), "{apart:?}");
}

#[test]
fn a_model_is_exported_with_its_configuration_and_tokenizer() {
    let place = Place::until("train");
    let text = std::fs::read_to_string(place.path("p.toml")).unwrap();
    place.file(&format!(
        "{text}\n[stage.export]\nuses = \"export-model\"\ndtype = \"bf16\"\n\
         inputs = {{ model = \"train.checkpoint\", bpe = \"tokenizer.bpe\" }}\n\
         [stage.bf16]\nuses = \"eval-bpb\"\ntokens = 4_096\n\
         inputs = {{ model = \"export.export\", val = \"pack.val\", bpe = \"tokenizer.bpe\" }}\n"
    ));
    place.done(&["--only", "export"]);
    let entry = place.entry("export").join("export");
    assert_eq!(read_json(&entry.join("config.json"))["depth"], 2);
    let digest = |path: &Path| Tokenizer::load(path).unwrap().digest().to_owned();
    let trained = place.entry("tokenizer").join("bpe");
    assert_eq!(digest(&entry.join("tokenizer.json")), digest(&trained));
    let size = std::fs::metadata(entry.join("model.safetensors")).unwrap().len();
    assert!(size * 10 < place.model().len() as u64 * 6, "{size}");
    // It is a checkpoint that every other stage reads.
    place.done(&["--only", "bpb"]);
    place.done(&["--only", "bf16"]);
    let bpb = |stage| json_lines(&place.entry(stage).join("metrics"))[0]["bpb"].as_f64().unwrap();
    let (full, rounded) = (bpb("bpb"), bpb("bf16"));
    assert!(full != rounded && (full - rounded).abs() < 0.01 * full, "{full} and {rounded}");
}
