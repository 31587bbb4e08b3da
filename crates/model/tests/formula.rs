//! The forward pass against the recipe written out a second time: plain vectors, one position after another, nothing shared with the crate
//! but the weights. Finite differences show that the backward fits the forward; this shows that the forward is the recipe's.

use crate::common;

use std::collections::HashMap;

use common::{BOTH, Model, Tokens, VOCAB, config, distance, variants};
use farthing_kernels::reference::Reference;
use farthing_model::{GptConfig, Mlp, Preset};

type Row = Vec<f64>;

fn norm(x: &[f64]) -> Row {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| x / (mean + 2f64.powi(-23)).sqrt()).collect()
}

/// w · x for a matrix (out, in).
fn linear(w: &[f64], x: &[f64]) -> Row {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn add(x: &[f64], a: f64, y: &[f64], b: f64) -> Row {
    x.iter().zip(y).map(|(x, y)| a * x + b * y).collect()
}

fn table_row(table: &[f64], id: i32, width: usize) -> &[f64] {
    &table[id as usize * width..][..width]
}

/// The numbers in which the settings differ, as recipe.md gives them.
struct Setting {
    base: f64,
    gain: f64,
    gate_max: f64,
    gate_channels: usize,
    short: usize,
    july: bool,
    /// Channels of a head that are turned.
    rotary: usize,
    swiglu: bool,
}

/// y1 = x1·cos + x2·sin, y2 = −x1·sin + x2·cos, for the first `rotary` / 2 pairs.
fn rotate(x: &[f64], t: usize, base: f64, rotary: usize) -> Row {
    let half = x.len() / 2;
    let mut y = x.to_vec();
    for j in 0..rotary / 2 {
        let (sin, cos) = (t as f64 * base.powf(-2.0 * j as f64 / rotary as f64)).sin_cos();
        y[j] = x[j] * cos + x[j + half] * sin;
        y[j + half] = -x[j] * sin + x[j + half] * cos;
    }
    y
}

/// Losses of one row.
fn losses(
    w: &HashMap<String, Row>,
    set: &Setting,
    [depth, c, heads, kv_heads, d, context]: [usize; 6],
    ids: &[i32],
    targets: &[i32],
) -> Row {
    let n = ids.len();
    let embedded: Vec<Row> =
        ids.iter().map(|&id| norm(table_row(&w["transformer.wte.weight"], id, c))).collect();
    let mut x = embedded.clone();
    if set.july {
        for t in 1..n {
            let gate = sigmoid(linear(&w["smear_gate.weight"], &embedded[t][..24])[0]);
            x[t] = add(&embedded[t], 1.0, &embedded[t - 1], w["smear_lambda"][0] * gate);
        }
    }
    let x0 = x.clone();
    let mut middle = Vec::new();
    for i in 0..depth {
        let matrix = |name: &str| &w[&format!("transformer.h.{i}.{name}.weight")];
        for t in 0..n {
            x[t] = add(&x[t], w["resid_lambdas"][i], &x0[t], w["x0_lambdas"][i]);
        }
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for t in 0..n {
            let input = norm(&x[t]);
            let prepared = |y: Row| -> Row {
                y.chunks(d)
                    .flat_map(|head| norm(&rotate(head, t, set.base, set.rotary)))
                    .map(|y| y * set.gain)
                    .collect()
            };
            q.push(prepared(linear(matrix("attn.c_q"), &input)));
            k.push(prepared(linear(matrix("attn.c_k"), &input)));
            let mut value = linear(matrix("attn.c_v"), &input);
            if i % 2 == (depth - 1) % 2 {
                let gates = linear(matrix("attn.ve_gate"), &input[..set.gate_channels]);
                let embed =
                    table_row(&w[&format!("value_embeds.{i}.weight")], ids[t], kv_heads * d);
                for j in 0..kv_heads * d {
                    value[j] += set.gate_max * sigmoid(gates[j / d]) * embed[j];
                }
            }
            v.push(value);
        }
        // Every tested pattern is SSSL.
        let window = if i + 1 == depth || i % 4 == 3 { context } else { set.short };
        for t in 0..n {
            let mut mixed = vec![0.0; heads * d];
            for h in 0..heads {
                let from = h / (heads / kv_heads) * d;
                let first = t.saturating_sub(window);
                let weights: Row = (first..=t)
                    .map(|s| {
                        let dot: f64 = (0..d).map(|j| q[t][h * d + j] * k[s][from + j]).sum();
                        (dot / (d as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for (s, weight) in (first..=t).zip(&weights) {
                    for j in 0..d {
                        mixed[h * d + j] += weight / total * v[s][from + j];
                    }
                }
            }
            x[t] = add(&x[t], 1.0, &linear(matrix("attn.c_proj"), &mixed), 1.0);
        }
        for t in 0..n {
            let input = norm(&x[t]);
            let up = linear(matrix("mlp.c_fc"), &input);
            let hidden: Row = if set.swiglu {
                let gates = linear(matrix("mlp.c_gate"), &input);
                up.iter().zip(gates).map(|(h, g)| h * g * sigmoid(g)).collect()
            } else {
                up.iter().map(|h| h.max(0.0).powi(2)).collect()
            };
            x[t] = add(&x[t], 1.0, &linear(matrix("mlp.c_proj"), &hidden), 1.0);
        }
        if i == depth / 2 {
            middle.clone_from(&x);
        }
    }
    (0..n)
        .map(|t| {
            if targets[t] < 0 {
                return 0.0;
            }
            let last = if set.july {
                add(&x[t], 1.0, &middle[t], -w["backout_lambda"][0])
            } else {
                x[t].clone()
            };
            let logits = linear(&w["lm_head.weight"], &norm(&last));
            let capped: Row = logits[..VOCAB].iter().map(|z| 15.0 * (z / 15.0).tanh()).collect();
            let total: f64 = capped.iter().map(|z| z.exp()).sum();
            total.ln() - capped[targets[t] as usize]
        })
        .collect()
}

fn compare(config: &GptConfig, preset: Preset) {
    let dev = Reference::new();
    let july = preset == Preset::Nanochat202607;
    let context = config.seq_len;
    let set = Setting {
        base: if july { 100_000.0 } else { 10_000.0 },
        gain: if july { 1.2 } else { 1.0 },
        gate_max: if july { 3.0 } else { 2.0 },
        gate_channels: if july { 12 } else { 32 },
        short: config.short_window,
        july,
        rotary: (config.head_dim as f64 * config.rotary_fraction) as usize,
        swiglu: config.mlp == Mlp::Swiglu,
    };
    let sizes = [
        config.depth,
        config.model_dim,
        config.heads,
        config.kv_heads,
        config.head_dim,
        config.seq_len,
    ];
    let mut model = Model::new(&dev, config.clone(), 2, context);
    let tokens = Tokens::new(2, context, 8);
    model.loss(&tokens.batch());
    let weights: HashMap<String, Row> = (0..model.gpt.params().len())
        .map(|i| (model.gpt.params()[i].name.clone(), model.weight(i)))
        .collect();
    let expected: Row = (tokens.inputs.chunks(context).zip(tokens.targets.chunks(context)))
        .flat_map(|(ids, targets)| losses(&weights, &set, sizes, ids, targets))
        .collect();
    let error = distance(&model.losses(), &expected);
    assert!(error < 1e-12, "{config:?}: {error:e}");
}

#[test]
fn the_forward_pass_is_the_recipes() {
    for preset in BOTH {
        let july = preset == Preset::Nanochat202607;
        for (depth, context) in [(1, 16), (2, 150), (3, 16), (6, 16)] {
            let mut config = config(preset, context);
            config.depth = depth;
            // July's short window of 128 has its edge inside 150; elsewhere one that has it inside 16.
            let short = match (july, context) {
                (true, 150) => 128,
                (false, 150) => 75,
                _ => 5,
            };
            if context == 150 {
                assert_eq!(config.short_window, short);
            }
            config.short_window = short;
            compare(&config, preset);
        }
    }
}

#[test]
fn a_variants_forward_pass_is_its_formula() {
    for mut config in variants(16) {
        config.depth = 3;
        config.short_window = 5;
        compare(&config, Preset::Nanochat202607);
    }
}
