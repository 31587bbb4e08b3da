//! A whole model's optimizers: scaled and scheduled numbers in both settings, state that resumes, a problem that is learned.

use crate::common;

use std::collections::BTreeMap;

use common::oracle::{self, Matrix};
use common::{devices, distance, numbers, set_grad, set_weight, weight};
use farthing_base::Hint;
use farthing_kernels::{Device, ParamId, Params, Shape};
use farthing_optim::{
    Group, Listed, OptimPreset, Optimizers, Overrides, Plan, Registry, Size, State, merge, resolve,
};

/// A model's worth of names: every group of July, square, wide, tall and gate shapes.
const MODEL: [(&str, &[usize]); 11] = [
    ("transformer.wte.weight", &[10, 6]),
    ("transformer.h.0.attn.c_q.weight", &[6, 6]),
    ("transformer.h.0.mlp.c_fc.weight", &[24, 6]),
    ("transformer.h.0.mlp.c_proj.weight", &[6, 24]),
    ("transformer.h.0.attn.ve_gate.weight", &[2, 12]),
    ("transformer.h.1.attn.c_q.weight", &[6, 6]),
    ("lm_head.weight", &[10, 6]),
    ("resid_lambdas", &[2]),
    ("x0_lambdas", &[2]),
    ("value_embeds.0.weight", &[10, 6]),
    ("smear_gate.weight", &[1, 5]),
];

const STEPS: u64 = 6;

fn listed() -> Vec<Listed<'static>> {
    let shape = |dims: &[usize]| Shape::from_dims(dims).unwrap();
    MODEL.iter().enumerate().map(|(i, (name, dims))| (*name, shape(dims), ParamId(i))).collect()
}

fn plan(preset: OptimPreset) -> Plan {
    let size = Size {
        scaling_params: 2000,
        reference_scaling_params: 1000,
        model_dim: 192, // (192 / 768)^-½ = 2
        depth: 6,
    };
    let given = Overrides { batch_tokens: Some(131_072), steps: Some(STEPS) }; // √¼ = ½
    preset.scaling().plan(&size, &given).unwrap()
}

fn build(dev: &dyn Device, groups: &[Group], preset: OptimPreset) -> (Params, Optimizers) {
    let mut params = Params::new(dev, resolve(groups, &listed()).unwrap()).unwrap();
    for i in 0..params.specs().len() {
        let n = params.specs()[i].stacked().elements();
        set_weight(dev, &mut params, i, &numbers(1 + i as u64, n));
    }
    let optimizers = Optimizers::new(
        &Registry::standard(),
        dev,
        groups,
        &plan(preset),
        &preset.schedule(),
        &params,
    )
    .unwrap();
    (params, optimizers)
}

fn grads(dev: &dyn Device, params: &mut Params, t: u64) {
    for i in 0..params.specs().len() {
        let n = params.specs()[i].stacked().elements();
        set_grad(dev, params, i, &numbers(1000 + 50 * t + i as u64, n));
    }
}

/// What the recipe's table says of a group at step t: (lr, weight decay, betas), scaled and scheduled by hand.
fn adamw_by_hand(preset: OptimPreset, group: &str, t: u64) -> oracle::AdamW {
    let january = preset == OptimPreset::January2026;
    let (batch, width) = (0.5, 2.0);
    let pick = |j: f64, h: f64| if january { j } else { h };
    let (lr, beta1, beta2, weight_decay) = match group {
        "lm_head" => (pick(0.004, 0.008) * batch * width, 0.8, pick(0.95, 0.96), pick(0.0, 0.01)),
        "wte" => (0.3 * batch * width, 0.8, pick(0.95, 0.995), pick(0.0, 0.001)),
        "value_embeds" => {
            (pick(0.3, 0.15) * batch * width, 0.8, pick(0.95, 0.995), pick(0.0, 0.01))
        }
        "resid_lambdas" => (0.005 * batch, 0.8, 0.95, pick(0.0, 0.05)),
        "x0_lambdas" => (0.5 * batch, 0.96, 0.95, 0.0),
        "smear" => (0.2, 0.8, 0.95, 0.0),
        other => panic!("{other}"),
    };
    oracle::AdamW { lr: lr * lr_factor(january, t), beta1, beta2, eps: 1e-10, weight_decay }
}

/// N = 6: January W = 3, July is inside its 40 steps of warm-up.
fn lr_factor(january: bool, t: u64) -> f64 {
    if january {
        [1.0, 1.0, 1.0, 1.0, 2.0 / 3.0, 1.0 / 3.0][t as usize]
    } else {
        (t + 1) as f64 / 40.0
    }
}

fn muon_by_hand(preset: OptimPreset, t: u64) -> oracle::Muon {
    let january = preset == OptimPreset::January2026;
    let done = t as f64 / 6.0;
    let lr = 0.02 * 0.5 * lr_factor(january, t);
    if january {
        oracle::Muon {
            lr,
            weight_decay: 0.2 * 4.0 * (1.0 - done), // (12 / 6)²
            momentum: 0.85 + 0.1 * t as f64 / 300.0,
            equilibrate: false,
            safety: 1.02,
            steps: 5,
            renormalize: false,
            beta2: Some(0.95),
            cautious: true,
        }
    } else {
        oracle::Muon {
            lr,
            weight_decay: 0.28 * 0.5 * 0.5 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            momentum: 0.85 + 0.12 * t as f64 / 400.0,
            equilibrate: true,
            safety: 1.01,
            steps: 5,
            renormalize: true,
            beta2: Some(0.9),
            cautious: true,
        }
    }
}

