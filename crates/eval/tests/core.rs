//! CORE on small bundles whose outcomes are worked out by hand, and what it says about faulty ones.

use crate::common;

use common::{BOS, Bytes, Pairs};
use farthing_base::Hint;
use farthing_data::{Progress, Silent};
use farthing_eval::core::{Bundle, CoreReport, CoreSettings, evaluate};
use farthing_eval::{Error, Result};
use std::path::Path;

fn settings(batch_tokens: usize) -> CoreSettings {
    CoreSettings { max_per_task: None, batch_tokens }
}

/// A vowel costs 1, everything else 2; a vowel is always predicted, anything else never.
fn vowels() -> Pairs {
    Pairs::new(|_, b| if vowel(b) { 1.0 } else { 2.0 }, |_, b| if vowel(b) { b } else { 0 })
}

fn vowel(token: i32) -> bool {
    b"aeiou".iter().any(|&v| i32::from(v) == token)
}

fn bundle(dir: &Path, tasks: &str, files: &[(&str, &str)]) -> Result<Bundle> {
    std::fs::write(dir.join("tasks.json"), tasks).unwrap();
    for (name, text) in files {
        std::fs::write(dir.join(name), text).unwrap();
    }
    Bundle::open(dir)
}

fn task(label: &str, kind: &str, shots: usize, base: f64) -> String {
    format!(
        r#"{{"label": "{label}", "uri": "{label}.jsonl", "task_type": "{kind}", "num_fewshot": {shots}, "random_baseline": {base}}}"#
    )
}

const CHOICES: &str = r#"{"query": "q", "choices": ["bb", "ab", "aa"], "gold": 2}
{"query": "q", "choices": ["bbbb", "abab"], "gold": 0}
{"query": "q", "choices": ["a", "bbbbbb", "e"], "gold": 0}
{"query": "q", "choices": ["a", "e"], "gold": 1, "note": "passed over"}
"#;
const CONTEXTS: &str = r#"{"context_options": ["b", "a"], "continuation": "x", "gold": 0}
{"context_options": ["xb", "xxa"], "continuation": "u", "gold": 1}
"#;
const TEXTS: &str = r#"{"context": "b ", "continuation": "aei"}

{"context": "b", "continuation": "abi"}
"#;

fn three_tasks(dir: &Path) -> Bundle {
    let tasks = [
        task("choices", "multiple_choice", 0, 25.0),
        task("contexts", "schema", 0, 50.0),
        task("texts", "language_modeling", 0, 0.0),
    ];
    let files = [("choices.jsonl", CHOICES), ("contexts.jsonl", CONTEXTS), ("texts.jsonl", TEXTS)];
    bundle(dir, &format!("[{}]", tasks.join(",")), &files).unwrap()
}

fn verdicts(report: &CoreReport, task: usize) -> Vec<(usize, Option<usize>, bool)> {
    let mut all: Vec<_> =
        report.tasks[task].examples.iter().map(|e| (e.line, e.chosen, e.correct)).collect();
    all.sort_unstable();
    all
}

#[test]
fn outcomes_are_those_worked_out_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = three_tasks(dir.path());
    let text = Bytes::default();
    let report = evaluate(&mut vowels(), &text, &bundle, &settings(4096), &mut Silent).unwrap();
    // Means: 2, 1.5, 1 → the third, right. 2, 1.5 → the second, wrong. 1, 2, 1 → the first of equals, right; 1, 1 → the
    // first of equals, wrong.
    assert_eq!(
        verdicts(&report, 0),
        [(1, Some(2), true), (2, Some(1), false), (3, Some(0), true), (4, Some(0), false)]
    );
    // The common suffix alone is scored, and this model looks at nothing before it: the first of equals.
    assert_eq!(verdicts(&report, 1), [(1, Some(0), true), (2, Some(0), false)]);
    // The space before the continuation is a token to be predicted too, as the prompt without continuation is stripped: this
    // model never does.
    assert_eq!(verdicts(&report, 2), [(1, None, false), (3, None, false)]);
    let centered: Vec<f64> = report.tasks.iter().map(|t| t.centered).collect();
    assert_eq!(centered, [(0.5 - 0.25) / 0.75, 0.0, 0.0]);
    assert!((report.core - 1.0 / 9.0).abs() < 1e-15);
    // Numbers that a report shows.
    let choices = &report.tasks[0];
    assert_eq!((choices.items, choices.correct, choices.random_baseline), (4, 2, 0.25));
}

