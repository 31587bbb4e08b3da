//! Whole training steps on the processor, at the sizes that nanochat is timed at beside us, and where their time goes.
//!
//! ```sh
//! cargo run --release -p farthing-train --example cpu_step -- --case a            # a table of the operations of a step
//! cargo run --release -p farthing-train --example cpu_step -- --case a --steps 20 --json   # one line for a script
//! ```
//!
//! Ids are random. The table gives each operation's time in the step in which it was fastest. With `--json` nothing is traced: one line with the seconds of each step.
#![allow(clippy::print_stdout, reason = "what it measured is its output")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use farthing_base::random::Draws;
use farthing_data::Batch;
use farthing_kernels::Device;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::planned::Planned;
use farthing_kernels::traced::Traced;
use farthing_model::{ModelConfig, Preset};
use farthing_optim::Registry;
use farthing_train::{Batches, Recipe, Setup, Trainer};

#[derive(Parser)]
struct Cli {
    /// Which sizes
    #[arg(long)]
    case: Case,
    /// Steps to time, after two that are not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Threads; 0 for one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one line of JSON: the tokens of a step, and the seconds of each
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Case {
    /// 4 layers of 256 channels, full attention, 8 rows of 512 tokens, 8,192 entries
    A,
    /// The same with three short windows to a long one
    B,
    /// 6 layers of 384 channels, full attention, 16 rows of 512 tokens, 32,768 entries
    C,
    /// 12 layers of 768 channels in 6 heads, three short windows to a long one, 1 row of 1,024 tokens, 32,768 entries
    D,
}

struct Sizes {
    depth: usize,
    head_dim: usize,
    windows: &'static str,
    rows: usize,
    tokens: usize,
    vocab: usize,
}

impl Case {
    fn sizes(self) -> Sizes {
        let small =
            Sizes { depth: 4, head_dim: 64, windows: "L", rows: 8, tokens: 512, vocab: 8192 };
        match self {
            Self::A => small,
            Self::B => Sizes { windows: "SSSL", ..small },
            Self::C => Sizes { depth: 6, rows: 16, vocab: 32_768, ..small },
            Self::D => Sizes {
                depth: 12,
                head_dim: 128,
                windows: "SSSL",
                rows: 1,
                tokens: 1024,
                vocab: 32_768,
            },
        }
    }
}

/// The same few micro-batches, over and over.
struct Random {
    batches: Vec<Batch>,
    next: usize,
}

impl Random {
    fn new(of: &Sizes) -> Result<Self, Box<dyn Error>> {
        let mut ids = Draws::new(1, "cpu_step", 0);
        let mut batches = Vec::new();
        for _ in 0..4 {
            let mut draw = || -> Vec<i32> {
                (0..of.rows * of.tokens).map(|_| ids.below(of.vocab) as i32).collect()
            };
            let (inputs, targets) = (draw(), draw());
            batches.push(Batch::new(of.tokens, inputs, targets)?.with_order());
        }
        Ok(Self { batches, next: 0 })
    }
}

impl Batches for Random {
    fn next_batch(&mut self) -> Option<farthing_train::Result<&Batch>> {
        self.next += 1;
        Some(Ok(&self.batches[self.next % self.batches.len()]))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let of = cli.case.sizes();
    let cpu = Cpu::new(cli.threads)?;
    let threads = cpu.threads();
    if cli.json {
        let seconds = run(&cpu, &of, cli.steps, || ())?;
        let tokens = of.rows * of.tokens;
        println!(
            "{}",
            serde_json::json!({ "tokens": tokens, "threads": threads, "seconds": seconds })
        );
        return Ok(());
    }
    let planned = Planned::cpu();
    let mut warm = true;
    run(&planned, &of, 1, || {
        if std::mem::take(&mut warm) {
            planned.clear();
        }
    })?;
    // Calls and the fewest seconds of a step, for each operation: what disturbs a machine makes a step slower, never faster.
    let mut fastest: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    let traced = Traced::with_capacity(Box::new(cpu), 0);
    let mut done = 0;
    let mut seconds = run(&traced, &of, cli.steps, || {
        for total in traced.summary().iter().filter(|_| done > 0) {
            let (calls, least) = fastest.entry(total.op).or_insert((total.calls, f64::MAX));
            (*calls, *least) = (total.calls, least.min(total.seconds));
        }
        traced.clear();
        done += 1;
    })?;
    seconds.sort_by(f64::total_cmp);
    let mut rows: Vec<_> = fastest.into_iter().collect();
    rows.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
    let sum: f64 = rows.iter().map(|(_, (_, seconds))| seconds).sum();
    println!(
        "{:<22} {:>6} {:>9} {:>6} {:>8} {:>7}",
        "operation", "calls", "ms", "share", "GFLOP/s", "GB/s"
    );
    for (op, (calls, least)) in rows {
        let cost = planned.calls().into_iter().find(|calls| calls.op == op);
        let (flops, moved) = cost.map_or((0, 0), |calls| (calls.cost.flops, calls.cost.moved()));
        println!(
            "{op:<22} {calls:>6} {:>9.2} {:>5.1}% {:>8.1} {:>7.1}",
            least * 1e3,
            100.0 * least / sum,
            flops as f64 / least / 1e9,
            moved as f64 / least / 1e9,
        );
    }
    let tokens = (of.rows * of.tokens) as f64;
    println!(
        "their sum {:.1} ms; a step: {:.1} ms at best, {:.1} ms in the median, {:.0} tokens/s at best, on {threads} threads",
        sum * 1e3,
        seconds[0] * 1e3,
        seconds[seconds.len() / 2] * 1e3,
        tokens / seconds[0],
    );
    Ok(())
}

/// Seconds of each step, after two that only warm up; `after` is called when they are done, and after each step.
fn run(
    dev: &dyn Device,
    of: &Sizes,
    steps: u16,
    mut after: impl FnMut(),
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut recipe = Recipe::new(ModelConfig {
        head_dim: Some(of.head_dim),
        window_pattern: Some(of.windows.into()),
        ..ModelConfig::new(Preset::Nanochat202607, of.depth)
    });
    recipe.schedule.batch_tokens = Some((of.rows * of.tokens) as u64);
    recipe.schedule.steps = Some(u64::from(steps) + 100);
    let registry = Registry::standard();
    let setup = Setup::new(&recipe, &registry, of.vocab, of.tokens)?;
    let mut trainer = Trainer::new(dev, setup, &registry, of.rows)?;
    trainer.initialize(1)?;
    let mut batches = Random::new(of)?;
    for _ in 0..2 {
        trainer.step(&mut batches)?;
    }
    after();
    let mut seconds = Vec::new();
    for _ in 0..steps {
        let start = Instant::now();
        trainer.step(&mut batches)?;
        seconds.push(start.elapsed().as_secs_f64());
        after();
    }
    Ok(seconds)
}
