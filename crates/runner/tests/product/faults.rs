//! Bad pipelines and bad data: each screen says what is wrong, where, and how to fix it, and each exit code is 2 for what the
//! file or the command line says, 1 for what a stage finds.

use insta::assert_snapshot;

use crate::harness::{Output, Place};

/// The small pipeline with one passage replaced.
fn with(from: &str, to: &str) -> Place {
    let place = Place::new();
    place.edit(from, to);
    place
}

/// The screen of a pipeline that is refused before anything runs.
fn refused(place: &Place, args: &[&str]) -> String {
    let output = place.go(args);
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(!place.path("store").exists(), "something ran: {}", output.screen());
    output.fault()
}

/// The screen of a stage that fails.
fn failed(place: &Place, args: &[&str]) -> Output {
    let output = place.go(args);
    assert_eq!(output.code, Some(1), "{}", output.screen());
    output
}

#[test]
fn unknown_key() {
    assert_snapshot!(refused(&with("depth        = 2", "depht = 2"), &[]));
}

#[test]
fn misspelt_kind() {
    assert_snapshot!(refused(&with("\"train-gpt\"", "\"train-gtp\""), &[]));
}

#[test]
fn wrong_kind_of_port() {
    assert_snapshot!(refused(&with("{ train = \"pack.train\"", "{ train = \"fetch.train\""), &[]));
}

#[test]
fn cycle() {
    assert_snapshot!(refused(
        &with("{ text = \"fetch.train\" }", "{ text = \"fetch.train\" }\nneeds = [\"pack\"]"),
        &[]
    ));
}

#[test]
fn missing_file() {
    let place = with("embedded://world", "text/*.parquet");
    place
        .edit("world  = { train_shards = 1, documents_per_shard = 300, val_documents = 40 }\n", "");
    assert_snapshot!(refused(&place, &[]));
}

#[test]
fn a_store_that_cannot_be_written() {
    let place = Place::new();
    std::fs::write(place.path("taken"), "").unwrap();
    assert_snapshot!(refused(&place, &["--store", "taken"]));
}

#[test]
fn unknown_optimizer() {
    assert_snapshot!(refused(
        &with("[stage.bpb]", "[stage.train.optim.matrices]\nuses = \"normoun\"\n\n[stage.bpb]"),
        &[]
    ));
}

#[test]
fn unknown_key_of_an_optimizer() {
    assert_snapshot!(refused(
        &with("[stage.bpb]", "[stage.train.optim.matrices]\nlearning_rate = 0.1\n\n[stage.bpb]"),
        &[]
    ));
}

#[test]
fn a_group_that_matches_nothing() {
    let group = "[stage.train.optim.smears]\nparams = [\"smaer.**\"]\nuses = \"adamw\"\nlr = 0.2\n\n[stage.bpb]";
    assert_snapshot!(refused(&with("[stage.bpb]", group), &[]));
}

#[test]
fn a_parameter_in_two_groups() {
    let group = "[stage.train.optim.queries]\nparams = [\"transformer.h.*.attn.c_q.weight\"]\nuses = \"normuon\"\nlr = 0.02\n\n\
        [stage.train.optim.attention]\nparams = [\"transformer.h.*.attn.*.weight\"]\nuses = \"normuon\"\nlr = 0.02\n\n[stage.bpb]";
    assert_snapshot!(refused(&with("[stage.bpb]", group), &[]));
}

#[test]
fn a_batch_that_is_no_whole_number_of_rows() {
    assert_snapshot!(refused(&with("batch_tokens = 512", "batch_tokens = 500"), &[]));
}

#[test]
fn a_sequence_longer_and_shorter_than_the_rows() {
    assert_snapshot!("longer", refused(&Place::new(), &["--set", "train.seq_len=128"]));
    assert_snapshot!("shorter", refused(&Place::new(), &["--set", "train.seq_len=32"]));
}

