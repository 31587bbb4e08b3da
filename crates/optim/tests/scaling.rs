//! The dial's figures, against the recipe's formulas and the published runs.

use farthing_base::Hint;
use farthing_optim::{BatchRule, OptimPreset, Overrides, Plan, Scaling, ScheduleKeys, Size};

/// The recipe's parameter count: 12·C² per layer, a (K, G) gate on every other layer from the last, and lm_head (V, C).
fn scaling_params(depth: u64, gate_channels: u64) -> (u64, usize) {
    let (head_dim, vocab) = (128, 32_768);
    let c = (depth * 64).div_ceil(head_dim) * head_dim;
    let heads = c / head_dim;
    let gated_layers = depth.div_ceil(2);
    (depth * 12 * c * c + gated_layers * heads * gate_channels + vocab * c, c as usize)
}

fn size(depth: u64, preset: OptimPreset) -> Size {
    let gate = if preset == OptimPreset::January2026 { 32 } else { 12 };
    let (scaling_params, model_dim) = self::scaling_params(depth, gate);
    let (reference_scaling_params, _) = self::scaling_params(12, gate);
    Size { scaling_params, reference_scaling_params, model_dim, depth: depth as usize }
}

fn plan(preset: OptimPreset, depth: u64) -> Plan {
    preset.scaling().plan(&size(depth, preset), &Overrides::default()).unwrap()
}

/// The published run of January: d24 at 12 tokens per parameter, 16,704 steps of 524,288 tokens.
#[test]
fn the_published_run_of_january() {
    let size = size(24, OptimPreset::January2026);
    assert_eq!((size.scaling_params, size.model_dim), (729_813_504, 1536));
    let plan = plan(OptimPreset::January2026, 24);
    assert_eq!((plan.tokens, plan.batch_tokens, plan.steps), (8_757_762_048, 524_288, 16_704));
    assert_eq!(plan.lr_scale, 1.0);
    assert!((plan.width_lr_scale - 0.5f64.sqrt()).abs() < 1e-15);
    assert_eq!(0.2 * plan.weight_decay_scale, 0.2 * 0.25);
    assert_eq!(
        plan.explanation,
        [
            "horizon 8,757,762,048 tokens = 12 per parameter × 729,813,504 scaling parameters (blocks' matrices + lm_head)",
            "batch 524,288 tokens, fixed",
            "16,704 steps = horizon / batch, rounded down",
            "learning rates × 1.000000 = √(batch / 524,288)",
            "learning rates of embeddings and lm_head × 0.707107 = (1536 / 768)^-0.5",
            "weight decay of matrices × 0.250000 = (12 / 24)²",
        ]
    );
}

/// Fixed values: the recipe's formulas evaluated by Python 3 in float64 (batch, steps, √ of the batch's ratio, width's
/// factor, weight decay 0.28 · …), printed to 9 digits.
#[test]
fn july_at_several_depths() {
    let golden: [(u64, u64, u64, f64, f64, f64); 8] = [
        (4, 262_144, 528, 0.707_106_781, 1.732_050_808, 1.889_903_129),
        (6, 262_144, 1062, 0.707_106_781, 1.414_213_562, 0.939_612_391),
        (8, 262_144, 1920, 0.707_106_781, 1.224_744_871, 0.519_723_144),
        (12, 524_288, 2520, 1.0, 1.0, 0.28),
        (16, 524_288, 5376, 1.0, 0.866_025_404, 0.131_250_086),
        (20, 1_048_576, 4980, 1.414_213_562, 0.774_596_669, 0.100_187_776),
        (24, 1_048_576, 8352, 1.414_213_562, 0.707_106_781, 0.059_738_424),
        (32, 2_097_152, 9600, 2.0, 0.612_372_436, 0.036_750_077),
    ];
    for (depth, batch, steps, lr, width, decay) in golden {
        let plan = plan(OptimPreset::July2026, depth);
        assert_eq!((plan.batch_tokens, plan.steps), (batch, steps), "depth {depth}");
        for (got, expected) in [
            (plan.lr_scale, lr),
            (plan.width_lr_scale, width),
            (0.28 * plan.weight_decay_scale, decay),
        ] {
            assert!((got - expected).abs() < 1e-9, "depth {depth}: {got}, expected {expected}");
        }
    }
    assert_eq!(
        plan(OptimPreset::July2026, 24).explanation[1],
        "batch 1,048,576 tokens = 2^round(log2(524,288 × (horizon / 1,321,210,944 at depth 12)^0.383 = 1,081,866))"
    );
}

#[test]
fn what_is_given_replaces_what_is_derived_and_no_more() {
    let size = size(24, OptimPreset::July2026);
    let rules = OptimPreset::July2026.scaling();
    let derived = rules.plan(&size, &Overrides::default()).unwrap();
    let given = Overrides { batch_tokens: None, steps: Some(100) };
    let short = rules.plan(&size, &given).unwrap();
    assert_eq!((short.steps, short.tokens), (100, derived.tokens));
    assert_eq!(
        short.batch_tokens, derived.batch_tokens,
        "the horizon feeds the batch, not the steps"
    );
    assert_eq!(short.weight_decay_scale, derived.weight_decay_scale);
    assert_eq!(short.trained_tokens(), 104_857_600);

    let given = Overrides { batch_tokens: Some(131_072), steps: None };
    let small = rules.plan(&size, &given).unwrap();
    assert_eq!((small.batch_tokens, small.lr_scale), (131_072, 0.5));
    assert_eq!(small.steps, 8_757_727_488 / 131_072);
}

#[test]
fn keys_of_a_file_lie_over_the_preset() {
    let keys = ScheduleKeys {
        tokens_per_param: Some(8.0),
        batch_rule: Some(BatchRule::Fixed),
        steps: Some(7),
        ..ScheduleKeys::default()
    };
    let base = OptimPreset::July2026.scaling();
    let expected = Scaling { tokens_per_param: 8.0, batch: BatchRule::Fixed, ..base };
    assert_eq!(keys.scaling(OptimPreset::July2026), expected);
    assert_eq!(keys.overrides(), Overrides { batch_tokens: None, steps: Some(7) });
}

#[test]
fn a_horizon_shorter_than_a_batch_is_refused_with_both_figures() {
    let size =
        Size { scaling_params: 1000, reference_scaling_params: 100_000, model_dim: 64, depth: 1 };
    let error = |scaling: Scaling, given| scaling.plan(&size, &given).unwrap_err().with_hint();
    let january = OptimPreset::January2026.scaling();
    assert_eq!(
        error(january, Overrides::default()),
        "the horizon of 12,000 tokens is shorter than one batch of 524,288 tokens\n\
         hint: lower `batch_tokens`, raise `tokens_per_param`, or give `steps`"
    );
    let nothing = Scaling { tokens_per_param: 0.0, ..january };
    assert_eq!(
        error(nothing, Overrides::default()),
        "tokens_per_param is 0\nhint: a number above 0; the recipe's is 12"
    );
    assert_eq!(
        error(january, Overrides { steps: Some(0), batch_tokens: None }),
        "steps: 0\nhint: a number above 0"
    );
}
