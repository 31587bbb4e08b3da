//! `Gpt`: the structure, its parameters' names and numbers, and what may be asked of it. The arithmetic is in `forward` and `backward`.

use farthing_base::Batch;
use farthing_kernels::{DType, Device, Grads, ParamId, Params, SlabSpec, Weights};

use crate::params::{ParamIds, ParamSpec, list, write_init};
use crate::workspace::{Capacity, Keep, Types, buffers};
use crate::{Error, GptConfig, Mode, Result, Workspace};

/// A GPT's structure. Weights live in [`Params`], in whatever slabs their owner wants.
#[derive(Clone, PartialEq, Debug)]
pub struct Gpt {
    config: GptConfig,
    specs: Vec<ParamSpec>,
    ids: ParamIds,
}

impl Gpt {
    /// The structure that a configuration describes.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn new(config: GptConfig) -> Result<Self> {
        config.check()?;
        let (specs, ids) = list(&config);
        Ok(Self { config, specs, ids })
    }

    /// The numbers it was built from.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// Its parameters, in the order of their numbers.
    pub fn params(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The parameters' numbers, by what they do.
    pub fn ids(&self) -> &ParamIds {
        &self.ids
    }

    /// The number of a parameter by its name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.specs.iter().find(|spec| spec.name == name).map(|spec| spec.id)
    }

    /// Elements of all parameters.
    pub fn param_count(&self) -> u64 {
        self.specs.iter().map(|spec| spec.shape.elements() as u64).sum()
    }

    /// Every parameter in a slab of its own: for evaluation, generation and tests.
    pub fn single_group(&self) -> Vec<SlabSpec> {
        let slab = |spec: &ParamSpec| SlabSpec {
            group: "all".into(),
            params: vec![spec.id],
            names: vec![spec.name.clone()],
            shape: spec.shape,
        };
        self.specs.iter().map(slab).collect()
    }

    /// Writes the starting weights of a seed, equal on every device; on several ranks, those that this rank has.
    ///
    /// # Numerics
    /// Computed on the host in f64, rounded once to the master type. Each number is a function of (seed, name, index) alone.
    ///
    /// # Errors
    /// [`Error::Kernel`], also when `params` are not of this model.
    pub fn initialize(&self, dev: &dyn Device, params: &mut Params, seed: u64) -> Result<()> {
        for spec in &self.specs {
            if let Some(part) = params.part_mut(spec.id)? {
                write_init(dev, part, spec, seed)?;
            }
        }
        Ok(params.refresh_compute(dev)?)
    }

    /// Allocates every buffer for batches of at most `rows · tokens` positions with rows of at most `tokens` tokens. `tokens`
    /// may exceed the configuration's `seq_len`: rotary angles go on, windows stay.
    ///
    /// # Errors
    /// [`Error::Batch`] when there is no position; [`Error::Kernel`] when there is not the memory.
    pub fn workspace(
        &self,
        dev: &dyn Device,
        rows: usize,
        tokens: usize,
        mode: Mode,
    ) -> Result<Workspace> {
        Workspace::new(&self.config, dev, rows, tokens, mode)
    }

    /// The device bytes that [`Gpt::workspace`] takes on a device with these types.
    ///
    /// # Errors
    /// [`Error::Batch`] when there is no position.
    pub fn workspace_bytes(
        &self,
        compute: DType,
        master: DType,
        rows: usize,
        tokens: usize,
        mode: Mode,
    ) -> Result<usize> {
        let keep = match mode {
            Mode::Train => Keep::Train,
            Mode::Evaluate => Keep::Evaluate,
        };
        let mut bytes = 0;
        let capacity = Capacity::of_batches(rows, tokens)?;
        buffers(&self.config, capacity, keep, Types { compute, master }, &mut |dtype, shape| {
            bytes += shape.elements() * dtype.bytes();
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Losses and gradients of one micro-batch. Adds `loss_scale` · ∂(sum of losses)/∂parameter to `grads`: for the mean over a step of several
    /// micro-batches, pass 1 / (targets that are not −1 in all of them) each time.
    ///
    /// # Numerics
    /// On `cpu`, each parameter's gradient is within 2e-5 of `reference` (‖Δ‖/‖ref‖), tested in `tests/numerics.rs`; the reference's is within
    /// 1e-5 of finite differences, tested in `tests/gradients.rs`.
    ///
    /// # Errors
    /// [`Error::Batch`] and [`Error::Tokens`] before anything is computed; [`Error::Kernel`].
    ///
    /// # Cost
    /// [`GptConfig::flops_per_token`] per position. Nothing is allocated.
    pub fn forward_backward(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        grads: &mut Grads<'_>,
        ws: &mut Workspace,
        batch: &Batch,
        loss_scale: f64,
    ) -> Result<()> {
        if ws.mode != Mode::Train {
            let what = format!("training in a workspace made for {:?}", ws.mode);
            return Err(Error::Batch { what, hint: "make it with Mode::Train".into() });
        }
        let Some(order) = batch.order() else {
            let what = "training needs the order of the inputs".into();
            return Err(Error::Batch { what, hint: "make it with Batch::with_order".into() });
        };
        let at = self.begin(dev, ws, batch, order)?;
        self.trunk(dev, weights, &mut ws.buffers, at, None)?;
        self.backward(dev, weights, grads, &mut ws.buffers, at, loss_scale)
    }

    /// Losses per position, and the most likely next tokens where `predictions` are wanted; read them from the workspace.
    ///
    /// # Errors
    /// [`Error::Batch`] and [`Error::Tokens`] before anything is computed; [`Error::Kernel`].
    ///
    /// # Cost
    /// A third of [`GptConfig::flops_per_token`] per position. Nothing is allocated.
    pub fn evaluate(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        ws: &mut Workspace,
        batch: &Batch,
        predictions: bool,
    ) -> Result<()> {
        let at = self.begin(dev, ws, batch, &[])?;
        self.trunk(dev, weights, &mut ws.buffers, at, None)?;
        self.losses(dev, weights, &mut ws.buffers, at, predictions)?;
        ws.has_predictions = predictions;
        Ok(())
    }

    /// Hands a batch that fits to the device, in one piece: inputs, targets and, for training, their order.
    fn begin(
        &self,
        dev: &dyn Device,
        ws: &mut Workspace,
        batch: &Batch,
        order: &[i32],
    ) -> Result<Extent> {
        let at = Extent { rows: batch.rows(), tokens: batch.tokens() };
        if at.positions() > ws.capacity || at.tokens > ws.tokens {
            return Err(Error::Batch {
                what: format!(
                    "{} rows of {} tokens; the workspace has room for {} positions in rows of at most {}",
                    at.rows, at.tokens, ws.capacity, ws.tokens
                ),
                hint: "make a larger workspace".into(),
            });
        }
        batch.check_vocab(self.config.vocab_size)?;
        ws.used = at.positions();
        ws.has_predictions = false;
        ws.upload.clear();
        for part in [batch.inputs(), batch.targets(), order] {
            ws.upload.extend_from_slice(part);
        }
        let tokens = ws.buffers.tokens.view_mut().rows(0..ws.upload.len())?;
        dev.write_i32(tokens, &ws.upload)?;
        Ok(at)
    }
}

/// The size of one pass.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// B.
    pub(crate) rows: usize,
    /// T.
    pub(crate) tokens: usize,
}

impl Extent {
    /// N = B·T.
    pub(crate) fn positions(self) -> usize {
        self.rows * self.tokens
    }

    /// (B, T, H, D).
    pub(crate) fn q(self, config: &GptConfig) -> [usize; 4] {
        [self.rows, self.tokens, config.heads, config.head_dim]
    }

    /// (B, T, K, D).
    pub(crate) fn kv(self, config: &GptConfig) -> [usize; 4] {
        [self.rows, self.tokens, config.kv_heads, config.head_dim]
    }
}
