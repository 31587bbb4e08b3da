//! Finding one's way without reading Rust: `describe`, `list`, `schema`, `init`, completions and the manual.

use serde_json::Value;

use crate::harness::{NANO, Place};

const KINDS: [&str; 13] = [
    "compare",
    "eval-bpb",
    "eval-core",
    "export-model",
    "fetch-parquet",
    "finetune-chat",
    "import-model",
    "pack-bestfit",
    "report",
    "sample",
    "train-bpe",
    "train-gpt",
    "use-tokenizer",
];

#[test]
fn every_key_of_every_kind_is_described_in_plain_words() {
    let place = Place::new();
    let list = place.run(&["list"]);
    for kind in KINDS {
        let shown = place.run(&["describe", kind]);
        assert_eq!(shown.code, Some(0), "{}", shown.screen());
        assert!(list.stdout.contains(&format!("{kind}: ")), "{}", list.screen());
        // Two lines for each key: what it is, and a sentence.
        let lines: Vec<&str> = shown.stdout.lines().skip_while(|l| !l.is_empty()).collect();
        for pair in
            lines.windows(2).filter(|pair| pair[0].starts_with("  ") && !pair[0].starts_with("   "))
        {
            assert!(pair[1].starts_with("      "), "{kind}: {:?} has no sentence", pair[0]);
        }
        for word in
            ["usize", "u64", "f64", "Option", "bool", "Vec", "::", "[`", "As `", "$ref", "null"]
        {
            assert!(!shown.stdout.contains(word), "{kind}: {word}: {}", shown.screen());
        }
    }
    let train = place.run(&["describe", "train-gpt"]).stdout;
    for (key, facts) in [
        ("model.depth", "whole number, required"),
        ("schedule.tokens_per_param", "number, optional"),
        ("exec", "changes no result"),
        ("checkpoint_every_s", "number, optional, seconds"),
        ("precision", "\"f32\" or \"bf16\", optional"),
        ("device", "\"cpu\" or \"cuda\" or \"emulated\", default \"cpu\""),
    ] {
        let found = train.lines().any(|line| line.contains(key) && line.ends_with(facts));
        assert!(found || train.contains(facts), "{key}: {facts}: {train}");
    }
    for key in ["tokens_per_param", "checkpoint_every_s", "text_column"] {
        let known = KINDS.iter().any(|kind| place.run(&["describe", kind]).stdout.contains(key));
        assert!(known, "{key}");
    }
    let refused = place.run(&["describe", "train-gtp"]);
    assert!(
        refused.code == Some(2) && refused.stderr.contains("did you mean `train-gpt`"),
        "{}",
        refused.screen()
    );
}

/// Whether a schema takes a value: the part of JSON Schema that ours is written in. Anything else in it is a fault of the test.
fn takes(schema: &Value, value: &Value, root: &Value) -> bool {
    let Value::Object(keys) = schema else { return schema != &Value::Bool(false) };
    let names = |list: &Value| list.as_array().cloned().unwrap_or_default();
    keys.iter().all(|(key, rule)| match key.as_str() {
        "$schema" | "$defs" | "title" | "description" | "default" | "then" | "else" => true,
        "properties" => value.as_object().is_none_or(|table| {
            table
                .iter()
                .all(|(name, inner)| rule.get(name).is_none_or(|rule| takes(rule, inner, root)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|table| {
            let others = table.iter().filter(|(name, _)| schema["properties"].get(name).is_none());
            others.into_iter().all(|(_, inner)| takes(rule, inner, root))
        }),
        "required" => value.as_object().is_none_or(|table| {
            names(rule).iter().all(|name| table.contains_key(name.as_str().unwrap()))
        }),
        "$ref" => {
            let name = rule.as_str().unwrap().rsplit('/').next().unwrap().replace("%20", " ");
            takes(&root["$defs"][name], value, root)
        }
        "const" => value == rule,
        "enum" => names(rule).contains(value),
        "anyOf" => names(rule).iter().any(|rule| takes(rule, value, root)),
        "oneOf" => names(rule).iter().filter(|rule| takes(rule, value, root)).count() == 1,
        "allOf" => names(rule).iter().all(|rule| takes(rule, value, root)),
        "if" => {
            let branch = if takes(rule, value, root) { "then" } else { "else" };
            takes(&schema[branch], value, root)
        }
        "items" => value.as_array().is_none_or(|list| list.iter().all(|v| takes(rule, v, root))),
        "minimum" => value.as_f64().is_none_or(|x| x >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|x| x <= rule.as_f64().unwrap()),
        "minItems" => {
            value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap())
        }
        "maxItems" => {
            value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap())
        }
        "minProperties" => {
            value.as_object().is_none_or(|t| t.len() as u64 >= rule.as_u64().unwrap())
        }
        "pattern" => value.as_str().is_none_or(|text| text.contains("${")),
        "type" => {
            let is = |name: &Value| match name.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                "null" => value.is_null(),
                other => panic!("type {other}"),
            };
            if rule.is_array() { names(rule).iter().any(is) } else { is(rule) }
        }
        other => panic!("this test does not know `{other}`"),
    })
}

