//! Schedules at every step of short and long runs, against the recipe's formulas written out for each setting, and fixed
//! values of them.

use std::f64::consts::PI;

use farthing_base::Hint;
use farthing_optim::{Decay, Factors, MomentumKeys, OptimPreset, Schedule, ScheduleKeys};

/// Shorter than every warm-up, a small run, and the published d24 run.
const RUNS: [u64; 3] = [30, 500, 16_704];

/// January as its formulas read: (lr, momentum, weight decay).
fn january(t: f64, n: f64, w: f64) -> [f64; 3] {
    let lr = if t <= n - w { 1.0 } else { (n - t) / w };
    let momentum = 0.85 + (0.95 - 0.85) * (t / 300.0).min(1.0);
    [lr, momentum, (n - t) / n]
}

/// July as its formulas read.
fn july(t: f64, n: f64, w: f64) -> [f64; 3] {
    let lr = if t < 40.0 {
        (t + 1.0) / 40.0
    } else if t <= n - w {
        1.0
    } else {
        0.05 + 0.95 * (n - t) / w
    };
    let momentum = if t < 400.0 {
        0.85 + 0.12 * t / 400.0
    } else if t >= n - w {
        0.90 + 0.07 * (n - t) / w
    } else {
        0.97
    };
    [lr, momentum, (PI * t / n / 2.0).cos().powi(2)]
}

fn assert_near(what: &str, got: Factors, [lr, momentum, weight_decay]: [f64; 3], within: f64) {
    let pairs = [
        ("lr", got.lr, lr),
        ("momentum", got.momentum, momentum),
        ("weight decay", got.weight_decay, weight_decay),
    ];
    for (key, got, expected) in pairs {
        assert!((got - expected).abs() <= within, "{what}: {key} is {got}, expected {expected}");
    }
}

#[test]
fn every_step_follows_the_formulas() {
    // W = round(0.5·N) and round(0.65·N) by hand: 30 → 15, 19.5 → 20; 500 → 250, 325; 16,704 → 8,352, 10,857.6 → 10,858.
    let warmdown = [(15.0, 20.0), (250.0, 325.0), (8352.0, 10_858.0)];
    for (n, (w_january, w_july)) in RUNS.into_iter().zip(warmdown) {
        for t in 0..n {
            let (tf, nf) = (t as f64, n as f64);
            let what = format!("step {t} of {n}");
            let [jan, jul] = [OptimPreset::January2026, OptimPreset::July2026]
                .map(|preset| preset.schedule().at(t, n));
            assert_near(&what, jan, january(tf, nf, w_january), 1e-12);
            assert_near(&what, jul, july(tf, nf, w_july), 1e-12);
        }
    }
}

/// Fixed values: the recipe's formulas evaluated by Python 3 in float64 (`round`, `math.cos`), printed to 12 digits.
#[test]
fn fixed_values() {
    let golden: [(OptimPreset, u64, u64, [f64; 3]); 14] = [
        (
            OptimPreset::January2026,
            29,
            30,
            [0.066_666_666_667, 0.859_666_666_667, 0.033_333_333_333],
        ),
        (OptimPreset::January2026, 299, 500, [0.804, 0.949_666_666_667, 0.402]),
        (OptimPreset::January2026, 499, 500, [0.004, 0.95, 0.002]),
        (OptimPreset::January2026, 8352, 16_704, [1.0, 0.95, 0.5]),
        (OptimPreset::January2026, 12_000, 16_704, [0.563_218_390_805, 0.95, 0.281_609_195_402]),
        (OptimPreset::January2026, 16_703, 16_704, [0.000_119_731_801, 0.95, 0.000_059_865_900]),
        (OptimPreset::July2026, 29, 30, [0.75, 0.8587, 0.002_739_052_316]),
        (OptimPreset::July2026, 175, 500, [1.0, 0.9025, 0.726_995_249_870]),
        (OptimPreset::July2026, 176, 500, [0.997_076_923_077, 0.9028, 0.724_191_608_045]),
        (
            OptimPreset::July2026,
            400,
            500,
            [0.342_307_692_308, 0.921_538_461_538, 0.095_491_502_813],
        ),
        (OptimPreset::July2026, 5846, 16_704, [1.0, 0.97, 0.727_028_764_308]),
        (
            OptimPreset::July2026,
            5847,
            16_704,
            [0.999_912_506_907, 0.969_993_553_141, 0.726_944_975_803],
        ),
        (
            OptimPreset::July2026,
            12_000,
            16_704,
            [0.461_567_507_828, 0.930_326_026_893, 0.183_239_709_920],
        ),
        (
            OptimPreset::July2026,
            16_703,
            16_704,
            [0.050_087_493_093, 0.900_006_446_859, 0.000_000_008_843],
        ),
    ];
    for (preset, t, n, expected) in golden {
        assert_near(&format!("{preset:?} {t}/{n}"), preset.schedule().at(t, n), expected, 1e-12);
    }
}

