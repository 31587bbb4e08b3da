//! Losses, logits and every gradient against nanochat's own in f32 on a CPU: same weights in, depths 2 and 4, both settings.

use crate::golden;

use farthing_kernels::cpu::Cpu;
use farthing_kernels::{Device, Params};
use farthing_model::{Batch, Gpt, Mode};
use golden::exact::{Numbers, batch, norm, sketch};
use golden::{Golden, Style, TOKENS, VOCAB, fill, gradient_case};

/// ‖Δ‖ / ‖nanochat's‖, for logits and for each gradient.
const TOLERANCE: f64 = 2e-5;
const ROWS: usize = 2;

fn check(case: &str) {
    let mut golden = Golden::open(env!("CARGO_MANIFEST_DIR"), case);
    let dev = Cpu::new(0).unwrap();
    let dev: &dyn Device = &dev;
    let gpt = Gpt::new(gradient_case(case)).unwrap();
    let mut params = Params::new(dev, gpt.single_group()).unwrap();
    fill(case, Style::Lively, &gpt, dev, &mut params);
    let mut ws = gpt.workspace(dev, ROWS, TOKENS, Mode::Train).unwrap();
    let (inputs, targets) = batch(&format!("{case}/batch"), ROWS, TOKENS, VOCAB, true);
    let valid = targets.iter().filter(|&&t| t >= 0).count() as f64;
    let whole = Batch::new(TOKENS, &inputs[..], &targets[..]).unwrap().with_order();
    let (weights, mut grads) = params.split();
    gpt.forward_backward(dev, weights, &mut grads, &mut ws, &whole, 1.0 / valid).unwrap();

    let mut worst: Vec<(String, f64)> = vec![];
    let theirs = golden.values("loss")[0];
    let ours = ws.loss_sum(dev).unwrap() / valid;
    let error = golden.row("loss", (ours - theirs).abs() / theirs, theirs, format!("{ours:.7}"));
    worst.push(("loss".into(), error));
    let mut losses = vec![0.0; inputs.len()];
    ws.read_losses(dev, &mut losses).unwrap();
    let theirs = golden.values("losses");
    let difference: Vec<f64> = losses.iter().zip(&theirs).map(|(a, b)| a - b).collect();
    let error = norm(&difference) / norm(&theirs);
    let note = format!("{} positions", losses.len());
    worst.push(("losses".into(), golden.row("losses", error, norm(&theirs), note)));

    for spec in gpt.params() {
        let ours = dev.read_f64(grads.get(spec.id).unwrap().into_ref()).unwrap();
        let name = format!("grad.{}", spec.name);
        if spec.name == "backout_lambda" && gpt.config().depth == 2 {
            // The middle of two layers is their end: backing it out scales the stream, which the norm undoes. Nothing but
            // rounding is left on either side.
            let theirs = golden.values(&name);
            assert!(theirs[0].abs() < 1e-6 && ours[0].abs() < 1e-6, "{ours:?} {theirs:?}");
            golden.row(
                &name,
                0.0,
                theirs[0].abs(),
                format!("zero but for rounding: {:.1e}", ours[0]),
            );
            continue;
        }
        worst.push((name.clone(), golden.compare(&name, &ours, format!("{}", spec.shape))));
    }

    // The first row again, a token at a time, as text is generated: softcapped logits of every position.
    let mut generator = gpt.generator(dev, params.weights(), TOKENS).unwrap();
    let mut logits = vec![];
    for &id in &inputs[..TOKENS] {
        logits.extend_from_slice(generator.feed(&[id.cast_unsigned()]).unwrap());
    }
    let note = format!("({TOKENS}, {VOCAB}), with kept keys");
    worst.push(("logits".into(), golden.compare("logits", &logits, note)));
    golden.finish();
    for (name, error) in worst {
        assert!(error < TOLERANCE, "{case}: {name} is off by {error:e}");
    }
}

#[test]
fn january_at_depth_2() {
    check("january-d2");
}

#[test]
fn january_at_depth_4() {
    check("january-d4");
}

#[test]
fn july_at_depth_2() {
    check("july-d2");
}

/// Four query heads over two key/value heads.
#[test]
fn july_at_depth_4_with_grouped_queries() {
    check("july-d4");
}

/// The comparison sees one key of 257 and of 129: a short window that is one token shorter is not nanochat's.
#[test]
fn a_window_one_token_shorter_is_told_apart() {
    for case in ["january-d2", "july-d2"] {
        let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), case);
        let dev = Cpu::new(0).unwrap();
        let mut config = gradient_case(case);
        config.short_window -= 1;
        let gpt = Gpt::new(config).unwrap();
        let mut params = Params::new(&dev, gpt.single_group()).unwrap();
        fill(case, Style::Lively, &gpt, &dev, &mut params);
        let mut ws = gpt.workspace(&dev, ROWS, TOKENS, Mode::Evaluate).unwrap();
        let (inputs, targets) = batch(&format!("{case}/batch"), ROWS, TOKENS, VOCAB, true);
        let whole = Batch::new(TOKENS, &inputs[..], targets).unwrap();
        gpt.evaluate(&dev, params.weights(), &mut ws, &whole, false).unwrap();
        let mut losses = vec![0.0; inputs.len()];
        ws.read_losses(&dev, &mut losses).unwrap();
        let theirs = golden.values("losses");
        let difference: Vec<f64> = losses.iter().zip(&theirs).map(|(a, b)| a - b).collect();
        let error = norm(&difference) / norm(&theirs);
        assert!(error > 10.0 * TOLERANCE, "{case}: {error:e}");
    }
}

/// What `python tools/golden/exact.py` prints.
#[test]
fn numbers_are_those_of_the_script() {
    let numbers = Numbers::new("a/b");
    let expected = [0x1280_33d1_8036_1128, 0x837e_6089_0af2_58ec, 0xcc37_c66a_91cf_f086];
    assert_eq!([0, 1, 2].map(|i| numbers.bits(i)), expected);
    let expected = [0.072_268_713_615_095_57, 0.513_647_111_375_527_5, 0.797_726_059_930_766_8];
    assert_eq!([0, 1, 2].map(|i| numbers.uniform(i)), expected);
    let expected = [-2.004_771_637_320_440_3, -1.245_572_243_033_089_8, 1.873_921_668_612_069];
    assert_eq!([0, 1, 2].map(|i| numbers.normal(i)), expected);
    let (inputs, targets) = batch("a/b", 1, 8, 250, true);
    assert_eq!(inputs, [240, 221, 167, 11, 36, 112, 95, 39]);
    assert_eq!(targets, [221, 167, 11, 36, 112, 95, 39, 118]);
    let x: Vec<f64> = (0..3000).map(|i| Numbers::new("x").normal(i)).collect();
    let s = sketch("a/b", &x);
    let expected = [-2.638_089_714_508_624, 1.223_900_464_737_621_3, 0.197_926_765_432_638_32];
    assert!(s.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{:?}", &s[..3]);
    assert!((norm(&s) / norm(&x) - 1.0).abs() < 0.1, "a sketch keeps the norm within 3 deviations");
}
