//! Training that starts from an existing model: what has to match, and how to continue a training that has finished.

use std::path::{Path, PathBuf};

use farthing_data::Tokenizer;
use farthing_model::{Checkpoint, GptConfig};
use farthing_train::{MODEL_FILE, Setup};
use serde_json::{Value, json};

use super::config::{EvaluateConfig, TrainConfig};
use crate::stages::TOKENIZER_FILE;
use crate::stages::loaded::no_gpt2;
use crate::{Before, Ctx, Given, PlanCtx, PlanLine, Promise, Result};

/// Numbers of a model that its weights' shapes follow from, known before it is trained.
const FACTS: [&str; 5] = ["depth", "model_dim", "head_dim", "heads", "kv_heads"];

/// The fact that is a model's whole configuration.
const MODEL: &str = "model";

/// What is certain of a model behind a port.
pub(crate) fn promises(port: &'static str, model: &GptConfig) -> Vec<Promise> {
    let values = serde_json::to_value(model).unwrap_or_default();
    let mut promises = numbers(port, &values);
    promises.push(Promise::new(port, MODEL, values));
    promises
}

/// The numbers alone.
fn numbers(port: &'static str, model: &Value) -> Vec<Promise> {
    let promise = |fact| Some(Promise::new(port, fact, model.get(fact)?.as_u64()?));
    FACTS.into_iter().filter_map(promise).collect()
}

/// What is certain of a model that a stage makes of another, whose structure stays: all that is certain of that.
pub(crate) fn promises_of(
    input: &'static str,
    output: &'static str,
    given: &Given<'_>,
) -> Vec<Promise> {
    given.facts(input).map(|fact| Promise { port: output, ..fact.clone() }).collect()
}

/// The configuration of the model behind the input `model`, made or promised.
pub(crate) fn model_of(ctx: &PlanCtx) -> Result<Option<GptConfig>> {
    match (ctx.input("model"), ctx.fact("model", MODEL)) {
        (Some(made), _) => {
            let found = Checkpoint::peek(&made.join(MODEL_FILE));
            let (model, _) =
                found.map_err(|e| crate::stages::unreadable("reading input `model`", &e))?;
            Ok(Some(model))
        }
        (None, Some(promised)) => Ok(serde_json::from_value(promised.clone()).ok()),
        (None, None) => Ok(None),
    }
}

/// What is promised of the model that this config trains: all of it where the vocabulary and the rows are promised too, else what they decide nothing about.
pub(super) fn own_promises(config: &TrainConfig, given: &Given<'_>) -> Vec<Promise> {
    let number = |port, fact| given.fact(port, fact)?.as_u64().map(|n| n as usize);
    let (vocab, row) = (number("bpe", "vocab_size"), number("train", "row_tokens"));
    let seq_len = config.seq_len.or(row);
    let model = config.model.resolve(vocab.unwrap_or(65_536), seq_len.unwrap_or(2_048));
    let Ok(model) = model else { return Vec::new() };
    if vocab.is_some() && row.is_some() {
        return promises("checkpoint", &model);
    }
    numbers("checkpoint", &serde_json::to_value(model).unwrap_or_default())
}

/// Refuses a model that is not the one to be trained, as far as it is known before anything runs.
pub(super) fn preflight(setup: &Setup, ctx: &PlanCtx) -> Result<()> {
    no_gpt2(ctx)?;
    let wanted = setup.gpt.config();
    let values = serde_json::to_value(wanted)?;
    for fact in FACTS {
        let (here, there) = (values[fact].as_u64(), ctx.promise("model", fact));
        if there.is_some() && here != there {
            return Err(differs(&[(
                fact.to_owned(),
                here.unwrap_or_default().to_string(),
                there.unwrap_or_default().to_string(),
            )]));
        }
    }
    let Some(model) = ctx.input("model") else { return Ok(()) };
    same_model(&model.join(MODEL_FILE), wanted)?;
    match ctx.input("bpe") {
        Some(bpe) => same_tokenizer(model, &Tokenizer::load(bpe)?).map(drop),
        None => Ok(()),
    }
}

