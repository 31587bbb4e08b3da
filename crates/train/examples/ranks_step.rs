//! Whether N ranks of one core each train as fast as one rank of N cores: a step of the one, a step of the others, in turn, so that whatever else the machine does meets both.
//!
//! ```sh
//! cargo run --release -p farthing-train --example ranks_step                      # six layers, two cores
//! cargo run --release -p farthing-train --example ranks_step -- --trace           # and where the time goes
//! ```
#![allow(clippy::print_stdout, reason = "an example's output")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use farthing_base::random::Draws;
use farthing_comm::{Comm, Control, One, Threads};
use farthing_data::Batch;
use farthing_kernels::Device;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::traced::Traced;
use farthing_kernels::{Mut, Ref};
use farthing_model::{ModelConfig, Preset};
use farthing_optim::Registry;
use farthing_train::{Batches, Recipe, Setup, Trainer};

/// Whether N ranks of one core each train as fast as one rank of N cores.
#[derive(Parser)]
struct Cli {
    /// Ranks of one core each, and cores of the one rank
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Layers
    #[arg(long, default_value_t = 6)]
    depth: usize,
    /// Entries of the vocabulary
    #[arg(long, default_value_t = 32_768)]
    vocab: usize,
    /// Tokens of a row
    #[arg(long, default_value_t = 512)]
    tokens: usize,
    /// Rows of a step
    #[arg(long, default_value_t = 16)]
    rows: usize,
    /// Rows of a micro-batch
    #[arg(long, default_value_t = 8)]
    micro: usize,
    /// Pairs of steps, after one that is not counted
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// Where the time goes: operations, and what ranks wait for
    #[arg(long)]
    trace: bool,
}

/// Seconds by what they were spent on.
#[derive(Default)]
struct Spent(Mutex<BTreeMap<&'static str, (u64, f64)>>);

impl Spent {
    fn on<T>(&self, what: &'static str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = f();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, seconds) = all.entry(what).or_default();
        *calls += 1;
        *seconds += start.elapsed().as_secs_f64();
        done
    }

    fn take(&self) -> BTreeMap<&'static str, (u64, f64)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Threads whose collectives are timed, waiting included.
struct Timed<'a> {
    inner: Box<dyn Comm>,
    spent: &'a Spent,
}

impl Control for Timed<'_> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn ranks(&self) -> usize {
        self.inner.ranks()
    }
    fn gather(&self, own: &[u8]) -> farthing_comm::Result<Vec<Vec<u8>>> {
        self.spent.on("(gather)", || self.inner.gather(own))
    }
    fn broadcast(&self, bytes: &[u8]) -> farthing_comm::Result<Vec<u8>> {
        self.spent.on("(broadcast)", || self.inner.broadcast(bytes))
    }
    fn watch(&self, during: &'static str) -> farthing_comm::Result<()> {
        self.inner.watch(during)
    }
}

impl Comm for Timed<'_> {
    fn in_stream(&self) -> bool {
        self.inner.in_stream()
    }
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.spent.on("(reduce_scatter)", || self.inner.reduce_scatter(dev, own, all, block))
    }
    fn all_gather(
        &self,
        dev: &dyn Device,
        all: Mut<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.spent.on("(all_gather)", || self.inner.all_gather(dev, all, block))
    }
    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> farthing_comm::Result<()> {
        self.spent.on("(all_reduce)", || self.inner.all_reduce(dev, values))
    }
}

/// The same few micro-batches, over and over.
struct Same {
    batches: Vec<Batch>,
    next: usize,
}

impl Same {
    fn new(cli: &Cli, rank: usize) -> Result<Self, Box<dyn Error>> {
        let mut ids = Draws::new(rank as u64, "ranks_step", 0);
        let mut batches = Vec::new();
        for _ in 0..2 {
            let mut draw = || -> Vec<i32> {
                (0..cli.micro * cli.tokens).map(|_| ids.below(cli.vocab) as i32).collect()
            };
            let batch = Batch::new(cli.tokens, draw(), draw())?.with_order();
            batches.push(batch);
        }
        Ok(Self { batches, next: 0 })
    }
}

impl Batches for Same {
    fn next_batch(&mut self) -> Option<farthing_train::Result<&Batch>> {
        self.next += 1;
        Some(Ok(&self.batches[self.next % self.batches.len()]))
    }
}

type Told = Result<BTreeMap<&'static str, (u64, f64)>, String>;

