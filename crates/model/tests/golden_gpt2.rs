//! GPT-2 in the layout of `transformers`, against its logits. `tools/golden/gpt2.py` made both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farthing_base::Hint;
use farthing_base::tensors::{Dtype, TensorFile, TensorInfo, TensorWriter};
use farthing_kernels::Device;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::reference::Reference;
use farthing_kernels::rounded::Rounded;
use farthing_model::{Batch, Gpt2, Gpt2Config};

const FILE: &str = "model.safetensors";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpt2")
}

fn floats<const N: usize>(file: &TensorFile, name: &str, of: fn([u8; N]) -> f64) -> Vec<f64> {
    let bytes = file.bytes(name).unwrap();
    bytes.chunks_exact(N).map(|b| of(b.try_into().unwrap())).collect()
}

/// Tokens (2, 13), logits in f32 and in f64.
fn golden() -> (Vec<i32>, Vec<f64>, Vec<f64>) {
    let file = TensorFile::open(&folder().join("logits.safetensors")).unwrap();
    let tokens = file.bytes("tokens").unwrap();
    let tokens = tokens.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()));
    (
        tokens.collect(),
        floats(&file, "f32", |b| f64::from(f32::from_le_bytes(b))),
        floats(&file, "f64", f64::from_le_bytes),
    )
}

const T: usize = 13;
const V: usize = 257;

fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn logits_are_those_of_transformers() {
    let (tokens, single, double) = golden();
    let none = vec![-1; tokens.len()];
    let batch = Batch::new(T, &tokens[..], &none[..]).unwrap();
    let cpu = Cpu::new(2).unwrap();
    let ours = Gpt2::open(&folder().join(FILE), &cpu).unwrap().logits(&batch).unwrap();
    let reference = Reference::new();
    let exact = Gpt2::open(&folder().join(FILE), &reference).unwrap().logits(&batch).unwrap();
    let (f32, f64) = (worst(&ours, &single), worst(&exact, &double));
    println!("GPT-2: f32 within {f32:.1e} of transformers, f64 within {f64:.1e}");
    assert!(f32 < 1e-4, "{f32:e}");
    assert!(f64 < 1e-10, "{f64:e}");
    // The logits depend on the weights at all.
    assert!(double.iter().any(|z| z.abs() > 1.0));
}

#[test]
fn losses_and_predictions_are_those_of_the_logits_whatever_stands_behind() {
    let (tokens, _, double) = golden();
    let cpu = Cpu::new(1).unwrap();
    let mut gpt2 = Gpt2::open(&folder().join(FILE), &cpu).unwrap();
    // Rows filled up beyond the model's 40 positions, with targets at some places.
    let long = 48;
    let (mut inputs, mut targets) = (vec![0; 2 * long], vec![-1; 2 * long]);
    let mut expected = Vec::new();
    for row in 0..2 {
        inputs[row * long..row * long + T].copy_from_slice(&tokens[row * T..(row + 1) * T]);
        for at in [0, 7, T - 2] {
            let target = tokens[row * T + at + 1];
            targets[row * long + at] = target;
            let logits = &double[(row * T + at) * V..(row * T + at + 1) * V];
            let lse = logits.iter().map(|z| z.exp()).sum::<f64>().ln();
            let top = (0..V).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            expected.push((row * long + at, lse - logits[target as usize], top as i32));
        }
    }
    let mut found = Vec::new();
    let batch = |inputs: &[i32], targets: &[i32]| Batch::new(long, inputs, targets).unwrap();
    let mut each = |at, scored: farthing_model::Scored| found.push((at, scored));
    gpt2.score(&batch(&inputs, &targets), &mut each).unwrap();
    assert_eq!(found.len(), expected.len());
    for ((at, scored), (place, loss, top)) in found.into_iter().zip(expected) {
        assert_eq!((at, scored.prediction), (place, top));
        assert!((scored.loss - loss).abs() < 1e-4, "{} and {loss}", scored.loss);
    }

    targets[45] = 3;
    let beyond = gpt2.score(&batch(&inputs, &targets), &mut |_, _| ()).unwrap_err();
    assert!(beyond.to_string().contains("position 45"), "{beyond}");
    assert!(beyond.hint().unwrap().contains("40 positions"));
    (inputs[3], targets[45]) = (257, -1);
    let foreign = gpt2.score(&batch(&inputs, &targets), &mut |_, _| ()).unwrap_err();
    assert!(foreign.to_string().starts_with("batch: input 257 at row 0, position 3"), "{foreign}");
}

