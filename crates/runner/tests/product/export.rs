//! Exports: the files that `transformers` asks for, what it has no place for, and that an export is a model's folder to us. `tools/export/check.py` loads them
//! with the real one.

use std::fs;
use std::path::Path;

use farthing_data::Tokenizer;

use crate::harness::{NANO, Place, json, json_lines};
use crate::talk::{talk, talked};

/// A pipeline that trains a model of a preset and exports it, with scores.
fn place(preset: &str, format: &str) -> Place {
    let place = Place::new();
    let text = NANO.replace("nanochat-2026-07", preset);
    place.file(&format!(
        "{text}\n[stage.export]\nuses = \"export-model\"\n{format}\n\
         inputs = {{ model = \"train.checkpoint\", bpe = \"tokenizer.bpe\", bpb = \"bpb.metrics\", core = \"core.metrics\" }}\n"
    ));
    place
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_full_model_goes_with_its_python_and_a_card() {
    let place = place("nanochat-2026-07", "about = \"Made of a small world.\"");
    let output = place.done(&["--until", "export"]);
    assert!(output.stderr.contains("has no `value_embeds`"), "{}", output.screen());
    let export = place.entry("export").join("export");
    let files = "README.md config.json generation_config.json model.safetensors modeling_farthing.py tokenizer.json tokenizer_config.json";
    assert_eq!(names(&export).join(" "), files);
    let config = json(&export.join("config.json"));
    assert_eq!(config["model_type"], "farthing");
    assert_eq!(config["architectures"][0], "FarthingForCausalLM");
    let python = fs::read_to_string(export.join("modeling_farthing.py")).unwrap();
    for class in ["AutoConfig", "AutoModelForCausalLM"] {
        let (file, class) = config["auto_map"][class].as_str().unwrap().split_once('.').unwrap();
        assert_eq!(file, "modeling_farthing");
        assert!(python.contains(&format!("class {class}(")));
    }
    assert_eq!(config["windows"], serde_json::json!([128, 64]));
    assert_eq!(config["value_embed_layers"], serde_json::json!([1]));
    let keys = ["depth", "padded_vocab", "mlp_dim", "rotary_dim", "backout_layer", "vocab_size"];
    assert_eq!(keys.map(|key| config[key].as_u64().unwrap()), [2, 448, 128, 16, 1, 400]);
    assert_eq!((&config["mlp"], &config["dtype"]), (&"relu2".into(), &"float32".into()));

    let tokenizer = Tokenizer::load(export.join("tokenizer.json")).unwrap();
    let trained = Tokenizer::load(place.entry("tokenizer").join("bpe")).unwrap();
    assert_eq!(tokenizer.digest(), trained.digest());
    let bos = u64::from(tokenizer.bos());
    assert_eq!(config["bos_token_id"], bos);
    assert_eq!(json(&export.join("generation_config.json"))["eos_token_id"][0], bos);
    assert_eq!(json(&export.join("tokenizer_config.json"))["bos_token"], "<|bos|>");

    let card = fs::read_to_string(export.join("README.md")).unwrap();
    let of = |stage: &str, key: &str| {
        json_lines(&place.entry(stage).join("metrics"))[0][key].as_f64().unwrap()
    };
    let bpb = format!("{:.4}", of("bpb", "bpb"));
    for part in [
        "Made of a small world.",
        "trained on 20,480 tokens",
        "FLOPs",
        "Weights after 40 steps",
        "| fetch | text held out |",
        "| core | CORE |",
        "| bpb | bits per byte of held-out text |",
        &bpb,
        "trust_remote_code=True",
        "runs `modeling_farthing.py`",
        "runner generate FOLDER",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }

    // Asked for a class that has no such model, it says what is missing, and how to go on.
    let output = place.go(&["--until", "export", "--set", "export.format=transformers"]);
    assert_eq!(output.code, Some(1), "{}", output.screen());
    for part in ["`format = \"transformers\"`", "has no `value_embeds`", "hint: leave `format` out"]
    {
        assert!(output.stderr.contains(part), "{part}: {}", output.screen());
    }
}

#[test]
fn the_first_release_goes_without_python_and_is_a_models_folder_still() {
    let place = place("nanochat-2025-10", "format = \"transformers\"");
    place.done(&["--until", "export"]);
    let export = place.entry("export").join("export");
    let files = "README.md config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json";
    assert_eq!(names(&export).join(" "), files);
    let config = json(&export.join("config.json"));
    for (key, value) in [
        ("model_type", serde_json::json!("nanochat")),
        ("architectures", serde_json::json!(["NanoChatForCausalLM"])),
        ("vocab_size", 400.into()),
        ("hidden_size", 32.into()),
        ("intermediate_size", 128.into()),
        ("num_hidden_layers", 2.into()),
        ("num_attention_heads", 2.into()),
        ("num_key_value_heads", 2.into()),
        ("max_position_embeddings", 64.into()),
        ("hidden_act", "relu2".into()),
        ("final_logit_softcapping", 15.0.into()),
        ("rms_norm_eps", 1.192_092_9e-7.into()),
        ("tie_word_embeddings", false.into()),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert_eq!(config["rope_parameters"]["rope_theta"], 10_000.0);
    for token in ["bos", "eos", "pad"] {
        assert_eq!(config[format!("{token}_token_id")], 391);
    }
    let card = fs::read_to_string(export.join("README.md")).unwrap();
    assert!(card.contains("no Python of this folder is run"), "{card}");

    // It is talked to, and evaluated after an import, as the checkpoint is.
    let args = ["--prompt", "Once upon a time", "--max-tokens", "20", "--temperature", "0"];
    let said = |folder: &Path| {
        talked(&place, "generate", &[&[folder.to_str().unwrap()], &args[..]].concat(), "")
    };
    assert_eq!(said(&export), said(&place.entry("train").join("checkpoint")));
    let bpb = json_lines(&place.entry("bpb").join("metrics"))[0]["bpb"].as_f64().unwrap();
    let other = Place::new();
    let text = NANO.replace("train.checkpoint", "import.checkpoint");
    other.file(&format!(
        "{text}\n[stage.import]\nuses = \"import-model\"\npath = '{}'\n",
        export.display()
    ));
    other.done(&["--until", "bpb"]);
    let again = json_lines(&other.entry("bpb").join("metrics"))[0]["bpb"].as_f64().unwrap();
    assert_eq!(again, bpb);
    let output = talk(
        &place,
        "chat",
        &[export.to_str().unwrap(), "--prompt", "Hi.", "--max-tokens", "2"],
        "",
    );
    assert!(output.stderr.contains("not finetuned"), "{}", output.screen());
}
