//! Python's `huggingface_hub` finds what is fetched here, and what it fetched is used here. Skipped where it is not installed;
//! FARTHING_PYTHON names another interpreter.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

use crate::hub::fixture::{Place, TOKEN, parquet, shard};
use std::path::PathBuf;
use std::process::Command;

fn python() -> Option<PathBuf> {
    let python =
        std::env::var_os("FARTHING_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let found = Command::new(&python).args(["-c", "import huggingface_hub"]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

/// Runs a script in which `download(FILE)` is `hf_hub_download`.
fn run(python: &PathBuf, place: &Place, offline: &str, script: &str) -> String {
    let head = "from huggingface_hub import hf_hub_download\n\
        def download(name): return hf_hub_download('org/name', name, repo_type='dataset')\n";
    let output = Command::new(python)
        .args(["-c", &format!("{head}{script}")])
        .env("HF_HUB_CACHE", place.dir.path().join("cache"))
        .env("HF_HOME", place.dir.path().join("home"))
        .env("HF_ENDPOINT", &place.hub.endpoint)
        .env("HF_TOKEN", TOKEN)
        .env("HF_HUB_OFFLINE", offline)
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("NO_PROXY", "127.0.0.1,localhost")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn python_finds_what_is_fetched_here() {
    let Some(python) = python() else {
        println!("skipped: no Python with huggingface_hub (FARTHING_PYTHON)");
        return;
    };
    let mut place = Place::new();
    place.fetch().unwrap();
    place.hub.heal();
    let path = run(&python, &place, "1", &format!("print(download('{}'))", shard(2)));
    assert_eq!(std::fs::read(path.trim()).unwrap(), parquet(2));
    assert!(path.contains("/snapshots/"), "{path}");
    assert_eq!(place.hub.log(), []);
}

#[test]
fn what_python_fetched_is_used_here() {
    let Some(python) = python() else {
        println!("skipped: no Python with huggingface_hub (FARTHING_PYTHON)");
        return;
    };
    let mut place = Place::new();
    run(&python, &place, "0", &format!("download('{}'); download('{}')", shard(0), shard(4)));
    assert_eq!(place.blobs().len(), 2);
    place.hub.heal();
    let files = place.fetch().unwrap();
    place.holds(&files, &[0, 1, 2, 3].map(parquet), &[parquet(4)]);
    let asked = |i| place.hub.downloads(&shard(i)).len();
    assert_eq!([0, 1, 2, 3, 4].map(asked), [0, 1, 1, 1, 0]);
}
