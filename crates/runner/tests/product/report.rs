//! What a run leaves for its reader: the screen, the report, and lines of progress where there is no terminal.

use std::fs;

use insta::assert_snapshot;

use crate::harness::{Place, json, json_lines};

#[test]
fn a_run_from_raw_text_to_a_report() {
    let place = Place::new();
    let output = place.done(&[]);
    assert_snapshot!(output.masked());

    // Not a terminal: lines, and no control sequences.
    for stage in ["fetch", "tokenizer", "pack", "train", "bpb", "core", "sample", "report"] {
        let has =
            |text: &str| output.stderr.lines().any(|l| l.starts_with(&format!("{stage}: {text}")));
        assert!(has("runs (never run)") && has("done in "), "{stage}: {}", output.stderr);
    }
    assert!(!output.stderr.contains('\u{1b}') && !output.stderr.contains('\r'));
    for figure in ["bpb_start", "bpb_end", "tokens_per_s", "accuracy", "chance"] {
        assert!(output.stdout.contains(figure), "{figure}: {}", output.screen());
    }

    let run = place.last_run();
    let record = |stage: &str, kind: &str| {
        let records = json_lines(&run.join(format!("stages/{stage}/metrics.jsonl")));
        records.into_iter().find(|r| r["record"] == kind).unwrap()
    };
    let markdown = fs::read_to_string(run.join("report.md")).unwrap();
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    let bpb = format!("{:.4}", record("bpb", "bpb")["bpb"].as_f64().unwrap());
    let accuracy = format!("{:.1}", 100.0 * record("core", "core")["accuracy"].as_f64().unwrap());
    for report in [&markdown, &html] {
        assert!(report.contains(&bpb), "{bpb}: {report}");
        assert!(report.contains(&accuracy), "{accuracy}: {report}");
        assert!(report.contains("Once upon a time"), "{report}");
    }
    assert!(html.contains("<svg"), "the curve is drawn in the page");
    for name in ["report.md", "report.html", "loss.svg"] {
        let shown = output.stdout.lines().filter_map(|l| l.strip_prefix("report "));
        let paths: Vec<_> = shown.map(|path| place.path(path.trim())).collect();
        assert!(paths.iter().any(|p| p.ends_with(name) && p.is_file()), "{name}: {paths:?}");
    }
    // The page stands alone: no link, picture, script or style from elsewhere. Namespaces are names.
    let own = html.replace("http://www.w3.org/", "").replace("http-equiv", "");
    assert!(!own.contains("http") && !own.contains("src=\"/"), "{html}");

    let lineage = json(&run.join("run.json"));
    assert_eq!(lineage["status"], "done");
    assert_eq!(lineage["stages"].as_array().unwrap().len(), 8);
}