#[test]
fn both_settings_step_a_whole_model_as_the_recipe_says() {
    for (dev, _) in devices() {
        for preset in [OptimPreset::January2026, OptimPreset::July2026] {
            let groups = preset.groups();
            let (mut params, mut optimizers) = build(&*dev, &groups, preset);
            for t in 0..STEPS {
                grads(&*dev, &mut params, t);
                optimizers.step(&*dev, &mut params, t).unwrap();
            }
            for i in 0..params.specs().len() {
                let spec = params.specs()[i].clone();
                let n = spec.stacked().elements();
                let mut flat = numbers(1 + i as u64, n);
                let grad = |t: u64| numbers(1000 + 50 * t + i as u64, n);
                if spec.group == "matrices" {
                    let [r, s] = [spec.shape[0], spec.shape[1]];
                    let cut = |flat: &[f64]| -> Vec<Matrix> {
                        flat.chunks(r * s).map(|one| oracle::rows(one, s)).collect()
                    };
                    let mut p = cut(&flat);
                    let mut buf = vec![vec![vec![0.0; s]; r]; p.len()];
                    let mut second = vec![vec![0.0; r.max(s)]; p.len()];
                    for t in 0..STEPS {
                        for (k, g) in cut(&grad(t)).iter().enumerate() {
                            let h = muon_by_hand(preset, t);
                            oracle::muon(&h, &mut p[k], &mut buf[k], &mut second[k], g);
                        }
                    }
                    flat = p.into_iter().flatten().flatten().collect();
                } else {
                    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
                    for t in 0..STEPS {
                        let h = adamw_by_hand(preset, &spec.group, t);
                        oracle::adamw(&h, t as i32 + 1, &mut flat, &mut m, &mut v, &grad(t));
                    }
                }
                let error = distance(&weight(&*dev, &mut params, i), &flat);
                assert!(error < 1e-5, "{} {preset:?} {}: {error:e}", dev.name(), spec.group);
            }
        }
    }
}

#[test]
fn state_has_stable_names_and_resumes_bit_equal() {
    for (dev, _) in devices() {
        let preset = OptimPreset::July2026;
        let groups = preset.groups();
        let (mut params, mut optimizers) = build(&*dev, &groups, preset);
        for t in 0..3 {
            grads(&*dev, &mut params, t);
            optimizers.step(&*dev, &mut params, t).unwrap();
        }
        // Saved, and put into a fresh run.
        let mut saved = BTreeMap::new();
        for State { name, tensor, .. } in optimizers.state() {
            let twice = saved.insert(name.clone(), dev.read_f64(tensor.view()).unwrap());
            assert!(twice.is_none(), "{name} occurs twice");
        }
        let names: Vec<&str> = saved.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "optim.lm_head.10x6.m",
                "optim.lm_head.10x6.v",
                "optim.matrices.24x6.buf",
                "optim.matrices.24x6.second",
                "optim.matrices.2x12.buf",
                "optim.matrices.2x12.second",
                "optim.matrices.6x24.buf",
                "optim.matrices.6x24.second",
                "optim.matrices.6x6.buf",
                "optim.matrices.6x6.second",
                "optim.resid_lambdas.2.m",
                "optim.resid_lambdas.2.v",
                "optim.smear.1x5.m",
                "optim.smear.1x5.v",
                "optim.value_embeds.10x6.m",
                "optim.value_embeds.10x6.v",
                "optim.wte.10x6.m",
                "optim.wte.10x6.v",
                "optim.x0_lambdas.2.m",
                "optim.x0_lambdas.2.v",
            ]
        );
        let (mut again, mut resumed) = build(&*dev, &groups, preset);
        for i in 0..params.specs().len() {
            let weights = weight(&*dev, &mut params, i);
            set_weight(&*dev, &mut again, i, &weights);
        }
        for State { name, tensor, .. } in resumed.state() {
            dev.write_f64(tensor.view_mut(), &saved[&name]).unwrap();
        }
        for t in 3..STEPS {
            for (params, optimizers) in [(&mut params, &mut optimizers), (&mut again, &mut resumed)]
            {
                grads(&*dev, params, t);
                optimizers.step(&*dev, params, t).unwrap();
            }
        }
        for i in 0..params.specs().len() {
            assert_eq!(weight(&*dev, &mut params, i), weight(&*dev, &mut again, i));
        }
    }
}

#[test]
fn state_names_do_not_depend_on_the_order_of_slabs() {
    let (dev, _) = devices().swap_remove(0);
    let preset = OptimPreset::July2026;
    let mut groups = preset.groups();
    let names = |groups: &[Group]| -> Vec<String> {
        let (_, mut optimizers) = build(&*dev, groups, preset);
        optimizers.state().into_iter().map(|state| state.name).collect()
    };
    let forward = names(&groups);
    groups.reverse();
    assert_eq!(names(&groups), forward);
}

