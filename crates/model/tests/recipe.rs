//! What recipe.md pins of the structure: names, shapes, starting values, windows, counts, and where the two settings differ.

use crate::common;

use std::collections::BTreeMap;

use common::{BOTH, Model, Tokens, VOCAB, config, variants};
use farthing_base::Hint;
use farthing_kernels::Params;
use farthing_kernels::reference::Reference;
use farthing_model::{Error, Gpt, GptConfig, Init, Mlp, Mode, ModelConfig, Preset};

const JANUARY: Preset = Preset::Nanochat202601;
const JULY: Preset = Preset::Nanochat202607;

fn full(preset: Preset, depth: usize) -> GptConfig {
    ModelConfig::new(preset, depth).resolve(32_768, 2048).unwrap()
}

fn inits(gpt: &Gpt) -> BTreeMap<String, Init> {
    gpt.params().iter().map(|spec| (spec.name.clone(), spec.init.clone())).collect()
}

#[test]
fn d24_has_the_published_shape() {
    for preset in BOTH {
        let config = full(preset, 24);
        assert_eq!((config.model_dim, config.heads, config.kv_heads), (1536, 12, 12));
        let with_ve: Vec<usize> = (0..24).filter(|&i| config.has_value_embed(i)).collect();
        assert_eq!(with_ve, (1..24).step_by(2).collect::<Vec<_>>());
        let windows: Vec<usize> = (0..24).map(|i| config.window(i)).collect();
        let short = if preset == JANUARY { 1024 } else { 512 };
        for (i, &window) in windows.iter().enumerate() {
            assert_eq!(window, if i % 4 == 3 { 2048 } else { short }, "layer {i}");
        }
    }
}

#[test]
fn the_last_layer_is_long_whatever_the_pattern() {
    let mut config = full(JULY, 6);
    assert_eq!(
        (0..6).map(|i| config.window(i)).collect::<Vec<_>>(),
        [512, 512, 512, 2048, 512, 2048]
    );
    config.window_pattern = "S".into();
    assert_eq!(
        (0..6).map(|i| config.window(i)).collect::<Vec<_>>(),
        [512, 512, 512, 512, 512, 2048]
    );
    assert_eq!(config.backout_layer(), 3);
}

#[test]
fn short_windows_follow_each_settings_rule() {
    let short = |preset, t| ModelConfig::new(preset, 2).resolve(100, t).unwrap().short_window;
    assert_eq!([short(JANUARY, 2048), short(JANUARY, 25), short(JANUARY, 144)], [1024, 12, 72]);
    assert_eq!(
        [short(JULY, 2048), short(JULY, 2049), short(JULY, 144), short(JULY, 1)],
        [512, 640, 128, 128]
    );
}

/// By hand, V = 32,768. d24, C = 1,536: a block's matrices are 12·C² = 28,311,552, 24 of them 679,477,248; lm_head 50,331,648;
/// 12 gates of 12 heads · 32 channels (January) 4,608, · 12 channels (July) 1,728. Attention per token: 12·1536·(18 short + 6 long).
#[test]
fn d24_counts_and_flops_are_those_worked_out_by_hand() {
    let (january, july) = (full(JANUARY, 24), full(JULY, 24));
    assert_eq!(january.scaling_params(), 679_477_248 + 50_331_648 + 4_608);
    assert_eq!(july.scaling_params(), 679_477_248 + 50_331_648 + 1_728);
    let attention = |short: f64| 12.0 * 1536.0 * (18.0 * short + 6.0 * 2048.0);
    assert_eq!(january.flops_per_token(), 6.0 * 729_813_504.0 + attention(1024.0));
    assert_eq!(july.flops_per_token(), 6.0 * (729_810_624.0 + 24.0) + attention(512.0));
}

/// d12, C = 768: 12 blocks of 12·768² = 7,077,888; lm_head 25,165,824; 6 gates of 6 heads.
#[test]
fn d12_counts_and_flops_are_those_worked_out_by_hand() {
    let (january, july) = (full(JANUARY, 12), full(JULY, 12));
    assert_eq!(january.scaling_params(), 84_934_656 + 25_165_824 + 6 * 6 * 32);
    assert_eq!(july.scaling_params(), 84_934_656 + 25_165_824 + 6 * 6 * 12);
    assert_eq!(
        july.flops_per_token(),
        6.0 * (110_100_912.0 + 24.0) + 12.0 * 768.0 * (9.0 * 512.0 + 3.0 * 2048.0)
    );
}