#[test]
fn language_modelling_needs_every_token() {
    let dir = tempfile::tempdir().unwrap();
    let task = task("texts", "language_modeling", 0, 0.0)
        .replace(r#""num_fewshot""#, r#""continuation_delimiter": "", "num_fewshot""#);
    let bundle = bundle(dir.path(), &format!("[{task}]"), &[("texts.jsonl", TEXTS)]).unwrap();
    let report =
        evaluate(&mut vowels(), &Bytes::default(), &bundle, &settings(64), &mut Silent).unwrap();
    assert_eq!(verdicts(&report, 0), [(1, None, true), (3, None, false)]);
}

#[test]
fn examples_stand_before_the_item_and_change_nothing_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = format!("[{}]", task("choices", "multiple_choice", 3, 25.0));
    let bundle = bundle(dir.path(), &tasks, &[("choices.jsonl", CHOICES)]).unwrap();
    let text = Bytes::default();
    let report = evaluate(&mut vowels(), &text, &bundle, &settings(64), &mut Silent).unwrap();
    assert_eq!(
        verdicts(&report, 0),
        [(1, Some(2), true), (2, Some(1), false), (3, Some(0), true), (4, Some(0), false)]
    );
    for prompt in text.seen.borrow().iter() {
        let parts: Vec<&str> = prompt.split("\n\n").collect();
        assert_eq!(parts.len(), 4, "{prompt:?}");
        // Only right answers stand in examples.
        for example in &parts[..3] {
            assert!(["q aa", "q bbbb", "q a", "q e"].contains(example), "{prompt:?}");
        }
    }
}

/// A loss that depends on what stands before; 1/64ths, so that sums are exact.
fn mixed() -> Pairs {
    Pairs::new(
        |a, b| f64::from((a * 31 + b * 17) % 64) / 64.0,
        |a, b| if (a + b) % 5 == 0 { 0 } else { b },
    )
}

