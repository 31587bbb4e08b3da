//! Holds a device to the f64 reference, operation by operation, whatever fails: one line each, and which kernels each launched.
//!
//! Run with: `cargo run --release -p farthing-kernels --example conform -- --device cuda:0 --json conform.json`. `cargo test` does the
//! same in its own words; this is for a machine without Rust, where a failure must not cost the rest.
//! Exit status: 0 all passed, 1 something failed or could not run, 2 no usable device or bad arguments.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it found is its output")]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use farthing_base::Hint;
use farthing_kernels::conformance::{BODIES, Body, Mismatch, attempt, large};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::gemm::{Gemm, HostGemm, Product};
use farthing_kernels::cuda::watched::Watched;
use farthing_kernels::{Device, DeviceKind, Error, Result, open};
use serde_json::{Value, json};

use support::{Machine, described, device, write_json};

/// Compares every operation of a device with the f64 reference.
#[derive(Parser)]
struct Arguments {
    /// cuda:N, emulated, cpu or reference.
    #[arg(long, default_value = "cuda:0", value_parser = device)]
    device: DeviceKind,
    /// Sizes of a real training step, repeats, and addresses beyond 32 bits, instead.
    #[arg(long)]
    large: bool,
    /// A handful of operations, or small sizes with --large: for trying this program out.
    #[arg(long)]
    toy: bool,
    /// Names of operations, separated by commas; all unless given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where to write what was found, as JSON; written anew after each operation.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep what the JSON file already has of other operations.
    #[arg(long, requires = "json")]
    append: bool,
}

/// Bodies that take the emulator a second or two together.
const TOY: [&str; 7] = ["write_read", "cast", "fill", "linear", "relu2", "sum", "rms_norm"];

/// A device under test.
struct Tested {
    device: Box<dyn Device>,
    described: Value,
    /// What its kernels are seen through, where it has any.
    watched: Option<Arc<Watched>>,
}

/// What a GPU multiplies with when it has no library: nothing, so that whatever needs a product says why it fails and the rest is tested.
struct NoGemm {
    what: String,
    hint: String,
}

impl Gemm for NoGemm {
    fn multiply(&self, _: &Product) -> Result<()> {
        Err(Error::Unavailable { what: self.what.clone(), hint: self.hint.clone() })
    }
}

impl Tested {
    fn open(kind: DeviceKind) -> Result<Self> {
        let Some(machine) = Machine::open(kind)? else {
            let device = open(kind, 0)?;
            let described = json!({
                "name": device.name(),
                "model": null,
                "capability": null,
                "multiprocessors": null,
                "memory_bytes": null,
            });
            return Ok(Self { device, described, watched: None });
        };
        let driver = machine.driver();
        let described = described(driver.name(), driver.properties());
        let watched = Watched::new(driver);
        let gemm: Box<dyn Gemm> = match machine {
            Machine::Gpu(_, Ok(gemm)) => Box::new(gemm),
            Machine::Gpu(_, Err(Error::Unavailable { what, hint })) => {
                eprintln!("operations with matrix products will fail: {what}\nhint: {hint}");
                Box::new(NoGemm { what, hint })
            }
            Machine::Gpu(_, Err(error)) => return Err(error),
            Machine::Emulated(_) => Box::new(HostGemm::new(watched.clone())?),
        };
        let device = Box::new(Cuda::new(watched.clone(), gemm)?);
        Ok(Self { device, described, watched: Some(watched) })
    }

    /// What one body found: a line in words and in JSON, and whether the device is of no use any more.
    fn run(&self, name: &'static str, body: Body) -> (Found, bool) {
        if let Some(watched) = &self.watched {
            watched.take_launched();
        }
        let start = Instant::now();
        let outcome = attempt(&*self.device, name, body);
        // A kernel's fault may be reported by a later call only, and then by every one.
        let after = self.device.synchronize();
        let seconds = start.elapsed().as_secs_f64();
        let (mut verdict, mut error, mut why) = (Verdict::Passed, None, None);
        match outcome {
            Ok(largest) => error = Some(largest),
            Err(mismatch) => {
                verdict = Verdict::Failed;
                why = Some(mismatch.to_string());
                match mismatch {
                    Mismatch::Differs { error: by, .. } => error = Some(by),
                    Mismatch::NotRun { .. } => verdict = Verdict::NotRun,
                    _ => {}
                }
            }
        }
        if let Err(lost) = &after {
            verdict = Verdict::Failed;
            why = why.or_else(|| Some(lost.to_string()));
        }
        let kernels =
            self.watched.as_ref().map(|watched| watched.take_launched()).unwrap_or_default();
        let found = Found { name: name.to_owned(), verdict, error, why, seconds, kernels };
        (found, after.is_err())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    NotRun,
}

/// What is known of one operation.
struct Found {
    name: String,
    verdict: Verdict,
    error: Option<f64>,
    why: Option<String>,
    seconds: f64,
    kernels: BTreeSet<&'static str>,
}

impl Found {
    fn not_run(name: &str, why: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            verdict: Verdict::NotRun,
            error: None,
            why: Some(why.into()),
            seconds: 0.0,
            kernels: BTreeSet::new(),
        }
    }

    fn print(&self) {
        let Self { name, verdict, error, why, seconds, kernels } = self;
        let why = why.as_deref().unwrap_or_default().replace('\n', "; ");
        match verdict {
            Verdict::Passed => println!(
                "{name}: passed, error {:.1e}, {seconds:.2} s, {} kernels",
                error.unwrap_or(0.0),
                kernels.len()
            ),
            Verdict::Failed => println!("{name}: FAILED, {seconds:.2} s: {why}"),
            Verdict::NotRun => println!("{name}: not run: {why}"),
        }
    }