/// The file behind the input `model` and the steps it was trained for, once it is known to fit; `None` where nothing is connected.
pub(super) fn file(
    ctx: &Ctx,
    wanted: &GptConfig,
    bpe: &Tokenizer,
) -> Result<Option<(PathBuf, u64)>> {
    let Some(folder) = ctx.input_if_any("model") else { return Ok(None) };
    let path = folder.join(MODEL_FILE);
    let step = same_model(&path, wanted)?;
    if !same_tokenizer(folder, bpe)? {
        ctx.log("the model comes without its tokenizer: that it is the one connected is not known");
    }
    Ok(Some((path, step)))
}

fn same_model(path: &Path, wanted: &GptConfig) -> Result<u64> {
    let (found, step) = Checkpoint::peek(path)
        .map_err(|e| crate::stages::unreadable("reading input `model`", &e))?;
    let differences = wanted.differences(&found);
    if differences.is_empty() { Ok(step) } else { Err(differs(&differences)) }
}

/// What the keys of the configuration are called where a file sets them.
fn differs(differences: &[(String, String, String)]) -> anyhow::Error {
    let listed: Vec<String> = differences
        .iter()
        .map(|(key, here, there)| format!("{key} is {here} here and {there} there"))
        .collect();
    let hint = match differences[0].0.as_str() {
        "seq_len" | "short_window" => {
            "pack rows of the length that the model was trained on, `row_tokens`, and set the same windows"
        }
        "vocab_size" => "pack the rows with the model's own tokenizer",
        _ => "give this stage the keys under `model` that the weights were trained with",
    };
    anyhow::anyhow!(
        "the model behind input `model` is another one: {}\nhint: {hint}",
        listed.join(", ")
    )
}

/// Whether the model's folder has a tokenizer, which is the one given then.
fn same_tokenizer(folder: &Path, bpe: &Tokenizer) -> Result<bool> {
    let path = folder.join(TOKENIZER_FILE);
    if !path.is_file() {
        return Ok(false);
    }
    let own = Tokenizer::load(&path)?;
    if own.digest() != bpe.digest() {
        anyhow::bail!(
            "the model behind input `model` was trained with tokenizer {}, the one connected is {}\n\
             hint: pack the rows with the model's own tokenizer: what its tokens mean is in its weights",
            own.digest(),
            bpe.digest()
        );
    }
    Ok(true)
}

/// What `--plan` says of it.
pub(super) fn line(ctx: &PlanCtx) -> Option<PlanLine> {
    ctx.is_connected("model").then(|| {
        let found = ctx.input("model").map(|model| Checkpoint::peek(&model.join(MODEL_FILE)));
        let text = match found {
            Some(Ok((_, step))) => format!("those of input `model`, trained for {step} steps"),
            _ => "those of input `model`, once it is made".to_owned(),
        };
        PlanLine::new("begins with", text)
    })
}