#[test]
fn batching_changes_no_outcome() {
    let dir = tempfile::tempdir().unwrap();
    // More items than are held at once, of lengths from 1 to 100.
    let words = |i: usize| {
        [0, 3, 6].map(|k| -> String {
            "abcdefgh".chars().cycle().skip((i + k) % 8).take(1 + (i * 7 + k * 13) % 50).collect()
        })
    };
    let lines = |line: fn(usize, &[String; 3]) -> String| -> String {
        (0..600).map(|i| line(i, &words(i))).collect::<Vec<_>>().join("\n")
    };
    let files = [
        lines(|i, [w, x, y]| {
            let gold = i % 3;
            format!(r#"{{"query": "{w}", "choices": ["1{x}", "2{y}", "3{w}"], "gold": {gold}}}"#)
        }),
        lines(|i, [w, x, y]| {
            let gold = i % 2;
            format!(
                r#"{{"context_options": ["{w}1", "{x}2"], "continuation": "{y}", "gold": {gold}}}"#
            )
        }),
        lines(|_, [w, x, _]| format!(r#"{{"context": "{w}", "continuation": "{}"}}"#, &x[..1])),
    ];
    let tasks = [
        task("a", "multiple_choice", 2, 25.0),
        task("b", "schema", 1, 50.0),
        task("c", "language_modeling", 2, 0.0),
    ];
    let [a, b, c] = &files;
    let files = [("a.jsonl", a.as_str()), ("b.jsonl", b), ("c.jsonl", c)];
    let bundle = bundle(dir.path(), &format!("[{}]", tasks.join(",")), &files).unwrap();
    let run = |batch_tokens| {
        let mut model = mixed();
        let text = Bytes::default();
        let report = evaluate(&mut model, &text, &bundle, &settings(batch_tokens), &mut Silent);
        (report.unwrap(), model.shapes)
    };
    let (one_by_one, shapes) = run(1);
    assert!(shapes.iter().all(|&(rows, _)| rows == 1));
    for batch_tokens in [300, 4096, 1 << 20] {
        let (report, shapes) = run(batch_tokens);
        assert_eq!(report, one_by_one, "batch_tokens {batch_tokens}");
        assert!(shapes.iter().all(|&(r, t)| t % 32 == 0 && (r == 1 || r * t <= batch_tokens)));
    }
    // The outcomes are not all alike, or they would prove nothing.
    for task in &one_by_one.tasks {
        assert!((1..task.items).contains(&task.correct), "{}: {}", task.label, task.correct);
    }
}

#[test]
fn sequences_begin_with_bos_and_padding_is_never_a_target() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = three_tasks(dir.path());
    // Costs nothing unless BOS is a target.
    let mut model = Pairs::new(|_, b| if b == BOS as i32 { f64::NAN } else { 0.0 }, |_, b| b);
    let report =
        evaluate(&mut model, &Bytes::default(), &bundle, &settings(4096), &mut Silent).unwrap();
    assert_eq!(report.tasks[2].correct, 2);
}

#[test]
fn fewer_items_are_the_first_of_the_shuffle() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = three_tasks(dir.path());
    let settings = CoreSettings { max_per_task: Some(2), batch_tokens: 64 };
    let report =
        evaluate(&mut vowels(), &Bytes::default(), &bundle, &settings, &mut Silent).unwrap();
    // import random; x = [1, 2, 3, 4]; random.Random(1337).shuffle(x); x[:2]
    let lines: Vec<usize> = report.tasks[0].examples.iter().map(|e| e.line).collect();
    assert_eq!(lines, [2, 1]);
    assert_eq!(report.tasks[0].examples.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn progress_counts_every_prompt() {
    #[derive(Default)]
    struct Count {
        total: u64,
        done: u64,
        messages: Vec<String>,
    }
    impl Progress for Count {
        fn total(&mut self, total: Option<u64>, _: &'static str) {
            self.total = total.unwrap();
        }
        fn advance(&mut self, n: u64) {
            self.done += n;
        }
        fn message(&mut self, text: &str) {
            self.messages.push(text.into());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let bundle = three_tasks(dir.path());
    let mut count = Count::default();
    evaluate(&mut vowels(), &Bytes::default(), &bundle, &settings(64), &mut count).unwrap();
    assert_eq!((count.total, count.done), (10 + 4 + 2, 10 + 4 + 2));
    assert_eq!(count.messages, ["choices", "contexts", "texts"]);
}

/// The message about a bundle of one task, with the directory left out.
fn message(tasks: &str, items: Option<&str>, settings: &CoreSettings, model: &mut Pairs) -> String {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<(&str, &str)> = items.iter().map(|&text| ("t.jsonl", text)).collect();
    let error = bundle(dir.path(), tasks, &files)
        .and_then(|b| evaluate(model, &Bytes::default(), &b, settings, &mut Silent))
        .unwrap_err();
    error.with_hint().replace(&format!("{}/", dir.path().display()), "")
}

fn of(kind: &str, shots: usize, items: &str) -> String {
    let tasks = format!("[{}]", task("t", kind, shots, 25.0));
    message(&tasks, Some(items), &CoreSettings::default(), &mut vowels())
}

#[test]
fn a_faulty_task_list_is_named() {
    let list = |tasks: &str| message(tasks, None, &CoreSettings::default(), &mut vowels());
    let first = |text: String| text.lines().next().unwrap().to_string();
    assert_eq!(first(list("[]")), "the task list tasks.json cannot be used: it names no task");
    assert!(
        list("[{\"lable\": 1}]").contains("unknown field `lable`"),
        "{}",
        list("[{\"lable\": 1}]")
    );
    let one = task("t", "schema", 0, 50.0);
    assert_eq!(
        list(&format!("[{one},{one}]")),
        "the task list tasks.json cannot be used: the label \"t\" occurs twice\nhint: give each task a label of its own"
    );
    let certain = task("t", "schema", 0, 100.0);
    assert_eq!(
        list(&format!("[{certain}]")),
        "the task list tasks.json cannot be used: task t has a random_baseline of 100\nhint: it is the accuracy of guessing in percent, at least 0 and below 100"
    );
    assert!(first(list(&format!("[{one}]"))).starts_with("cannot read t.jsonl: No such file"));
    let missing = Bundle::open("no-such-bundle").unwrap_err();
    assert!(matches!(missing, Error::Read { .. }), "{missing}");
}

#[test]
fn a_faulty_item_is_named_with_its_line() {
    let good = r#"{"query": "q", "choices": ["a", "b"], "gold": 0}"#;
    let hint = r#"hint: a multiple_choice item is {"query": "…", "choices": ["…", "…"], "gold": 0}, gold counting from 0"#;
    for (bad, reason) in [
        (
            r#"{"query": "q", "choices": ["a", "b"], "gold": 2}"#,
            "gold is 2, but choices has 2 entries",
        ),
        (
            r#"{"query": "q", "choices": [], "gold": 0}"#,
            "choices has 0 entries, at least 2 are needed to choose from",
        ),
        (r#"{"query": "q", "choices": ["a", "b"]}"#, "missing field `gold` (column 37)"),
        (r#"{"query": "q", "choi"#, "EOF while parsing a string (column 20)"),
        (
            r#"{"query": "q", "choices": ["a", "b"], "gold": -1}"#,
            "invalid value: integer `-1`, expected usize (column 48)",
        ),
    ] {
        assert_eq!(
            of("multiple_choice", 0, &format!("{good}\n\n{bad}\n")),
            format!("line 3 of t.jsonl is not an item: {reason}\n{hint}")
        );
    }
    assert!(
        of("schema", 0, good)
            .starts_with("line 1 of t.jsonl is not an item: missing field `context_options`")
    );
    assert!(
        of("language_modeling", 0, "\n")
            .starts_with("line 1 of t.jsonl is not an item: the file holds no items")
    );
}

#[test]
fn what_cannot_be_scored_is_named() {
    let good = r#"{"query": "q", "choices": ["a", "b"], "gold": 0}"#;
    assert_eq!(
        of("multiple_choice", 2, &format!("{good}\n{good}\n")),
        "task t has 2 items, 2 examples and the item itself need 3\nhint: lower num_fewshot, raise max_per_task, or give more items"
    );
    let equal = r#"{"query": "q", "choices": ["a", "a"], "gold": 0}"#;
    assert_eq!(
        of("multiple_choice", 0, equal),
        "line 1 of t.jsonl cannot be scored: its options are equal, token by token\nhint: correct the line, or remove it from the file"
    );
    let empty = r#"{"context": "", "continuation": ""}"#;
    let tasks = format!("[{}]", task("t", "language_modeling", 0, 0.0))
        .replace(r#""num_fewshot""#, r#""continuation_delimiter": "", "num_fewshot""#);
    assert_eq!(
        message(&tasks, Some(empty), &CoreSettings::default(), &mut vowels()),
        "line 1 of t.jsonl cannot be scored: its continuation adds no token to its context\nhint: correct the line, or remove it from the file"
    );
    let tasks = format!("[{}]", task("t", "multiple_choice", 0, 25.0));
    let mut diverged = Pairs::new(|_, _| f64::INFINITY, |_, b| b);
    assert_eq!(
        message(&tasks, Some(good), &CoreSettings::default(), &mut diverged),
        "the model's loss is inf on line 1 of t.jsonl\nhint: its weights have diverged; evaluate an earlier checkpoint"
    );
    let nothing = CoreSettings { max_per_task: Some(0), batch_tokens: 64 };
    assert!(
        message(&tasks, Some(good), &nothing, &mut vowels()).contains("leave nothing to evaluate")
    );
}

#[cfg(unix)]
#[test]
fn items_stay_inside_of_the_bundle() {
    use std::os::unix::fs::symlink;
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("t.jsonl"), "a secret of somebody").unwrap();
    let list = |uri: &str| {
        let uri = serde_json::to_string(uri).unwrap();
        format!(
            r#"[{{"label": "t", "uri": {uri}, "task_type": "schema", "num_fewshot": 0, "random_baseline": 50}}]"#
        )
    };
    let absolute = outside.path().join("t.jsonl");
    for uri in ["../t.jsonl", absolute.to_str().unwrap(), "a/../../t.jsonl"] {
        let error = bundle(dir.path(), &list(uri), &[]).map(drop).unwrap_err().with_hint();
        assert!(
            error.contains("not inside of the bundle") && error.contains("\nhint: "),
            "{error}"
        );
    }
    // Links that lead out: the file, and the folder that it is in.
    symlink(&absolute, dir.path().join("t.jsonl")).unwrap();
    symlink(outside.path(), dir.path().join("folder")).unwrap();
    for uri in ["t.jsonl", "folder/t.jsonl"] {
        let opened = bundle(dir.path(), &list(uri), &[]).unwrap();
        let error = opened.items(&opened.tasks()[0]).unwrap_err().with_hint();
        assert!(error.contains("leads out of the bundle"), "{error}");
        assert!(!error.contains("a secret of somebody"), "{error}");
    }
    // One that stays is as good as the file.
    std::fs::write(dir.path().join("real.jsonl"), CONTEXTS).unwrap();
    std::fs::remove_file(dir.path().join("t.jsonl")).unwrap();
    symlink("real.jsonl", dir.path().join("t.jsonl")).unwrap();
    let opened = bundle(dir.path(), &list("t.jsonl"), &[]).unwrap();
    assert_eq!(opened.items(&opened.tasks()[0]).unwrap().len(), 2);
}