/// A rank: a step whenever it is asked for one; what it spent its time on is the answer.
fn rank(cli: &Cli, comm: Box<dyn Comm>, threads: usize, go: &Receiver<()>, told: &Sender<Told>) {
    let of = || -> Result<(), Box<dyn Error>> {
        let spent = Spent::default();
        let comm = Timed { inner: comm, spent: &spent };
        let mut recipe = Recipe::new(ModelConfig::new(Preset::Nanochat202607, cli.depth));
        recipe.schedule.batch_tokens = Some((cli.rows * cli.tokens) as u64);
        recipe.schedule.steps = Some(1000);
        let registry = Registry::standard();
        let setup = Setup::new(&recipe, &registry, cli.vocab, cli.tokens)?;
        let traced = Traced::with_capacity(Box::new(Cpu::new(threads)?), 0);
        let plain = Cpu::new(threads)?;
        let device: &dyn Device = if cli.trace { &traced } else { &plain };
        let mut trainer = Trainer::on_ranks(device, &comm, setup, &registry, cli.micro)?;
        trainer.initialize(1)?;
        let mut batches = Same::new(cli, comm.rank())?;
        while go.recv().is_ok() {
            traced.clear();
            spent.take();
            trainer.step(&mut batches)?;
            let mut all = spent.take();
            all.extend(traced.summary().iter().map(|t| (t.op, (t.calls, t.seconds))));
            let _ = told.send(Ok(all));
        }
        Ok(())
    };
    if let Err(error) = of() {
        let _ = told.send(Err(error.to_string()));
    }
}

/// Ranks that wait to be asked for a step.
struct Team {
    go: Vec<Sender<()>>,
    told: Receiver<Told>,
    seconds: Vec<f64>,
    /// Of all ranks and steps.
    spent: BTreeMap<&'static str, (u64, f64)>,
}

impl Team {
    fn start<'s>(
        scope: &'s std::thread::Scope<'s, '_>,
        cli: &'s Cli,
        ends: Vec<Box<dyn Comm>>,
        threads: usize,
    ) -> Self {
        let (tell, told) = channel();
        let go = ends.into_iter().map(|end| {
            let ((go, wait), tell) = (channel(), tell.clone());
            scope.spawn(move || rank(cli, end, threads, &wait, &tell));
            go
        });
        Self { go: go.collect(), told, seconds: vec![], spent: BTreeMap::new() }
    }

    fn step(&mut self, counts: bool) -> Result<(), String> {
        let start = Instant::now();
        for go in &self.go {
            let _ = go.send(());
        }
        for _ in &self.go {
            let all = self.told.recv().map_err(|_| "a rank is gone".to_owned())??;
            for (what, (calls, seconds)) in all.into_iter().filter(|_| counts) {
                let of = self.spent.entry(what).or_default();
                of.0 += calls;
                of.1 += seconds;
            }
        }
        if counts {
            self.seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Seconds of the fastest step.
    fn least(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Milliseconds of a rank's step.
    fn of(&self, what: &str) -> f64 {
        let (_, seconds) = self.spent.get(what).copied().unwrap_or_default();
        1e3 * seconds / (self.go.len() * self.seconds.len()) as f64
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    std::thread::scope(|scope| {
        let ends = Threads::new(cli.ranks).into_iter();
        let ends = ends.map(|end| Box::new(end) as Box<dyn Comm>).collect();
        let mut one = Team::start(scope, &cli, vec![Box::new(One)], cli.ranks);
        let mut many = Team::start(scope, &cli, ends, 1);
        for step in 0..=cli.steps {
            one.step(step > 0)?;
            many.step(step > 0)?;
        }
        let ratios = one.seconds.iter().zip(&many.seconds).map(|(one, many)| one / many).collect();
        let n = cli.ranks;
        let (depth, rows, tokens, steps) = (cli.depth, cli.rows, cli.tokens, cli.steps);
        println!(
            "a step of {depth} layers, {rows} rows of {tokens} tokens; medians, and the fastest of {steps}:"
        );
        for (what, team) in [("1 rank of all cores", &one), ("ranks of one core", &many)] {
            let (middle, least) = (median(team.seconds.clone()), team.least());
            println!("{what:<22} {:>7.0} ms {:>7.0} ms", 1e3 * middle, 1e3 * least);
        }
        // What disturbs a machine makes a step slower, never faster.
        println!(
            "{n} ranks are {:.2} times as fast in the median of pairs, {:.2} times at best",
            median(ratios),
            one.least() / many.least()
        );
        if cli.trace {
            let mut all: Vec<&str> = one.spent.keys().chain(many.spent.keys()).copied().collect();
            all.sort_by(|a, b| (many.of(b) - one.of(b)).total_cmp(&(many.of(a) - one.of(a))));
            all.dedup();
            println!("{:<22} {:>10} {:>10}   ms of a step, slowest first", "", "1 rank", "ranks");
            for what in all {
                println!("{what:<22} {:>10.2} {:>10.2}", one.of(what), many.of(what));
            }
        }
        Ok(())
    })
}
