//! Against nanochat's own code on the published CORE files: the same prompts, byte for byte, and the same verdict on each item.
//! Skipped, with a printed reason, where `../shared/data/core` is absent.

use crate::common;

use common::{Bytes, Pairs};
use farthing_data::{Silent, Tokenizer};
use farthing_eval::Encode;
use farthing_eval::core::{
    Bundle, CoreSettings, Example, Item, Line, Task, TaskType, centered, core_metric, evaluate,
    few_shot, prompts, read_items, sequences, shuffle,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `core_published.json`, whose script stands beside it.
#[derive(Deserialize)]
struct Golden {
    max_per_task: usize,
    core: f64,
    tasks: Vec<GoldenTask>,
}

#[derive(Deserialize)]
struct GoldenTask {
    label: String,
    uri: PathBuf,
    task_type: TaskType,
    num_fewshot: usize,
    random_baseline: f64,
    continuation_delimiter: String,
    items: usize,
    prompts_crc32: u32,
    correct: String,
    all: First,
}

/// Checksums of the first items, with examples among all.
#[derive(Deserialize, Debug, PartialEq)]
struct First {
    items: usize,
    picks: u32,
    prompts: u32,
    bytes: u32,
    gpt2: u32,
}

impl GoldenTask {
    fn task(&self) -> Task {
        Task {
            label: self.label.clone(),
            uri: Path::new("eval_data").join(&self.uri),
            task_type: self.task_type,
            num_fewshot: self.num_fewshot,
            random_baseline: self.random_baseline,
            continuation_delimiter: self.continuation_delimiter.clone(),
        }
    }
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/core_published.json")).unwrap()
}

fn published() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Beside a checkout, and beside the folder of a checkout's worktrees.
    let places = ["../shared/data/core", "../../shared/data/core"];
    let found = places.iter().map(|place| root.join(place)).find(|place| place.is_dir());
    if found.is_none() {
        eprintln!("skipped: the published CORE files are not at {}", places[0]);
    }
    found
}

#[test]
fn every_published_file_is_read_whole() {
    let Some(root) = published() else { return };
    let bundle = Bundle::open(root).unwrap();
    let golden = golden().tasks;
    let tasks: Vec<Task> = golden.iter().map(GoldenTask::task).collect();
    assert_eq!(
        bundle.tasks(),
        tasks,
        "core.yaml and eval_meta_data.csv say what Python reads there"
    );
    for (task, golden) in tasks.iter().zip(&golden) {
        assert_eq!(bundle.items(task).unwrap().len(), golden.items, "{}", task.label);
    }
    // Two of the tasks share a file.
    assert_eq!(bundle.sources().len(), 2 + 21);
}

/// The published accuracies of the four sizes of GPT-2, each task's centred by the bundle's baseline, give the published CORE.
#[test]
fn published_accuracies_give_the_published_core() {
    let Some(root) = published() else { return };
    let bundle = Bundle::open(&root).unwrap();
    for (name, core) in
        [("", 0.113_891), ("-medium", 0.184_903), ("-large", 0.214_641), ("-xl", 0.256_525)]
    {
        let path = root.join(format!("reference/openai-community-gpt2{name}.csv"));
        let table = std::fs::read_to_string(path).unwrap();
        // Task, accuracy, centred accuracy.
        let row = |label: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.split(',').next().unwrap().trim() == label);
            line.unwrap().split(',').map(|field| field.trim().to_owned()).collect()
        };
        let own: Vec<f64> = bundle
            .tasks()
            .iter()
            .map(|task| {
                let row = row(&task.label);
                let [accuracy, expected] = [1, 2].map(|i| row[i].parse::<f64>().unwrap());
                let own = centered(accuracy, 0.01 * task.random_baseline);
                assert!((own - expected).abs() < 2e-6, "{name} {}: {own}", task.label);
                own
            })
            .collect();
        let own = core_metric(&own);
        assert!((own - core).abs() < 1e-6, "{name}: {own}, published {core}");
        println!("gpt2{name}: CORE {own:.6}, published {}", row("CORE")[2]);
    }
}

