//! `runner eval`, and GPT-2 as a yardstick: a model of ours is given the figures that its pipeline's stages gave it, a GPT-2 those of `transformers`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Output, Place, json, json_lines};
use crate::talk::talk;

fn eval(place: &Place, args: &[&str]) -> Output {
    talk(place, "eval", args, "")
}

fn evaluated(place: &Place, args: &[&str]) -> Output {
    let output = eval(place, args);
    assert_eq!(output.code, Some(0), "{}", output.screen());
    output
}

/// A GPT-2 with three layers and bytes as tokens: see `tools/golden/gpt2.py`.
fn gpt2() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden/gpt2")
}

/// A bundle whose prompts are longer than that GPT-2's 40 positions.
fn bundle(place: &Place) -> String {
    let folder = place.path("bundle");
    fs::create_dir(&folder).unwrap();
    let tasks = r#"[{"label": "rivers", "uri": "rivers.jsonl", "task_type": "multiple_choice", "num_fewshot": 1, "random_baseline": 50.0}]"#;
    fs::write(folder.join("tasks.json"), tasks).unwrap();
    let item = |i: usize| {
        format!(
            r#"{{"query": "The town number {i} lies on the river", "choices": ["Otter", "Thames"], "gold": {}}}"#,
            i % 2
        )
    };
    let items: Vec<String> = (0..12).map(item).collect();
    fs::write(folder.join("rivers.jsonl"), items.join("\n")).unwrap();
    folder.display().to_string()
}

#[test]
fn a_model_of_ours_is_given_the_figures_of_its_pipeline() {
    let place = Place::until("core");
    let tasks = place.entry("fetch").join("tasks").display().to_string();
    let args = [
        "runs/nano",
        "--core",
        &tasks,
        "--max-per-task",
        "20",
        "--json",
        "all.json",
        "--csv",
        "tables",
    ];
    let output = evaluated(&place, &args);
    let metrics = json_lines(&place.entry("core").join("metrics"));
    let core = &metrics.iter().find(|line| line["record"] == "core").unwrap()["core"];
    assert_eq!(json(&place.path("all.json"))["core"]["core"], *core);
    for metric in metrics.iter().filter(|line| line["record"] == "task") {
        assert!(output.stdout.contains(metric["task"].as_str().unwrap()), "{}", output.screen());
    }
    let table = |folder: PathBuf| fs::read_to_string(folder.join("core.csv")).unwrap();
    assert_eq!(table(place.path("tables")), table(place.entry("core").join("results")));

    // Bits of several files are those of each, whatever the form of the file.
    fs::write(place.path("a.txt"), "The town of Elmford lies on the River Otter.").unwrap();
    fs::write(place.path("b.jsonl"), "{\"text\": \"In the evening\"}\n\n{\"text\": \"\"}\n")
        .unwrap();
    let nats = |files: &[&str]| {
        let args = [&["runs/nano", "--json", "bpb.json", "--bpb"], files].concat();
        evaluated(&place, &args);
        let found: Value = json(&place.path("bpb.json"))["bpb"].clone();
        let number = |key: &str| found[key].as_f64().unwrap();
        assert!(
            (number("bits_per_byte") - number("nats") / number("bytes") / 2f64.ln()).abs() < 1e-9
        );
        (number("nats"), number("bytes"))
    };
    let (a, b, both) = (nats(&["a.txt"]), nats(&["b.jsonl"]), nats(&["a.txt", "b.jsonl"]));
    assert_eq!((a.1, b.1, both.1), (44.0, 14.0, 58.0));
    assert!((both.0 - a.0 - b.0).abs() < 1e-4 * both.0, "{a:?}, {b:?}, {both:?}");
}

#[test]
fn a_gpt2_is_evaluated_as_transformers_computes_it_and_does_nothing_else() {
    let place = Place::new();
    let (folder, bundle) = (gpt2().display().to_string(), bundle(&place));
    let golden = json(&gpt2().join("text.json"));
    let text = golden["text"].as_str().unwrap();
    fs::write(place.path("text.txt"), text).unwrap();
    let args = [&folder, "--bpb", "text.txt", "--core", &bundle, "--json", "all.json"];
    let output = evaluated(&place, &args);
    assert!(output.stderr.contains("a GPT-2 of "), "{}", output.screen());
    let found = json(&place.path("all.json"));
    let nats = found["bpb"]["nats"].as_f64().unwrap();
    assert!((nats - golden["nats"].as_f64().unwrap()).abs() < 1e-3, "{nats}, {golden}");
    assert_eq!(found["bpb"]["bytes"], text.len());

    // The same in a pipeline.
    place.file(&format!(
        "[pipeline]\nname = \"nano\"\nformat = 1\nseed = 1\n\
         [stage.model]\nuses = \"import-model\"\npath = \"{folder}\"\n\
         [stage.core]\nuses = \"eval-core\"\ninputs = {{ model = \"model.checkpoint\", bpe = \"model.bpe\" }}\nbundle = \"{bundle}\"\n\
         [stage.sample]\nuses = \"sample\"\ninputs = {{ model = \"model.checkpoint\", bpe = \"model.bpe\" }}\nprompts = [\"\"]\n"
    ));
    let plan = place.done(&["--plan", "--until", "core"]).stdout;
    assert!(plan.contains("a GPT-2: 3 layers, C 24, V 257, T 40"), "{plan}");
    place.done(&["--until", "core"]);
    let items = json_lines(&place.entry("core").join("items"));
    assert_eq!(items.len(), 12);
    for (item, other) in items.iter().zip(found["core"]["tasks"][0]["examples"].as_array().unwrap())
    {
        assert_eq!((&item["losses"], &item["chosen"]), (&other["losses"], &other["chosen"]));
    }
    // A model that was imported is found in the run as any other.
    evaluated(&place, &["runs/nano", "--bpb", "text.txt"]);
    for output in [place.go(&[]), talk(&place, "generate", &[&folder, "--prompt", "a"], "")] {
        assert_ne!(output.code, Some(0), "{}", output.screen());
        assert!(output.stderr.contains("can be evaluated and nothing else"), "{}", output.screen());
    }
}

