//! Both rules, over several steps with state, against an evaluation in plain f64 that shares no code with the crate.

use crate::common;

use common::oracle::{self, Matrix};
use common::{devices, distance, numbers, set_grad, set_weight, spec, weight};
use farthing_base::Hint;
use farthing_kernels::{Device, Params};
use farthing_optim::{
    AdamW, AdamWConfig, Hyper, NorMuon, NorMuonConfig, OptimPreset, Optimizer, Registry,
};
use serde_json::json;

/// What the issue asks for on any device.
const WITHIN: f64 = 1e-5;

/// Wide, tall, square, one row, one column, and the shape of a value-embedding gate.
const SHAPES: [[usize; 2]; 7] = [[8, 24], [24, 8], [12, 12], [1, 16], [16, 1], [2, 32], [33, 17]];

fn step_hyper(t: u64) -> Hyper {
    // Every number changes from step to step, as under a schedule.
    Hyper {
        step: t + 1,
        lr: 0.02 / (1.0 + t as f64),
        weight_decay: 0.3 - 0.05 * t as f64,
        momentum: 0.85 + 0.02 * t as f64,
    }
}

/// Runs `steps` steps on slab (K, R, S) with one optimizer and gives the weights after each.
fn on_device(
    dev: &dyn Device,
    optimizer: &mut dyn Optimizer,
    k: usize,
    shape: &[usize],
    steps: u64,
) -> Vec<Vec<f64>> {
    let shape = farthing_kernels::Shape::from_dims(shape).unwrap();
    let n = k * shape.elements();
    let mut params = Params::new(dev, vec![spec("g", k, shape)]).unwrap();
    set_weight(dev, &mut params, 0, &numbers(1, n));
    let mut trace = vec![];
    for t in 0..steps {
        set_grad(dev, &mut params, 0, &numbers(100 + t, n));
        optimizer.step(dev, &mut params.slab(0), &step_hyper(t)).unwrap();
        trace.push(weight(dev, &mut params, 0));
    }
    trace
}

/// The same by the oracle.
fn muon_by_formula(c: &NorMuonConfig, k: usize, [r, s]: [usize; 2], steps: u64) -> Vec<Vec<f64>> {
    let n = r * s;
    let mut p: Vec<Matrix> = numbers(1, k * n).chunks(n).map(|p| oracle::rows(p, s)).collect();
    let mut buf = vec![vec![vec![0.0; s]; r]; k];
    let mut second = vec![vec![0.0; r.max(s)]; k];
    let mut trace = vec![];
    for t in 0..steps {
        let Hyper { lr, weight_decay, momentum, .. } = step_hyper(t);
        let h = oracle::Muon {
            lr,
            weight_decay,
            momentum,
            equilibrate: c.equilibrate,
            safety: c.safety,
            steps: c.steps,
            renormalize: c.renormalize,
            beta2: c.variance_reduction.then_some(c.beta2),
            cautious: c.cautious,
        };
        let g = numbers(100 + t, k * n);
        for (i, g) in g.chunks(n).enumerate() {
            oracle::muon(&h, &mut p[i], &mut buf[i], &mut second[i], &oracle::rows(g, s));
        }
        trace.push(p.iter().flatten().flatten().copied().collect());
    }
    trace
}

/// Compares what moved, not what stayed: `p_t − p_0` relative to its own norm.
fn assert_moved_alike(what: &str, got: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64) {
    let start = numbers(1, got[0].len());
    let moved = |p: &[f64]| p.iter().zip(&start).map(|(p, p0)| p - p0).collect::<Vec<_>>();
    for (t, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = distance(&moved(got), &moved(expected));
        assert!(error <= tolerance, "{what}, step {t}: {error:.2e} > {tolerance:.0e}");
    }
}

fn preset_config(preset: OptimPreset) -> NorMuonConfig {
    let matrices = preset.groups().into_iter().find(|g| g.name == "matrices").unwrap();
    serde_json::from_value(matrices.options.into()).unwrap()
}