    /// `passed` is null where nothing was found either way.
    fn json(&self) -> Value {
        let passed = match self.verdict {
            Verdict::Passed => Value::Bool(true),
            Verdict::Failed => Value::Bool(false),
            Verdict::NotRun => Value::Null,
        };
        json!({
            "name": self.name,
            "passed": passed,
            "error": self.error,
            "why": self.why,
            "seconds": (self.seconds * 1e3).round() / 1e3,
            "kernels": self.kernels,
        })
    }
}

/// The report so far, on the screen and in its file.
struct Report<'a> {
    arguments: &'a Arguments,
    described: Value,
    bodies: Vec<Value>,
    all_passed: bool,
}

impl<'a> Report<'a> {
    fn new(arguments: &'a Arguments, described: Value) -> Self {
        let bodies = if arguments.append { Self::read(arguments) } else { Vec::new() };
        Self { arguments, described, bodies, all_passed: true }
    }

    /// Writes what there is, to the file if one was named.
    fn write(&self) -> Result<()> {
        let Some(path) = &self.arguments.json else { return Ok(()) };
        write_json(path, &json!({ "device": self.described, "bodies": self.bodies }))
    }

    /// What the file has, nothing where there is none.
    fn read(arguments: &Arguments) -> Vec<Value> {
        let text = arguments.json.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let value: Option<Value> = text.and_then(|text| serde_json::from_str(&text).ok());
        value.and_then(|value| value["bodies"].as_array().cloned()).unwrap_or_default()
    }

    fn add(&mut self, found: &Found) -> Result<()> {
        found.print();
        self.all_passed &= found.verdict == Verdict::Passed;
        self.bodies.retain(|body| body["name"] != found.name);
        self.bodies.push(found.json());
        self.write()
    }

    /// Runs the rest in a process of its own: the driver gives no new context to one that has lost its own.
    fn continue_elsewhere(&mut self, rest: &[(&str, Body)]) -> Result<()> {
        let Some((first, _)) = rest.first() else { return Ok(()) };
        eprintln!("the context is lost: a new process goes on from {first}");
        let names: Vec<&str> = rest.iter().map(|(name, _)| *name).collect();
        let &Arguments { ref device, large, toy, ref json, .. } = self.arguments;
        let mut command = Command::new(std::env::current_exe().unwrap_or_default());
        command.args(["--device", &device.to_string(), "--only", &names.join(",")]);
        for (flag, given) in [("--large", large), ("--toy", toy)] {
            command.args(given.then_some(flag));
        }
        if let Some(path) = json {
            command.arg("--append").arg("--json").arg(path);
        }
        let why = match command.status().map(|status| status.code()) {
            Ok(Some(0 | 1)) => return Ok(()),
            Ok(Some(code)) => format!("a new process ended with status {code}"),
            Ok(None) => "a new process was ended".to_owned(),
            Err(error) => format!("no new process could be started: {error}"),
        };
        if json.is_some() {
            self.bodies = Self::read(self.arguments);
        }
        for name in names {
            if !self.bodies.iter().any(|body| body["name"] == name) {
                self.add(&Found::not_run(name, format!("the context is lost, and {why}")))?;
            }
        }
        Ok(())
    }
}

/// The bodies that are asked for.
fn chosen(arguments: &Arguments) -> std::result::Result<Vec<(&'static str, Body)>, String> {
    let all = match (arguments.large, arguments.toy) {
        (true, false) if arguments.device == DeviceKind::Emulated => {
            return Err("the emulator would take hours\nhint: add --toy".into());
        }
        (true, false) => large::LARGE,
        (true, true) => large::TOY,
        (false, _) => BODIES,
    };
    let named = |name: &str| arguments.only.iter().any(|only| only == name);
    if let Some(unknown) = arguments.only.iter().find(|only| all.iter().all(|(n, _)| n != only)) {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "there is no operation `{unknown}`\nhint: --only takes {}",
            names.join(", ")
        ));
    }
    let few = arguments.toy && !arguments.large;
    let wanted = |name: &str| match (arguments.only.is_empty(), few) {
        (false, _) => named(name),
        (true, true) => TOY.contains(&name),
        (true, false) => true,
    };
    Ok(all.iter().copied().filter(|(name, _)| wanted(name)).collect())
}

/// Runs the bodies one after another; whether all passed.
fn run(mut report: Report<'_>, bodies: &[(&'static str, Body)], tested: Tested) -> Result<bool> {
    for (at, &(name, body)) in bodies.iter().enumerate() {
        let (found, lost) = tested.run(name, body);
        report.add(&found)?;
        if lost {
            drop(tested);
            report.continue_elsewhere(&bodies[at + 1..])?;
            break;
        }
    }
    Ok(report.all_passed)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let refused = |what: String| {
        eprintln!("nothing is tested: {what}");
        ExitCode::from(2)
    };
    let bodies = match chosen(&arguments) {
        Ok(bodies) => bodies,
        Err(what) => return refused(what),
    };
    let tested = match Tested::open(arguments.device) {
        Ok(tested) => tested,
        Err(error) => return refused(error.with_hint()),
    };
    let report = Report::new(&arguments, tested.described.clone());
    // A file that cannot be written is told of now, not after minutes.
    if let Err(error) = report.write() {
        return refused(error.with_hint());
    }
    match run(report, &bodies, tested) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", error.with_hint());
            ExitCode::FAILURE
        }
    }
}
