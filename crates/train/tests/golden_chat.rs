//! Conversations against nanochat's own tokenizer and `chat_sft`: tokens, what is learned of them, which come into which row, and the loss of a step.
#![allow(clippy::print_stdout, reason = "how near they are is there to be read")]

use farthing_data::{
    Batch, BpeSettings, ChatTokens, Conversation, Order, Rows, Silent, Tokenizer, pack_chat,
};
use farthing_eval::batches;
use farthing_kernels::Params;
use farthing_kernels::cpu::Cpu;
use farthing_model::{Gpt, GptConfig};
use farthing_optim::Registry;
use farthing_train::{Batches, Finetune, Result, Setup, Trainer};
use serde_json::Value;

use crate::golden::{self, Style};

const CASE: &str = "july-chat-d2";
const TOKENS: usize = 128;
const ROWS: usize = 4;
const TOLERANCE: f64 = 1e-5;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/chat.json")).unwrap()
}

fn numbers(text: &Value) -> Vec<i32> {
    text.as_str().unwrap().split(' ').map(|n| n.parse().unwrap()).collect()
}

/// The 256 bytes and the special tokens, without a merge.
fn tokenizer() -> Tokenizer {
    let settings = BpeSettings { vocab_size: 265, ..BpeSettings::default() };
    Tokenizer::train(std::iter::once(Ok("ab".to_owned())), &settings).unwrap().0
}

fn conversations(golden: &Value) -> Vec<Conversation> {
    serde_json::from_value(golden["conversations"].clone()).unwrap()
}

fn rows(golden: &Value) -> (tempfile::TempDir, Rows) {
    let dir = tempfile::tempdir().unwrap();
    let talks = conversations(golden).into_iter().map(Ok);
    pack_chat(talks, &tokenizer(), TOKENS, &dir.path().join("rows"), &mut Silent).unwrap();
    let rows = Rows::open(dir.path().join("rows")).unwrap();
    rows.verify().unwrap();
    (dir, rows)
}

fn model() -> GptConfig {
    golden::model(CASE, 2, 64, 64).resolve(265, TOKENS).unwrap()
}

#[test]
fn conversations_have_nanochats_tokens_and_what_is_learned_follows_from_them() {
    let (golden, tokenizer) = (golden(), tokenizer());
    let chat = ChatTokens::of(&tokenizer).unwrap();
    let talks = conversations(&golden);
    assert!(talks.len() > 100);
    for (talk, expected) in talks.iter().zip(golden["rendered"].as_array().unwrap()) {
        assert_eq!(talk.fault(), None);
        let ids = chat.render(&tokenizer, &talk.messages).unwrap();
        let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        assert_eq!(ids, numbers(&expected["ids"]), "{talk:?}");
        let mut targets = ids[1..].to_vec();
        chat.mask(&mut targets);
        let mask: String = targets.iter().map(|id| if *id < 0 { '0' } else { '1' }).collect();
        assert_eq!(format!("0{mask}"), expected["mask"].as_str().unwrap(), "{talk:?}");
    }
}

/// The rows of nanochat's first batches, in its order.
struct First<'a> {
    batches: Box<dyn Iterator<Item = farthing_eval::Result<Batch>> + 'a>,
    batch: Batch,
}

impl Batches for First<'_> {
    fn next_batch(&mut self) -> Option<Result<&Batch>> {
        let next = self.batches.next()?.unwrap();
        self.batch.fill(next.inputs(), next.targets()).unwrap();
        Some(Ok(&self.batch))
    }
}

