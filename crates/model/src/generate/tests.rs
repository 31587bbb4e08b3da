//! Decoding with kept keys and values against passes over whole rows.

use farthing_base::BatchError;
use farthing_base::random::Stream;
use farthing_kernels::Params;
use farthing_kernels::reference::Reference;
use farthing_kernels::rounded::Rounded;

use super::*;
use crate::{Batch, GptConfig, Mlp, Mode, ModelConfig, Preset};

const BOTH: [Preset; 2] = [Preset::Nanochat202601, Preset::Nanochat202607];

/// Four layers with short windows, grouped queries, and weights that are not the silent starting ones.
fn model(preset: Preset, dev: &dyn Device) -> (Gpt, Params) {
    let small = ModelConfig {
        aspect_ratio: Some(8),
        head_dim: Some(16),
        kv_heads: Some(1),
        short_window: Some(3),
        ..ModelConfig::new(preset, 4)
    };
    build(small.resolve(50, 12).unwrap(), dev)
}

fn build(config: GptConfig, dev: &dyn Device) -> (Gpt, Params) {
    let gpt = Gpt::new(config).unwrap();
    let mut params = Params::new(dev, gpt.single_group()).unwrap();
    for spec in gpt.params() {
        let stream = Stream::new(1, &spec.name);
        let scale = if spec.name.contains("lambda") { 0.7 } else { 0.3 };
        let values: Vec<f64> =
            (0..spec.shape.elements()).map(|i| scale * stream.normal(i as u64)).collect();
        dev.write_f64(params.master_mut(spec.id).unwrap(), &values).unwrap();
    }
    params.refresh_compute(dev).unwrap();
    (gpt, params)
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| (Stream::new(3, "text").bits(i as u64) % 50) as u32).collect()
}

