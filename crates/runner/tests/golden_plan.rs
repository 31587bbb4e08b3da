//! `--plan` of the d24 pipeline at every depth from 4 to 32, in both settings, against the figures that nanochat's own training script
//! computes (`crates/optim/tests/golden/depths.json`, made by `tools/golden/make.py`): as they are printed, no difference.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what was compared is there to be read")]

use std::process::Command;

use serde_json::Value;

fn commas(n: u64) -> String {
    let digits = n.to_string();
    let pieces: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|p| std::str::from_utf8(p).unwrap()).collect();
    pieces.join(",")
}

/// What `--plan` says, runs of blanks made one.
fn plan(depth: u64, preset: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/gpt2.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_runner"))
        .args([file, "--plan"])
        .args(["--set", &format!("train.model.depth={depth}")])
        .args(["--set", &format!("train.model.preset={preset}")])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// nanochat's figures in the words of the plan.
fn expected(depth: u64, figures: &Value) -> Vec<String> {
    let whole = |key: &str| figures[key].as_u64().unwrap();
    let (channels, heads, batch) = (whole("channels"), whole("heads"), whole("batch_tokens"));
    let (scaling, steps) = (whole("scaling_params"), whole("steps"));
    let mut lines = vec![
        format!(
            "model {depth} layers, C {channels}, {heads} heads of 128, {heads} key/value heads"
        ),
        format!("parameters {} in all", commas(figures["parameters"]["total"].as_u64().unwrap())),
        format!(
            "horizon {} tokens = 12 per parameter × {} scaling parameters",
            commas(whole("tokens")),
            commas(scaling)
        ),
        format!("batch {} tokens", commas(batch)),
        format!("{} steps = horizon / batch", commas(steps)),
        format!("steps {} of {} rows of 2048 tokens", commas(steps), batch / 2048),
        format!(": {} tokens", commas(steps * batch)),
        format!("FLOPs {:.3e} per token", figures["flops_per_token"].as_f64().unwrap()),
    ];
    for (name, group) in figures["groups"].as_object().unwrap() {
        let uses = if name == "matrices" { "normuon" } else { "adamw" };
        let (tensors, elements) = (&group["tensors"], group["elements"].as_u64().unwrap());
        let [lr, decay] = ["lr", "weight_decay"].map(|key| group[key].as_f64().unwrap());
        lines.push(format!(
            "group {name} {uses} {tensors} tensors {} elements lr {lr:.3e} wd {decay:.3e}",
            commas(elements)
        ));
    }
    lines
}

#[test]
fn the_plan_says_what_nanochat_says_at_every_depth() {
    let golden: Value =
        serde_json::from_str(include_str!("../../optim/tests/golden/depths.json")).unwrap();
    for (setting, preset) in [("january", "nanochat-2026-01"), ("july", "nanochat-2026-07")] {
        let mut compared = 0;
        for depth in 4..=32 {
            let figures = &golden[setting]["depths"][depth.to_string()];
            let plan = plan(depth, preset);
            for line in expected(depth, figures) {
                assert!(plan.contains(&line), "{setting} d{depth}: no `{line}` in\n{plan}");
                compared += 1;
            }
        }
        println!("{preset}: {compared} lines of 29 plans, d4 … d32, no difference");
    }
}