#[test]
fn rows_and_losses_are_nanochats() {
    let golden = golden();
    let (_dir, rows) = rows(&golden);
    let dev = Cpu::new(0).unwrap();
    let gpt = Gpt::new(model()).unwrap();
    let mut params = Params::new(&dev, gpt.single_group()).unwrap();
    golden::fill(CASE, Style::Lively, &gpt, &dev, &mut params);
    let mut workspace = gpt.workspace(&dev, ROWS, TOKENS, farthing_model::Mode::Train).unwrap();
    let mut first = First {
        batches: Box::new(batches(&rows, ROWS)),
        batch: Batch::zeroed(ROWS, TOKENS).unwrap().with_order(),
    };
    for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let batch = first.next_batch().unwrap().unwrap();
        assert_eq!(batch.inputs(), numbers(&step["inputs"]), "batch {i}");
        assert_eq!(batch.targets(), numbers(&step["targets"]), "batch {i}");
        let learned = batch.targets().iter().filter(|id| **id >= 0).count() as f64;
        let (weights, mut grads) = params.split();
        gpt.forward_backward(&dev, weights, &mut grads, &mut workspace, batch, 1.0 / learned)
            .unwrap();
        let (ours, theirs) =
            (workspace.loss_sum(&dev).unwrap() / learned, step["loss"].as_f64().unwrap());
        println!("batch {i}: {ours:.7}, nanochat's {theirs:.7}");
        assert!((ours - theirs).abs() < TOLERANCE, "batch {i}: {ours} is not {theirs}");
    }
}

/// A trainer of one step over all rows, in micro-batches.
fn trainer<'a>(dev: &'a Cpu, rows: u64, micro_rows: usize, registry: &Registry) -> Trainer<'a> {
    let how = Finetune {
        preset: farthing_optim::OptimPreset::default(),
        lr_frac: 0.8,
        batch_tokens: rows * TOKENS as u64,
        steps: 2,
        schedule: Finetune::schedule(),
        optim: std::collections::BTreeMap::new(),
    };
    let setup = Setup::finetune(model(), &how, registry).unwrap();
    let mut trainer = Trainer::new(dev, setup, registry, micro_rows).unwrap();
    trainer.initialize(3).unwrap();
    trainer
}

fn weights(trainer: &mut Trainer<'_>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    trainer.save_weights(&path).unwrap();
    // Without the header, which has the step.
    std::fs::read(path).unwrap().split_off(8_192)
}

#[test]
fn a_step_is_a_mean_over_what_is_learned_however_it_is_cut() {
    let golden = golden();
    let (_dir, rows) = rows(&golden);
    let (dev, registry) = (Cpu::new(2).unwrap(), Registry::standard());
    let n = 8;
    let mut learned = 0;
    let order = Order::new(rows.len(), n as usize, 5).unwrap();
    let mut row = vec![0; TOKENS + 1];
    for index in order.batch(0) {
        rows.fill(index, &mut row).unwrap();
        learned += rows.chat().unwrap().mask(&mut row[1..]);
    }
    let mut losses = vec![];
    for micro_rows in [1, 4, n as usize] {
        let mut trainer = trainer(&dev, n, micro_rows, &registry);
        let mut batches = trainer.batches(&rows, 5);
        let counted = batches.next_batch().unwrap().unwrap().learned_in_step();
        assert_eq!(counted, Some(learned), "whichever micro-batch");
        let mut batches = trainer.batches(&rows, 5);
        losses.push(trainer.step(&mut batches).unwrap().loss.unwrap());
    }
    let spread = losses.iter().fold(0.0_f64, |most, loss| most.max((loss - losses[0]).abs()));
    assert!(spread < 1e-6, "{losses:?}");
}

#[test]
fn a_step_that_learns_nothing_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let asked = r#"{"messages": [{"role": "user", "content": "is anybody there?"}]}"#;
    let talks = (0..8).map(|_| Ok(serde_json::from_str(asked).unwrap()));
    pack_chat(talks, &tokenizer(), TOKENS, &dir.path().join("rows"), &mut Silent).unwrap();
    let rows = Rows::open(dir.path().join("rows")).unwrap();
    let (dev, registry) = (Cpu::new(1).unwrap(), Registry::standard());
    let mut trainer = trainer(&dev, rows.len(), 1, &registry);
    let before = weights(&mut trainer);
    let mut batches = trainer.batches(&rows, 5);
    let record = trainer.step(&mut batches).unwrap();
    assert_eq!((record.loss, record.grad_norm), (Some(0.0), Some(0.0)));
    assert_eq!(trainer.progress().step, 1);
    assert!(weights(&mut trainer) == before);
}
