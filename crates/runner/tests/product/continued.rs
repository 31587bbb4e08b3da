//! Training that begins with a model that exists: another stage's, or one from outside of the store.

use std::path::Path;

use crate::harness::{Place, flip, json_lines};

const TUNE: &str = r#"
[stage.tune]
uses     = "train-gpt"
inputs   = { model = "train.checkpoint", train = "pack.train", val = "pack.val", bpe = "tokenizer.bpe" }
model    = { preset = "nanochat-2026-07", depth = 2, aspect_ratio = 16, head_dim = 16 }
schedule = { batch_tokens = 512, steps = 10 }
evaluate = { every_steps = 5, tokens = 2_048 }
"#;

/// The small pipeline with a stage that goes on from its training.
fn tuned(edit: impl Fn(&str) -> String) -> Place {
    let place = Place::new();
    place.file(&format!("{}{}", include_str!("nano.toml"), edit(TUNE)));
    place
}

/// Bits per byte before the first step and after the last.
fn bits(place: &Place, stage: &str) -> [f64; 2] {
    let records = json_lines(&place.entry(stage).join("metrics"));
    let last = records.last().unwrap();
    ["bpb_start", "bpb_end"].map(|key| last[key].as_f64().unwrap())
}

fn weights(place: &Place, stage: &str) -> Vec<u8> {
    std::fs::read(place.entry(stage).join("checkpoint/model.safetensors")).unwrap()
}

#[test]
fn a_training_goes_on_from_another_stages_weights_on_any_number_of_ranks() {
    let place = tuned(str::to_owned);
    let plan = place.done(&["--plan", "--until", "tune"]);
    assert!(
        plan.stdout.contains("begins with  those of input `model`, once it is made"),
        "{}",
        plan.screen()
    );
    let output = place.done(&["--until", "tune"]);
    assert!(
        output.stderr.contains("tune: beginning with the weights of a model of 40 steps"),
        "{}",
        output.screen()
    );
    let ([_, end], [start, after]) = (bits(&place, "train"), bits(&place, "tune"));
    assert_eq!(start, end, "it begins where the other ended");
    assert!(after < start, "{after} after {start}");
    assert!(place.done(&["--until", "tune"]).ran().is_empty());
    let plan = place.done(&["--plan", "--until", "tune", "--force", "tune"]);
    assert!(plan.stdout.contains("trained for 40 steps"), "{}", plan.screen());

    let ranks = tuned(str::to_owned);
    ranks.done(&["--until", "tune", "--set", "tune.resources={ ranks = 2 }"]);
    let [start_on_two, after_on_two] = bits(&ranks, "tune");
    assert!((start_on_two - start).abs() < 1e-6, "{start_on_two} and {start}");
    assert!((after_on_two - after).abs() < 1e-3, "{after_on_two} and {after}");

    // Other weights to begin with are another training.
    let before = weights(&place, "tune");
    let output = place.done(&["--until", "tune", "--set", "train.schedule.steps=20"]);
    assert_eq!(output.ran(), ["train", "tune"]);
    assert!(output.why("tune").contains("input model changed"), "{}", output.screen());
    assert!(!before.is_empty());
}

#[test]
fn a_model_of_another_shape_is_refused_before_anything_runs() {
    for (edit, what) in [
        (("depth = 2", "depth = 4"), "depth is 4 here and 2 there"),
        (("aspect_ratio = 16", "aspect_ratio = 32"), "model_dim is 64 here and 32 there"),
        (
            ("aspect_ratio = 16", "aspect_ratio = 16, kv_heads = 1"),
            "kv_heads is 1 here and 2 there",
        ),
    ] {
        let place = tuned(|tune| tune.replace(edit.0, edit.1));
        let output = place.go(&["--until", "tune"]);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        assert!(
            output.stderr.contains(what) && output.stderr.contains("hint: "),
            "{}",
            output.screen()
        );
        let plan = place.go(&["--plan"]);
        assert_eq!(plan.code, Some(2), "{}", plan.screen());
        assert!(plan.stdout.contains(what), "{}", plan.screen());
    }
}