#[test]
fn the_schema_takes_our_pipelines_and_finds_slips() {
    let place = Place::new();
    let schema = place.run(&["schema"]);
    let schema: Value = serde_json::from_str(&schema.stdout).unwrap();
    let judged = |text: &str| takes(&schema, &toml::from_str::<Value>(text).unwrap(), &schema);
    let mut texts = vec![NANO.to_owned()];
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines")).unwrap()
    {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|end| end == "toml") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    assert!(texts.len() > 3);
    for text in &texts {
        assert!(judged(text), "{text}");
    }
    for (from, to) in [
        ("row_tokens", "row_tokns"),
        ("every_steps = 20", "every_steps = \"often\""),
        ("steps        = 40", "steps        = -40"),
        ("uses   = \"report\"", "uses   = \"reprot\""),
        ("uses       = \"pack-bestfit\"", ""),
        ("val = \"pack.val\", bpe", "vall = \"pack.val\", bpe"),
        ("row_tokens = 64", ""),
        ("checkpoint_every_s = 0.2", "checkpoint_every = 0.2"),
        ("name   = \"nano\"", ""),
        ("[pipeline]", "[pipelin]"),
        ("preset       = \"nanochat-2026-07\"", "preset       = \"nanochat-2027\""),
    ] {
        assert!(NANO.contains(from), "{from}");
        assert!(!judged(&NANO.replacen(from, to, 1)), "{from} → {to}");
    }
    // What a var gives is known only when it is read.
    assert!(judged(&NANO.replacen("row_tokens = 64", "row_tokens = \"${context}\"", 1)));
}

/// Every file of pipelines/, of which those for large models would take long, or a GPU: a plan takes neither.
#[test]
fn every_pipeline_plans_and_an_evening_says_what_it_takes() {
    let place = Place::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines");
    std::fs::create_dir(place.path("text")).unwrap();
    std::fs::write(place.path("text/a.txt"), "some words. ".repeat(3_000)).unwrap();
    std::fs::write(place.path("text/b.txt"), "other words. ".repeat(3_000)).unwrap();
    let text = format!("vars.text={}", place.path("text").display());
    let gpt2 = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/gpt2");
    let gpt2 = format!("vars.gpt2={gpt2}");
    let [store, runs] = ["store", "runs"].map(|name| place.path(name).display().to_string());
    let mut planned = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut args = vec![path.to_str().unwrap(), "--plan", "--store", &store, "--runs", &runs];
        match name.as_str() {
            "own-text.toml" => args.extend(["--set", &text]),
            "gpt2-baseline.toml" => args.extend(["--set", &gpt2]),
            _ if path.extension().is_none_or(|end| end != "toml") => continue,
            _ => {}
        }
        let plan = place.run(&args);
        assert_eq!(plan.code, Some(0), "{name}: {}", plan.screen());
        planned += 1;
        if name == "laptop.toml" {
            for said in ["C 256", "62,914,560 tokens", "memory      547 MB", "total: about"] {
                assert!(plan.stdout.contains(said), "{said}: {}", plan.screen());
            }
        }
    }
    assert!(planned >= 9, "{planned}");
}

#[test]
fn init_writes_a_pipeline_that_plans_and_nothing_over_a_file() {
    let place = Place::new();
    let made = place.run(&["init", "mine.toml"]);
    assert_eq!(made.code, Some(0), "{}", made.screen());
    assert!(made.stdout.contains("runner mine.toml --plan"), "{}", made.screen());
    std::fs::create_dir(place.path("text")).unwrap();
    for (name, words) in [("a.txt", "one and two. "), ("b.txt", "three and four. ")] {
        std::fs::write(place.path("text").join(name), words.repeat(3_000)).unwrap();
    }
    let plan = place.run(&["mine.toml", "--plan"]);
    assert_eq!(plan.code, Some(0), "{}", plan.screen());
    let again = place.run(&["init", "mine.toml"]);
    assert!(
        again.code == Some(2) && again.stderr.contains("is there already"),
        "{}",
        again.screen()
    );
    // A small text is too small for the rows of a real one, and says so or trains: either way through to the report.
    let sets =
        ["train.schedule.steps=2", "train.model.depth=1", "vars.context=32", "sample.max_tokens=4"];
    let args: Vec<&str> =
        ["mine.toml"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
    let run = place.run(&args);
    assert_eq!(run.code, Some(0), "{}", run.screen());
    assert!(run.stdout.contains("report.html"), "{}", run.screen());
}

#[test]
fn shells_complete_and_the_manual_has_a_page() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let made = place.run(&["completions", shell]);
        assert!(
            made.code == Some(0) && made.stdout.contains("describe"),
            "{shell}: {}",
            made.screen()
        );
    }
    for (args, said) in [
        (&["man"][..], "runner"),
        (&["man", "gc"], "runner\\-gc"),
        (&["man", "generate"], "\\-\\-prompt"),
    ] {
        let page = place.run(args);
        assert!(page.code == Some(0) && page.stdout.starts_with(".ie"), "{}", page.screen());
        assert!(page.stdout.contains(said), "{said}: {}", page.screen());
    }
    let none = place.run(&["man", "gcc"]);
    assert!(none.code == Some(2) && none.stderr.contains("did you mean `gc`"), "{}", none.screen());
}
