//! Models that chat: finetuned on conversations, known by their folder, talked to with the real binary.

use crate::harness::{Place, json_lines};
use crate::kill::wait_for;
use crate::talk::{talk, talked};

const CHAT: &str = r#"
[stage.chat]
uses          = "finetune-chat"
inputs        = { model = "train.checkpoint", bpe = "tokenizer.bpe" }
conversations = "embedded://world"
world         = { conversations = 300 }
batch_tokens  = 512
evaluate      = { every_steps = 20, tokens = 1_024 }

[stage.export]
uses   = "export-model"
inputs = { model = "chat.checkpoint", bpe = "tokenizer.bpe" }
"#;

fn place() -> Place {
    let place = Place::new();
    place.file(&format!("{}{CHAT}", include_str!("nano.toml")));
    place
}

fn bits(place: &Place) -> [f64; 2] {
    let last = json_lines(&place.entry("chat").join("metrics")).pop().unwrap();
    ["bpb_start", "bpb_end"].map(|key| last[key].as_f64().unwrap())
}

/// The number of steps that a plan guesses.
fn steps(plan: &str) -> f64 {
    let after = plan.split_once(" about ").unwrap_or_else(|| panic!("{plan}")).1;
    after.split(' ').next().unwrap().replace(',', "").parse().unwrap()
}

#[test]
fn a_model_learns_to_chat_and_the_last_lines_say_how_to_talk_to_it() {
    let place = place();
    let plan = place.done(&["--plan", "--until", "chat"]);
    assert!(plan.stdout.contains("once it is made"), "{}", plan.screen());
    // The model's structure, steps and memory are known before there is a model.
    let chat = plan.stdout.split("finetune-chat").nth(1).unwrap();
    for word in ["2 layers, C 32", "V 400, T 64", "about ", "memory", "FLOPs", "time"] {
        assert!(chat.contains(word), "{word}: {}", plan.screen());
    }
    let guessed = steps(chat);
    let output = place.done(&["--until", "export"]);
    let planned = place.done(&["--plan", "--until", "chat", "--force", "chat"]);
    let known = steps(planned.stdout.split("finetune-chat").nth(1).unwrap());
    let ran = json_lines(&place.entry("chat").join("metrics")).pop().unwrap();
    let ran = ran["step"].as_f64().unwrap_or_else(|| panic!("{ran}"));
    assert!(
        (known - ran).abs() <= 0.1 * ran + 1.0,
        "{known} planned with a tokenizer, {ran} taken"
    );
    assert!(guessed > ran / 4.0 && guessed < ran * 4.0, "{guessed} guessed, {ran} taken");
    assert!(output.stderr.contains("chat: train: 285 conversations in "), "{}", output.screen());
    let [start, end] = bits(&place);
    assert!(end < start, "{end} after {start}");
    assert!(place.done(&["--until", "export"]).ran().is_empty());
    let line = output.stdout.lines().find_map(|line| line.strip_prefix("talk "));
    let line = line.unwrap_or_else(|| panic!("{}", output.screen()));
    assert!(line.contains(" chat store/stages/"), "{line}");

    // One question; the same as the first of several lines, and from the run's folder.
    let dir = place.entry("chat");
    let dir = dir.to_str().unwrap();
    let args = ["--max-tokens", "12", "--temperature", "0"];
    let one = talked(
        &place,
        "chat",
        &[&[dir, "--prompt", "Where does Tom live?"], &args[..]].concat(),
        "",
    );
    assert!(one.trim().len() > 1 && one.lines().count() == 1, "{one}");
    let lines = talked(
        &place,
        "chat",
        &[&["runs/nano"], &args[..]].concat(),
        "Where does Tom live?\nWhat does Ada do?\n\nWhere does Tom live?\n",
    );
    let lines: Vec<&str> = lines.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((lines[0], lines[2]), (one.as_str(), one.as_str()), "an empty line begins anew");
    // The model's export is one to chat with, too; that of a training alone is said not to be.
    let export = place.entry("export");
    let export = export.to_str().unwrap();
    let output = talk(&place, "chat", &[export, "--prompt", "Hi."], "");
    assert!(!output.stderr.contains("not finetuned"), "{}", output.screen());
    let base = place.entry("train");
    let output =
        talk(&place, "chat", &[base.to_str().unwrap(), "--prompt", "Hi.", "--max-tokens", "3"], "");
    assert!(
        output.code == Some(0) && output.stderr.contains("not finetuned"),
        "{}",
        output.screen()
    );
    // More than the model can see is forgotten, not refused.
    let long = "Where does Tom live?\n".repeat(9);
    let output = talk(&place, "chat", &[dir, "--max-tokens", "8"], &long);
    assert!(
        output.code == Some(0) && output.stderr.contains("is forgotten"),
        "{}",
        output.screen()
    );
}