#[test]
fn what_only_the_model_itself_tells_is_compared_with_it() {
    // Shapes agree, numbers do not; and a tokenizer of the same size that was trained on other text.
    let other = "\n[stage.text]\nuses = \"fetch-parquet\"\nsource = \"embedded://world\"\n\
         world = { train_shards = 1, documents_per_shard = 100, val_documents = 40 }\n\
         [stage.other]\nuses = \"train-bpe\"\ninputs = { text = \"text.train\" }\nvocab_size = 400\n\
         [stage.repack]\nuses = \"pack-bestfit\"\nrow_tokens = 64\n\
         inputs = { train = \"fetch.train\", val = \"fetch.val\", bpe = \"other.bpe\" }\n";
    let of_other =
        |tune: &str| tune.replace("pack.", "repack.").replace("tokenizer.bpe", "other.bpe") + other;
    let gain = |tune: &str| tune.replace("depth = 2", "depth = 2, qk_gain = 1.0");
    for (place, what) in [
        (tuned(gain), "qk_gain is 1.0 here and 1.2 there"),
        (tuned(of_other), "was trained with tokenizer "),
    ] {
        // Unknown before the model is made, and a fault of the stage then; before anything runs once it is there.
        let output = place.go(&["--until", "tune"]);
        assert_eq!(output.code, Some(1), "{}", output.screen());
        assert!(output.stderr.contains(what), "{}", output.screen());
        let output = place.go(&["--until", "tune"]);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        assert!(
            output.stderr.contains(what) && output.stderr.contains("hint: "),
            "{}",
            output.screen()
        );
    }
}

#[test]
fn more_steps_start_anew_and_the_plan_says_why_and_how_to_continue() {
    let place = Place::until("train");
    let raised = ["--plan", "--until", "train", "--set", "train.schedule.steps=60"];
    let plan = place.done(&raised).stdout;
    assert!(plan.contains("`schedule.steps` was 40 and is 60"), "{plan}");
    let lines: Vec<&str> = plan.lines().skip_while(|l| !l.contains("[stage.train-on]")).collect();
    let stage: Vec<&str> = lines.iter().map(|l| l.trim()).take(6).collect();
    assert!(stage[4].starts_with("schedule = ") && stage[4].contains("steps = 20"), "{plan}");
    // What it prints is a stage that runs.
    place.file(&format!("{}\n{}\n", include_str!("nano.toml"), stage.join("\n")));
    let output = place.done(&["--until", "train-on"]);
    assert_eq!(output.ran(), ["train-on"]);
    assert_eq!(bits(&place, "train-on")[0], bits(&place, "train")[1]);
    // Nothing of it where there is nothing to go on from.
    let fewer =
        place.done(&["--plan", "--until", "train", "--set", "train.schedule.steps=30"]).stdout;
    assert!(!fewer.contains("[stage."), "{fewer}");
    let fresh = Place::new().done(&raised).stdout;
    assert!(!fresh.contains("[stage."), "{fresh}");
}

const IMPORT: &str = r#"
[stage.mine]
uses = "import-model"
path = "mine"
[stage.mine-bpb]
uses   = "eval-bpb"
tokens = 4_096
inputs = { model = "mine.checkpoint", val = "pack.val", bpe = "mine.bpe" }
[stage.on]
uses     = "train-gpt"
inputs   = { model = "mine.checkpoint", train = "pack.train", val = "pack.val", bpe = "mine.bpe" }
model    = { preset = "nanochat-2026-07", depth = 2, aspect_ratio = 16, head_dim = 16 }
schedule = { batch_tokens = 512, steps = 5 }
evaluate = { every_steps = 5, tokens = 4_096 }
"#;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_model_from_outside_is_imported_evaluated_and_trained_on() {
    let place = Place::until("bpb");
    let trained = place.entry("train").join("checkpoint");
    copy(&trained, &place.path("mine"));
    place.file(&format!("{}{IMPORT}", include_str!("nano.toml")));
    let plan = place.done(&["--plan", "--until", "on"]).stdout;
    assert!(plan.contains("2 layers, C 32, V 400, T 64, trained for 40 steps"), "{plan}");
    assert_eq!(place.done(&["--until", "on"]).ran(), ["mine", "on"]);
    assert_eq!(weights(&place, "mine"), weights(&place, "train"));
    // The same model and the same rows: what was found out of them is known.
    let again = place.done(&["--only", "mine-bpb"]);
    assert!(again.ran().is_empty(), "{}", again.screen());
    // Where it lies does not count, what it holds does.
    copy(&place.path("mine"), &place.path("moved"));
    let at = "mine.path=\"moved/model.safetensors\"";
    assert!(place.done(&["--until", "mine", "--set", at]).ran().is_empty());

    // Damage, a tokenizer of another model, nothing at all.
    flip(&place.path("mine/model.safetensors"));
    let output = place.go(&["--until", "mine"]);
    assert_eq!(output.code, Some(1), "{}", output.screen());
    assert!(
        output.stderr.contains("is damaged: its content has the checksum"),
        "{}",
        output.screen()
    );
    std::fs::remove_file(place.path("moved/tokenizer.json")).unwrap();
    let output = place.go(&["--until", "mine", "--force", "mine", "--set", at]);
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(output.stderr.contains("tokenizer.json beside the model"), "{}", output.screen());
    let output = place.go(&["--until", "mine", "--set", "mine.path=\"absent\"", "--force", "mine"]);
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(output.stderr.contains("absent"), "{}", output.screen());
}
