//! farthing's own GPT behind the seam, on the reference device (f64).

use crate::common;

use common::{BOS, Bytes};
use farthing_data::Silent;
use farthing_eval::core::{Bundle, CoreSettings, evaluate};
use farthing_eval::{Batch, Error, GptScorer, IGNORE, LanguageModel, Scores, bits_per_byte};
use farthing_kernels::reference::Reference;
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, ModelConfig, Preset};

const T: usize = 16;

/// Two layers of 32 channels over the byte tokenizer's vocabulary.
fn gpt(dev: &dyn Device) -> (Gpt, Params) {
    let config = ModelConfig {
        aspect_ratio: Some(16),
        head_dim: Some(16),
        short_window: Some(5),
        ..ModelConfig::new(Preset::Nanochat202607, 2)
    };
    let gpt = Gpt::new(config.resolve(257, T).unwrap()).unwrap();
    let mut params = Params::new(dev, gpt.single_group()).unwrap();
    gpt.initialize(dev, &mut params, 7).unwrap();
    // A fresh model's output projections are 0; random ones make every part count.
    for spec in gpt.params() {
        let mut weights = dev.read_f64(params.weights().master(spec.id).unwrap()).unwrap();
        let mut state = 0x0139_408D_CBBF_7A44 ^ spec.id.0 as u64;
        for weight in weights.iter_mut().filter(|w| **w == 0.0) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *weight = (state >> 11) as f64 / (1u64 << 53) as f64 * 0.4 - 0.2;
        }
        dev.write_f64(params.master_mut(spec.id).unwrap(), &weights).unwrap();
    }
    params.refresh_compute(dev).unwrap();
    (gpt, params)
}

fn batch(rows: &[&str], tokens: usize) -> Batch {
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for row in rows {
        let ids: Vec<i32> = row.bytes().map(i32::from).collect();
        let mut input = vec![BOS as i32];
        input.extend(&ids);
        let mut target = ids;
        input.resize(tokens, BOS as i32);
        target.resize(tokens, IGNORE);
        inputs.extend(input);
        targets.extend(target);
    }
    Batch::new(tokens, inputs, targets).unwrap()
}

#[test]
fn a_row_scores_the_same_in_any_company_and_at_any_length() {
    let dev = Reference::new();
    let (gpt, params) = gpt(&dev);
    let mut model = GptScorer::new(&gpt, &dev, &params);
    let rows = ["a longer row than T tokens", "short", "middling"];
    let (mut alone, mut together) = (Scores::default(), Scores::default());
    // The second batch needs a larger workspace than the first, the last a smaller one; 32 exceeds the model's context.
    for (order, tokens) in [([1, 2, 1], T), ([0, 1, 2], 32), ([2, 2, 1], 9)] {
        model.score(&batch(&order.map(|i| rows[i]), tokens), true, &mut together).unwrap();
        for (at, i) in order.into_iter().enumerate() {
            let n = rows[i].len();
            model.score(&batch(&[rows[i]], n + 1), true, &mut alone).unwrap();
            for t in 0..n {
                let (one, many) = (alone.losses[t], together.losses[at * tokens + t]);
                assert!((one - many).abs() < 1e-12, "row {i}, position {t}: {one} and {many}");
                assert_eq!(alone.predictions[t], together.predictions[at * tokens + t]);
            }
            let padding = &together.losses[at * tokens + n..(at + 1) * tokens];
            assert!(padding.iter().all(|&loss| loss == 0.0));
        }
    }
    // Losses differ from position to position: the weights are at work.
    assert!(alone.losses.windows(2).any(|w| (w[0] - w[1]).abs() > 1e-3));
}

#[test]
fn bits_per_byte_is_the_model_s_loss_over_bytes() {
    let dev = Reference::new();
    let (gpt, params) = gpt(&dev);
    let mut model = GptScorer::new(&gpt, &dev, &params);
    let rows = ["some held-out te", "xt, cut in rows."];
    let batch = batch(&rows, 16);
    let mut scores = Scores::default();
    model.score(&batch, false, &mut scores).unwrap();
    assert!(scores.predictions.is_empty());
    let expected = scores.losses.iter().sum::<f64>() / std::f64::consts::LN_2 / 32.0;
    let mut token_bytes = vec![1; 257];
    token_bytes[BOS as usize] = 0;
    let found = bits_per_byte(&mut model, [Ok(batch)].into_iter(), &token_bytes, 32, &mut Silent);
    assert!((found.unwrap().bits_per_byte - expected).abs() < 1e-12);
}

