//! What runs again and what does not, for the product's own stages.

use std::fs;

use insta::assert_snapshot;

use crate::harness::Place;

#[test]
fn nothing_runs_again_unless_its_content_changes() {
    let place = Place::new();
    let stages = ["fetch", "tokenizer", "pack", "train", "bpb", "core", "sample", "report"];
    assert_eq!(place.done(&[]).ran(), stages);

    let again = place.done(&[]);
    assert!(again.ran().is_empty());
    assert_snapshot!("again", again.masked());

    place.edit("[stage.train.model]", "# the model\n[stage.train.model]   # of two layers");
    assert!(place.done(&[]).ran().is_empty(), "a comment");

    let defaults = [
        "train.model.window_pattern=\"SSSL\"",
        "train.schedule.final_lr_frac=0.05",
        "train.optim.matrices.lr=0.02",
        "train.seq_len=64",
        "train.precision=\"f32\"",
        "train.model.mlp=\"relu2\"",
        "train.model.rotary_fraction=1.0",
        "train.exec.checkpoint_every_s=7",
        "train.exec.keep_checkpoints=3",
        "tokenizer.max_chars=2_000_000_000",
        "pack.remainder=\"requeue\"",
        "sample.temperature=0",
    ];
    for default in defaults {
        let spelled = place.done(&["--set", default]);
        assert!(spelled.ran().is_empty(), "{default}: {}", spelled.screen());
    }

    let threads = place.done(&["--threads", "1"]);
    assert!(threads.ran().is_empty(), "{}", threads.screen());
    // Other numerics are another model: weights of f32 are not those of a device that stores bf16.
    let elsewhere = place.done(&["--plan", "--set", "train.resources={device=\"emulated\"}"]);
    assert_eq!(elsewhere.why("train"), "device changed: cpu → emulated", "{}", elsewhere.screen());

    let slower = place.done(&["--until", "train", "--set", "train.optim.matrices.lr=0.01"]);
    assert_eq!(slower.why("train"), "config changed: optim.matrices.lr 0.02 → 0.01");

    let deeper = place.done(&["--set", "train.model.depth=3"]);
    assert_eq!(deeper.ran(), ["train", "bpb", "core", "sample", "report"]);
    assert_eq!(deeper.why("pack"), "same config and inputs");
    assert_snapshot!("deeper", deeper.masked());
    assert!(place.done(&[]).ran().is_empty(), "the model of two layers is still there");
}

#[test]
fn equal_bytes_stop_the_cascade() {
    let place = Place::until("pack");
    // More characters than there are train the same tokenizer.
    let same = place.done(&["--until", "pack", "--set", "tokenizer.max_chars=1_000_000_000"]);
    assert_eq!(same.ran(), ["tokenizer"], "{}", same.screen());
    assert_eq!(same.why("pack"), "same config and inputs");
    // Rows of another length are other rows, of the same tokens.
    let rows = place.done(&["--until", "pack", "--set", "pack.row_tokens=32"]);
    assert_eq!(rows.ran(), ["pack"]);
}

#[test]
fn an_edited_source_file_is_noticed_and_a_touched_one_is_not() {
    let made = Place::until("fetch");
    let place = Place::new();
    place.edit("embedded://world", "text/*.parquet");
    place
        .edit("world  = { train_shards = 1, documents_per_shard = 300, val_documents = 40 }\n", "");
    place.edit(", tasks = \"fetch.tasks\"", "");
    let text = place.path("text");
    fs::create_dir(&text).unwrap();
    let (train, val) = (made.entry("fetch").join("train"), made.entry("fetch").join("val"));
    let held_out = val.join("shard_00001.parquet");
    fs::copy(train.join("shard_00000.parquet"), text.join("a.parquet")).unwrap();
    fs::copy(&held_out, text.join("b.parquet")).unwrap();
    // Text has no tasks about it, which is said before a model is trained.
    let plan = place.done(&["--plan", "--set", "core.inputs.tasks=fetch.tasks"]);
    assert!(plan.stdout.contains("there are no tasks about this text"), "{}", plan.screen());
    assert!(!place.path("store/stages").exists(), "something ran");
    assert_eq!(place.done(&["--until", "pack"]).ran(), ["fetch", "tokenizer", "pack"]);

    let a = fs::File::options().append(true).open(text.join("a.parquet")).unwrap();
    a.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(100)).unwrap();
    assert!(place.done(&["--until", "pack"]).ran().is_empty(), "touched");

    // Written in place, so that the file keeps its inode.
    fs::write(text.join("a.parquet"), fs::read(&held_out).unwrap()).unwrap();
    let edited = place.done(&["--until", "pack"]);
    assert_eq!(edited.ran(), ["fetch", "tokenizer", "pack"]);
    assert_snapshot!("edited_source", edited.masked());

    // Back to what it was: the first outputs are still what they were.
    fs::copy(train.join("shard_00000.parquet"), text.join("a.parquet")).unwrap();
    let back = place.done(&["--until", "pack", "--verify"]);
    assert!(back.ran().is_empty(), "{}", back.screen());
}
