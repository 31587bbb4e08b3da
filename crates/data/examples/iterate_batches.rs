//! Iterates over batches of a packed folder, two epochs of it, in a shuffled order that any step can be resumed in.
//!
//! Run with: `cargo run --release -p farthing-data --example iterate_batches -- /tmp/packed 8`
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use farthing_data::{Batch, BatchReader, Order, Rows};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: iterate_batches FOLDER [ROWS_PER_BATCH]")?;
    let batch_rows: usize = args.next().map_or(Ok(8), |n| n.parse())?;

    let rows = Rows::open(&dir)?;
    rows.verify()?;
    let (n, context, vocab) = (rows.len(), rows.row_tokens() - 1, rows.vocab());
    let order = Order::new(n, batch_rows, 1337)?;
    let mut reader = BatchReader::new(rows, order)?;
    let mut batch = Batch::new(batch_rows, context, vocab)?;

    let steps = (2 * n).div_ceil(batch_rows as u64);
    let start = Instant::now();
    for step in 0..steps {
        reader.read(step, 0..batch_rows, &mut batch)?;
        if step == 0 {
            println!("step 0 reads rows {:?}", order.batch(0).collect::<Vec<_>>());
            println!("and begins with tokens {:?}", &batch.inputs()[..context.min(12)]);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let tokens = steps as f64 * (batch_rows * context) as f64;
    println!(
        "{n} rows of {context}: {steps} steps, {:.1} million tokens/s",
        tokens / seconds / 1e6
    );
    Ok(())
}