#[test]
fn options_that_begin_alike_lose_what_whole_rows_lose() {
    let reference = Reference::new();
    let cpu = farthing_kernels::cpu::Cpu::new(2).unwrap();
    for (dev, tolerance) in [(&reference as &dyn Device, 1e-11), (&cpu, 1e-5)] {
        let (gpt, params) = gpt(dev);
        let mut model = GptScorer::new(&gpt, dev, &params);
        let ids = |text: &str| -> Vec<u32> { text.bytes().map(u32::from).collect() };
        let long = "a beginning that is longer than a piece of it ".repeat(4);
        let mut scores = Scores::default();
        for begin in ["", "short", &long] {
            let prefix = [vec![BOS], ids(begin)].concat();
            let rests = [" one end", "", "x", " another, much longer end than one"].map(ids);
            let shared =
                model.score_shared(&prefix, &rests.each_ref().map(Vec::as_slice)).unwrap().unwrap();
            for (rest, losses) in rests.iter().zip(shared) {
                assert_eq!(losses.len(), rest.len());
                let row: Vec<i32> = prefix.iter().chain(rest).map(|&id| id as i32).collect();
                let n = row.len() - 1;
                if n == 0 {
                    continue;
                }
                let batch = Batch::new(n, &row[..n], &row[1..]).unwrap();
                model.score(&batch, false, &mut scores).unwrap();
                for (one, whole) in losses.iter().zip(&scores.losses[prefix.len() - 1..]) {
                    assert!((one - whole).abs() < tolerance, "{begin}: {one} and {whole}");
                }
            }
        }
        let error = model.score_shared(&[BOS], &[&[1, 300]]).unwrap_err();
        assert!(matches!(error, Error::Token { token: 300, position: 2, .. }), "{error}");
    }
}

#[test]
fn core_comes_to_the_same_with_shared_beginnings() {
    /// The model with or without that ability, and how often it was of use.
    struct Counted<'a>(GptScorer<'a>, bool, usize);
    impl LanguageModel for Counted<'_> {
        fn score(
            &mut self,
            batch: &Batch,
            predictions: bool,
            scores: &mut Scores,
        ) -> farthing_eval::Result<()> {
            self.0.score(batch, predictions, scores)
        }

        fn score_shared(
            &mut self,
            prefix: &[u32],
            rests: &[&[u32]],
        ) -> farthing_eval::Result<Option<Vec<Vec<f64>>>> {
            self.2 += 1;
            if self.1 { self.0.score_shared(prefix, rests) } else { Ok(None) }
        }
    }
    let dev = Reference::new();
    let (gpt, params) = gpt(&dev);
    let dir = tempfile::tempdir().unwrap();
    let items: Vec<String> = (0..8)
        .map(|i| {
            let query = "a long way to the question, ".repeat(1 + i % 3);
            format!(
                r#"{{"query": "{query}{i} is", "choices": ["odd", "even", "zero"], "gold": 1}}"#
            )
        })
        .collect();
    std::fs::write(dir.path().join("t.jsonl"), items.join("\n")).unwrap();
    std::fs::write(
        dir.path().join("tasks.json"),
        r#"[{"label": "t", "uri": "t.jsonl", "task_type": "multiple_choice", "num_fewshot": 2, "random_baseline": 33}]"#,
    )
    .unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    let run = |able: bool| {
        let text = Bytes::default();
        let mut model = Counted(GptScorer::new(&gpt, &dev, &params), able, 0);
        let report = evaluate(&mut model, &text, &bundle, &CoreSettings::default(), &mut Silent);
        assert!((1..=8).contains(&model.2), "asked {} times", model.2);
        report.unwrap().tasks.remove(0)
    };
    let (shared, whole) = (run(true), run(false));
    for (a, b) in shared.examples.iter().zip(&whole.examples) {
        assert_eq!((a.chosen, a.correct, &a.prompts), (b.chosen, b.correct, &b.prompts));
        for (a, b) in a.losses.iter().zip(&b.losses) {
            assert!((a.unwrap() - b.unwrap()).abs() < 1e-11);
        }
    }
}

#[test]
fn core_runs_on_the_model_and_batching_changes_no_outcome() {
    let dev = Reference::new();
    let (gpt, params) = gpt(&dev);
    let dir = tempfile::tempdir().unwrap();
    let items: Vec<String> = (0..12)
        .map(|i| format!(r#"{{"query": "{i} is", "choices": ["odd", "even", "zero"], "gold": 1}}"#))
        .collect();
    std::fs::write(dir.path().join("t.jsonl"), items.join("\n")).unwrap();
    std::fs::write(
        dir.path().join("tasks.json"),
        r#"[{"label": "t", "uri": "t.jsonl", "task_type": "multiple_choice", "num_fewshot": 1, "random_baseline": 33}]"#,
    )
    .unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    let run = |batch_tokens| {
        let settings = CoreSettings { max_per_task: None, batch_tokens };
        let mut model = GptScorer::new(&gpt, &dev, &params);
        evaluate(&mut model, &Bytes::default(), &bundle, &settings, &mut Silent).unwrap()
    };
    assert_eq!(run(1), run(256));
}

#[test]
fn a_token_of_another_vocabulary_is_an_error() {
    let dev = Reference::new();
    let (gpt, params) = gpt(&dev);
    let mut model = GptScorer::new(&gpt, &dev, &params);
    let batch = Batch::new(2, [0, 300], [1, IGNORE]).unwrap();
    let error = model.score(&batch, false, &mut Scores::default()).unwrap_err();
    assert!(
        matches!(error, Error::Token { token: 300, row: 0, position: 1, vocab: 257 }),
        "{error}"
    );
}
