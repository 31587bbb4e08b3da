//! `examples/conform.rs` on the emulated device and with arguments that it refuses. `nvidia` runs it on a GPU's stand-in.
#![allow(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::path::Path;
use std::process::{Command, Output};

use farthing_kernels::conformance::large;
use serde_json::Value;

/// What it says and leaves; `None` where it is not built, which `cargo test --test conform` does not do.
fn conform(arguments: &[&str]) -> Option<Output> {
    let this = std::env::current_exe().expect("this test's own file");
    let program = this.ancestors().nth(2).expect("the profile's folder").join("examples/conform");
    if !program.exists() {
        eprintln!("skipped: {} is not built", program.display());
        return None;
    }
    Some(Command::new(program).args(arguments).output().expect("a process"))
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).expect("a file")).expect("JSON")
}

#[test]
fn a_handful_of_operations_and_what_they_launch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("conform.json");
    let name = file.to_str().expect("a name in UTF-8");
    let Some(output) = conform(&["--device", "emulated", "--toy", "--json", name]) else { return };
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", String::from_utf8_lossy(&output.stderr));
    let found = json(&file);
    assert_eq!(
        found["device"],
        serde_json::json!({
            "name": "emulated", "model": "PTX emulator", "capability": "8.0", "multiprocessors": 4,
            "memory_bytes": 1u64 << 34,
        })
    );
    let bodies = found["bodies"].as_array().expect("bodies");
    assert!(bodies.len() >= 5 && out.lines().count() == bodies.len(), "{out}");
    for (body, line) in bodies.iter().zip(out.lines()) {
        let name = body["name"].as_str().expect("a name");
        assert!(line.starts_with(&format!("{name}: passed, error ")), "{line}");
        assert!(body["passed"] == true && body["why"].is_null(), "{body}");
        assert!(body["error"].is_number() && body["seconds"].is_number(), "{body}");
    }
    let of = |name: &str| bodies.iter().find(|body| body["name"] == name).expect("that body");
    assert_eq!(of("fill")["kernels"], serde_json::json!(["fill_u16", "fill_u32"]));
    assert_eq!(of("rms_norm")["kernels"], serde_json::json!(["rms_norm_block", "rms_norm_warp"]));
    assert_eq!(of("write_read")["kernels"], serde_json::json!([]));

    // Operations that were found before stay, those that are found again are replaced.
    let more = ["--device", "emulated", "--only", "copy,fill", "--json", name, "--append"];
    let Some(output) = conform(&more) else { return };
    assert_eq!(output.status.code(), Some(0));
    let again = json(&file);
    let names: Vec<_> = again["bodies"].as_array().expect("bodies").iter().collect();
    assert_eq!(names.len(), bodies.len() + 1);
    assert_eq!(names.iter().filter(|body| body["name"] == "fill").count(), 1);
}

#[test]
fn large_operations_at_small_sizes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("large.json");
    let name = file.to_str().expect("a name in UTF-8");
    let arguments = ["--device", "emulated", "--large", "--toy", "--json", name];
    let Some(output) = conform(&arguments) else { return };
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", String::from_utf8_lossy(&output.stderr));
    let found = json(&file);
    let bodies = found["bodies"].as_array().expect("bodies").iter();
    let names: Vec<&str> = bodies.map(|body| body["name"].as_str().expect("a name")).collect();
    assert_eq!(names, large::LARGE.iter().map(|(name, _)| *name).collect::<Vec<_>>());

    // What a device has no memory for is neither passed nor failed.
    let arguments = ["--device", "cpu", "--large", "--only", "sums_beyond_32_bits", "--json", name];
    let Some(output) = conform(&arguments) else { return };
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(out.starts_with("sums_beyond_32_bits: not run: "), "{out}");
    let body = &json(&file)["bodies"][0];
    assert!(body["passed"].is_null() && body["why"].is_string(), "{body}");
}

#[test]
fn what_it_cannot_do_is_told_before_anything_is_tested() {
    let cases: [(&[&str], &str); 4] = [
        (&["--device", "emulated", "--large"], "nothing is tested: the emulator would take hours"),
        (&["--only", "fill,nonsense"], "nothing is tested: there is no operation `nonsense`"),
        (&["--device", "emulate"], "no device is called `emulate`"),
        (&["--device", "cpu", "--json", "/nowhere/a.json"], "/nowhere/a.json"),
    ];
    for (arguments, told) in cases {
        let Some(output) = conform(arguments) else { return };
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(told) && err.contains("hint: "), "{arguments:?}: {err}");
        assert!(output.stdout.is_empty());
    }
}
