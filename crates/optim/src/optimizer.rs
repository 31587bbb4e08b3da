//! `Optimizer`: the seam between an update rule and everything that drives it, and `OptimizerKind`, how a rule is made
//! from its configuration. No rule is here.

use farthing_kernels::{Device, Slab, SlabSpec, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;

/// One step's numbers, already scaled and scheduled.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hyper {
    /// t ≥ 1, counted from the first update (AdamW's bias correction).
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Muon's momentum; a rule without a scheduled momentum has its own and ignores this.
    pub momentum: f64,
}

/// An update rule for one slab, with its state. Built once per slab, before the first step.
pub trait Optimizer: Send {
    /// Changes `slab.weight` by `slab.grad`, which it may use as scratch. Allocates nothing.
    ///
    /// # Errors
    /// As the device's operations; a slab of another shape than the rule was built for.
    fn step(&mut self, dev: &dyn Device, slab: &mut Slab<'_>, hyper: &Hyper) -> Result<()>;

    /// What must be saved for a resumed run to continue bit-equal, under names that are unique within the slab.
    fn state(&mut self) -> Vec<(String, &mut Tensor)>;
}

/// The least that a rule must see at once, so that the rest of a slab may be on other ranks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Grain {
    /// A whole parameter. State has a first axis of as many entries as the slab has parameters.
    #[default]
    Matrix,
    /// A single element: the slab is cut anywhere. State is of the slab's shape.
    Element,
}

/// How a rule is made: what [`Registry::register`](crate::Registry::register) takes.
///
/// `Config` is a struct of the group's own keys (`betas`, `eps`, …). A key that is not one of its fields is refused, with or
/// without `deny_unknown_fields`; give every field a default so that a file need not write it.
pub trait OptimizerKind: 'static {
    /// The rule's own keys.
    type Config: DeserializeOwned + Serialize;

    /// How finely its slabs may be divided among ranks.
    const GRAIN: Grain = Grain::Matrix;

    /// Refuses values outside the rule's domain.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value), naming the key.
    fn check(config: &Self::Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Allocates the state, and the scratch of a step, for one slab.
    ///
    /// # Errors
    /// Out of memory; a shape that the rule does not update.
    fn build(config: Self::Config, dev: &dyn Device, spec: &SlabSpec)
    -> Result<Box<dyn Optimizer>>;
}
