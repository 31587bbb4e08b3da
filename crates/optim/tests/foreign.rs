//! An optimizer from outside: Lion (arXiv 2302.06675), in elementwise expressions that any device runs, used by one group.

use crate::common;

use common::{devices, distance, numbers, set_grad, set_weight, weight};
use farthing_base::Hint;
use farthing_kernels::{ParamId, Params, Shape};
use farthing_optim::{OptimPreset, Optimizers, Overrides, Registry, Size, merge, resolve};

/// All that a user writes.
mod lion {
    use farthing_kernels::{Device, Expr, Slab, SlabSpec, Tensor};
    use farthing_optim::{Hyper, Optimizer, OptimizerKind, Result};

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(super) struct Keys {
        betas: [f64; 2],
    }

    pub(super) struct Lion(Keys, Tensor, [Expr; 2]);

    impl OptimizerKind for Lion {
        type Config = Keys;
        fn build(keys: Keys, dev: &dyn Device, spec: &SlabSpec) -> Result<Box<dyn Optimizer>> {
            let [p, m, g] = [Expr::old(0), Expr::old(1), Expr::input(0)];
            let [lr, decay, b1, b2] = [0, 1, 2, 3].map(Expr::scalar);
            let lerp = |b: Expr| g.clone() + b * (m.clone() - g.clone());
            let step = p.clone() - lr * lerp(b1).sign() - decay * p;
            let rule = [step, lerp(b2)];
            Ok(Box::new(Lion(keys, dev.master(spec.stacked())?, rule)))
        }
    }

    impl Optimizer for Lion {
        fn step(&mut self, dev: &dyn Device, slab: &mut Slab<'_>, h: &Hyper) -> Result<()> {
            let [b1, b2] = self.0.betas;
            let mut out = [slab.weight.reborrow(), self.1.view_mut()];
            let scalars = [h.lr, h.lr * h.weight_decay, b1, b2];
            Ok(dev.map(&self.2, &mut out, &[slab.grad.view()], &scalars)?)
        }
        fn state(&mut self) -> Vec<(String, &mut Tensor)> {
            vec![("m".into(), &mut self.1)]
        }
    }
}

/// What the file says; the preset's `lm_head` is AdamW.
const FILE: &str = r#"{ "lm_head": { "uses": "lion", "lr": 1e-3, "weight_decay": 0.1,
                        "scale": { "width": false }, "betas": [0.9, 0.99] } }"#;

#[test]
fn a_group_uses_it_by_name() {
    let groups =
        merge(OptimPreset::July2026.groups(), &serde_json::from_str(FILE).unwrap()).unwrap();
    let registry = Registry::standard().register::<lion::Lion>("lion");
    let listed = [("lm_head.weight", Shape::from([5, 3]), ParamId(0))];
    let size = Size { scaling_params: 100, reference_scaling_params: 100, model_dim: 3, depth: 1 };
    let given = Overrides { batch_tokens: Some(524_288), steps: Some(1000) };
    let plan = OptimPreset::July2026.scaling().plan(&size, &given).unwrap();
    let schedule = OptimPreset::July2026.schedule();

    for (dev, _) in devices() {
        let mut params = Params::new(&*dev, resolve(&groups, &listed).unwrap()).unwrap();
        let mut optimizers =
            Optimizers::new(&registry, &*dev, &groups, &plan, &schedule, &params).unwrap();
        set_weight(&*dev, &mut params, 0, &numbers(1, 15));
        let (mut p, mut m) = (numbers(1, 15), vec![0.0; 15]);
        for t in 0..6 {
            let g = numbers(10 + t, 15);
            set_grad(&*dev, &mut params, 0, &g);
            optimizers.step(&*dev, &mut params, t).unwrap();

            let lr = 1e-3 * (t + 1) as f64 / 40.0;
            for i in 0..15 {
                let direction: f64 = 0.9 * m[i] + (1.0 - 0.9) * g[i];
                p[i] -= lr * (direction.signum() + 0.1 * p[i]);
                m[i] = 0.99 * m[i] + (1.0 - 0.99) * g[i];
            }
            assert!(distance(&weight(&*dev, &mut params, 0), &p) < 1e-6, "{}", dev.name());
        }
        let state: Vec<String> = optimizers.state().into_iter().map(|state| state.name).collect();
        assert_eq!(state, ["optim.lm_head.5x3.m"]);
    }
}

#[test]
fn its_keys_are_checked_as_ours_are() {
    let registry = Registry::standard().register::<lion::Lion>("lion");
    let refused = |options: serde_json::Value| {
        registry.check("lion", options.as_object().unwrap()).unwrap_err().with_hint()
    };
    assert_eq!(
        refused(serde_json::json!({ "betas": [0.9, 0.99], "eps": 1e-8 })),
        "optimizer `lion` has no key `eps`\nhint: there are: betas"
    );
    assert_eq!(
        refused(serde_json::json!({})),
        "optimizer `lion`: missing field `betas`\nhint: its keys are betas"
    );
    assert_eq!(registry.names(), ["adamw", "lion", "muon", "normuon"]);
}
