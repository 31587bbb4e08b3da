//! Whole reports from invented metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::*;

/// The inputs of a small run; noise from a counter, so that every machine draws the same.
fn inputs(steps: u64) -> BTreeMap<&'static str, String> {
    let mut train = String::new();
    let config = json!({ "preset": "nanochat-2026-07", "model": { "depth": 4, "window_pattern": "SSSL" },
        "schedule": { "warmdown_frac": 0.65 }, "note": "<b>|*" });
    let groups =
        json!({ "wte": 262_144, "lm_head": 262_144, "matrices": 786_432, "value_embeds": 524_288 });
    let run = json!({ "record": "run", "config": config,
        "model": { "channels": 128, "heads": 4 }, "parameters": groups, "tokens": steps * 4_096,
        "steps": steps, "flops_per_token": 7_340_032.0, "lr": { "matrices": 0.02, "wte": 0.3 } });
    let _ = writeln!(train, "{run}");
    for step in 0..=steps {
        let x = step as f64 / steps as f64;
        let smooth = 1.9 + 5.3 * (-9.0 * x).exp() - 0.35 * x;
        if step % (steps / 10).max(1) == 0 {
            let loss = smooth + 0.03;
            let eval =
                json!({ "record": "eval", "step": step, "val_loss": loss, "val_bpb": loss * 0.41 });
            let _ = writeln!(train, "{eval}");
        }
        if step < steps {
            let noise = (step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let noise = (noise ^ noise >> 31).wrapping_mul(0x94D0_49BB_1331_11EB) >> 40;
            let loss = smooth + 0.25 * (noise as f64 / 16_777_216.0 - 0.5);
            let lr = 0.02
                * if x < 0.02 {
                    x / 0.02
                } else if x < 0.35 {
                    1.0
                } else {
                    1.0 - 0.95 * (x - 0.35) / 0.65
                };
            let record = json!({ "record": "step", "step": step, "loss": loss, "lr": lr, "grad_norm": 0.3,
                "tokens": (step + 1) * 4_096, "tokens_per_s": 21_000.0 + (step % 7) as f64,
                "seconds": (step + 1) as f64 * 0.2 });
            let _ = writeln!(train, "{record}");
        }
    }
    let _ = writeln!(
        train,
        "{}",
        json!({ "record": "final", "tokens_per_s": 20_871.4, "seconds": 118.3 })
    );

    let mut core = String::new();
    let tasks = [
        ("where_people_live", "multiple_choice", 0.815, 0.25),
        ("sums_to_twenty", "language_modeling", 0.42, 0.0),
        ("pronouns", "schema", 0.66, 0.5),
        ("which_came_first", "multiple_choice", 0.45, 0.5),
    ];
    for (task, kind, accuracy, baseline) in tasks {
        let centered = (accuracy - baseline) / (1.0 - baseline);
        let record = json!({ "record": "task", "task": task, "type": kind, "accuracy": accuracy,
            "baseline": baseline, "centered": centered, "examples": 200 });
        let _ = writeln!(core, "{record}");
    }
    let all = json!({ "record": "core", "core": 0.3517, "accuracy": 0.586_25, "chance": 0.3125, "seconds": 3.0 });
    let _ = writeln!(core, "{all}");

    let mut sample = String::new();
    for (prompt, text, temperature) in [
        ("Mira lives in", " Oststadt, a town by the river. She has two brothers and a boat.", 0.0),
        ("12 + 7 =", "12 + 7 = 19.\n\nThen they went home.", 0.8),
        ("", "# <script>alert('x')</script> & *stars* | `ticks`\n- not a list\n1. nor this", 1.0),
    ] {
        let _ = writeln!(
            sample,
            "{}",
            json!({ "prompt": prompt, "text": text, "temperature": temperature })
        );
    }

    let lengths: Vec<_> = [(1, 40), (2, 90), (3, 420), (4, 1_300), (5, 1_900), (6, 1_200), (7, 300), (8, 21)]
        .map(|(power, documents)| json!({ "from": 1 << power, "to": (2 << power) - 1, "documents": documents }))
        .into();
    let mut pack = String::new();
    for (split, lengths) in [("train", lengths), ("val", Vec::new())] {
        let record = json!({ "record": "pack", "split": split, "documents": 5_271, "tokens_in": 301_207,
            "rows": 2_284, "row_tokens": 129, "lost": 0.0218, "bound": 0.0174, "utilisation": 1.0,
            "continuation": 0.0, "lengths": lengths, "seconds": 0.4 });
        let _ = writeln!(pack, "{record}");
    }
    let bpb = json!({ "record": "bpb", "bpb": 0.6479, "loss": 1.58, "tokens": 40_960, "bytes": 143_360, "seconds": 1.2 });
    let tokenizer = json!({ "record": "tokenizer", "vocab_size": 1_024, "documents": 5_271, "chars": 1_204_331,
        "bytes_per_token": 3.498, "seconds": 0.8 });
    BTreeMap::from([
        ("train", train),
        ("core", core),
        ("sample", sample),
        ("pack", pack),
        ("bpb", format!("{bpb}\n")),
        ("tokenizer", format!("{tokenizer}\n")),
    ])
}

