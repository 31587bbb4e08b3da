//! Iterates over batches of a packed folder, two epochs of it, shuffled: made ahead on a thread, for one rank of several, from any step.
//!
//! Run with: `cargo run --release -p farthing-data --example iterate_batches -- /tmp/packed 8 0 1`
//! (the folder; rows per step; this rank and the number of ranks; the step to begin with)
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use farthing_data::{Order, Rows};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: iterate_batches FOLDER [ROWS [RANK RANKS [STEP]]]")?;
    let mut number = |default| args.next().map_or(Ok(default), |n| n.parse::<usize>());
    let (step_rows, rank, ranks, first) = (number(8)?, number(0)?, number(1)?, number(0)? as u64);

    let rows = Rows::open(&dir)?;
    rows.verify()?;
    let (n, context) = (rows.len(), rows.row_tokens() - 1);
    let steps = (2 * n).div_ceil(step_rows as u64);
    let (mut read, start) = (0, Instant::now());
    let batches = rows.batches(step_rows).seed(1337).from_step(first).until_step(steps);
    for batch in batches.rank(rank, ranks).sorted() {
        let batch = batch?;
        if read == 0 {
            let order = Order::new(n, step_rows, 1337)?;
            println!("step {first} reads rows {:?}", order.batch(first).collect::<Vec<_>>());
            println!("and begins with tokens {:?}", &batch.inputs()[..context.min(12)]);
        }
        read += batch.inputs().len();
    }
    let rate = read as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!(
        "{n} rows of {context}: {} steps, {rate:.1} million tokens/s",
        steps.saturating_sub(first)
    );
    Ok(())
}