fn settings() -> Vec<(&'static str, NorMuonConfig)> {
    let plain = NorMuonConfig {
        equilibrate: false,
        renormalize: false,
        variance_reduction: false,
        cautious: false,
        ..NorMuonConfig::default()
    };
    vec![
        ("January", preset_config(OptimPreset::January2026)),
        ("July", preset_config(OptimPreset::July2026)),
        ("plain", plain),
        ("plain, 3 steps, cautious", NorMuonConfig { steps: 3, cautious: true, ..plain }),
        ("July, not cautious", NorMuonConfig { cautious: false, ..NorMuonConfig::default() }),
    ]
}

#[test]
fn the_settings_are_what_the_recipe_says() {
    let july = NorMuonConfig {
        equilibrate: true,
        safety: 1.01,
        steps: 5,
        renormalize: true,
        variance_reduction: true,
        beta2: 0.9,
        cautious: true,
    };
    let january =
        NorMuonConfig { equilibrate: false, safety: 1.02, renormalize: false, beta2: 0.95, ..july };
    assert_eq!(preset_config(OptimPreset::January2026), january);
    assert_eq!(preset_config(OptimPreset::July2026), july);
    assert_eq!(NorMuonConfig::default(), july, "July is the default where a value is not named");
}

#[test]
fn muon_equals_its_formulas() {
    for (dev, tolerance) in devices() {
        for (name, config) in settings() {
            for shape in SHAPES {
                let k = 3;
                let mut muon = NorMuon::new(config, &*dev, &spec("g", k, shape)).unwrap();
                let got = on_device(&*dev, &mut muon, k, &shape, 4);
                let expected = muon_by_formula(&config, k, shape, 4);
                let what = format!("{} {name} {shape:?}", dev.name());
                assert_moved_alike(&what, &got, &expected, tolerance.max(1e-13));
                assert!(distance(&got[3], &expected[3]) <= WITHIN, "{what}");
            }
        }
    }
}

#[test]
fn adamw_equals_its_formulas() {
    for (dev, tolerance) in devices() {
        for betas in [[0.8, 0.95], [0.96, 0.95], [0.8, 0.995]] {
            for shape in [&[5, 7][..], &[6][..]] {
                let config = AdamWConfig { betas, ..AdamWConfig::default() };
                let dims = farthing_kernels::Shape::from_dims(shape).unwrap();
                let k = 2;
                let mut adamw = AdamW::new(config, &*dev, &spec("g", k, dims)).unwrap();
                let got = on_device(&*dev, &mut adamw, k, shape, 5);

                let n = k * dims.elements();
                let (mut p, mut m, mut v) = (numbers(1, n), vec![0.0; n], vec![0.0; n]);
                let mut expected = vec![];
                for t in 0..5 {
                    let Hyper { lr, weight_decay, .. } = step_hyper(t);
                    let [beta1, beta2] = betas;
                    let h = oracle::AdamW { lr, beta1, beta2, eps: 1e-10, weight_decay };
                    let g = numbers(100 + t, n);
                    oracle::adamw(&h, t as i32 + 1, &mut p, &mut m, &mut v, &g);
                    expected.push(p.clone());
                }
                let what = format!("{} AdamW {betas:?} {shape:?}", dev.name());
                assert_moved_alike(&what, &got, &expected, tolerance);
                assert!(distance(&got[4], &expected[4]) <= WITHIN, "{what}");
            }
        }
    }
}

#[test]
fn a_stack_is_updated_as_its_matrices_one_by_one() {
    for (dev, _) in devices() {
        for (name, config) in settings() {
            for shape in [[8, 24], [24, 8], [12, 12]] {
                let (k, n) = (4, shape[0] * shape[1]);
                let mut whole = NorMuon::new(config, &*dev, &spec("g", k, shape)).unwrap();
                let batched = on_device(&*dev, &mut whole, k, &shape, 3);
                for i in 0..k {
                    let mut one = NorMuon::new(config, &*dev, &spec("g", 1, shape)).unwrap();
                    let mut params = Params::new(&*dev, vec![spec("g", 1, shape)]).unwrap();
                    let own = i * n..(i + 1) * n;
                    set_weight(&*dev, &mut params, 0, &numbers(1, k * n)[own.clone()]);
                    for t in 0..3 {
                        set_grad(&*dev, &mut params, 0, &numbers(100 + t, k * n)[own.clone()]);
                        one.step(&*dev, &mut params.slab(0), &step_hyper(t)).unwrap();
                    }
                    let alone = weight(&*dev, &mut params, 0);
                    assert_eq!(alone, batched[2][own], "{} {name} {shape:?} {i}", dev.name());
                }
            }
        }
    }
}

