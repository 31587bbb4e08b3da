//! Checkpoints of nanochat, converted by `tools/golden/convert.py`, are read here and give nanochat's loss. The other way is
//! `tools/golden/check_convert.py`'s, from the files that this test writes where `FARTHING_GOLDEN_DUMP` names a folder.

use crate::golden;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farthing_kernels::cpu::Cpu;
use farthing_kernels::{Device, Params};
use farthing_model::{Batch, Checkpoint, Gpt, Mode, load_model, save_model};
use golden::exact::batch;
use golden::{Style, TOKENS, VOCAB, fill, gradient_case};

/// The mean loss on a case's tokens, two rows.
fn loss(dev: &dyn Device, gpt: &Gpt, params: &Params, case: &str) -> f64 {
    let (tokens, vocab) = (gpt.config().seq_len, gpt.config().vocab_size);
    let (inputs, targets) = batch(&format!("{case}/batch"), 2, tokens, vocab, true);
    let mut ws = gpt.workspace(dev, 2, tokens, Mode::Evaluate).unwrap();
    let whole = Batch::new(tokens, inputs, &targets[..]).unwrap();
    gpt.evaluate(dev, params.weights(), &mut ws, &whole, false).unwrap();
    ws.loss_sum(dev).unwrap() / targets.iter().filter(|&&t| t >= 0).count() as f64
}

/// July's tables are bf16, as nanochat saves them after training on a GPU.
#[test]
fn nanochats_checkpoints_load_and_give_its_loss() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/tiny.json")).unwrap();
    for setting in ["january", "july"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/golden/tiny-{setting}.safetensors"));
        let dev = Cpu::new(1).unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap().step(), 7);
        let (gpt, params) = load_model(&path, &dev).unwrap();
        let ours = loss(&dev, &gpt, &params, &format!("{setting}-tiny"));
        let theirs = golden[setting]["loss"].as_f64().unwrap();
        let error = (ours - theirs).abs() / theirs;
        println!("{setting}: loss {ours:.7}, nanochat {theirs:.7}: {error:.1e}");
        assert!(error < 1e-5, "{setting}: {error:e}");
    }
}

/// The converter gives a nanochat model the numbers that the preset of its setting has.
#[test]
fn converted_configurations_are_the_presets() {
    for setting in ["january", "july"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/golden/tiny-{setting}.safetensors"));
        let converted = Checkpoint::open(&path).unwrap().config().clone();
        let preset = farthing_model::ModelConfig {
            head_dim: Some(8),
            aspect_ratio: Some(16),
            kv_heads: Some(2),
            window_pattern: Some("SL".into()),
            ..farthing_model::ModelConfig::new(golden::preset(setting), 2)
        };
        assert_eq!(converted, preset.resolve(60, 32).unwrap(), "{setting}");
    }
}

#[test]
fn checkpoints_for_nanochat() {
    let Some(folder) = std::env::var_os(golden::DUMP).map(PathBuf::from) else {
        println!("skipped: {} names no folder to write to", golden::DUMP);
        return;
    };
    let dev = Cpu::new(0).unwrap();
    for case in ["january-d2", "january-d4", "july-d2", "july-d4"] {
        let gpt = Gpt::new(gradient_case(case)).unwrap();
        assert_eq!((gpt.config().seq_len, gpt.config().vocab_size), (TOKENS, VOCAB));
        let mut params = Params::new(&dev, gpt.single_group()).unwrap();
        fill(case, Style::Lively, &gpt, &dev, &mut params);
        let loss = loss(&dev, &gpt, &params, case);
        let metadata = BTreeMap::from([("loss".to_owned(), loss.to_string())]);
        let path = folder.join(format!("ours-{case}.safetensors"));
        save_model(&path, &gpt, &dev, params.weights(), 30, &[], &metadata).unwrap();
        println!("{}: loss {loss:.7}", path.display());
    }
}