/// Writes the inputs, runs the stage, and gives the folder of the report.
fn report(dir: &Path, inputs: &BTreeMap<&'static str, String>) -> Result<std::path::PathBuf> {
    let mut paths = Vec::new();
    for (port, text) in inputs {
        let path = dir.join(format!("{port}.in"));
        fs::write(&path, text).unwrap();
        paths.push((*port, path));
    }
    let mut ctx = Ctx::detached(dir, paths);
    let config = ReportConfig { title: "A <small> run".into() };
    Report::run(config, NoExec::default(), &mut ctx)?;
    Ok(ctx.output("report"))
}

#[test]
fn markdown_of_a_whole_run() {
    let dir = tempfile::tempdir().unwrap();
    let out = report(dir.path(), &inputs(600)).unwrap();
    insta::assert_snapshot!(fs::read_to_string(out.join("report.md")).unwrap());
}

#[test]
fn both_ends_of_the_headline_are_of_the_same_tokens() {
    let headline = |inputs: &BTreeMap<&'static str, String>| {
        let dir = tempfile::tempdir().unwrap();
        let out = report(dir.path(), inputs).unwrap();
        let text = fs::read_to_string(out.join("report.md")).unwrap();
        let of_bpb = |line: &&str| line.contains("its per byte") && line.contains("**");
        text.lines().filter(of_bpb).map(str::to_owned).collect::<Vec<_>>()
    };
    // The training looks at a part of what eval-bpb reads: two figures.
    let mut all = inputs(600);
    let both = headline(&all);
    assert!(both[0].starts_with("| Bits per byte | **0.6479** | of held-out text, 41.0 k tokens"));
    assert!(both[1].starts_with("| While training | **2.9643 → 0.6481** |"), "{both:?}");
    all.remove("bpb");
    let own = headline(&all);
    assert_eq!(own.len(), 1);
    assert!(own[0].starts_with("| Bits per byte | **2.9643 → 0.6481** |"), "{own:?}");
    // A single look is no way from one end to the other.
    let train = all.get_mut("train").unwrap();
    let mut looks = 0;
    *train = train
        .lines()
        .filter(|line| {
            looks += usize::from(line.contains("\"eval\""));
            looks < 2 || !line.contains("\"eval\"")
        })
        .collect::<Vec<_>>()
        .join("\n");
    assert!(headline(&all)[0].contains("**2.9643**"));
}

#[test]
fn learning_rates_are_those_of_the_groups() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = inputs(600);
    let out = report(dir.path(), &all).unwrap();
    let text = fs::read_to_string(out.join("report.md")).unwrap();
    // The factor of the invented steps is at most 0.02.
    assert!(text.contains("| matrices | 0.000e0 | 4.000e-4 |"), "{text}");
    assert!(text.contains("| wte | 0.000e0 | 6.000e-3 |"), "{text}");
    // Metrics from before rates were in them.
    all.insert("train", all["train"].replacen("\"lr\":{", "\"other\":{", 1));
    let out = report(dir.path(), &all).unwrap();
    assert!(!fs::read_to_string(out.join("report.md")).unwrap().contains("Learning rates"));
}

#[test]
fn gpt2_stands_beside_the_published_tasks_and_no_others() {
    let text = |core: String| {
        let dir = tempfile::tempdir().unwrap();
        let out = report(dir.path(), &BTreeMap::from([("core", core)])).unwrap();
        balanced(&fs::read_to_string(out.join("report.html")).unwrap());
        fs::read_to_string(out.join("report.md")).unwrap()
    };
    let published = farthing_eval::core::PUBLISHED;
    let core = |tasks: &[&str]| {
        let task = |task: &&str| {
            json!({ "record": "task", "task": task, "accuracy": 0.5, "baseline": 0.25,
            "centered": 0.333, "examples": 10 })
            .to_string()
        };
        let all = json!({ "record": "core", "core": 0.2612, "accuracy": 0.5, "chance": 0.25 });
        let mut lines: Vec<String> = tasks.iter().map(task).collect();
        lines.push(all.to_string());
        lines.join("\n")
    };
    let beside = text(core(&published));
    for line in
        ["| this model | 0.2612 |", "| GPT-2, 124 M | 0.1139 |", "| GPT-2, 1558 M | 0.2565 |"]
    {
        assert!(beside.contains(line), "{line}: {beside}");
    }
    assert!(!text(core(&published[1..])).contains("GPT-2"));
    assert!(!text(inputs(50)["core"].clone()).contains("GPT-2"));
}