/// Softcapped logits of every position, from one pass over the whole row.
fn all_logits(gpt: &Gpt, dev: &dyn Device, params: &Params, text: &[u32]) -> Vec<Vec<f64>> {
    let n = text.len();
    let mut ws = gpt.workspace(dev, 1, n, Mode::Evaluate).unwrap();
    let ignored = vec![-1; n];
    let inputs: Vec<i32> = text.iter().map(|&id| id as i32).collect();
    let batch = Batch::new(n, inputs, ignored).unwrap();
    gpt.evaluate(dev, params.weights(), &mut ws, &batch, false).unwrap();
    let logits = dev.read_f64(ws.buffers.logits.view().rows(0..n).unwrap()).unwrap();
    logits.chunks(gpt.config().padded_vocab()).map(|row| row[..50].to_vec()).collect()
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn kept_equals_full(dev: &dyn Device, tolerance: f64) {
    let text = tokens(30);
    let plain = BOTH.map(|preset| model(preset, dev).0.config().clone());
    let variant = GptConfig { rotary_fraction: 0.5, mlp: Mlp::Swiglu, ..plain[1].clone() };
    for config in plain.into_iter().chain([variant]) {
        let (gpt, params) = build(config, dev);
        let full = all_logits(&gpt, dev, &params, &text);
        let spread = furthest(&full[3], &full[20]);
        assert!(spread > 0.1, "logits hardly differ: {spread}");
        for prompt in [1, 5, 29] {
            let mut generator = gpt.generator(dev, params.weights(), 30).unwrap();
            let mut error = furthest(generator.feed(&text[..prompt]).unwrap(), &full[prompt - 1]);
            for t in prompt..30 {
                error = error.max(furthest(generator.feed(&text[t..=t]).unwrap(), &full[t]));
            }
            assert!(error < tolerance, "{:?}, prompt of {prompt}: {error:e}", gpt.config());
        }
    }
}

#[test]
fn logits_with_kept_keys_are_the_full_forward_passes() {
    kept_equals_full(&Reference::new(), 1e-11);
    kept_equals_full(&farthing_kernels::cpu::Cpu::new(2).unwrap(), 5e-5);
}

#[test]
fn texts_that_begin_alike_go_on_from_a_mark() {
    let dev = Reference::new();
    let text = tokens(30);
    for preset in BOTH {
        let (gpt, params) = model(preset, &dev);
        let mut generator = gpt.generator(&dev, params.weights(), 30).unwrap();
        for shared in [1, 7] {
            generator.reset();
            generator.feed(&text[..shared]).unwrap();
            generator.mark().unwrap();
            // The second one is longer than what it covers, the third shorter.
            for from in [10, 3, 20] {
                let rest = &text[from..from + 3 + from % 7];
                let whole = [&text[..shared], rest].concat();
                let full = all_logits(&gpt, &dev, &params, &whole);
                generator.rewind().unwrap();
                assert_eq!(generator.len(), shared);
                let mut seen = 0;
                generator
                    .feed_each(rest, &mut |i, logits| {
                        let error = furthest(logits, &full[shared + i]);
                        assert!(error < 1e-11, "{preset:?}, {shared} + {i}: {error:e}");
                        assert_eq!(i, seen);
                        seen += 1;
                    })
                    .unwrap();
                assert_eq!(seen, rest.len());
            }
        }
    }
}

/// Stored in bf16, a product of one row may round a value the other way than the same row among many.
#[test]
fn logits_with_kept_keys_are_the_full_forward_passes_in_bf16() {
    let dev = Rounded::new(Box::new(Reference::new())).unwrap();
    let text = tokens(30);
    let (gpt, params) = model(Preset::Nanochat202607, &dev);
    let full = all_logits(&gpt, &dev, &params, &text);
    let mut generator = gpt.generator(&dev, params.weights(), 30).unwrap();
    let mut error = furthest(generator.feed(&text[..5]).unwrap(), &full[4]);
    for t in 5..30 {
        error = error.max(furthest(generator.feed(&text[t..=t]).unwrap(), &full[t]));
    }
    assert!(error < 0.1, "{error:e}");
    let exact = Reference::new();
    let (gpt, params) = model(Preset::Nanochat202607, &exact);
    let off = furthest(&all_logits(&gpt, &exact, &params, &text)[29], &full[29]);
    assert!(off > 1e-4 && off < 1.0, "bf16 logits are off by {off:e}");
}

#[test]
fn a_prompt_longer_than_a_piece_is_the_same() {
    let dev = Reference::new();
    let text = tokens(2 * PIECE + 5);
    let (gpt, params) = model(Preset::Nanochat202607, &dev);
    let full = all_logits(&gpt, &dev, &params, &text);
    let mut generator = gpt.generator(&dev, params.weights(), text.len()).unwrap();
    let error = furthest(generator.feed(&text).unwrap(), &full[text.len() - 1]);
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn greedy_text_is_the_most_likely_and_another_text_begins_afresh() {
    let dev = Reference::new();
    let (gpt, params) = model(Preset::Nanochat202607, &dev);
    let mut generator = gpt.generator(&dev, params.weights(), 20).unwrap();
    let out = generator.generate(&[1, 2], 8, &Sampling::GREEDY, |_| false).unwrap();
    assert_eq!(out.len(), 8);
    let text = [&[1, 2], &out[..]].concat();
    for (t, row) in all_logits(&gpt, &dev, &params, &text).iter().enumerate().skip(1).take(8) {
        let best = (0..50).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(text[t + 1], best as u32);
    }
    generator.reset();
    assert_eq!(generator.generate(&[1, 2], 8, &Sampling::GREEDY, |_| false).unwrap(), out);
    generator.reset();
    let stopped = generator.generate(&[1, 2], 8, &Sampling::GREEDY, |id| id == out[0]).unwrap();
    assert!(stopped.is_empty());
}

#[test]
fn draws_follow_the_probabilities_and_the_seed() {
    let logits = [0.0, 2.0, 1.0, f64::MIN];
    let sampling = |seed| Sampling { temperature: 0.5, seed, ..Sampling::GREEDY };
    let mut sampler = Sampler::new(4);
    let mut counts = [0.0; 4];
    let n = 20_000;
    for i in 0..n {
        counts[sampler.draw(&logits, &[], &sampling(1), i).unwrap() as usize] += 1.0 / n as f64;
    }
    let total: f64 = [0.0f64, 4.0, 2.0].iter().map(|z| z.exp()).sum();
    for (count, z) in counts.iter().zip([0.0f64, 4.0, 2.0, f64::NEG_INFINITY]) {
        assert!((count - z.exp() / total).abs() < 0.01, "{counts:?}");
    }
    let two = Sampling { top_k: Some(2), ..sampling(2) };
    for i in 0..1000 {
        assert!(matches!(sampler.draw(&logits, &[], &two, i).unwrap(), 1 | 2));
    }
    let equal = [1.0, 3.0, 3.0, 0.0];
    assert_eq!(sampler.draw(&equal, &[], &Sampling::GREEDY, 0).unwrap(), 1);

    let dev = Reference::new();
    let (gpt, params) = model(Preset::Nanochat202601, &dev);
    let text = |seed| {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
        let mut generator = gpt.generator(&dev, params.weights(), 20).unwrap();
        generator.generate(&[4], 12, &sampling, |_| false).unwrap()
    };
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let dev = Reference::new();
    let (gpt, params) = model(Preset::Nanochat202601, &dev);
    assert!(gpt.generator(&dev, params.weights(), 0).is_err());
    let mut generator = gpt.generator(&dev, params.weights(), 4).unwrap();
    assert!(matches!(generator.draw(&Sampling::GREEDY), Err(Error::Generation { .. })));
    assert!(matches!(generator.feed(&[]), Err(Error::Generation { .. })));
    assert!(matches!(generator.feed(&[1, 2, 3, 4, 5]), Err(Error::Generation { .. })));
    assert!(matches!(generator.feed(&[50]), Err(Error::Tokens(BatchError::Token { id: 50, .. }))));
    assert!(generator.is_empty());
    for sampling in [
        Sampling { temperature: -1.0, ..Sampling::GREEDY },
        Sampling { temperature: f64::NAN, ..Sampling::GREEDY },
        Sampling { top_k: Some(0), ..Sampling::GREEDY },
    ] {
        let refused = generator.generate(&[1], 1, &sampling, |_| false);
        assert!(matches!(refused, Err(Error::Generation { .. })));
    }
    let out = generator.generate(&[1, 2], 9, &Sampling::GREEDY, |_| false).unwrap();
    assert_eq!(out.len(), 3, "two tokens of room, and the one that needs none");
}

/// Feeds a text a piece at a time, of lengths that straddle windows, pieces and the room that is kept.
fn bounded_equals_full(dev: &dyn Device, tolerance: f64) {
    let text = tokens(700);
    for preset in BOTH {
        let (gpt, params) = model(preset, dev);
        let full = all_logits(&gpt, dev, &params, &text);
        let mut texts = gpt.texts(dev, params.weights(), 1, 700).unwrap();
        // Ten times the room costs the rotary tables' two rows of D/2 angles a token, and not one key.
        let longer = gpt.texts(dev, params.weights(), 1, 7_000).unwrap();
        let angles = 2 * 8 * dev.master_dtype().bytes();
        assert_eq!(longer.bytes() - texts.bytes(), 6_300 * angles);
        let (mut at, mut error) = (0, 0.0f64);
        for n in [1, 1, 100, 1, 128, 7, 1, 1, 200, 1].into_iter().cycle() {
            let n = n.min(text.len() - at);
            texts.feed(0, &text[at..at + n]).unwrap();
            at += n;
            error = error.max(furthest(texts.logits(0).unwrap(), &full[at - 1]));
            if at == text.len() {
                break;
            }
        }
        assert!(error < tolerance, "{preset:?}: {error:e}");
        assert_eq!(texts.tokens(0), text);
    }
}

#[test]
fn what_windows_keep_bounded_is_the_full_forward_pass() {
    bounded_equals_full(&Reference::new(), 1e-11);
    bounded_equals_full(&farthing_kernels::cpu::Cpu::new(2).unwrap(), 5e-5);
}

/// Texts of several lengths, some of which end before others and make room for new ones.
fn together_equals_alone(dev: &dyn Device, tolerance: f64) {
    let prompts = [tokens(40), tokens(3), tokens(150), tokens(1), tokens(20)];
    let sampling = |seed| Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
    for preset in BOTH {
        let (gpt, params) = model(preset, dev);
        let alone: Vec<(Vec<u32>, Vec<f64>)> = (0..5)
            .map(|i| {
                let mut one = gpt.generator(dev, params.weights(), 300).unwrap();
                let draw = sampling(i as u64);
                let new = one.generate(&prompts[i], 9 + 3 * i, &draw, |_| false).unwrap();
                (new, one.texts.logits(0).unwrap().to_vec())
            })
            .collect();
        let mut texts = gpt.texts(dev, params.weights(), 3, 300).unwrap();
        let mut waiting = (0..5usize).rev().collect::<Vec<_>>();
        let mut going: Vec<(usize, usize)> = Vec::new();
        let mut done = 0;
        while done < 5 {
            while let Some(slot) = (0..3).find(|s| going.iter().all(|(at, _)| at != s)) {
                let Some(i) = waiting.pop() else { break };
                texts.clear(slot);
                texts.feed(slot, &prompts[i]).unwrap();
                going.push((slot, i));
            }
            let rows: Vec<usize> = going.iter().map(|(slot, _)| *slot).collect();
            let next: Vec<u32> = going
                .iter()
                .map(|&(slot, i)| texts.draw(slot, &sampling(i as u64)).unwrap())
                .collect();
            texts.step(&rows, &next).unwrap();
            going.retain(|&(slot, i)| {
                let new = &texts.tokens(slot)[prompts[i].len()..];
                let over = new.len() == alone[i].0.len();
                if over {
                    assert_eq!(new, alone[i].0, "{preset:?}, text {i}");
                    let error = furthest(texts.logits(slot).unwrap(), &alone[i].1);
                    assert!(error <= tolerance, "{preset:?}, text {i}: {error:e}");
                    done += 1;
                }
                !over
            });
        }
    }
}

#[test]
fn a_text_among_others_is_the_same_as_alone() {
    together_equals_alone(&Reference::new(), 0.0);
    together_equals_alone(&farthing_kernels::cpu::Cpu::new(2).unwrap(), 5e-5);
}

#[test]
fn a_copied_text_goes_on_as_its_origin_would() {
    let dev = Reference::new();
    let text = tokens(400);
    for preset in BOTH {
        let (gpt, params) = model(preset, &dev);
        let mut texts = gpt.texts(&dev, params.weights(), 2, 420).unwrap();
        texts.feed(0, &text[..390]).unwrap();
        texts.feed(1, &text[..5]).unwrap();
        texts.copy(0, 1).unwrap();
        assert_eq!(texts.logits(0).unwrap(), texts.logits(1).unwrap());
        texts.feed(1, &text[390..]).unwrap();
        texts.feed(0, &text[390..]).unwrap();
        assert_eq!(texts.logits(0).unwrap(), texts.logits(1).unwrap());
        for (from, to) in [(0, 0), (0, 2), (5, 1)] {
            assert!(matches!(texts.copy(from, to), Err(Error::Generation { .. })));
        }
    }
}

#[test]
fn steps_that_cannot_be_are_refused() {
    let dev = Reference::new();
    let (gpt, params) = model(Preset::Nanochat202607, &dev);
    assert!(gpt.texts(&dev, params.weights(), 0, 9).is_err());
    let mut texts = gpt.texts(&dev, params.weights(), 2, 3).unwrap();
    assert!(texts.logits(0).is_err() && texts.logits(7).is_err());
    assert!(texts.draw(7, &Sampling::GREEDY).is_err() && texts.feed(2, &[1]).is_err());
    texts.step(&[], &[]).unwrap();
    for (rows, next) in [(&[0, 1][..], &[1][..]), (&[1, 1], &[1, 1]), (&[2], &[1])] {
        assert!(matches!(texts.step(rows, next), Err(Error::Generation { .. })), "{rows:?}");
    }
    assert!(matches!(
        texts.step(&[0, 1], &[1, 50]),
        Err(Error::Tokens(BatchError::Token { row: 1, .. }))
    ));
    assert!(texts.tokens(0).is_empty() && texts.tokens(1).is_empty());
    texts.feed(1, &[1, 2, 3]).unwrap();
    assert!(matches!(texts.step(&[0, 1], &[1, 1]), Err(Error::Generation { .. })));
    assert!(texts.tokens(0).is_empty());
}
