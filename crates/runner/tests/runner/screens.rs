//! Screens of work: plans, graphs, the end of a run, failures.

use insta::assert_snapshot;

use crate::harness::Place;

const WHOLE: &str = r#"
[vars]
greeting = "hello"
n        = 2

[stage.report]
uses   = "report"
inputs = { count = "count.metrics" }
expect = { "count.letters" = { min = 4 } }

[stage.count]
uses   = "count"
inputs = { text = "trim.text" }

[stage.trim]
uses   = "trim"
inputs = { text = "hi.text" }

[stage.hi]
uses  = "write"
text  = "${greeting} x${n}"
lines = "${n}"

[stage.alone]
uses  = "write"
needs = ["count"]
text  = "$${greeting}"
"#;

#[test]
fn plan_run_rerun() {
    let place = Place::with(WHOLE);
    assert_snapshot!("plan_first", place.go(&["--plan"]).screen());
    assert!(!place.path("store").exists(), "a plan creates nothing");
    assert_snapshot!("run_first", place.go(&[]).screen());
    assert_snapshot!("run_again", place.go(&[]).screen());
    assert_snapshot!("plan_again", place.go(&["--plan"]).screen());
    assert_snapshot!(
        "plan_changed",
        place.go(&["--plan", "--set", "hi.text=bye", "--force", "report"]).screen()
    );
    assert_snapshot!("run_changed", place.go(&["--set", "hi.text=bye"]).screen());
}

#[test]
fn graphs_and_lists() {
    let place = Place::with(WHOLE);
    assert_snapshot!("graph_dot", place.go(&["--graph", "dot"]).screen());
    assert_snapshot!("graph_mermaid", place.go(&["--graph", "mermaid"]).screen());
    assert_snapshot!("list", place.run(&["list"]).screen());
    assert_snapshot!("help", place.run(&[]).screen());
}

#[test]
fn failures() {
    for how in ["error", "panic", "nothing"] {
        let place = Place::with(&format!(
            "[stage.bad]\nuses = \"fail\"\nhow = \"{how}\"\n[stage.t]\nuses = \"trim\"\ninputs = {{ text = \"bad.text\" }}\n"
        ));
        let output = place.go(&["--set", "pipeline.seed=3", "--runs", "my runs"]);
        assert_eq!(output.code, 1);
        let panic_place =
            |line: &&str| !line.starts_with("thread '") && !line.starts_with("note: run with");
        let screen = output.screen();
        assert_snapshot!(
            format!("failure_{how}"),
            screen.lines().filter(panic_place).collect::<Vec<_>>().join("\n")
        );
    }
}

#[test]
fn a_plan_that_fails() {
    let place = Place::with("[stage.bad]\nuses = \"fail\"\nhow = \"plan\"\n");
    assert_snapshot!(place.go(&["--plan"]).screen());
}

#[test]
fn an_expectation_that_is_not_met() {
    let place = Place::with(WHOLE);
    let args = ["--set", "report.expect.\"count.letters\".min=400"];
    assert_snapshot!("expect_missed", place.go(&args).screen());
    // The report is in the cache, and the expectation is judged again.
    let again = place.go(&args);
    assert_eq!(again.code, 1, "{}", again.screen());
    assert_eq!(place.go(&[]).code, 0);
}

#[test]
fn the_runs_folder_tells_what_happened() {
    let place = Place::with(WHOLE);
    place.go(&[]);
    let run = std::fs::read_dir(place.path("runs/p")).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_to_string(run.join("report.md")).unwrap().starts_with("# Report"));
    let metrics = std::fs::read_to_string(run.join("stages/count/metrics.jsonl")).unwrap();
    assert_eq!(metrics, "{\"letters\":12,\"step\":0}\n");
    assert!(std::fs::read_to_string(run.join("stages/count/log.txt")).unwrap().contains("counted"));
    let lineage: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
    assert_eq!(lineage["status"], "done");
    assert_eq!(lineage["stages"][1]["inputs"]["text"][0], "hi.text");
    assert_eq!(lineage["stages"][1]["inputs"]["text"][1], lineage["stages"][0]["outputs"]["text"]);
}
