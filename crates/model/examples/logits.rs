//! The logits after each token of a text, for who compares them with another program's.
//!
//! ```sh
//! cargo run --release -p farthing-model --example logits -- FOLDER/model.safetensors 17 4 250   # a line of numbers for each id
//! ```
#![allow(clippy::print_stdout, reason = "its output")]

use std::error::Error;
use std::path::Path;

use farthing_kernels::cpu::Cpu;
use farthing_model::load_model;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: logits MODEL.safetensors ID…")?;
    let ids = args.map(|id| id.parse()).collect::<Result<Vec<u32>, _>>()?;
    let cpu = Cpu::new(1)?;
    let (gpt, params) = load_model(Path::new(&path), &cpu)?;
    let mut texts = gpt.texts(&cpu, params.weights(), 1, ids.len())?;
    for id in ids {
        texts.feed(0, &[id])?;
        let line: Vec<String> = texts.logits(0)?.iter().map(ToString::to_string).collect();
        println!("{}", line.join(" "));
    }
    Ok(())
}
