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

    // Of which run it is.
    let lineage = json(&run.join("run.json"));
    let cores = lineage["machine"]["cores"].as_u64().unwrap();
    let cores = format!(", {cores} core");
    let day = output.stdout.lines().find_map(|l| l.strip_prefix("run ")).unwrap();
    let day = day.trim().rsplit('/').next().unwrap();
    let day = format!("{}-{}-{} ", &day[..4], &day[4..6], &day[6..8]);
    for report in [&markdown, &html] {
        for fact in ["nano (p.toml)", "1337", &day, &cores, "farthing 0.", "of this machine"] {
            assert!(report.contains(fact), "{fact}: {report}");
        }
        assert!(!report.contains("<!-- the run -->"));
        assert!(report.contains("pack-bestfit"), "the time of each stage");
    }
    assert_eq!(lineage["status"], "done");
    assert_eq!(lineage["stages"].as_array().unwrap().len(), 8);
}

#[test]
fn two_reports_are_told_apart_and_nothing_that_a_user_names_is_markup() {
    let place = Place::new();
    place.done(&["--until", "report", "--set", "train.schedule.steps=2"]);
    let before = place.last_run();
    let args =
        ["--set", "pipeline.seed=424242", "--set", "report.title='<b>a & b</b> <!-- the run -->'"];
    let priced = ["--set", "pipeline.dollars_per_hour=3600", "--set", "train.schedule.steps=2"];
    place.done(&[&args[..], &priced].concat());
    let run = place.last_run();
    assert_ne!(run, before);
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    let markdown = fs::read_to_string(run.join("report.md")).unwrap();
    for fact in
        ["424242", "at $3,600 an hour", "&lt;b&gt;a &amp; b&lt;/b&gt; &lt;!-- the run --&gt;"]
    {
        assert!(html.contains(fact), "{fact}: {html}");
    }
    assert!(html.contains("pipeline.seed=424242") && !html.contains("<b>a"), "{html}");
    assert!(
        markdown.contains("\\<b\\>a \\& b") && markdown.contains("| Seed | 424242 |"),
        "{markdown}"
    );
    // What is secret is no fact of a run.
    place.edit("[stage.fetch]", "[vars]\napi_token = \"\"\n[stage.fetch]");
    place.done(&["--set", "vars.api_token=hunter2secret", "--set", "train.schedule.steps=3"]);
    let signed = fs::read_to_string(place.last_run().join("report.html")).unwrap();
    assert!(signed.contains("vars.api_token=${vars.api_token}"), "{signed}");
    assert!(!signed.contains("hunter2"), "{signed}");
    // The store's report is of the work, whoever's run it was.
    let stored = fs::read_to_string(
        place.path("store/stages").join(newest(&place)).join("report/report.md"),
    )
    .unwrap();
    assert!(!stored.contains("424242") && stored.contains("<!-- the run -->"), "{stored}");
}

/// The entry of the report that was made last.
fn newest(place: &Place) -> std::path::PathBuf {
    let entries = fs::read_dir(place.path("store/stages")).unwrap().map(|e| e.unwrap().path());
    let reports = entries.filter(|entry| entry.join("report/report.md").is_file());
    reports
        .max_by_key(|entry| fs::metadata(entry.join("stage.json")).unwrap().modified().unwrap())
        .unwrap()
}
