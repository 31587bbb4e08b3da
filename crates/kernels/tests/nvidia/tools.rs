//! The programs that a machine with a GPU is given: `conform` and `ceilings`.

use super::*;

/// An example that `cargo test` has built, though `cargo test --test nvidia` has not.
fn example(name: &str) -> Option<PathBuf> {
    let this = std::env::current_exe().expect("this test's own file");
    let program =
        this.ancestors().nth(2).expect("the profile's folder").join("examples").join(name);
    if !program.exists() {
        eprintln!("skipped: {} is not built", program.display());
        return None;
    }
    Some(program)
}

/// `examples/conform.rs` on a machine of these settings: its status, its own lines, its JSON.
fn conform(settings: &str, arguments: &[&str]) -> Option<(i32, Vec<String>, serde_json::Value)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("conform.json");
    let mut command = Command::new(example("conform")?);
    command.args(arguments).arg("--json").arg(&file).env_clear();
    command.env("LD_LIBRARY_PATH", &FOLDERS.whole).env("STAND_IN", settings);
    let output = command.output().expect("a process");
    let out = String::from_utf8_lossy(&output.stdout);
    let lines = out.lines().filter(|line| !line.starts_with("> ")).map(str::to_owned).collect();
    let json = std::fs::read_to_string(&file).expect("what was found");
    let json = serde_json::from_str(&json).expect("JSON");
    Some((output.status.code().expect("a status"), lines, json))
}

#[test]
fn a_body_that_loses_the_context_costs_its_own_row_only() {
    let only = ["--only", "copy,cast,fill,linear"];
    let Some((status, lines, json)) = conform("faulty=cast_f32_bf16", &only) else { return };
    let rows = |json: &serde_json::Value| -> Vec<(String, serde_json::Value)> {
        let bodies = json["bodies"].as_array().expect("bodies").iter();
        bodies
            .map(|body| (body["name"].as_str().expect("a name").into(), body["passed"].clone()))
            .collect()
    };
    let passed = |names: &[(&str, serde_json::Value)]| -> Vec<(String, serde_json::Value)> {
        names.iter().map(|(name, passed)| ((*name).to_owned(), passed.clone())).collect()
    };
    assert_eq!(status, 1, "{lines:?}");
    let (yes, no, none) = (true.into(), false.into(), serde_json::Value::Null);
    let [yes, no]: [serde_json::Value; 2] = [yes, no];
    assert_eq!(
        rows(&json),
        passed(&[
            ("copy", yes.clone()),
            ("cast", no.clone()),
            ("fill", yes.clone()),
            ("linear", yes.clone()),
        ])
    );
    assert_eq!(json["device"]["model"], "Stand-in 0");
    assert_eq!(json["bodies"][1]["kernels"], serde_json::json!(["cast_f32_bf16"]));
    assert!(json["bodies"][1]["why"].as_str().is_some_and(|why| why.contains("ILLEGAL_ADDRESS")));
    assert!(lines[1].starts_with("cast: FAILED, ") && lines.len() == 4, "{lines:?}");

    // Where no new context is to be had, the rest says so, and is not said to have failed.
    let Some((status, lines, json)) = conform("faulty=cast_f32_bf16 fatal=1", &only) else {
        return;
    };
    assert_eq!(status, 1, "{lines:?}");
    assert_eq!(
        rows(&json),
        passed(&[("copy", yes), ("cast", no), ("fill", none.clone()), ("linear", none)])
    );
    assert_eq!(
        lines[2..],
        ["fill", "linear"].map(|name| format!(
            "{name}: not run: the context is lost, and a new process ended with status 2"
        ))
    );
}

#[test]
fn without_cublaslt_only_products_fail() {
    let Some(program) = example("conform") else { return };
    let mut command = Command::new(program);
    command.args(["--only", "fill,linear"]).env_clear().env("STAND_IN", "version=11080");
    let output = command.env("LD_LIBRARY_PATH", &FOLDERS.alone).output().expect("a process");
    let out = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with("> ")).collect();
    assert_eq!(output.status.code(), Some(1));
    assert!(lines[0].starts_with("fill: passed, "), "{out}");
    assert!(lines[1].starts_with("linear: FAILED, "), "{out}");
    assert!(lines[1].contains("there is no cuBLASLt: looked for libcublasLt.so.11"), "{out}");
}