#[test]
fn html_is_well_formed_and_needs_nothing_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let out = report(dir.path(), &inputs(600)).unwrap();
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    balanced(&html);
    balanced(&fs::read_to_string(out.join("loss.svg")).unwrap());
    for outside in ["src=", "href=", "url(", "@import", "<script", "<link"] {
        assert!(!html.contains(outside), "the page has {outside}");
    }
    assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; *stars*"));
    assert!(html.contains("<h1>A &lt;small&gt; run</h1>"));
    assert!(html.contains("&lt;b&gt;|*"));
    for shown in [
        "0.6479",
        "2.9643 → 0.6481",
        "58.6%",
        "1,024",
        "3.498",
        "20,871 tokens/s",
        "1.84 M",
        "in 600 steps",
    ] {
        assert!(html.contains(shown), "the page lacks {shown}");
    }
}

/// Fails on an element that is closed in the wrong order, or never.
fn balanced(text: &str) {
    let mut open = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.split([' ', '\n']).next().unwrap();
        if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
            continue;
        }
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = report(one.path(), &inputs(5_000)).unwrap();
    let b = report(two.path(), &inputs(5_000)).unwrap();
    for file in ["report.md", "report.html", "loss.svg"] {
        let bytes = fs::read(a.join(file)).unwrap();
        assert_eq!(bytes, fs::read(b.join(file)).unwrap());
        assert!(bytes.len() < 400_000, "{file} has {} bytes", bytes.len());
    }
}

#[test]
fn without_inputs_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let out = report(dir.path(), &BTreeMap::new()).unwrap();
    let text = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(text.contains("nothing to show"), "{text}");
    balanced(&fs::read_to_string(out.join("report.html")).unwrap());
    assert!(!out.join("loss.svg").exists());
}

#[test]
fn each_input_alone_makes_a_report() {
    for (port, text) in inputs(50) {
        let dir = tempfile::tempdir().unwrap();
        let out = report(dir.path(), &BTreeMap::from([(port, text)])).unwrap();
        let html = fs::read_to_string(out.join("report.html")).unwrap();
        balanced(&html);
        assert!(!html.contains("nothing to show"), "{port}");
    }
}

#[test]
fn empty_files_and_runs_cut_short_make_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = inputs(50);
    all.values_mut().for_each(String::clear);
    assert!(report(dir.path(), &all).is_ok());
    let first = |text: String| text.lines().take(2).collect::<Vec<_>>().join("\n");
    let all = inputs(50).into_iter().map(|(port, text)| (port, first(text))).collect();
    assert!(report(dir.path(), &all).is_ok());
}

#[test]
fn a_line_that_is_no_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"record\":\"new\",\"x\":1}\n{\"record\":\"step\",\"step\":\"one\"}\n".to_owned();
    let fault = report(dir.path(), &BTreeMap::from([("train", text)])).unwrap_err().to_string();
    assert!(fault.starts_with("line 2 of "), "{fault}");
    assert!(
        fault.contains("train.in is not a record that a report reads: invalid type"),
        "{fault}"
    );
    assert!(fault.contains("\nhint: "), "{fault}");
}

#[test]
fn learning_to_answer_has_a_curve_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = inputs(300);
    let alone = report(dir.path(), &all).unwrap();
    let text = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for name in ["report.md", "report.html"] {
        assert!(!text(&alone, name).contains("Learning to answer"));
    }
    assert!(!alone.join("chat.svg").exists());

    let dir = tempfile::tempdir().unwrap();
    all.insert("chat", inputs(40).remove("train").unwrap());
    let both = report(dir.path(), &all).unwrap();
    let (md, html) = (text(&both, "report.md"), text(&both, "report.html"));
    assert!(md.contains("## Learning to answer\n\n![") && md.contains("(chat.svg)"), "{md}");
    assert!(md.find("## Loss").unwrap() < md.find("## Learning to answer").unwrap());
    assert_eq!(html.matches("<h2>Learning to answer</h2>").count(), 1);
    assert_eq!(html.matches("curve wide").count(), 2);
    // The headline is the training's, not that of what came after.
    let headline = |md: &str| md.split("##").next().unwrap().to_owned();
    assert_eq!(headline(&md), headline(&text(&alone, "report.md")));
    assert_ne!(text(&both, "chat.svg"), text(&both, "loss.svg"));

    // A single evaluation is a table without a curve.
    let dir = tempfile::tempdir().unwrap();
    let eval = json!({ "record": "eval", "step": 5, "val_loss": 1.25, "val_bpb": 0.5 });
    all.insert("chat", format!("{eval}\n"));
    let one = report(dir.path(), &all).unwrap();
    let md = text(&one, "report.md");
    assert!(md.contains("| 5 | 0.5000 | 1.2500 |") && !md.contains("chat.svg"), "{md}");
}