/// January's run: 16,704 steps of 524,288 tokens at 12 tokens per scaling parameter.
#[test]
fn the_published_horizon_follows_from_the_count() {
    let tokens = (12.0 * full(JANUARY, 24).scaling_params() as f64) as u64;
    assert_eq!(tokens / 524_288, 16_704);
}

#[test]
fn counts_agree_with_the_parameters_listed() {
    for preset in BOTH {
        for (depth, mlp) in [(1, Mlp::Relu2), (3, Mlp::Relu2), (4, Mlp::Relu2), (3, Mlp::Swiglu)] {
            let gpt = Gpt::new(GptConfig { mlp, ..full(preset, depth) }).unwrap();
            let elements = |keep: &dyn Fn(&str) -> bool| -> u64 {
                let kept = gpt.params().iter().filter(|spec| keep(&spec.name));
                kept.map(|spec| spec.shape.elements() as u64).sum()
            };
            let scaling =
                elements(&|name| name.starts_with("transformer.h.") || name == "lm_head.weight");
            assert_eq!(gpt.config().scaling_params(), scaling);
            assert_eq!(gpt.param_count(), elements(&|_| true));
        }
    }
}

#[test]
fn names_and_shapes_are_nanochats() {
    let listed = |preset| -> Vec<String> {
        let gpt = Gpt::new(config(preset, 16)).unwrap();
        gpt.params().iter().map(|spec| format!("{} {}", spec.name, spec.shape)).collect()
    };
    assert_eq!(
        listed(JANUARY),
        [
            "transformer.wte.weight (64, 32)",
            "transformer.h.0.attn.c_q.weight (32, 32)",
            "transformer.h.0.attn.c_k.weight (32, 32)",
            "transformer.h.0.attn.c_v.weight (32, 32)",
            "transformer.h.0.attn.c_proj.weight (32, 32)",
            "transformer.h.0.mlp.c_fc.weight (128, 32)",
            "transformer.h.0.mlp.c_proj.weight (32, 128)",
            "transformer.h.1.attn.c_q.weight (32, 32)",
            "transformer.h.1.attn.c_k.weight (32, 32)",
            "transformer.h.1.attn.c_v.weight (32, 32)",
            "transformer.h.1.attn.c_proj.weight (32, 32)",
            "transformer.h.1.attn.ve_gate.weight (2, 32)",
            "transformer.h.1.mlp.c_fc.weight (128, 32)",
            "transformer.h.1.mlp.c_proj.weight (32, 128)",
            "value_embeds.1.weight (64, 32)",
            "lm_head.weight (64, 32)",
            "resid_lambdas (2)",
            "x0_lambdas (2)",
        ]
    );
    let july = listed(JULY);
    let grouped = [
        "transformer.h.1.attn.ve_gate.weight (1, 12)",
        "transformer.h.0.attn.c_k.weight (16, 32)",
        "value_embeds.1.weight (64, 16)",
    ];
    for line in grouped {
        assert!(july.iter().any(|l| l == line), "{line} in {july:?}");
    }
    assert_eq!(
        july[july.len() - 3..],
        ["smear_gate.weight (1, 24)", "smear_lambda (1)", "backout_lambda (1)"]
    );
}

