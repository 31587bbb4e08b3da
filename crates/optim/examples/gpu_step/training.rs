//! What is trained: a GPT of the July setting on ids that follow Zipf's law, by the steps that a training run takes.

use farthing_base::random::Stream;
use farthing_kernels::{Device, Params, Tensor};
use farthing_model::{Batch, Gpt, Mode, ModelConfig, Workspace};
use farthing_optim::{
    Listed, OptimPreset, Optimizers, Overrides, Plan, REFERENCE_DEPTH, Registry, Size, resolve,
};

use crate::Result;

/// A model and a micro-batch.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) depth: usize,
    /// Channels for each layer of depth.
    pub(crate) aspect: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    /// Rows of a micro-batch.
    pub(crate) rows: usize,
    /// Tokens of a row.
    pub(crate) tokens: usize,
}

/// The recipe's model of depth 12.
pub(crate) const FULL: Case =
    Case { depth: 12, aspect: 64, head_dim: 128, vocab: 32_768, rows: 16, tokens: 2048 };

/// Small enough for a checker that makes a GPU a hundred times slower, with the recipe's head dim.
pub(crate) const TINY: Case =
    Case { depth: 2, aspect: 128, head_dim: 128, vocab: 4096, rows: 2, tokens: 512 };

/// Small enough for the emulator.
pub(crate) const TOY: Case =
    Case { depth: 2, aspect: 32, head_dim: 32, vocab: 256, rows: 2, tokens: 48 };

/// A model in training.
pub(crate) struct Training<'d> {
    pub(crate) dev: &'d dyn Device,
    pub(crate) case: Case,
    pub(crate) gpt: Gpt,
    pub(crate) plan: Plan,
    pub(crate) params: Params,
    pub(crate) optimizers: Optimizers,
    pub(crate) workspace: Workspace,
    /// Of one element, for norms.
    number: Tensor,
    zipf: Zipf,
}

impl<'d> Training<'d> {
    /// A step of `batch_tokens` of `steps`, or both as the recipe's scaling rules have them. Weights are zero.
    pub(crate) fn new(dev: &'d dyn Device, case: Case, given: Overrides) -> Result<Self> {
        let preset = OptimPreset::July2026;
        let config = |depth| ModelConfig {
            aspect_ratio: Some(case.aspect),
            head_dim: Some(case.head_dim),
            ..ModelConfig::new(farthing_model::Preset::Nanochat202607, depth)
        };
        let resolved = |depth| config(depth).resolve(case.vocab, case.tokens);
        let gpt = Gpt::new(resolved(case.depth)?)?;
        let size = Size {
            scaling_params: gpt.config().scaling_params(),
            reference_scaling_params: resolved(REFERENCE_DEPTH)?.scaling_params(),
            model_dim: gpt.config().model_dim,
            depth: case.depth,
        };
        let plan = preset.scaling().plan(&size, &given)?;
        let groups = preset.groups();
        let listed: Vec<Listed<'_>> =
            gpt.params().iter().map(|p| (p.name.as_str(), p.shape, p.id)).collect();
        let params = Params::new(dev, resolve(&groups, &listed)?)?;
        let optimizers = Optimizers::new(
            &Registry::standard(),
            dev,
            &groups,
            &plan,
            &preset.schedule(),
            &params,
        )?;
        let workspace = gpt.workspace(dev, case.rows, case.tokens, Mode::Train)?;
        Ok(Self {
            dev,
            case,
            plan,
            params,
            optimizers,
            workspace,
            number: dev.master([1])?,
            zipf: Zipf::new(case.vocab),
            gpt,
        })
    }

    /// Micro-batch `number`, as a prefetching reader would have it ready.
    pub(crate) fn tokens(&self, number: u64) -> Result<Batch> {
        let (inputs, targets) = self.zipf.batch(number, self.case.rows, self.case.tokens);
        Ok(Batch::new(self.case.tokens, inputs, targets)
            .map_err(farthing_model::Error::from)?
            .with_order())
    }

    /// A micro-batch's losses and gradients, on top of those that are there. Nothing is waited for.
    pub(crate) fn micro_batch(&mut self, batch: &Batch) -> Result<()> {
        let scale = 1.0 / self.plan.batch_tokens as f64;
        let (weights, mut grads) = self.params.split();
        let ws = &mut self.workspace;
        Ok(self.gpt.forward_backward(self.dev, weights, &mut grads, ws, batch, scale)?)
    }

    /// The last micro-batch's mean loss, nats per token.
    pub(crate) fn loss(&mut self) -> Result<f64> {
        Ok(self.workspace.loss_sum(self.dev)? / (self.case.rows * self.case.tokens) as f64)
    }

    /// The gradient's norm, the update, the weights' compute copies and the next step's zeros; the norm.
    pub(crate) fn update(&mut self, step: u64) -> Result<f64> {
        let mut squares = 0.0;
        for slab in 0..self.params.specs().len() {
            self.dev.sum_squares(self.number.view_mut(), self.params.slab(slab).grad.view())?;
            squares += self.dev.read_f64(self.number.view())?[0];
        }
        self.optimizers.step(self.dev, &mut self.params, step)?;
        self.params.refresh_compute(self.dev)?;
        self.params.zero_grads(self.dev)?;
        Ok(squares.sqrt())
    }
}

/// Ids by Zipf's law, as text has them: id i about as often as 1 / (i + 1). A few are hot, most are rare.
struct Zipf {
    /// Sums of the weights up to each id.
    sums: Vec<f64>,
}

impl Zipf {
    fn new(vocab: usize) -> Self {
        let mut sum = 0.0;
        let sums = (0..vocab).map(|i| {
            sum += 1.0 / (i + 1) as f64;
            sum
        });
        Self { sums: sums.collect() }
    }

    /// Inputs and targets (rows, tokens) of micro-batch `number`, the same on every machine.
    fn batch(&self, number: u64, rows: usize, tokens: usize) -> (Vec<i32>, Vec<i32>) {
        let draws = Stream::new(number, "zipf");
        let most = self.sums.last().copied().unwrap_or(1.0);
        let id = |row: usize, t: usize| {
            let at = draws.uniform((row * (tokens + 1) + t) as u64) * most;
            self.sums.partition_point(|&sum| sum <= at).min(self.sums.len() - 1) as i32
        };
        let all = |first| (0..rows).flat_map(move |row| (0..tokens).map(move |t| (row, t + first)));
        (all(0).map(|(row, t)| id(row, t)).collect(), all(1).map(|(row, t)| id(row, t)).collect())
    }
}