#[test]
fn muon_is_normuon_with_the_rest_off() {
    let options = serde_json::Map::new();
    for (dev, _) in devices() {
        let spec = spec("g", 2, [6, 9]);
        let mut muon = Registry::standard().build("muon", &options, &*dev, &spec).unwrap();
        let (_, plain) = settings().swap_remove(2);
        let mut same = NorMuon::new(plain, &*dev, &spec).unwrap();
        let a = on_device(&*dev, &mut *muon, 2, &[6, 9], 3);
        assert_eq!(a, on_device(&*dev, &mut same, 2, &[6, 9], 3));
        let names: Vec<String> = muon.state().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["buf"]);
    }
}

#[test]
fn a_vector_and_a_foreign_slab_are_refused() {
    let (dev, _) = devices().swap_remove(0);
    let Err(error) = NorMuon::new(NorMuonConfig::default(), &*dev, &spec("matrices", 1, [4]))
    else {
        panic!("a vector was accepted");
    };
    assert_eq!(
        error.with_hint(),
        "optimizer `normuon` of group `matrices` cannot update p0: its shape is (4), expected a matrix (R, S)\n\
         hint: match this parameter in a group that uses another optimizer, such as `adamw`"
    );
    let mut muon = NorMuon::new(NorMuonConfig::default(), &*dev, &spec("g", 1, [4, 6])).unwrap();
    let mut adamw = AdamW::new(AdamWConfig::default(), &*dev, &spec("g", 1, [4, 6])).unwrap();
    let mut params = Params::new(&*dev, vec![spec("g", 1, [6, 4])]).unwrap();
    for (name, optimizer) in [("normuon", &mut muon as &mut dyn Optimizer), ("adamw", &mut adamw)] {
        let error = optimizer.step(&*dev, &mut params.slab(0), &step_hyper(0)).unwrap_err();
        assert_eq!(
            error.with_hint(),
            format!(
                "optimizer `{name}` was built for a slab of shape (1, 4, 6), given one of (1, 6, 4)\n\
                 hint: build one optimizer for each slab of `Params::specs`"
            )
        );
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_key() {
    let registry = Registry::standard();
    let refused = |uses, json: serde_json::Value| {
        registry.check(uses, json.as_object().unwrap()).unwrap_err().with_hint()
    };
    assert_eq!(
        refused("adamw", json!({ "betas": [0.8, 1.0] })),
        "betas is 1\nhint: each beta is at least 0 and below 1"
    );
    assert_eq!(refused("adamw", json!({ "eps": 0.0 })), "eps is 0\nhint: eps is above 0");
    assert_eq!(refused("normuon", json!({ "steps": 6 })), "steps is 6\nhint: 1 to 5 steps");
    assert_eq!(refused("muon", json!({ "steps": 0 })), "steps is 0\nhint: 1 to 5 steps");
    assert_eq!(
        refused("normuon", json!({ "safety": 0.5 })),
        "safety is 0.5\nhint: safety is at least 1"
    );
    assert_eq!(
        refused("normuon", json!({ "beta2": 1.5 })),
        "beta2 is 1.5\nhint: beta2 is at least 0 and below 1"
    );
    assert_eq!(
        refused("adamw", json!({ "beta": [0.8, 0.9] })),
        "optimizer `adamw` has no key `beta`\nhint: did you mean `betas`? there are: betas, eps"
    );
    assert_eq!(
        refused("adamw", json!({ "betas": "high" })),
        "optimizer `adamw`: invalid type: string \"high\", expected an array of length 2\n\
         hint: its keys are betas, eps"
    );
    assert_eq!(
        refused("adamv", json!({})),
        "no optimizer is called `adamv`\nhint: did you mean `adamw`? there are: adamw, muon, normuon"
    );
}
