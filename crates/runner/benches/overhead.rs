//! What the runner costs beside the work: a stage that is cached, and the plan of a sweep. The binary is started each time, as a user starts it.
//!
//! `cargo bench --bench overhead`; 203 stages are planned, 101 and 1 taken from the cache: a hundredth of the difference is a cached stage's.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::path::Path;
use std::process::{Command, Stdio};

use criterion::{Criterion, criterion_group, criterion_main};

fn runner(folder: &Path, args: &[&str]) {
    let status = Command::new(env!("CARGO_BIN_EXE_runner"))
        .args(args)
        .current_dir(folder)
        .env_remove("FARTHING_STORE")
        .env_remove("FARTHING_RUNS")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success(), "{args:?}");
}

/// That many embedded worlds of one document: the smallest stages that there are.
fn worlds(folder: &Path, stages: usize) {
    let mut text = "[pipeline]\nname = \"many\"\nformat = 1\n".to_owned();
    for i in 0..stages {
        let stage = format!(
            "[stage.w{i}]\nuses = \"fetch-parquet\"\nsource = \"embedded://world\"\n\n\
             world = {{ train_shards = 1, documents_per_shard = {}, val_documents = 1 }}\n",
            i + 1
        );
        text.push_str(&stage);
    }
    std::fs::write(folder.join(format!("{stages}.toml")), text).unwrap();
}

/// Two hundred trainings that differ by a rate.
fn sweep(folder: &Path) {
    let nano = include_str!("../tests/product/nano.toml");
    let until = nano.split("[stage.bpb]").next().unwrap();
    let rates: Vec<String> = (1..=200).map(|i| format!("0.{i:04}")).collect();
    let matrix = format!(
        "[stage.train.matrix]\nlr = [{}]\n[stage.train.optim.matrices]\nlr = \"${{lr}}\"\n[stage.train.model]",
        rates.join(", ")
    );
    std::fs::write(folder.join("sweep.toml"), until.replace("[stage.train.model]", &matrix))
        .unwrap();
}

fn overhead(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    sweep(dir.path());
    for stages in [1, 101] {
        worlds(dir.path(), stages);
        runner(dir.path(), &[&format!("{stages}.toml")]);
    }
    let mut group = criterion.benchmark_group("overhead");
    group.sample_size(10);
    for (name, args) in [
        ("plan of 200 variants", &["sweep.toml", "--plan"][..]),
        ("1 cached stage", &["1.toml"]),
        ("101 cached stages", &["101.toml"]),
    ] {
        group.bench_function(name, |bench| bench.iter(|| runner(dir.path(), args)));
    }
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
