//! Batches: smaller ones in a larger workspace, rows beyond the context, accumulation, and what is refused.

use crate::common;

use common::{BOTH, Model, Tokens, config, distance, seq_len};
use farthing_base::Hint;
use farthing_kernels::reference::Reference;
use farthing_model::{Batch, Error, Mode, Preset};

#[test]
fn a_small_batch_in_a_large_workspace_is_the_same() {
    for preset in BOTH {
        let dev = Reference::new();
        let tokens = Tokens::new(2, 9, 1);
        let mut exact = Model::new(&dev, config(preset, 16), 2, 9);
        let mut roomy = Model::new(&dev, config(preset, 16), 3, 16);
        // Leaves the larger workspace full of another batch's numbers.
        roomy.train(&Tokens::new(3, 16, 2).batch(), 1.0);
        roomy.params.zero_grads(&dev).unwrap();
        assert_eq!(exact.train(&tokens.batch(), 0.5), roomy.train(&tokens.batch(), 0.5));
        assert_eq!(exact.losses(), roomy.losses());
        for i in 0..exact.gpt.params().len() {
            assert_eq!(exact.grad(i), roomy.grad(i), "{}", exact.gpt.params()[i].name);
        }
    }
}

/// A padded row is the same as its own length: positions see nothing behind them.
#[test]
fn a_longer_row_does_not_change_what_comes_before() {
    for preset in BOTH {
        let dev = Reference::new();
        let mut model = Model::new(&dev, config(preset, 16), 1, 40);
        let long = Tokens::new(1, 40, 1);
        model.loss(&long.batch());
        let all = model.losses();
        let short = Batch::new(25, &long.inputs[..25], &long.targets[..25]).unwrap();
        model.loss(&short);
        let expected: Vec<f64> = all[..25].to_vec();
        assert!(distance(&model.losses(), &expected) < 1e-12, "{preset:?}");
    }
}

#[test]
fn evaluation_and_training_workspaces_agree() {
    for preset in BOTH {
        let dev = Reference::new();
        let tokens = Tokens::new(2, 16, 1);
        let mut model = Model::new(&dev, config(preset, 16), 2, 16);
        let trained = model.train(&tokens.batch(), 1.0);
        let of_training = model.losses();
        model.ws = model.gpt.workspace(&dev, 2, 16, Mode::Evaluate).unwrap();
        assert_eq!(model.loss(&tokens.batch()), trained);
        assert_eq!(model.losses(), of_training);
    }
}

/// Depths at which streams that are needed later share no slot with others.
#[test]
fn evaluation_keeps_what_backout_needs_at_every_depth() {
    for depth in 1..=7 {
        let dev = Reference::new();
        let tokens = Tokens::new(1, 8, 1);
        let mut config = config(Preset::Nanochat202607, 8);
        config.depth = depth;
        let mut model = Model::new(&dev, config, 1, 8);
        let trained = model.train(&tokens.batch(), 1.0);
        model.ws = model.gpt.workspace(&dev, 1, 8, Mode::Evaluate).unwrap();
        assert_eq!(model.loss(&tokens.batch()), trained, "depth {depth}");
    }
}

#[test]
fn windows_that_cover_everything_are_full_attention() {
    let dev = Reference::new();
    let tokens = Tokens::new(2, 16, 1);
    let mut losses = ["L", "S"].map(|pattern| {
        let mut config = config(Preset::Nanochat202601, 16);
        config.window_pattern = pattern.into();
        config.short_window = 15;
        Model::new(&dev, config, 2, 16).loss(&tokens.batch())
    });
    assert_eq!(losses[0], losses[1]);
    let mut config = config(Preset::Nanochat202601, 16);
    (config.window_pattern, config.short_window) = ("S".into(), 14);
    losses[1] = Model::new(&dev, config, 2, 16).loss(&tokens.batch());
    assert!((losses[0] - losses[1]).abs() > 1e-6, "one key fewer changes nothing");
}

