//! The example `gpu_step`, tiny and in the emulator: whole tables, losses as on a CPU, clear refusals.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// Built by `cargo test`, though not by `cargo test --test all`.
fn program() -> Option<PathBuf> {
    let this = std::env::current_exe().unwrap();
    let program = this.ancestors().nth(2).unwrap().join("examples/gpu_step");
    if program.exists() {
        return Some(program);
    }
    eprintln!("skipped: {} is not built", program.display());
    None
}

fn run(arguments: &[&str]) -> Option<Output> {
    program().map(|program| Command::new(program).args(arguments).output().unwrap())
}

fn ms(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn every_piece_of_a_step_is_in_the_table_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("step.json");
    let arguments = ["--device", "emulated", "--toy", "--steps", "1", "--checkpoint", "--json"];
    let Some(output) = run(&[&arguments[..], &[file.to_str().unwrap()]].concat()) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let step: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();

    let table = step["table"].as_array().unwrap();
    let with_events = &step["with_events"];
    let recorded = ["micro", "optimizer"].map(|part| {
        ms(&with_events[format!("{part}_ms")]) - ms(&with_events[format!("{part}_gaps_ms")])
    });
    let all: f64 = table.iter().map(|line| ms(&line["ms"])).sum();
    assert!((all - recorded[0] - recorded[1]).abs() < 0.01, "{all} of {recorded:?}");
    for line in table {
        let of_kernels: f64 =
            line["kernels"].as_object().unwrap().values().map(|kernel| ms(&kernel["ms"])).sum();
        assert!((of_kernels - ms(&line["ms"])).abs() < 1e-6, "{line}");
        assert!(ms(&line["flops"]) > 0.0 || ms(&line["bytes"]) > 0.0, "{line}");
    }

    // Two layers, of which the last has a value embedding: so many calls of each.
    let calls = |part: &str, operation: &str| {
        let own = table.iter().filter(|l| l["part"] == part && l["operation"] == operation);
        own.map(|line| line["calls"].as_u64().unwrap()).sum::<u64>()
    };
    for (part, operation, expected) in [
        ("forward", "linear", 2 * 5),
        ("forward", "linear_relu2", 2),
        ("forward", "attention", 2),
        ("forward", "embed", 2),
        ("head", "linear", 1),
        ("head", "cross_entropy", 1),
        ("head", "linear_dw", 1),
        ("backward", "linear_dw", 2 * 6),
        ("backward", "linear_dx", 2 * 5),
        ("backward", "linear_dx_relu2", 2),
        ("backward", "attention_backward", 2),
        ("backward", "embed_backward", 2),
        ("update", "cast", 11),
    ] {
        assert_eq!(calls(part, operation), expected, "{part}: {operation}");
    }
    // 2 layers of 2 products of 2·D FLOPs for each pair: 2 rows, 2 heads of 32, 48 · 49 / 2 pairs in each.
    let attention = table.iter().find(|line| line["operation"] == "attention").unwrap();
    assert_eq!(ms(&attention["flops"]), (2 * 2 * 2 * 32 * 2 * 2 * 48 * 49 / 2) as f64);

    // The estimate's rows hold all of a micro-batch.
    let rows = step["paper"].as_array().unwrap();
    let of = |row: &str| ms(&rows.iter().find(|r| r["row"] == row).unwrap()["ms"]);
    let whole = ["sum", "gaps between launches", "optimizer, per step"];
    let parts: f64 = rows
        .iter()
        .filter(|row| !whole.contains(&row["row"].as_str().unwrap()))
        .map(|row| ms(&row["ms"]))
        .sum();
    assert!((parts - recorded[0]).abs() < 0.01, "{parts} of {recorded:?}");
    assert_eq!(rows.len(), 13);
    assert!(rows.iter().all(|row| ms(&row["ms"]) > 0.0), "{rows:?}");
    assert!((of("sum") - ms(&step["micro_ms"])).abs() < 0.01);

    // Weights and two moments or a momentum, in f32.
    assert!(ms(&step["checkpoint"]["bytes"]) > 8.0 * ms(&step["parameters"]));
    assert!(ms(&step["peak_bytes"]) > 16.0 * ms(&step["parameters"]));
    for head in ["| part | operation |", "| kernel or product |", "8 GPUs, by arithmetic"] {
        assert!(said.contains(head), "{said}");
    }
}

#[test]
fn the_emulator_trains_as_a_cpu_does() {
    for device in ["cpu", "emulated"] {
        let Some(output) = run(&["--device", device, "--toy", "--check"]) else { return };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("passed"), "{said}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    for (arguments, told) in [
        (&["--check", "--depth", "24"][..], "cannot be used with"),
        (&["--check", "--rows", "4"], "cannot be used with"),
        (&["--check", "--checkpoint"], "cannot be used with"),
        (&["--once", "--steps", "2"], "cannot be used with"),
        (&["--device", "gpu"], "no device is called `gpu`"),
        (&["--device", "reference"], "a step is not timed on reference"),
        (&["--device", "cuda:77"], "cuda:77 cannot be opened"),
        (&["--rows", "0"], "0 is not in 1.."),
    ] {
        let Some(output) = run(arguments) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
    // A CPU has no events to time by.
    let Some(output) = run(&["--device", "cpu", "--toy"]) else { return };
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint: use --check"));
}
