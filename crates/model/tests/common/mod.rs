//! Small models of both settings with weights of which none is zero, and batches of random tokens.
#![allow(dead_code, reason = "each test file uses some of it")]

use farthing_base::random::Stream;
use farthing_kernels::{Device, Params};
use farthing_model::{Batch, Gpt, GptConfig, Init, Mlp, Mode, ModelConfig, Preset, Workspace};

/// 61 entries: three padding rows, so that padding is part of every test.
pub(crate) const VOCAB: usize = 61;

/// Two layers, two query heads over one key/value head in July's setting, two over two in January's.
pub(crate) fn config(preset: Preset, seq_len: usize) -> GptConfig {
    let kv_heads = if preset == Preset::Nanochat202607 { 1 } else { 2 };
    ModelConfig {
        aspect_ratio: Some(16),
        head_dim: Some(16),
        kv_heads: Some(kv_heads),
        ..ModelConfig::new(preset, 2)
    }
    .resolve(VOCAB, seq_len)
    .unwrap()
}

/// July's small model with one variant each, and with all of them.
pub(crate) fn variants(seq_len: usize) -> [GptConfig; 3] {
    let plain = config(Preset::Nanochat202607, seq_len);
    [
        GptConfig { rotary_fraction: 0.5, ..plain.clone() },
        GptConfig { mlp: Mlp::Swiglu, ..plain.clone() },
        GptConfig { rotary_fraction: 0.25, mlp: Mlp::Swiglu, ..plain },
    ]
}

pub(crate) const BOTH: [Preset; 2] = [Preset::Nanochat202601, Preset::Nanochat202607];

/// A row length with a window's edge inside for each setting: the short window is 12 of 24, and 128 of 144.
pub(crate) fn seq_len(preset: Preset) -> usize {
    if preset == Preset::Nanochat202607 { 144 } else { 24 }
}

/// Values of order one where gates, softcap and mixing all bend, and none is zero.
pub(crate) fn lively_weights(gpt: &Gpt, dev: &dyn Device, params: &mut Params) {
    for spec in gpt.params() {
        let stream = Stream::new(99, &spec.name);
        let n = spec.shape.elements();
        let value = |i: usize| {
            let normal = stream.normal(i as u64);
            match (&*spec.shape, &spec.init) {
                ([_, _], _) if spec.name.ends_with("_gate.weight") => 0.4 * normal,
                ([_, _], _) if spec.name == "lm_head.weight" => 0.5 * normal,
                ([_, cols], Init::Constant(_) | Init::Uniform { .. }) => {
                    normal / (*cols as f64).sqrt()
                }
                ([_, _], _) => normal,
                (_, Init::Constant(value)) => value + 0.3 + 0.1 * normal,
                (_, _) => 0.8 + 0.1 * normal,
            }
        };
        let values: Vec<f64> = (0..n).map(value).collect();
        dev.write_f64(params.master_mut(spec.id).unwrap(), &values).unwrap();
    }
    params.refresh_compute(dev).unwrap();
}

/// Rows of tokens of their own making: every seventh target is ignored.
pub(crate) struct Tokens {
    pub(crate) seq_len: usize,
    pub(crate) inputs: Vec<i32>,
    pub(crate) targets: Vec<i32>,
}

impl Tokens {
    pub(crate) fn new(rows: usize, seq_len: usize, seed: u64) -> Self {
        let stream = Stream::new(seed, "tokens");
        let n = rows * seq_len;
        let id = |i: usize| (stream.bits(i as u64) % VOCAB as u64) as i32;
        let inputs: Vec<i32> = (0..n).map(id).collect();
        let targets = (0..n).map(|i| if i % 7 == 3 { -1 } else { id(i + n) }).collect();
        Self { seq_len, inputs, targets }
    }

    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.seq_len, &self.inputs[..], &self.targets[..]).unwrap().with_order()
    }

    /// Targets that count.
    pub(crate) fn valid(&self) -> usize {
        self.targets.iter().filter(|&&t| t >= 0).count()
    }
}

/// A model on a device.
pub(crate) struct Model<'a> {
    pub(crate) dev: &'a dyn Device,
    pub(crate) gpt: Gpt,
    pub(crate) params: Params,
    pub(crate) ws: Workspace,
}

impl<'a> Model<'a> {
    pub(crate) fn new(dev: &'a dyn Device, config: GptConfig, rows: usize, seq_len: usize) -> Self {
        let gpt = Gpt::new(config).unwrap();
        let mut params = Params::new(dev, gpt.single_group()).unwrap();
        lively_weights(&gpt, dev, &mut params);
        let ws = gpt.workspace(dev, rows, seq_len, Mode::Train).unwrap();
        Self { dev, gpt, params, ws }
    }

    /// Adds a batch's gradients; gives the sum of its losses.
    pub(crate) fn train(&mut self, batch: &Batch, scale: f64) -> f64 {
        let (weights, mut grads) = self.params.split();
        self.gpt
            .forward_backward(self.dev, weights, &mut grads, &mut self.ws, batch, scale)
            .unwrap();
        self.ws.loss_sum(self.dev).unwrap()
    }

    pub(crate) fn loss(&mut self, batch: &Batch) -> f64 {
        let weights = self.params.weights();
        self.gpt.evaluate(self.dev, weights, &mut self.ws, batch, false).unwrap();
        self.ws.loss_sum(self.dev).unwrap()
    }

    /// Losses per position.
    pub(crate) fn losses(&mut self) -> Vec<f64> {
        let mut out = vec![0.0; self.ws.positions()];
        self.ws.read_losses(self.dev, &mut out).unwrap();
        out
    }

    /// The gradient of parameter `i`.
    pub(crate) fn grad(&mut self, i: usize) -> Vec<f64> {
        let id = self.gpt.params()[i].id;
        let (_, mut grads) = self.params.split();
        self.dev.read_f64(grads.get(id).unwrap().into_ref()).unwrap()
    }

    pub(crate) fn weight(&self, i: usize) -> Vec<f64> {
        let id = self.gpt.params()[i].id;
        self.dev.read_f64(self.params.weights().master(id).unwrap()).unwrap()
    }

    pub(crate) fn set_weight(&mut self, i: usize, values: &[f64]) {
        let id = self.gpt.params()[i].id;
        self.dev.write_f64(self.params.master_mut(id).unwrap(), values).unwrap();
        self.params.refresh_compute(self.dev).unwrap();
    }
}

pub(crate) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖a − b‖ / ‖b‖.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(b)
}