/// Wherever a model is wired that a GPT-2 cannot be, the plan says so, before the GPT-2 is imported and after.
#[test]
fn a_gpt2_that_is_wired_where_it_cannot_be_used_is_refused_by_the_plan() {
    let place = Place::new();
    let head = format!(
        "[pipeline]\nname = \"nano\"\nformat = 1\nseed = 1\n\
         [stage.model]\nuses = \"import-model\"\npath = \"{}\"\n",
        gpt2().display()
    );
    let from = |model: &str| format!("inputs = {{ model = \"{model}\", bpe = \"model.bpe\" }}\n");
    let train = "[stage.fetch]\nuses = \"fetch-parquet\"\nsource = \"embedded://world\"\n\
         [stage.pack]\nuses = \"pack-bestfit\"\nrow_tokens = 40\n\
         inputs = { train = \"fetch.train\", val = \"fetch.val\", bpe = \"model.bpe\" }\n\
         [stage.other]\nuses = \"train-gpt\"\nmodel = { depth = 2, head_dim = 16, aspect_ratio = 16 }\n\
         schedule = { steps = 1, batch_tokens = 320 }\n\
         inputs = { train = \"pack.train\", val = \"pack.val\", bpe = \"model.bpe\", model = \"model.checkpoint\" }\n";
    let chat = "uses = \"finetune-chat\"\nconversations = \"embedded://world\"\n";
    let wired = [
        format!("[stage.other]\nuses = \"export-model\"\n{}", from("model.checkpoint")),
        format!("[stage.other]\n{chat}{}", from("model.checkpoint")),
        format!("[stage.other]\nuses = \"sample\"\nprompts = [\"\"]\n{}", from("model.checkpoint")),
        train.to_owned(),
        // What is made of it is no more than it.
        format!(
            "[stage.between]\n{chat}{}[stage.other]\nuses = \"export-model\"\n{}",
            from("model.checkpoint"),
            from("between.checkpoint")
        ),
    ];
    for imported in [false, true] {
        for stages in &wired {
            place.file(&format!("{head}{stages}"));
            if imported {
                place.done(&["--until", "model"]);
            }
            let output = place.go(&["--plan"]);
            assert_eq!(output.code, Some(2), "{stages}{}", output.screen());
            let (said, of) = ("can be evaluated and nothing else", "cannot run: the model behind");
            assert!(output.screen().contains(said), "{stages}{}", output.screen());
            assert!(output.screen().contains(of), "{stages}{}", output.screen());
            assert_eq!(place.go(&[]).code, Some(2), "{stages}");
        }
    }
}

#[test]
fn what_cannot_be_evaluated_is_said_before_a_model_is_loaded() {
    let place = Place::new();
    let folder = gpt2().display().to_string();
    fs::write(place.path("bad.jsonl"), "{\"text\": \"a\"}\n{\"texts\": 1}\n").unwrap();
    fs::write(place.path("bad.txt"), b"abc\xff").unwrap();
    for (args, said) in [
        (&[][..], "nothing to evaluate"),
        (&["--bpb", "absent.txt"], "absent.txt"),
        (&["--bpb", "."], "is no file"),
        (&["--bpb", "bad.jsonl"], "line 2 of bad.jsonl has no `text`"),
        (&["--bpb", "bad.txt"], "bad.txt is not UTF-8: byte 3"),
        (&["--core", "absent"], "absent"),
        (&["--bpb", "p.toml", "--tokenizer", "bad.txt"], "bad.txt"),
    ] {
        let output = eval(&place, &[&[folder.as_str()], args].concat());
        assert_eq!(output.code, Some(2), "{args:?}: {}", output.screen());
        assert!(output.stderr.contains(said), "{args:?}: {}", output.screen());
    }
    // Nothing is fetched for a model that is not there.
    let output = eval(&place, &["nowhere", "--core", "https://127.0.0.1:9/bundle.zip"]);
    assert!(output.stderr.contains("nowhere"), "{}", output.screen());
    assert!(!output.stderr.contains("bundle"), "{}", output.screen());
}
