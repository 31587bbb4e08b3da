//! How much of what ranks send each other is hidden behind what they compute: ranks as threads, joined by an engine that takes as long as a network of a given rate would. Their
//! devices compute the real thing, and then sleep as long as one of a given rate would have taken: so that what else a machine does shows little.
//!
//! `cargo run --release -p farthing-train --example overlap -- --mb-per-s 40 --gflops 10`
//!
//! Three kinds of steps take turns: at once (nothing takes time on the way), one after the other (nothing is computed meanwhile), and beside (as a training does it).
//! Hidden is the part of the time on the way that the third does not show.

#![allow(clippy::print_stdout, reason = "an example's output")]

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use farthing_base::random::Draws;
use farthing_comm::{Comm, Control, Threads};
use farthing_data::Batch;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::ops::{Dtypes, Op, Operation};
use farthing_kernels::{DType, Device, Memory, Mut, Place, Ref, Shape, Tensor};
use farthing_model::{ModelConfig, Preset};
use farthing_optim::Registry;
use farthing_train::{Batches, Recipe, Setup, Trainer};

/// How much of what ranks send each other is hidden behind what they compute.
#[derive(Parser)]
struct Cli {
    /// Ranks, a thread and a core each
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Megabytes that a rank sends in a second, and receives as many
    #[arg(long, default_value_t = 40.0)]
    mb_per_s: f64,
    /// Rate of a rank's matrix products, in GFLOP/s; well below what a core can do
    #[arg(long, default_value_t = 10.0)]
    gflops: f64,
    /// Layers
    #[arg(long, default_value_t = 4)]
    depth: usize,
    /// Rows of 256 tokens that each rank has of a step, in one micro-batch
    #[arg(long, default_value_t = 2)]
    rows: usize,
    /// Steps of each kind in a round
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Rounds
    #[arg(long, default_value_t = 2)]
    rounds: usize,
}

/// An engine whose arrays take time on the way.
struct Slowed {
    inner: Threads,
    seconds_per_byte: f64,
    /// Whether others may compute meanwhile.
    beside: bool,
}

impl Slowed {
    /// Waits as long as (N − 1) / N of these bytes take.
    fn wait(&self, array: Ref<'_>) {
        let n = self.inner.ranks() as f64;
        let bytes = (array.shape().elements() * array.dtype().bytes()) as f64;
        let seconds = bytes * (n - 1.0) / n * self.seconds_per_byte;
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
}

impl Control for Slowed {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn ranks(&self) -> usize {
        self.inner.ranks()
    }
    fn gather(&self, own: &[u8]) -> farthing_comm::Result<Vec<Vec<u8>>> {
        self.inner.gather(own)
    }
    fn broadcast(&self, bytes: &[u8]) -> farthing_comm::Result<Vec<u8>> {
        self.inner.broadcast(bytes)
    }
    fn watch(&self, during: &'static str) -> farthing_comm::Result<()> {
        self.inner.watch(during)
    }
}

impl Comm for Slowed {
    fn in_stream(&self) -> bool {
        !self.beside
    }
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.wait(all);
        self.inner.reduce_scatter(dev, own, all, block)
    }
    fn all_gather(
        &self,
        dev: &dyn Device,
        all: Mut<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.wait(all.view());
        self.inner.all_gather(dev, all, block)
    }
    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> farthing_comm::Result<()> {
        self.wait(values.view());
        self.inner.all_reduce(dev, values)
    }
}

/// A device whose matrix products take time.
struct Paced {
    inner: Cpu,
    seconds_per_flop: f64,
}

impl Device for Paced {
    fn run(&self, op: Op<'_>) -> farthing_kernels::Result<()> {
        let start = Instant::now();
        let flops = op.cost(&Dtypes::of(&self.inner))?.flops as f64;
        self.inner.run(op)?;
        let whole = Duration::from_secs_f64(flops * self.seconds_per_flop);
        std::thread::sleep(whole.saturating_sub(start.elapsed()));
        Ok(())
    }
    fn polar_express_scratch(&self, shape: Shape) -> usize {
        self.inner.polar_express_scratch(shape)
    }
}