/// Three matrices of 8/3·C are two of 4·C: exactly where C is a multiple of 6, else to the nearest multiple of 16.
#[test]
fn swiglu_has_the_parameters_and_flops_of_relu2() {
    for depth in [12, 24] {
        let plain = full(JULY, depth);
        let swiglu = GptConfig { mlp: Mlp::Swiglu, ..plain.clone() };
        assert_eq!(swiglu.mlp_dim(), 8 * plain.model_dim / 3);
        assert_eq!(swiglu.scaling_params(), plain.scaling_params());
        assert_eq!(swiglu.flops_per_token(), plain.flops_per_token());
    }
    let width = |c: usize| GptConfig { model_dim: c, mlp: Mlp::Swiglu, ..full(JULY, 4) }.mlp_dim();
    assert_eq!([1, 32, 128, 512, 1280].map(width), [16, 80, 336, 1360, 3408]);
    for c in 1..2000 {
        let off = width(c) as f64 - 8.0 * c as f64 / 3.0;
        assert!(width(c) % 16 == 0 && (off.abs() <= 8.0 || width(c) == 16), "{c}: {off}");
    }
}

#[test]
fn a_variants_parameters_are_the_recipes_but_for_what_it_changes() {
    let shapes = |config: &GptConfig| -> Vec<String> {
        let gpt = Gpt::new(config.clone()).unwrap();
        gpt.params().iter().map(|spec| format!("{} {}", spec.name, spec.shape)).collect()
    };
    let plain = shapes(&config(JULY, 16));
    let [half_rotary, swiglu, _] = variants(16);
    assert_eq!(shapes(&half_rotary), plain);
    let swiglu = shapes(&swiglu);
    let changed: Vec<&String> = swiglu.iter().filter(|line| !plain.contains(line)).collect();
    assert_eq!(
        changed,
        [
            "transformer.h.0.mlp.c_gate.weight (80, 32)",
            "transformer.h.0.mlp.c_fc.weight (80, 32)",
            "transformer.h.0.mlp.c_proj.weight (32, 80)",
            "transformer.h.1.mlp.c_gate.weight (80, 32)",
            "transformer.h.1.mlp.c_fc.weight (80, 32)",
            "transformer.h.1.mlp.c_proj.weight (32, 80)",
        ]
    );
    assert_eq!(swiglu.len(), plain.len() + 2);
}

/// Old checkpoints load and nothing that is cached is computed again: a variant that is off does not show.
#[test]
fn a_variant_that_is_off_is_not_in_the_configuration() {
    let plain = serde_json::to_value(full(JULY, 4)).unwrap();
    assert!(plain.get("mlp").is_none() && plain.get("rotary_fraction").is_none());
    let spelled_out = ModelConfig {
        mlp: Some(Mlp::Relu2),
        rotary_fraction: Some(1.0),
        ..ModelConfig::new(JULY, 4)
    };
    let resolved = spelled_out.resolve(32_768, 2048).unwrap();
    assert_eq!(serde_json::to_value(&resolved).unwrap(), plain);
    assert_eq!(serde_json::from_value::<GptConfig>(plain).unwrap(), resolved);
}

#[test]
fn starting_values_are_those_of_each_setting() {
    let s = (3.0f64 / 1536.0).sqrt();
    let (january, july) =
        (inits(&Gpt::new(full(JANUARY, 24)).unwrap()), inits(&Gpt::new(full(JULY, 24)).unwrap()));
    let uniform = |bound: f64| Init::Uniform { low: -bound, high: bound };
    for both in [&january, &july] {
        assert_eq!(both["lm_head.weight"], Init::Normal { std: 0.001 });
        for name in ["attn.c_q", "attn.c_k", "attn.c_v"] {
            assert_eq!(both[&format!("transformer.h.5.{name}.weight")], uniform(s));
        }
        assert_eq!(both["value_embeds.5.weight"], uniform(s));
        assert_eq!(both["transformer.h.5.attn.c_proj.weight"], Init::Constant(0.0));
        assert_eq!(both["transformer.h.5.mlp.c_proj.weight"], Init::Constant(0.0));
    }
    assert_eq!(january["transformer.wte.weight"], Init::Normal { std: 1.0 });
    assert_eq!(july["transformer.wte.weight"], Init::Normal { std: 0.8 });
    assert_eq!(january["transformer.h.5.mlp.c_fc.weight"], uniform(s));
    assert_eq!(july["transformer.h.5.mlp.c_fc.weight"], uniform(s * 0.4));
    assert_eq!(january["transformer.h.5.attn.ve_gate.weight"], Init::Constant(0.0));
    assert_eq!(july["transformer.h.5.attn.ve_gate.weight"], Init::Uniform { low: 0.0, high: 0.02 });
    assert_eq!(january["resid_lambdas"], Init::Linear { first: 1.0, last: 1.0 });
    assert_eq!(july["resid_lambdas"], Init::Linear { first: 1.15, last: 1.05 });
    assert_eq!(january["x0_lambdas"], Init::Linear { first: 0.1, last: 0.1 });
    assert_eq!(july["x0_lambdas"], Init::Linear { first: 0.2, last: 0.05 });
    assert!(!january.contains_key("smear_gate.weight") && !january.contains_key("backout_lambda"));
    assert_eq!(july["smear_gate.weight"], Init::Uniform { low: 0.0, high: 0.02 });
    assert_eq!(july["smear_lambda"], Init::Constant(0.0));
    assert_eq!(july["backout_lambda"], Init::Constant(0.2));
}

