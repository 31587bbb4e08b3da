//! Lion as an [`Optimizer`]: the sign of an interpolated momentum, with decoupled weight decay. It knows neither the model nor
//! the runner, and runs on any device, because its update is data: two elementwise expressions.
//!
//! # Source
//! Chen et al., *Symbolic Discovery of Optimization Algorithms*, arXiv 2302.06675, algorithm 2.

use farthing_kernels::{Device, Expr, Slab, SlabSpec, Tensor};
use farthing_optim::{Hyper, Optimizer, OptimizerKind, Result};

/// Lion's own keys in a group; `lr`, `weight_decay` and the schedules are every group's.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct LionKeys {
    /// β1 of the step, β2 of the momentum.
    #[serde(default = "published_betas")]
    pub betas: [f64; 2],
}

fn published_betas() -> [f64; 2] {
    [0.9, 0.99]
}

/// The rule for one slab, with its momentum.
pub struct Lion {
    keys: LionKeys,
    momentum: Tensor,
    rule: [Expr; 2],
}

impl OptimizerKind for Lion {
    type Config = LionKeys;

    fn build(keys: LionKeys, dev: &dyn Device, spec: &SlabSpec) -> Result<Box<dyn Optimizer>> {
        let [p, m, g] = [Expr::old(0), Expr::old(1), Expr::input(0)];
        let [lr, decay, b1, b2] = [0, 1, 2, 3].map(Expr::scalar);
        let toward_g = |b: Expr| g.clone() + b * (m.clone() - g.clone());
        let rule = [p.clone() - lr * toward_g(b1).sign() - decay * p, toward_g(b2)];
        Ok(Box::new(Lion { keys, momentum: dev.master(spec.stacked())?, rule }))
    }
}

impl Optimizer for Lion {
    fn step(&mut self, dev: &dyn Device, slab: &mut Slab<'_>, hyper: &Hyper) -> Result<()> {
        let [b1, b2] = self.keys.betas;
        let scalars = [hyper.lr, hyper.lr * hyper.weight_decay, b1, b2];
        let mut out = [slab.weight.reborrow(), self.momentum.view_mut()];
        Ok(dev.map(&self.rule, &mut out, &[slab.grad.view()], &scalars)?)
    }

    fn state(&mut self) -> Vec<(String, &mut Tensor)> {
        vec![("momentum".into(), &mut self.momentum)]
    }
}