#[test]
fn four_micro_batches_make_one_batch_of_four() {
    for preset in BOTH {
        let dev = Reference::new();
        let t = seq_len(preset);
        let whole = Tokens::new(4, t, 1);
        let scale = 1.0 / whole.valid() as f64;
        let mut at_once = Model::new(&dev, config(preset, t), 4, t);
        let loss = at_once.train(&whole.batch(), scale);
        let mut in_parts = Model::new(&dev, config(preset, t), 1, t);
        let mut sum = 0.0;
        for row in 0..4 {
            let range = row * t..(row + 1) * t;
            let batch = Batch::new(t, &whole.inputs[range.clone()], &whole.targets[range]).unwrap();
            sum += in_parts.train(&batch.with_order(), scale);
        }
        assert!((sum - loss).abs() < 1e-10 * loss);
        for i in 0..at_once.gpt.params().len() {
            let name = at_once.gpt.params()[i].name.clone();
            if name == "backout_lambda" {
                continue; // Nothing but rounding at this depth: see tests/gradients.rs.
            }
            let error = distance(&in_parts.grad(i), &at_once.grad(i));
            assert!(error < 1e-12, "{name}: {error:e}");
        }
    }
}

#[test]
fn ignored_targets_count_nothing() {
    let dev = Reference::new();
    let mut model = Model::new(&dev, config(Preset::Nanochat202607, 8), 1, 8);
    let inputs = [1, 2, 3, 4, 5, 6, 7, 8];
    let none = Batch::new(8, inputs, [-1; 8]).unwrap().with_order();
    assert_eq!(model.train(&none, 1.0), 0.0);
    for i in 0..model.gpt.params().len() {
        assert!(model.grad(i).iter().all(|&g| g == 0.0), "{}", model.gpt.params()[i].name);
    }
}

#[test]
fn predictions_are_the_most_likely_tokens() {
    let dev = Reference::new();
    let mut model = Model::new(&dev, config(Preset::Nanochat202607, 8), 1, 8);
    let inputs = [1, 2, 3, 4, 5, 6, 7, 8];
    let mut losses = Vec::new();
    for candidate in 0..common::VOCAB as i32 {
        model.loss(&Batch::new(8, inputs, [candidate; 8]).unwrap());
        losses.push(model.losses());
    }
    let weights = model.params.weights();
    let batch = Batch::new(8, inputs, [0; 8]).unwrap();
    model.gpt.evaluate(&dev, weights, &mut model.ws, &batch, true).unwrap();
    let mut predictions = [0; 8];
    model.ws.read_predictions(&dev, &mut predictions).unwrap();
    for (t, &predicted) in predictions.iter().enumerate() {
        let best =
            (0..losses.len()).min_by(|&a, &b| losses[a][t].total_cmp(&losses[b][t])).unwrap();
        assert_eq!(predicted as usize, best, "position {t}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_figures() {
    let dev = Reference::new();
    let mut model = Model::new(&dev, config(Preset::Nanochat202607, 8), 2, 8);
    let tokens = Tokens::new(2, 8, 1);
    let mut refused = |batch: Batch, part: &str| {
        let (weights, mut grads) = model.params.split();
        let result =
            model.gpt.forward_backward(&dev, weights, &mut grads, &mut model.ws, &batch, 1.0);
        let text = result.unwrap_err().with_hint();
        assert!(text.contains(part) && text.contains("\nhint: "), "{text}");
    };
    let full = tokens.batch();
    let of = |tokens: &Tokens, seq_len: usize| {
        Batch::new(seq_len, &tokens.inputs[..], &tokens.targets[..]).unwrap()
    };
    refused(of(&tokens, 8), "needs the order");
    refused(
        of(&tokens, 16).with_order(),
        "1 rows of 16 tokens; the workspace has room for 16 positions in rows of at most 8",
    );
    refused(Tokens::new(3, 8, 1).batch(), "3 rows of 8 tokens");
    let mut foreign = Tokens::new(2, 8, 1);
    foreign.inputs[11] = 61;
    refused(foreign.batch(), "input 61 at row 1, position 3; the vocabulary has 61 entries");
    let mut foreign = Tokens::new(2, 8, 1);
    foreign.targets[0] = 99;
    refused(foreign.batch(), "target 99 at row 0, position 0");

    let mut evaluation = model.gpt.workspace(&dev, 2, 8, Mode::Evaluate).unwrap();
    let (weights, mut grads) = model.params.split();
    let result = model.gpt.forward_backward(&dev, weights, &mut grads, &mut evaluation, &full, 1.0);
    assert!(matches!(result, Err(Error::Batch { .. })));
    model.gpt.evaluate(&dev, model.params.weights(), &mut evaluation, &full, false).unwrap();
    assert!(evaluation.read_predictions(&dev, &mut [0; 16]).is_err());
    assert!(evaluation.read_losses(&dev, &mut [0.0; 15]).is_err());
    assert!(model.gpt.workspace(&dev, 0, 8, Mode::Train).is_err());
    assert!(model.gpt.workspace(&dev, usize::MAX, 8, Mode::Train).is_err());
}
