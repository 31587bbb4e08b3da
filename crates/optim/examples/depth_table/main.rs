//! What follows from depth: width, heads, parameters of each group, horizon, batch, steps, rates, weight decay, FLOPs.
//!
//! Run with `cargo run --release -p farthing-optim --example depth_table` for d4 … d32 by fours, or with depths of your own
//! after `--`. `tests/golden_depths.rs` compares every depth from 4 to 32 with nanochat's own figures.
#![allow(clippy::print_stdout, reason = "an example prints")]

mod rows;

use farthing_optim::OptimPreset;
use rows::{Row, row};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let asked = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<Vec<usize>, _>>()?;
    let depths = if asked.is_empty() { (4..=32).step_by(4).collect() } else { asked };
    for &preset in OptimPreset::ALL {
        let table = depths.iter().map(|&d| row(preset, d)).collect::<Result<Vec<_>, _>>()?;
        println!(
            "{}: V 32,768, T 2,048, {} tokens per scaling parameter",
            preset.name(),
            preset.scaling().tokens_per_param
        );
        println!(
            "\n{:>5} {:>5} {:>5} {:>12} {:>13} {:>12} {:>14} {:>7} {:>14} {:>14}",
            "depth",
            "C",
            "heads",
            "wte",
            "value_embeds",
            "lm_head",
            "matrices",
            "scalars",
            "all",
            "scaling"
        );
        for row in &table {
            sizes(row);
        }
        println!(
            "\n{:>5} {:>15} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12}",
            "depth",
            "horizon",
            "batch",
            "steps",
            "lm_head",
            "wte",
            "v_embeds",
            "resid",
            "x0",
            "smear",
            "matrices",
            "decay",
            "FLOPs/token"
        );
        for row in &table {
            run(row);
        }
        println!();
    }
    Ok(())
}

/// Parameters per group; scalars are all that is neither a table nor inside a block.
fn sizes(row: &Row) {
    let of = |name| row.group(name).map_or(0, |(elements, _, _)| elements);
    let scalars = of("resid_lambdas") + of("x0_lambdas") + of("smear");
    println!(
        "{:>5} {:>5} {:>5} {:>12} {:>13} {:>12} {:>14} {:>7} {:>14} {:>14}",
        row.model.depth,
        row.model.model_dim,
        row.model.heads,
        of("wte"),
        of("value_embeds"),
        of("lm_head"),
        of("matrices"),
        scalars,
        row.elements(),
        row.scaling_params()
    );
}

/// Horizon, batch, steps, learning rates by group, the matrices' weight decay, FLOPs per token.
fn run(row: &Row) {
    let rate = |name| row.group(name).map_or("–".to_owned(), |(_, lr, _)| format!("{lr:.6}"));
    let decay = row.group("matrices").map_or(0.0, |(_, _, decay)| decay);
    println!(
        "{:>5} {:>15} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9.6} {:>12.6e}",
        row.model.depth,
        row.plan.tokens,
        row.plan.batch_tokens,
        row.plan.steps,
        rate("lm_head"),
        rate("wte"),
        rate("value_embeds"),
        rate("resid_lambdas"),
        rate("x0_lambdas"),
        rate("smear"),
        rate("matrices"),
        decay,
        row.model.flops_per_token()
    );
}