#[test]
fn the_summary_says_who_got_what() {
    let (dev, _) = devices().swap_remove(0);
    let preset = OptimPreset::July2026;
    let (_, optimizers) = build(&*dev, &preset.groups(), preset);
    let lines: Vec<String> = optimizers.summary().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "lm_head        adamw       1 tensors             60 elements  lr 8.000e-3  wd 1.000e-2  1 × 10x6",
            "wte            adamw       1 tensors             60 elements  lr 3.000e-1  wd 1.000e-3  1 × 10x6",
            "value_embeds   adamw       1 tensors             60 elements  lr 1.500e-1  wd 1.000e-2  1 × 10x6",
            "resid_lambdas  adamw       1 tensors              2 elements  lr 2.500e-3  wd 5.000e-2  1 × 2",
            "x0_lambdas     adamw       1 tensors              2 elements  lr 2.500e-1  wd 0.000e0  1 × 2",
            "smear          adamw       1 tensors              5 elements  lr 2.000e-1  wd 0.000e0  1 × 1x5",
            "matrices       normuon     5 tensors            384 elements  lr 1.000e-2  wd 7.000e-2  2 × 6x6, 1 × 24x6, 1 × 6x24, 1 × 2x12",
        ]
    );
}

#[test]
fn params_of_another_model_are_refused() {
    let (dev, _) = devices().swap_remove(0);
    let preset = OptimPreset::July2026;
    let (_, mut optimizers) = build(&*dev, &preset.groups(), preset);
    let few = resolve(&preset.groups(), &listed()[..1]).unwrap();
    let mut other = Params::new(&*dev, few).unwrap();
    let error = optimizers.step(&*dev, &mut other, 0).unwrap_err();
    assert_eq!(
        error.with_hint(),
        "optimizers for 10 slabs, stepped with 1\nhint: step the `Params` that they were built for"
    );
}

/// Linear regression y = W*·x on 64 fixed inputs: loss = mean ‖W·x − y‖², gradient 2/64 · (W·x − y)·xᵀ.
struct Regression {
    inputs: Matrix,
    targets: Matrix,
}

impl Regression {
    fn new([rows, cols]: [usize; 2]) -> Self {
        let inputs = oracle::rows(&numbers(7, 64 * cols), cols);
        let truth = oracle::rows(&numbers(8, rows * cols), cols);
        let targets = oracle::product(&inputs, &oracle::transpose(&truth));
        Self { inputs, targets }
    }

    fn loss_and_grad(&self, w: &Matrix) -> (f64, Vec<f64>) {
        let mut residual = oracle::product(&self.inputs, &oracle::transpose(w));
        for (row, target) in residual.iter_mut().zip(&self.targets) {
            row.iter_mut().zip(target).for_each(|(r, t)| *r = (*r - t) / 8.0);
        }
        let grad = oracle::product(&oracle::transpose(&residual), &self.inputs);
        let loss = oracle::frobenius(&residual).powi(2);
        (loss, grad.iter().flatten().map(|g| g / 4.0).collect())
    }
}

#[test]
fn a_regression_is_learned_by_every_optimizer() {
    let steps = 200;
    for (dev, _) in devices() {
        for shape in [[8, 8], [4, 12], [12, 4]] {
            for (uses, lr) in [("adamw", 0.1), ("muon", 0.1), ("normuon", 0.1)] {
                let json =
                    format!(r#"{{ "all": {{ "params": ["**"], "uses": "{uses}", "lr": {lr} }} }}"#);
                let groups = merge(vec![], &serde_json::from_str(&json).unwrap()).unwrap();
                let specs = resolve(&groups, &[("w", Shape::from(shape), ParamId(0))]).unwrap();
                let mut params = Params::new(&*dev, specs).unwrap();
                let given = Overrides { batch_tokens: Some(524_288), steps: Some(steps) };
                let size = Size {
                    scaling_params: 64,
                    reference_scaling_params: 64,
                    model_dim: 8,
                    depth: 1,
                };
                let preset = OptimPreset::January2026;
                let plan = preset.scaling().plan(&size, &given).unwrap();
                let schedule = preset.schedule();
                let registry = Registry::standard();
                let mut optimizers =
                    Optimizers::new(&registry, &*dev, &groups, &plan, &schedule, &params).unwrap();
                let problem = Regression::new(shape);
                let now = |params: &mut Params| {
                    let w = weight(&*dev, params, 0);
                    problem.loss_and_grad(&oracle::rows(&w, shape[1]))
                };
                let (first, _) = now(&mut params);
                for t in 0..steps {
                    let (_, grad) = now(&mut params);
                    set_grad(&*dev, &mut params, 0, &grad);
                    optimizers.step(&*dev, &mut params, t).unwrap();
                }
                let (last, _) = now(&mut params);
                let what = format!("{} {uses} {shape:?}", dev.name());
                assert!(last < 1e-3 * first, "{what}: {first:.2e} → {last:.2e}");
            }
        }
    }
}