/// The first 100 items of each task, or all there are: few-shot picks, prompts, and tokens with what is scored of them, of bytes and of
/// GPT-2's tokens.
#[test]
fn picks_prompts_and_spans_are_nanochat_s() {
    let Some(root) = published() else { return };
    let bundle = Bundle::open(&root).unwrap();
    let gpt2 = Tokenizer::load(root.join("../tokenizer/gpt2/tokenizer.json")).unwrap();
    let numbers = |crc: u32, values: &[u32]| {
        values.iter().fold(crc, |crc, value| crc32(crc, &value.to_le_bytes()))
    };
    let (mut all, mut rows) = (0, 0);
    for (task, golden) in bundle.tasks().iter().zip(golden().tasks) {
        let mut items = bundle.items(task).unwrap();
        shuffle(&mut items);
        let n = items.len();
        let (mut picks, mut texts, mut spans) = (!0, !0, [!0; 2]);
        for index in 0..n.min(golden.all.items) {
            let item = &items[index].item;
            let chosen = few_shot(index, n, task.num_fewshot);
            picks = chosen.iter().fold(picks, |crc, &i| numbers(crc, &[i as u32]));
            let shots: Vec<&Item> = chosen.iter().map(|&i| &items[i].item).collect();
            let prompts = prompts(item, &shots, &task.continuation_delimiter);
            texts =
                prompts.iter().fold(texts, |crc, text| crc32(crc32(crc, text.as_bytes()), &[0]));
            for (crc, text) in spans.iter_mut().zip([&Bytes::default() as &dyn Encode, &gpt2]) {
                let tokens = text.encode_all(&prompts).unwrap();
                for row in sequences(item, tokens, text.bos()).unwrap() {
                    let tokens = &row.tokens;
                    *crc = numbers(numbers(*crc, tokens), &[row.start as u32, tokens.len() as u32]);
                    rows += 1;
                }
            }
            all += 1;
        }
        let items = n.min(100);
        let [bytes, gpt2] = spans.map(|crc| !crc);
        let found = First { items, picks: !picks, prompts: !texts, bytes, gpt2 };
        assert_eq!(found, golden.all, "{}", task.label);
    }
    println!("{all} items, {rows} rows: no difference");
}

#[test]
fn prompts_and_verdicts_are_nanochat_s() {
    let Some(root) = published() else { return };
    let golden = golden();
    let bundle = Bundle::open(root).unwrap();
    let mut model = Pairs::new(
        |a, b| f64::from((a * 31 + b * 17) % 64) / 64.0,
        |a, b| if (a * 5 + b) % 61 == 0 { b + 1 } else { b },
    );
    let text = Bytes::default();
    let settings = CoreSettings { max_per_task: Some(golden.max_per_task), batch_tokens: 1 << 16 };
    let report = evaluate(&mut model, &text, &bundle, &settings, &mut Silent).unwrap();
    let mut seen = text.seen.take().into_iter();
    for (task, golden) in report.tasks.iter().zip(&golden.tasks) {
        let items = read_items(&bundle.path(&golden.task()), golden.task_type).unwrap();
        // Language modelling encodes two texts per item: without and with the continuation.
        let texts = |example: &Example| match &items[example.line - 1].item {
            Item::LanguageModeling { .. } => 2,
            item => item.options(),
        };
        let texts = task.examples.iter().map(texts).sum();
        let crc = seen
            .by_ref()
            .take(texts)
            .fold(!0, |crc, text| crc32(crc32(crc, text.as_bytes()), &[0]));
        assert_eq!(!crc, golden.prompts_crc32, "prompts of {}", golden.label);
        let bits: String =
            task.examples.iter().map(|e| if e.correct { '1' } else { '0' }).collect();
        assert_eq!(bits, golden.correct, "verdicts of {}", golden.label);
    }
    assert!(seen.next().is_none());
    assert!((report.core - golden.core).abs() < 1e-12, "{} and {}", report.core, golden.core);
}

/// With a byte tokenizer nothing is ever merged across the end of a context; with a real one it might be. And PIQA has options that
/// begin other options.
#[test]
fn a_real_tokenizer_leaves_something_to_score_in_every_item() {
    let Some(root) = published() else { return };
    let path = root.join("../tokenizer/gpt2/tokenizer.json");
    if !path.is_file() {
        eprintln!("skipped: there is no {}", path.display());
        return;
    }
    let tokenizer = Tokenizer::load(path).unwrap();
    let (mut items, mut without) = (0, 0);
    for task in golden().tasks {
        // Examples change nothing at the end of a prompt.
        for Line { line, item } in read_items(&root.join(task.task().uri), task.task_type).unwrap()
        {
            if items % 29 != 0 && !task.uri.ends_with("piqa.jsonl") {
                items += 1;
                continue;
            }
            items += 1;
            let texts = prompts(&item, &[], &task.continuation_delimiter);
            let texts: Vec<Vec<u32>> =
                texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
            let context = texts[0].len() + 1;
            let sequences = sequences(&item, texts, tokenizer.bos())
                .unwrap_or_else(|reason| panic!("{}, line {line}: {reason}", task.label));
            without += sequences.iter().filter(|s| s.start == s.tokens.len()).count();
            if task.task_type == TaskType::LanguageModeling {
                assert_eq!(sequences[0].start, context, "{}, line {line}", task.label);
            }
        }
    }
    // Of five options of PIQA that begin the other one as text, four do so in tokens (the fifth's last token is another).
    assert_eq!(without, 4, "options that begin every other option of their item");
}

/// One step of zlib's CRC-32, bit by bit, before the final inversion.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}