/// A training whose number of steps was raised: why the old one does not serve, and the stage that goes on from it.
pub(super) fn instead(config: &TrainConfig, before: &Before<'_>) -> Vec<PlanLine> {
    let steps = |value: &Value| value["steps"].as_u64();
    let (Some(was), Some(now)) = (steps(before.config), config.schedule.steps) else {
        return vec![];
    };
    let same_model =
        serde_json::to_value(config).is_ok_and(|new| new["model"] == before.config["model"]);
    if now <= was || !same_model {
        return vec![];
    }
    let base = before.stage.split('@').next().unwrap_or(before.stage);
    let schedule = farthing_optim::ScheduleKeys { steps: Some(now - was), ..config.schedule };
    let ports = before.inputs.iter().filter(|entry| *entry.0 != "model");
    let inputs = [("model", format!("{}.checkpoint", before.stage))]
        .into_iter()
        .chain(ports.map(|(port, from)| (*port, (*from).to_owned())));
    let inputs = inputs.map(|(port, from)| (port.to_owned(), json!(from))).collect();
    let mut stage = vec![
        format!("[stage.{base}-on]"),
        "uses = \"train-gpt\"".to_owned(),
        format!("inputs = {}", toml_inline(&Value::Object(inputs))),
        format!("model = {}", toml_inline(&json!(config.model))),
        format!("schedule = {}", toml_inline(&json!(schedule))),
    ];
    let others = [
        ("optim", (!config.optim.is_empty()).then(|| json!(config.optim))),
        (
            "evaluate",
            (config.evaluate != EvaluateConfig::default()).then(|| json!(config.evaluate)),
        ),
        ("precision", config.precision.map(|precision| json!(precision))),
        ("keep_best", config.keep_best.then_some(json!(true))),
    ];
    let others = others.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    stage.extend(others.map(|(key, value)| format!("{key} = {}", toml_inline(value))));
    let mut lines = vec![
        PlanLine::new(
            "anew",
            format!(
                "`schedule.steps` was {was} and is {now}: rates and decays follow a schedule over all steps, so that the {was} that are done are not the first of these"
            ),
        ),
        PlanLine::new(
            "instead",
            format!(
                "leave it at {was}, and continue from those weights in a stage of its own, with a schedule of its own:"
            ),
        ),
    ];
    lines.extend(stage.into_iter().map(|line| PlanLine::new("", line)));
    lines
}

/// A value as TOML writes it in one line.
fn toml_inline(value: &Value) -> String {
    let plain = |key: &str| {
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    match value {
        Value::Object(keys) => {
            let keys: Vec<String> = keys
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| {
                    let key = if plain(key) {
                        key.clone()
                    } else {
                        Value::from(key.as_str()).to_string()
                    };
                    format!("{key} = {}", toml_inline(value))
                })
                .collect();
            format!("{{ {} }}", keys.join(", "))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(toml_inline).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config(value: Value) -> TrainConfig {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_training_with_more_steps_is_told_how_to_go_on() {
        let of = |steps: u64, depth: u64| {
            config(json!({
                "model": {"depth": depth, "head_dim": 16},
                "schedule": {"steps": steps, "batch_tokens": 512},
                "optim": {"matrices": {"lr": 0.01, "params": ["transformer.h.**"]}},
            }))
        };
        let old = serde_json::to_value(of(60, 2)).unwrap();
        let inputs = BTreeMap::from([("bpe", "tokenizer.bpe"), ("train", "pack.train")]);
        let before = Before { stage: "train@lr=1", config: &old, inputs };
        let lines = instead(&of(80, 2), &before);
        let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(text[0].contains("was 60 and is 80"), "{text:?}");
        let table: toml::Table = text[2..].join("\n").parse().unwrap();
        let stage = &table["stage"]["train-on"];
        assert_eq!(stage["inputs"]["model"].as_str(), Some("train@lr=1.checkpoint"));
        assert_eq!(stage["inputs"]["train"].as_str(), Some("pack.train"));
        let read = config(json!({
            "model": stage["model"], "schedule": stage["schedule"], "optim": stage["optim"],
        }));
        assert_eq!(read.schedule.steps, Some(20));
        assert_eq!(read.model, of(1, 2).model);
        assert_eq!(read.optim, of(1, 2).optim);
        for other in [of(60, 2), of(40, 2), of(80, 3)] {
            assert!(instead(&other, &before).is_empty());
        }
    }

    #[test]
    fn what_differs_is_named_and_how_a_model_began_does_not_count() {
        let model = |value: Value| {
            let keys: farthing_model::ModelConfig = serde_json::from_value(value).unwrap();
            keys.resolve(512, 64).unwrap()
        };
        let (two, began) = (
            model(json!({"depth": 2, "head_dim": 16})),
            model(json!({"depth": 2, "head_dim": 16, "init_c_fc": 0.7})),
        );
        assert!(two.differences(&began).is_empty());
        let other = model(json!({"depth": 2, "head_dim": 16, "smear": false}));
        let error = differs(&two.differences(&other)).to_string();
        assert!(error.contains("smear is true here and false there\nhint: "), "{error}");
    }
}