#[test]
fn half_a_step_of_warm_down_rounds_to_even_as_python_does() {
    let schedule = OptimPreset::January2026.schedule();
    assert_eq!([3, 5, 7, 501].map(|n| schedule.warmdown_steps(n)), [2, 2, 4, 250]);
}

#[test]
fn a_run_shorter_than_its_warm_up_stays_in_it() {
    let schedule = OptimPreset::July2026.schedule();
    let rates: Vec<f64> = (0..5).map(|t| schedule.lr(t, 5)).collect();
    assert_eq!(rates, [1.0 / 40.0, 2.0 / 40.0, 3.0 / 40.0, 4.0 / 40.0, 5.0 / 40.0]);
    assert_eq!(schedule.momentum(4, 5), 0.99 * 0.85 + 0.01 * 0.97);
}

#[test]
fn nothing_breaks_at_the_ends() {
    for preset in OptimPreset::ALL {
        for warmdown_frac in [0.0, 0.3, 1.0] {
            let schedule = Schedule { warmdown_frac, ..preset.schedule() };
            for n in 0..60 {
                for t in 0..=n + 2 {
                    let Factors { lr, momentum, weight_decay } = schedule.at(t, n);
                    assert!((0.0..=1.0).contains(&lr), "lr {lr} at {t} of {n}");
                    assert!((0.85..=0.97).contains(&momentum), "momentum {momentum} at {t} of {n}");
                    assert!((0.0..=1.0).contains(&weight_decay), "{weight_decay} at {t} of {n}");
                }
            }
        }
    }
    let constant = Schedule { weight_decay: Decay::Constant, ..OptimPreset::July2026.schedule() };
    assert_eq!(constant.weight_decay(499, 500), 1.0);
}

#[test]
fn a_file_changes_what_it_names() {
    let keys = ScheduleKeys {
        warmup_steps: Some(5),
        final_lr_frac: Some(0.1),
        momentum: Some(MomentumKeys { end: Some(0.8), ..MomentumKeys::default() }),
        weight_decay: Some(Decay::Constant),
        ..ScheduleKeys::default()
    };
    let base = OptimPreset::January2026.schedule();
    let got = keys.schedule(OptimPreset::January2026).ok();
    let expected = Schedule {
        warmup_steps: 5,
        final_lr_frac: 0.1,
        momentum: farthing_optim::Momentum { end: Some(0.8), ..base.momentum },
        weight_decay: Decay::Constant,
        ..base
    };
    assert_eq!(got, Some(expected));
    let wrong = ScheduleKeys { warmdown_frac: Some(1.5), ..ScheduleKeys::default() };
    let said = wrong.schedule(OptimPreset::July2026).map_err(|e| e.with_hint());
    assert_eq!(said, Err("warmdown_frac is 1.5\nhint: 0 to 1".into()));
}
