//! One training step of a GPT on a GPU, taken apart: the model's and the optimizers' own code on synthetic tokens, every kernel and every
//! matrix product timed by events. Or the same step's losses, compared with those of a CPU.
//!
//! ```sh
//! cargo run --release -p farthing-optim --example gpu_step -- --depth 12 --rows 16     # a table of where the time goes
//! cargo run --release -p farthing-optim --example gpu_step -- --check                  # 30 steps, losses within 0.02
//! cargo run --release -p farthing-optim --example gpu_step -- --device emulated --toy  # all of it, tiny, without a GPU
//! ```
//!
//! Exit status: 0 all well, 1 something failed, 2 no such device or bad arguments. What has run on a GPU so far: `docs/gpu.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it measured is its output")]

mod check;
mod machine;
mod measure;
mod table;
mod training;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use farthing_base::Hint;
use farthing_kernels::DeviceKind;

use machine::Machine;

/// What can go wrong here is of several crates, and only ever printed.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Times one training step, piece by piece, or checks its losses.
#[derive(Parser)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Cli {
    /// cuda:0, cuda:N or emulated; for --check also cpu, whose activations are then stored in bf16
    #[arg(long, default_value = "cuda:0")]
    device: DeviceKind,
    /// A model so small that the emulator trains it in seconds, in place of what --depth and --rows say
    #[arg(long)]
    toy: bool,
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Train 30 steps of d12 and compare each loss with that of a CPU
    #[arg(long, conflicts_with_all = ["depth", "rows", "steps", "checkpoint", "once"])]
    check: bool,
    /// Layers of the model to time [default: 12]
    #[arg(long)]
    depth: Option<usize>,
    /// Rows of a micro-batch [default: 16]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rows: Option<u16>,
    /// Steps to time, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,
    /// Also write one checkpoint, with the optimizers' state, and say how long training stands still for it
    #[arg(long)]
    checkpoint: bool,
    /// One step, nothing timed: for a profiler or a checker that slows everything down. Tiny unless --depth is given
    #[arg(long, conflicts_with_all = ["steps", "checkpoint"])]
    once: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let machine = match Machine::open(cli.device) {
        Ok(machine) => machine,
        Err(error) => {
            say(error.as_ref());
            return ExitCode::from(2);
        }
    };
    match run(&cli, &machine) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// The error and, where it has one, its hint.
fn say(error: &(dyn Error + 'static)) {
    eprintln!("{error}");
    let model = error.downcast_ref::<farthing_model::Error>().and_then(Hint::hint);
    let optim = || error.downcast_ref::<farthing_optim::Error>().and_then(Hint::hint);
    if let Some(hint) = model.or_else(optim) {
        eprintln!("hint: {hint}");
    }
}

/// Whether all is well.
fn run(cli: &Cli, machine: &Machine) -> Result<bool> {
    println!("device: {}", machine.describe());
    let (well, mut figures) = if cli.check {
        check::run(machine, cli.toy)?
    } else if cli.once {
        (true, measure::once(machine, &cli.case())?)
    } else {
        (true, measure::run(machine, &cli.case(), cli.steps.into(), cli.checkpoint)?)
    };
    let notes = machine.device().notes();
    for note in &notes {
        println!("note: {note}");
    }
    if let Some(path) = &cli.json {
        figures["notes"] = notes.into();
        farthing_base::files::write(path, &[format!("{figures:#}\n").as_bytes()])?;
    }
    Ok(well)
}

impl Cli {
    fn case(&self) -> training::Case {
        let base = match self.depth {
            _ if self.toy => return training::TOY,
            None if self.once => training::TINY,
            None => training::FULL,
            Some(depth) => training::Case { depth, ..training::FULL },
        };
        training::Case { rows: self.rows.map_or(base.rows, usize::from), ..base }
    }
}