#[test]
fn settings_that_are_numbers_differ_as_published() {
    let (january, july) = (full(JANUARY, 24), full(JULY, 24));
    let numbers = |c: &GptConfig| {
        (c.rope_base, c.qk_gain, c.ve_gate_channels, c.ve_gate_max, c.logit_softcap)
    };
    assert_eq!(numbers(&january), (10_000.0, 1.0, 32, 2.0, 15.0));
    assert_eq!(numbers(&july), (100_000.0, 1.2, 12, 3.0, 15.0));
    assert_eq!((july.smear, july.smear_channels, july.backout), (true, 24, true));
    assert_eq!((january.smear, january.backout), (false, false));
}

/// Means and standard deviations of the numbers themselves, not only of their description.
#[test]
fn initialised_weights_have_the_moments_that_are_said() {
    let dev = Reference::new();
    let config =
        ModelConfig { head_dim: Some(32), ..ModelConfig::new(JULY, 4) }.resolve(256, 64).unwrap();
    let gpt = Gpt::new(config).unwrap();
    let mut params = Params::new(&dev, gpt.single_group()).unwrap();
    gpt.initialize(&dev, &mut params, 42).unwrap();
    for spec in gpt.params() {
        let x = dev_read(&dev, &params, spec.id);
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let std = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        let (expected_mean, expected_std) = match spec.init {
            Init::Normal { std } => (0.0, std),
            Init::Uniform { low, high } => (f64::midpoint(low, high), (high - low) / 12f64.sqrt()),
            Init::Constant(value) => (value, 0.0),
            _ => continue,
        };
        let slack = 5.0 * expected_std / n.sqrt() + 1e-12;
        assert!((mean - expected_mean).abs() <= slack, "{}: mean {mean}", spec.name);
        assert!((std - expected_std).abs() <= slack, "{}: std {std}", spec.name);
    }
    let resid = dev_read(&dev, &params, gpt.ids().resid_lambdas);
    for (i, lambda) in resid.iter().enumerate() {
        assert!((lambda - (1.15 - 0.10 * i as f64 / 3.0)).abs() < 1e-12);
    }
}

fn dev_read(
    dev: &dyn farthing_kernels::Device,
    params: &Params,
    id: farthing_kernels::ParamId,
) -> Vec<f64> {
    dev.read_f64(params.weights().master(id).unwrap()).unwrap()
}

#[test]
fn the_first_loss_is_that_of_guessing() {
    for preset in BOTH {
        let dev = Reference::new();
        let mut model = Model::new(&dev, config(preset, 16), 2, 16);
        let tokens = Tokens::new(2, 16, 3);
        model.gpt.initialize(&dev, &mut model.params, 1).unwrap();
        let mean = model.loss(&tokens.batch()) / tokens.valid() as f64;
        assert!((mean - (VOCAB as f64).ln()).abs() < 0.01, "{preset:?}: {mean}");
    }
}

