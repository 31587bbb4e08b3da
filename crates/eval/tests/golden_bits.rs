//! Bits per byte on fixed tokens against nanochat's `evaluate_bpb`: special tokens count nothing, nor do ignored targets.

use crate::golden;

use farthing_data::Silent;
use farthing_eval::{Batch, GptScorer, Result, bits_per_byte};
use farthing_kernels::Params;
use farthing_kernels::cpu::Cpu;
use farthing_model::Gpt;
use golden::exact::{Numbers, batch};
use golden::{Style, TOKENS, VOCAB, fill, gradient_case};

const TOLERANCE: f64 = 1e-6;
const ROWS: usize = 2;

/// 1 to 9 bytes per token, none for the last nine entries.
fn token_bytes() -> Vec<u32> {
    let numbers = Numbers::new("token-bytes");
    let bytes = |i| if i < VOCAB - 9 { 1 + (numbers.bits(i) % 9) as u32 } else { 0 };
    (0..VOCAB).map(bytes).collect()
}

#[test]
fn bits_per_byte_are_nanochats() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/bits_per_byte.json")).unwrap();
    for setting in ["january", "july"] {
        let case = format!("{setting}-d2");
        let dev = Cpu::new(0).unwrap();
        let gpt = Gpt::new(gradient_case(&case)).unwrap();
        let mut params = Params::new(&dev, gpt.single_group()).unwrap();
        fill(&case, Style::Lively, &gpt, &dev, &mut params);
        let batches = (0..3).map(|i| -> Result<Batch> {
            let label = format!("{case}/bits-{i}");
            let (inputs, targets) = batch(&label, ROWS, TOKENS, VOCAB, i == 1);
            Ok(Batch::new(TOKENS, inputs, targets)?)
        });
        let mut model = GptScorer::new(&gpt, &dev, &params);
        let budget = (3 * ROWS * TOKENS) as u64;
        let ours = bits_per_byte(&mut model, batches, &token_bytes(), budget, &mut Silent).unwrap();
        let theirs = golden[setting]["bits_per_byte"].as_f64().unwrap();
        let error = (ours.bits_per_byte - theirs).abs() / theirs;
        println!("{}", golden[setting]["origin"]);
        println!("  {:.9} bits per byte, nanochat {theirs:.9}: {error:.1e}", ours.bits_per_byte);
        println!("  {} of {} tokens, {} bytes", ours.targets, ours.tokens, ours.bytes);
        assert!(error < TOLERANCE, "{setting}: {error:e}");
        assert!(ours.targets < ours.tokens, "specials and ignored targets were among them");
    }
}