impl Memory for Paced {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn place(&self) -> Place {
        self.inner.place()
    }
    fn compute_dtype(&self) -> DType {
        self.inner.compute_dtype()
    }
    fn master_dtype(&self) -> DType {
        self.inner.master_dtype()
    }
    fn alloc(&self, dtype: DType, shape: Shape) -> farthing_kernels::Result<Tensor> {
        self.inner.alloc(dtype, shape)
    }
    fn write(&self, dst: Mut<'_>, src: &[u8]) -> farthing_kernels::Result<()> {
        self.inner.write(dst, src)
    }
    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> farthing_kernels::Result<()> {
        self.inner.read(dst, src)
    }
    fn synchronize(&self) -> farthing_kernels::Result<()> {
        self.inner.synchronize()
    }
}

/// One micro-batch, over and over.
struct Same(Batch);

impl Batches for Same {
    fn next_batch(&mut self) -> Option<farthing_train::Result<&Batch>> {
        Some(Ok(&self.0))
    }
}

const TOKENS: usize = 256;
const VOCAB: usize = 4096;

/// Seconds of each step but the first two, on rank `inner.rank()`.
fn rank(cli: &Cli, inner: Threads, rate: f64, beside: bool) -> Result<Vec<f64>, String> {
    let of = || -> Result<Vec<f64>, Box<dyn Error>> {
        let seconds_per_byte = if rate > 0.0 { 1.0 / (rate * 1e6) } else { 0.0 };
        let comm = Slowed { inner, seconds_per_byte, beside };
        let mut recipe = Recipe::new(ModelConfig::new(Preset::Nanochat202607, cli.depth));
        recipe.schedule.batch_tokens = Some((cli.ranks * cli.rows * TOKENS) as u64);
        recipe.schedule.steps = Some(1000);
        let registry = Registry::standard();
        let setup = Setup::new(&recipe, &registry, VOCAB, TOKENS)?;
        let device = Paced { inner: Cpu::new(1)?, seconds_per_flop: 1e-9 / cli.gflops };
        let mut trainer = Trainer::on_ranks(&device, &comm, setup, &registry, cli.rows)?;
        trainer.initialize(1)?;
        let mut ids = Draws::new(comm.rank() as u64, "overlap", 0);
        let mut draw =
            || -> Vec<i32> { (0..cli.rows * TOKENS).map(|_| ids.below(VOCAB) as i32).collect() };
        let batch = Batch::new(TOKENS, draw(), draw())?.with_order();
        let mut batches = Same(batch);
        let mut seconds = Vec::new();
        for _ in 0..cli.steps + 2 {
            let start = Instant::now();
            trainer.step(&mut batches)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(seconds.split_off(2))
    };
    of().map_err(|e| e.to_string())
}

/// The seconds of rank 0's steps.
fn steps(cli: &Cli, rate: f64, beside: bool) -> Result<Vec<f64>, Box<dyn Error>> {
    let all: Vec<_> = std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::new(cli.ranks)
            .into_iter()
            .map(|end| scope.spawn(move || rank(cli, end, rate, beside)))
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().unwrap_or_else(|_| Err("a rank panicked".into())))
            .collect()
    });
    let mut all = all.into_iter().collect::<Result<Vec<_>, String>>()?;
    Ok(all.swap_remove(0))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let kinds = [(0.0, false), (cli.mb_per_s, false), (cli.mb_per_s, true)];
    let mut seconds = [(); 3].map(|()| Vec::new());
    for _ in 0..cli.rounds {
        for ((rate, beside), seconds) in kinds.into_iter().zip(&mut seconds) {
            seconds.extend(steps(&cli, rate, beside)?);
        }
    }
    let [at_once, one_by_one, beside] = seconds.map(median);
    println!(
        "median of a step, {} ranks: at once {:.0} ms, one after the other {:.0} ms, beside {:.0} ms",
        cli.ranks,
        at_once * 1e3,
        one_by_one * 1e3,
        beside * 1e3
    );
    let way = one_by_one - at_once;
    println!(
        "on the way {:.0} ms, of which {:.0}% are hidden",
        way * 1e3,
        100.0 * (one_by_one - beside) / way
    );
    Ok(())
}