/// Where the driver was looked for is this machine's affair.
fn without_folders(screen: &str) -> String {
    let lines = screen.lines().map(|line| match line.split_once("no NVIDIA driver: ") {
        Some((before, _)) => format!("{before}no NVIDIA driver: …"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether these screens can be had here: on a machine with a GPU, what asks for one runs.
fn there_is_a_gpu() -> bool {
    farthing_kernels::open(farthing_kernels::DeviceKind::Cuda(0), 1).is_ok()
}

#[test]
fn no_gpu() {
    if there_is_a_gpu() {
        return;
    }
    let place = with(
        "exec   = { checkpoint_every_s = 0.2 }",
        "resources = { device = \"cuda\", gpus = 1 }",
    );
    assert_snapshot!(without_folders(&refused(&place, &[])));
}

#[test]
fn the_long_run_says_all_that_it_lacks() {
    if there_is_a_gpu() {
        return;
    }
    let place = Place::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/gpt2.toml");
    std::fs::copy(file, place.path("p.toml")).unwrap();
    assert_snapshot!("gpt2_run", without_folders(&refused(&place, &[])));
    let plan = place.done(&["--plan"]);
    assert!(plan.stdout.contains("not pinned yet"), "{}", plan.screen());
    assert!(plan.stdout.contains("FLOPs"), "{}", plan.screen());
}

#[test]
fn a_bundle_that_was_never_fetched_where_no_network_may_be_asked() {
    let place = with(", tasks = \"fetch.tasks\"", "");
    let caches = place.path("caches");
    let vars = [("HF_HUB_OFFLINE", "1"), ("XDG_CACHE_HOME", caches.to_str().unwrap())];
    let output = place.output(place.spawn_with(&["p.toml"], &vars));
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(!place.path("store").exists(), "something ran: {}", output.screen());
    assert_snapshot!(output.fault());
}

#[test]
fn a_column_that_is_not_there() {
    let place = Place::new();
    assert_snapshot!(failed(&place, &["--set", "tokenizer.text_column=txt"]).fault());
}

#[test]
fn another_tokenizer_than_the_rows() {
    let place = Place::new();
    let text = crate::harness::NANO.replace(
        "[stage.pack]",
        "[stage.other]\nuses = \"train-bpe\"\ninputs = { text = \"fetch.train\" }\nvocab_size = 420\n\n[stage.pack]",
    );
    let train = "val = \"pack.val\", bpe = \"tokenizer.bpe\" }\nexec";
    place.file(&text.replace(train, "val = \"pack.val\", bpe = \"other.bpe\" }\nexec"));
    assert_snapshot!("rows_of_another", failed(&place, &[]).fault());
    let sample = "inputs     = { model = \"train.checkpoint\", bpe = \"tokenizer.bpe\" }\nprompts";
    assert!(text.contains(sample));
    place.file(&text.replace(
        sample,
        "inputs = { model = \"train.checkpoint\", bpe = \"other.bpe\" }\nprompts",
    ));
    assert_snapshot!("model_of_another", failed(&place, &[]).fault());
}

#[test]
fn a_loss_that_is_no_number() {
    let place = Place::new();
    let args = ["--set", "train.optim.matrices.lr=1e9", "--set", "train.exec.checkpoint_every_s=0"];
    let first = failed(&place, &args);
    // Which step it is depends on the processor's rounding.
    assert_snapshot!(crate::harness::mask(&first.fault()));
    let number = |after: &str| -> u64 {
        let from = first.stderr.find(after).unwrap() + after.len();
        let digits: String =
            first.stderr[from..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    // Each step left a checkpoint. Of the newest it is not known that a step can begin with it: the one that did is the one
    // that failed.
    assert_eq!(number("/step-") + 2, number("at step "), "{}", first.screen());
    let kept = first.stderr.split("checkpoint is ").nth(1).unwrap().lines().next().unwrap();
    assert!(place.path(kept).is_file(), "{kept}");
    let metrics = std::fs::read_to_string(place.last_run().join("stages/train/metrics.jsonl"));
    let metrics = metrics.unwrap();
    assert!(metrics.contains("\"record\":\"step\""), "{metrics}");
    let again = failed(&place, &args);
    assert_eq!(again.fault(), first.fault());
    let kept = std::fs::read_to_string(place.last_run().join("stages/train/metrics.jsonl"));
    // The newest checkpoint may hold numbers that are none, and is passed over then: its step is done again, in another time.
    let seen = |text: &str| -> Vec<String> {
        let lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let untimed = |mut record: serde_json::Value| {
            let keys = record.as_object_mut().unwrap();
            keys.retain(|key, _| !key.contains("seconds") && !key.contains("per_s"));
            record.to_string()
        };
        lines.map(untimed).collect()
    };
    assert_eq!(seen(&kept.unwrap()), seen(&metrics));
    // With rates that work, nothing of it is in the way.
    place.done(&[]);
}

#[test]
fn how_to_checkpoint_is_checked_before_anything_runs() {
    let place = Place::new();
    let negative = ["--set", "train.exec.checkpoint_every_s=-1"];
    assert_snapshot!("checkpoint_interval", refused(&place, &negative));
    let none = ["--set", "train.exec.keep_checkpoints=0"];
    assert_snapshot!("keep_checkpoints", refused(&place, &none));
}