#[test]
fn presets_and_keys_read_from_json_and_unknown_keys_are_refused() {
    let read = |text: &str| serde_json::from_str::<ModelConfig>(text);
    let config = read(r#"{"depth": 4, "preset": "nanochat-2026-01", "kv_heads": 1}"#).unwrap();
    assert_eq!((config.preset, config.depth, config.kv_heads), (JANUARY, 4, Some(1)));
    assert_eq!(read(r#"{"depth": 4}"#).unwrap().preset, JULY);
    let text = read(r#"{"depth": 4, "dpeth": 4}"#).unwrap_err().to_string();
    assert!(text.contains("dpeth"), "{text}");
}

#[test]
fn every_key_reaches_the_numbers() {
    let plain = serde_json::to_value(full(JULY, 4)).unwrap();
    let other = serde_json::json!({
        "depth": 4, "aspect_ratio": 32, "head_dim": 64, "heads": 4, "kv_heads": 1, "window_pattern": "SL", "short_window": 7,
        "rope_base": 5.0, "qk_gain": 2.0, "value_embeds": false, "ve_gate_channels": 3, "ve_gate_max": 1.0, "smear": false,
        "smear_channels": 5, "backout": false, "logit_softcap": 30.0, "init_wte_std": 0.1, "init_lm_head_std": 0.2,
        "init_c_fc": 0.3, "init_resid_lambda": [1.0, 2.0], "init_x0_lambda": [3.0, 4.0], "init_ve_gate": 0.5,
        "init_backout_lambda": 0.6, "rotary_fraction": 0.5, "mlp": "swiglu",
    });
    let config: ModelConfig = serde_json::from_value(other.clone()).unwrap();
    let resolved = serde_json::to_value(config.resolve(32_768, 2048).unwrap()).unwrap();
    for (key, value) in other.as_object().unwrap() {
        if key != "depth" && key != "aspect_ratio" {
            assert_eq!(&resolved[key], value, "{key}");
            assert_ne!(Some(&resolved[key]), plain.get(key), "{key}");
        }
    }
    assert_eq!(resolved["model_dim"], 128);
}

#[test]
fn faulty_configurations_say_which_key_and_what_would_do() {
    type Change = fn(&mut GptConfig);
    let cases: [(&str, Change, &str); 11] = [
        ("rotary_fraction", |c| c.rotary_fraction = 0.3, "turns 38.4 of head_dim = 128 channels"),
        ("rotary_fraction", |c| c.rotary_fraction = 1.5, "is 1.5"),
        ("rotary_fraction", |c| c.rotary_fraction = f64::NAN, "is NaN"),
        ("head_dim", |c| c.head_dim = 15, "is 15, an odd number"),
        ("kv_heads", |c| c.kv_heads = 5, "is 5, which does not divide heads = 12"),
        ("window_pattern", |c| c.window_pattern = "SSXL".into(), "has the letter `X`"),
        ("window_pattern", |c| c.window_pattern.clear(), "is empty"),
        ("ve_gate_channels", |c| c.ve_gate_channels = 4096, "is 4096, more than model_dim = 1536"),
        ("short_window", |c| c.short_window = 0, "is 0"),
        ("rope_base", |c| c.rope_base = f64::NAN, "is NaN"),
        ("depth", |c| c.depth = 0, "is 0"),
    ];
    for (key, change, part) in cases {
        let mut config = full(JULY, 24);
        change(&mut config);
        let error = Gpt::new(config).unwrap_err();
        let text = error.with_hint();
        assert!(matches!(error, Error::Config { key: k, .. } if k == key), "{text}");
        assert!(text.contains(part) && text.contains("\nhint: "), "{text}");
    }
    assert!(ModelConfig::new(JULY, usize::MAX).resolve(10, 10).is_err());
    assert!(ModelConfig::new(JULY, 0).resolve(10, 10).is_err());
}

#[test]
fn the_planned_workspace_is_the_one_that_is_made() {
    let dev = Reference::new();
    for config in BOTH.map(|preset| config(preset, 16)).into_iter().chain(variants(16)) {
        let gpt = Gpt::new(config).unwrap();
        for mode in [Mode::Train, Mode::Evaluate] {
            let planned = gpt.workspace_bytes(
                farthing_kernels::DType::F64,
                farthing_kernels::DType::F64,
                3,
                16,
                mode,
            );
            assert_eq!(planned.unwrap(), gpt.workspace(&dev, 3, 16, mode).unwrap().bytes());
        }
    }
}
