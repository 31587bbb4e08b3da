//! The whole way on the embedded world: its text, a tokenizer trained on it, packed rows, its tasks. The model remembers which
//! runs of tokens it has read, which is enough to know what the text says.

use farthing_data::{
    BpeSettings, FetchSettings, Pack, Rows, Silent, Texts, Tokenizer, fetch, train_bpe,
};
use farthing_eval::core::{Bundle, CoreSettings, TaskType, evaluate};
use farthing_eval::{Batch, IGNORE, LanguageModel, Result, Scores, batches, bits_per_byte};
use std::collections::HashSet;
use std::path::Path;

/// The longest run that is remembered.
const RUN: usize = 8;

/// Half a nat for each token by which the longest remembered run, the target included, falls short of [`RUN`].
struct Memory(HashSet<Vec<i32>>);

impl Memory {
    fn read(tokenizer: &Tokenizer, texts: &[String]) -> Self {
        let mut runs = HashSet::new();
        for ids in tokenizer.encode_batch(texts).unwrap() {
            let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
            for end in 1..=ids.len() {
                for start in end.saturating_sub(RUN)..end {
                    runs.insert(ids[start..end].to_vec());
                }
            }
        }
        Self(runs)
    }
}

impl LanguageModel for Memory {
    fn score(&mut self, batch: &Batch, predictions: bool, scores: &mut Scores) -> Result<()> {
        scores.reset(batch.inputs().len(), predictions);
        let tokens = batch.tokens();
        for (i, &target) in batch.targets().iter().enumerate().filter(|&(_, &t)| t != IGNORE) {
            let row = i - i % tokens;
            let known = (1..=RUN.min(i - row + 1)).rev().find(|n| {
                let run: Vec<i32> =
                    batch.inputs()[i + 2 - n..=i].iter().copied().chain([target]).collect();
                self.0.contains(&run)
            });
            scores.losses[i] = 0.5 * (RUN - known.unwrap_or(0)) as f64;
        }
        Ok(())
    }
}

fn world(dir: &Path) -> (Tokenizer, Vec<String>, Rows) {
    let mut settings = FetchSettings { source: "embedded://world".into(), ..Default::default() };
    settings.world.train_shards = 1;
    settings.world.documents_per_shard = 1_000;
    settings.world.val_documents = 40;
    let files = fetch(&settings, dir, &dir.join("text"), &mut Silent).unwrap();
    let train = files.train_paths(dir.join("text"));
    let bpe = BpeSettings { vocab_size: 800, ..Default::default() };
    let (tokenizer, _) = train_bpe(&train, "text", &bpe, &dir.join("bpe"), &mut Silent).unwrap();
    let val = files.val_paths(dir.join("text"));
    Pack::files(&val).tokenizer(&tokenizer).row_tokens(48).to(dir.join("val")).unwrap();
    let texts = Texts::open(&train, "text").unwrap().collect::<Result<_, _>>().unwrap();
    (tokenizer, texts, Rows::open(dir.join("val")).unwrap())
}

#[test]
fn who_has_read_the_text_does_better_on_held_out_rows_and_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let (tokenizer, texts, rows) = world(dir.path());
    let token_bytes = tokenizer.token_bytes();
    let (mut reader, mut stranger) = (Memory::read(&tokenizer, &texts), Memory(HashSet::new()));

    let bits = |model: &mut Memory, batch_rows| {
        let batches = batches(&rows, batch_rows);
        bits_per_byte(model, batches, &token_bytes, u64::MAX, &mut Silent).unwrap()
    };
    let known = bits(&mut reader, 7);
    assert_eq!(known.tokens, rows.len() * 48);
    assert_eq!(known, bits(&mut reader, 1));
    // To the stranger every token costs 4 nats.
    let unknown = bits(&mut stranger, 7);
    assert!((unknown.nats - 4.0 * unknown.targets as f64).abs() < 1e-6);
    assert!(known.bits_per_byte < 0.5 * unknown.bits_per_byte, "{known:?} {unknown:?}");
    // Each byte of the rows is counted once: decoding says how many there are.
    let mut bytes = 0;
    for i in 0..rows.len() {
        let row = rows.row(i).unwrap().to_vec();
        let plain: Vec<u32> =
            row[1..].iter().copied().filter(|&id| !tokenizer.is_special(id)).collect();
        bytes += tokenizer.decode_bytes(&plain).len() as u64;
    }
    assert_eq!(known.bytes, bytes);

    let bundle = Bundle::open(dir.path().join("text/tasks")).unwrap();
    let settings = CoreSettings { max_per_task: Some(50), batch_tokens: 2048 };
    let run =
        |model: &mut Memory| evaluate(model, &tokenizer, &bundle, &settings, &mut Silent).unwrap();
    let (known, unknown) = (run(&mut reader), run(&mut stranger));
    assert_eq!(known.tasks.len(), bundle.tasks().len());
    let mean = |kind| {
        let of = known.tasks.iter().filter(|t| t.task_type == kind);
        let centered: Vec<f64> = of.map(|t| t.centered).collect();
        centered.iter().sum::<f64>() / centered.len() as f64
    };
    assert!(mean(TaskType::MultipleChoice) > 0.3, "{}", mean(TaskType::MultipleChoice));
    assert!(mean(TaskType::Schema) > 0.3, "{}", mean(TaskType::Schema));
    // To the stranger all options are equal, so that it always chooses the first one.
    for task in unknown.tasks.iter().filter(|t| t.task_type != TaskType::LanguageModeling) {
        assert!(task.examples.iter().all(|e| e.chosen == Some(0)), "{}", task.label);
    }
}