/// The checkpoint with other tensors: `edit` may rename, change or drop each.
fn edited(edit: &dyn Fn(&str, &mut TensorInfo, &mut Vec<u8>) -> bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder().join("config.json"), dir.path().join("config.json")).unwrap();
    let file = TensorFile::open(&folder().join(FILE)).unwrap();
    let mut all = Vec::new();
    for name in file.names() {
        let (mut info, mut bytes) =
            (file.info(&name).unwrap(), file.bytes(&name).unwrap().to_vec());
        if edit(&name, &mut info, &mut bytes) {
            all.push((info, bytes));
        }
    }
    let infos: Vec<TensorInfo> = all.iter().map(|(info, _)| info.clone()).collect();
    let path = dir.path().join(FILE);
    let mut writer = TensorWriter::create(&path, &infos, &BTreeMap::new()).unwrap();
    for (_, bytes) in &all {
        writer.write(bytes).unwrap();
    }
    writer.finish().unwrap();
    dir
}

/// The names of the first checkpoints, without a prefix and with the mask among the weights, and weights of half the size.
#[test]
fn older_names_and_smaller_types_are_read() {
    let (tokens, single, _) = golden();
    let none = vec![-1; tokens.len()];
    let cpu = Cpu::new(1).unwrap();
    let read = |dir: &tempfile::TempDir| {
        let mut gpt2 = Gpt2::open(&dir.path().join(FILE), &cpu).unwrap();
        gpt2.logits(&Batch::new(T, &tokens[..], &none[..]).unwrap()).unwrap()
    };
    let bare = edited(&|name, info, bytes| {
        info.name = name.trim_start_matches("transformer.").to_owned();
        if info.name == "lm_head.weight" {
            // In its place the buffer that old files have.
            info.name = "h.0.attn.bias".into();
            (info.shape, *bytes) = (vec![1], vec![0; 4]);
        }
        true
    });
    assert!(worst(&read(&bare), &single) < 1e-4);
    let half = edited(&|_, info, bytes| {
        info.dtype = Dtype::BF16;
        *bytes = bytes.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect();
        true
    });
    let error = worst(&read(&half), &single);
    assert!(error > 1e-4 && error < 1.0, "{error}");
}

#[test]
fn what_is_no_gpt2_is_refused_before_memory_is_asked_for() {
    let cpu = Cpu::new(1).unwrap();
    let refused = |dir: &Path| Gpt2::open(&dir.join(FILE), &cpu).err().unwrap().to_string();
    let less = edited(&|name, _, _| !name.ends_with("h.1.ln_2.bias"));
    assert!(refused(less.path()).contains("`transformer.h.1.ln_2.bias` is missing"));
    let more = edited(&|name, info, _| {
        info.name = name.replace("h.2.", "h.9.");
        true
    });
    assert!(refused(more.path()).contains("`transformer.h.2."), "{}", refused(more.path()));
    let other = edited(&|name, info, _| {
        if name.ends_with("h.0.mlp.c_fc.weight") {
            info.shape.reverse();
        }
        true
    });
    assert!(refused(other.path()).contains("has shape (96, 24), the model expects (24, 96)"));
    let nan = edited(&|name, _, bytes| {
        if name.ends_with("ln_f.bias") {
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        true
    });
    assert!(refused(nan.path()).contains("element 0 of `transformer.ln_f.bias` is NaN"));
    // A billion layers are not made names of.
    let text = std::fs::read_to_string(folder().join("config.json")).unwrap();
    let many = edited(&|_, _, _| true);
    let text = text.replace("\"n_layer\": 3", "\"n_layer\": 16777216");
    std::fs::write(many.path().join("config.json"), text).unwrap();
    assert!(refused(many.path()).contains("`n_layer` is 16777216"));
    std::fs::remove_file(many.path().join("config.json")).unwrap();
    assert!(!Gpt2Config::is_beside(&many.path().join(FILE)));
    assert!(refused(many.path()).contains("config.json"));
    let bf16 = Rounded::new(Box::new(Cpu::new(1).unwrap())).unwrap();
    let dev: &dyn Device = &bf16;
    assert!(Gpt2::open(&folder().join(FILE), dev).err().unwrap().to_string().contains("bf16"));
}
