//! Decoding with weights in fewer bytes: kept keys and values give what the whole pass gives, a text alone is itself among others, and logits are near those of f32.

use farthing_base::random::Stream;
use farthing_kernels::cpu::{Compact, CompactCpu, Cpu};
use farthing_kernels::{Device, Params};
use farthing_model::{Gpt, ModelConfig, Preset, compact};

const V: usize = 300;

fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| (Stream::new(3, "text").bits(i as u64) % V as u64) as u32).collect()
}

/// A model with random weights, as large as trained ones.
fn model(dev: &dyn Device) -> (Gpt, Params) {
    let keys = ModelConfig {
        head_dim: Some(32),
        aspect_ratio: Some(32),
        short_window: Some(9),
        ..ModelConfig::new(Preset::Nanochat202607, 4)
    };
    let gpt = Gpt::new(keys.resolve(V, 40).unwrap()).unwrap();
    let mut params = Params::new(dev, gpt.single_group()).unwrap();
    for spec in gpt.params() {
        let stream = Stream::new(1, &spec.name);
        let width = spec.shape.last().copied().unwrap_or(1) as f64;
        let scale = if spec.name.contains("lambda") { 0.7 } else { 1.0 / width.sqrt() };
        let values: Vec<f64> =
            (0..spec.shape.elements()).map(|i| scale * stream.normal(i as u64)).collect();
        dev.write_f64(params.master_mut(spec.id).unwrap(), &values).unwrap();
    }
    params.refresh_compute(dev).unwrap();
    (gpt, params)
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Logits after the whole text, fed at once.
fn whole(gpt: &Gpt, dev: &dyn Device, params: &Params, text: &[u32]) -> Vec<f64> {
    let mut texts = gpt.texts(dev, params.weights(), 1, text.len()).unwrap();
    texts.feed(0, text).unwrap();
    texts.logits(0).unwrap().to_vec()
}

#[test]
fn decoding_with_small_weights_is_what_it_is_with_large_ones_but_for_what_is_said() {
    // What a pass rounds the other way can move one of int8's whole numbers by one, which is more than a rounding of f32.
    for (kind, bound, rounding) in [(Compact::Bf16, 0.05, 5e-5), (Compact::Int8, 0.2, 1e-3)] {
        let mut dev = CompactCpu::new(Cpu::new(2).unwrap());
        let (gpt, params) = model(&dev);
        let text = tokens(40);
        let exact = whole(&gpt, &dev, &params, &text);
        compact(&gpt, params.weights(), &mut dev, kind).unwrap();
        let fed = whole(&gpt, &dev, &params, &text);
        let error = worst(&fed, &exact);
        println!(
            "{kind:?}: logits of ±{:.1} within {error:.1e} of those of f32",
            worst(&exact, &[0.0; V])
        );
        assert!(error > 1e-6, "{kind:?}: the copies are what is multiplied");
        assert!(error < bound, "{kind:?}: {error:e}");

        // A token at a time, alone and beside others that are elsewhere.
        let mut alone = gpt.texts(&dev, params.weights(), 1, 40).unwrap();
        let mut among = gpt.texts(&dev, params.weights(), 14, 60).unwrap();
        for other in 1..14 {
            among.feed(other, &text[..other]).unwrap();
        }
        alone.feed(0, &text[..1]).unwrap();
        among.feed(0, &text[..1]).unwrap();
        let all: Vec<usize> = (0..14).collect();
        for &token in &text[1..] {
            alone.step(&[0], &[token]).unwrap();
            among.step(&all, &[token; 14]).unwrap();
            let apart = worst(alone.logits(0).unwrap(), among.logits(0).unwrap());
            assert!(apart < rounding, "{kind:?}: alone and among others {apart:e} apart");
        }
        let cached = worst(alone.logits(0).unwrap(), &fed);
        assert!(cached < rounding, "{kind:?}: {cached:e} from the whole pass");
    }
}

/// The embeddings are looked up as they are.
#[test]
fn only_matrices_are_kept() {
    let mut dev = CompactCpu::new(Cpu::new(1).unwrap());
    let (gpt, params) = model(&dev);
    compact(&gpt, params.weights(), &mut dev, Compact::Bf16).unwrap();
    let matrices: usize = gpt
        .params()
        .iter()
        .filter(|spec| spec.name.contains(".c_") || spec.name == "lm_head.weight")
        .map(|spec| spec.shape.elements())
        .sum();
    // Rows are whole cache lines here.
    assert_eq!(dev.kept_bytes(), 2 * matrices);
    let (c, layers) = (gpt.config().model_dim, gpt.config().depth);
    assert_eq!(matrices, layers * 12 * c * c + gpt.config().padded_vocab() * c);
}