/// `examples/ceilings.rs` is built by `cargo test`, though not by `cargo test --test nvidia`.
#[test]
fn ceilings_are_printed_as_json_and_as_a_table_or_with_the_reason_why_not() {
    let Some(program) = example("ceilings") else { return };
    let run_in = |folder: &Path, settings: &str, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env_clear().env("LD_LIBRARY_PATH", folder);
        command.env("STAND_IN", settings).output().expect("a process")
    };
    let run = |settings: &str, arguments: &[&str]| run_in(&FOLDERS.whole, settings, arguments);
    let own = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().filter(|line| !line.starts_with("> ")).map(str::to_owned).collect()
    };
    let measured = run("lt=idle memory=1073741824", &["--rows", "48"]);
    let (lines, err) = (own(&measured.stdout), String::from_utf8_lossy(&measured.stderr));
    assert_eq!(measured.status.code(), Some(0), "{err}");
    let end = lines.iter().position(|line| line == "}").expect("the end of the JSON");
    let json: serde_json::Value = serde_json::from_str(&lines[..=end].concat()).expect("JSON");
    assert_eq!(json["model"], "Stand-in 0");
    // A piece of work takes the stand-in a millisecond: 128 MiB read and written.
    assert_eq!(json["memory"]["copy_read_and_written_gb_per_s"], 268.4);
    // With 48 rows in all, a head has no more at a time.
    assert_eq!(json["products"].as_array().map(Vec::len), Some(2 * (11 + 3 + 6)));
    assert_eq!(json["left_out"], serde_json::json!([]));
    // The library's first choice takes two milliseconds, its last one, and one of its four is none: 2·48·6144·1536 operations.
    for kind in ["bf16", "fp8"] {
        let of = |what: &str| json["products"][0][format!("{kind}_{what}")].clone();
        assert_eq!((of("tflops"), of("best_tflops")), (0.453.into(), 0.906.into()), "{kind}");
        assert_eq!((of("best_index"), of("candidates")), (2.into(), 3.into()), "{kind}");
    }
    let row = "| d24: mlp in | 48 × 6144 × 1536 | x·wᵀ | 0.453 | 0.906 | 3 of 3 | 0.453, 0.906 | |";
    assert!(lines[end..].iter().any(|line| line == row), "{lines:?}");
    let rows = |lines: &[String]| lines.iter().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows(&lines[end..]), 2 + 2 + 40);
    // Rows are seen when they are measured.
    assert_eq!(rows(&own(&measured.stderr)), 2 + 2 + 40);

    // With a file for the JSON, standard output is the table. An older GPU has no fp8.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("ceilings.json");
    let name = file.to_str().expect("a name in UTF-8");
    let older = run("lt=idle major=8 memory=1073741824", &["--rows", "48", "--json", name]);
    let lines = own(&older.stdout);
    assert_eq!((older.status.code(), rows(&lines)), (Some(0), lines.len()), "{lines:?}");
    let json = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(&file).expect("a file")).expect("JSON")
    };
    let written = json();
    assert!(written["products"][39]["fp8_tflops"].is_null(), "{written}");
    assert!(written["products"][39]["bf16_best_tflops"].is_number(), "{written}");
    assert_eq!(
        written["left_out"],
        serde_json::json!(["fp8: it takes cuBLASLt and compute capability 8.9"])
    );
    // Without the library there are copies to measure.
    let without = run_in(&FOLDERS.alone, "version=11080", &["--json", name]);
    assert_eq!((without.status.code(), rows(&own(&without.stdout))), (Some(0), 2 + 2));
    let left_out = json()["left_out"][0].as_str().expect("a reason").to_owned();
    assert!(left_out.contains("there is no cuBLASLt: looked for libcublasLt.so.11"), "{left_out}");
    // In the emulator there is one way to multiply.
    let emulated = run("", &["--device", "emulated", "--toy", "--json", name]);
    assert_eq!((emulated.status.code(), rows(&own(&emulated.stdout))), (Some(0), 2 + 2 + 23));
    assert_eq!(json()["left_out"][0], "choices: the host multiplies in one way");

    for (settings, arguments, told) in [
        (
            "devices=0",
            [].as_slice(),
            "nothing is measured: cuda:0 cannot be opened: the driver sees no GPU",
        ),
        (
            "",
            ["--device", "emulated"].as_slice(),
            "nothing is measured: the emulator would take hours",
        ),
        ("", ["--device", "cpu"].as_slice(), "nothing is measured: cpu runs no PTX"),
        ("", ["--rows", "0"].as_slice(), "error: invalid value '0' for '--rows <ROWS>'"),
    ] {
        let refused = run(settings, arguments);
        let err = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{err}");
        assert!(err.starts_with(told), "{err}");
    }
    // What the library refuses is a row that says so, and the next is measured.
    let failed = run("lt=none memory=1073741824", &["--rows", "48"]);
    assert_eq!(failed.status.code(), Some(1));
    let lines = own(&failed.stdout);
    let failures = lines.iter().filter(|line| line.contains(" | failed | | | none | |")).count();
    assert_eq!(failures, 40);
}