#[test]
fn own_conversations_are_files_of_lines_and_ranks_learn_the_same() {
    let place = place();
    place.edit("\"embedded://world\"\nworld         = { conversations = 300 }", "\"talk.jsonl\"");
    let output = place.go(&["--until", "chat"]);
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(output.stderr.contains("talk.jsonl"), "{}", output.screen());
    let line = |n: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"Count to {n}.\"}}, {{\"role\": \"assistant\", \"content\": \"1 2 {n}\"}}]}}\n"
        )
    };
    let lines: String = (0..60).map(line).collect();
    let write = |text: &str| std::fs::write(place.path("talk.jsonl"), text).unwrap();
    write("{\"messages\": []}\n");
    let output = place.go(&["--until", "chat"]);
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(
        output.stderr.contains("talk.jsonl, line 1: it has no turn of a user"),
        "{}",
        output.screen()
    );
    write(&line(1).repeat(3));
    let output = place.go(&["--until", "chat"]);
    assert_eq!(output.code, Some(1), "{}", output.screen());
    assert!(output.stderr.contains("there is no conversation held out"), "{}", output.screen());
    write(&lines);
    place.done(&["--until", "chat"]);
    // What the file holds counts, where it lies does not.
    std::fs::rename(place.path("talk.jsonl"), place.path("other.jsonl")).unwrap();
    place.edit("talk.jsonl", "other.jsonl");
    assert!(place.done(&["--until", "chat"]).ran().is_empty());
    let [_, alone] = bits(&place);
    std::fs::write(place.path("other.jsonl"), lines.replace("1 2", "1, 2")).unwrap();
    assert_eq!(place.done(&["--until", "chat"]).ran(), ["chat"]);

    std::fs::write(place.path("other.jsonl"), lines).unwrap();
    place.done(&["--until", "chat", "--force", "chat", "--set", "chat.resources={ ranks = 2 }"]);
    let metrics = std::fs::read_dir(place.path("store/stages")).unwrap();
    let ends: Vec<f64> = metrics
        .map(|entry| entry.unwrap().path())
        .filter(|entry| entry.join("stage.json").is_file())
        .filter(|entry| entry.join("checkpoint/chat_template.jinja").is_file())
        .map(|entry| json_lines(&entry.join("metrics")).pop().unwrap()["bpb_end"].as_f64().unwrap())
        .collect();
    assert!(ends.iter().any(|end| (end - alone).abs() < 1e-3), "{ends:?} and {alone}");
}

#[test]
fn killed_it_goes_on_to_the_same_weights() {
    let slow = [
        "--until",
        "chat",
        "--set",
        "chat.epochs=6.0",
        "--set",
        "chat.exec.checkpoint_every_steps=3",
    ];
    let weights = |place: &Place| {
        std::fs::read(place.entry("chat").join("checkpoint/model.safetensors")).unwrap()
    };
    let whole = place();
    whole.done(&slow);
    let killed = place();
    killed.done(&["--until", "train"]);
    for step in [5, 30] {
        let mut child = killed.spawn(&[&["p.toml"], &slow[..]].concat());
        wait_for(&killed, &mut child, step);
        child.kill().unwrap();
        killed.output(child);
    }
    let output = killed.done(&slow);
    assert!(output.stderr.contains("chat: resuming after step "), "{}", output.screen());
    assert!(weights(&killed) == weights(&whole));
}
