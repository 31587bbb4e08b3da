//! Every parameter's gradient against finite differences of the whole model, in f64.

use crate::common;

use common::{Model, Tokens, config, norm, seq_len, variants};
use farthing_base::random::Stream;
use farthing_kernels::reference::Reference;
use farthing_model::{GptConfig, Preset};

const STEP: f64 = 1e-4;
const TOLERANCE: f64 = 1e-5;

/// Per parameter: along its own gradient (a wrong length shows), along a random direction (a wrong component anywhere shows),
/// and at its largest component.
fn check(config: GptConfig, rows: usize, seq_len: usize) {
    let dev = Reference::new();
    let mut model = Model::new(&dev, config, rows, seq_len);
    let tokens = Tokens::new(rows, seq_len, 1);
    let scale = 1.0 / tokens.valid() as f64;
    model.train(&tokens.batch(), scale);
    for i in 0..model.gpt.params().len() {
        let name = model.gpt.params()[i].name.clone();
        let (weight, grad) = (model.weight(i), model.grad(i));
        let length = norm(&grad);
        if name == "backout_lambda" && model.gpt.config().depth == 2 {
            // The middle of two layers is their end: backing it out scales the stream, which the norm undoes but for its epsilon.
            assert!(length < 1e-5, "{name}: {length}");
            continue;
        }
        assert!(length > 1e-4, "{name}: gradient {length} is too small to check anything");
        let along: Vec<f64> = grad.iter().map(|g| g / length).collect();
        let stream = Stream::new(5, &name);
        let random: Vec<f64> = (0..grad.len()).map(|j| stream.normal(j as u64)).collect();
        let random_length = norm(&random);
        let random: Vec<f64> = random.iter().map(|r| r / random_length).collect();
        let largest =
            (0..grad.len()).max_by(|&a, &b| grad[a].abs().total_cmp(&grad[b].abs())).unwrap();
        let mut single = vec![0.0; grad.len()];
        single[largest] = 1.0;
        for (what, direction) in [("along", along), ("random", random), ("largest", single)] {
            let mut at = |step: f64| {
                let moved: Vec<f64> =
                    weight.iter().zip(&direction).map(|(w, d)| w + step * d).collect();
                model.set_weight(i, &moved);
                model.loss(&tokens.batch()) * scale
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let analytic: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
            // A random direction may happen to be nearly level: its typical slope is ‖g‖/√n.
            let typical = 0.1 * length / (grad.len() as f64).sqrt();
            let error = (numeric - analytic).abs() / analytic.abs().max(typical);
            assert!(
                error < TOLERANCE,
                "{name} {what}: {numeric} by differences, {analytic} by backward: {error:e}"
            );
        }
        model.set_weight(i, &weight);
    }
}

#[test]
fn january_setting_matches_finite_differences() {
    let preset = Preset::Nanochat202601;
    check(config(preset, seq_len(preset)), 2, seq_len(preset));
}

#[test]
fn july_setting_matches_finite_differences() {
    let preset = Preset::Nanochat202607;
    check(config(preset, seq_len(preset)), 1, seq_len(preset));
}

/// Five layers: short windows, backout in the middle, value embeddings in layers 0, 2 and 4; rows much shorter than the context.
#[test]
fn deeper_july_setting_matches_finite_differences() {
    let mut config = config(Preset::Nanochat202607, 144);
    config.depth = 5;
    config.window_pattern = "SSL".into();
    config.short_window = 3;
    config.seq_len = 5;
    check(config, 2, 9);
}

#[test]
fn variants_match_finite_differences() {
    for mut config in variants(12) {
        // An odd number of layers, so that backout has a middle, and a window's edge inside the row.
        config.depth = 3;
        config.short_window = 5;
        check(config, 2, 12);
    }
}
