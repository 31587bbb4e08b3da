//! What this machine can do at best: copies within its memory, and the matrix products that a training step of d12 and d24 asks for, each by
//! the library's first choice and by the fastest of its best eight. Rows are printed as they are measured. Not yet run on a GPU.
//!
//! Run with: `cargo run --release -p farthing-kernels --example ceilings -- --json ceilings.json`. With `--json` standard output is a Markdown
//! table; without, it is the JSON and then the table, and rows appear on standard error meanwhile.
//! Exit status: 0 measured, 1 something failed, 2 no usable device or bad arguments.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it measured is its output")]

mod support;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use farthing_base::Hint;
use farthing_kernels::cuda::cublaslt::{Candidates, CublasLt};
use farthing_kernels::cuda::driver::Driver;
use farthing_kernels::cuda::gemm::{Gemm, HostGemm, Matrix, Product};
use farthing_kernels::{Bf16, DType, DeviceKind, Error, Result};
use serde_json::{Value, json};

use support::{Machine, described, device, write_json};

/// Measures what a machine can do at best.
#[derive(Parser)]
struct Arguments {
    /// cuda:N, or emulated, whose times say nothing.
    #[arg(long, default_value = "cuda:0", value_parser = device)]
    device: DeviceKind,
    /// One small model, for trying this program out.
    #[arg(long)]
    toy: bool,
    /// Rows of a micro-batch, B·T: 1 to 1048576.
    #[arg(long, default_value_t = 32768, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    rows: u32,
    /// Where to write what was measured, as JSON; written anew with each row.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Algorithms that are timed.
const MOST: usize = 8;

/// What is spent on a first look at each, and on a second at the fastest ones and the library's own choice.
const LOOK_S: f64 = 0.006;
const SECOND_LOOK_S: f64 = 0.01;
const FINALISTS: usize = 3;

/// After this nothing more is begun.
const LIMIT: Duration = Duration::from_secs(55);

/// A model's sizes: its name, channels, vocabulary, and the rows that its head has at a time, now and as it should be.
struct Model {
    name: &'static str,
    c: usize,
    vocabulary: usize,
    head_rows: [usize; 2],
}

/// What matters most comes first.
const MODELS: [Model; 2] = [
    Model { name: "d24", c: 1536, vocabulary: 32_768, head_rows: [512, 8192] },
    Model { name: "d12", c: 768, vocabulary: 32_768, head_rows: [512, 8192] },
];
const TOY: [Model; 1] = [Model { name: "toy", c: 32, vocabulary: 256, head_rows: [16, 64] }];
const TOY_ROWS: usize = 96;

/// How the operands of a product lie, row-major.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// y = x·wᵀ.
    Forward,
    /// dx = dy·w.
    Dx,
    /// dw += dyᵀ·x, in F32.
    Dw,
    /// xᵀ·x in BF16, of Muon's tall matrices.
    Gram,
}

impl Layout {
    fn text(self) -> &'static str {
        match self {
            Self::Forward => "x·wᵀ",
            Self::Dx => "dy·w",
            Self::Dw => "dyᵀ·x, f32",
            Self::Gram => "xᵀ·x",
        }
    }
}

/// c (m, n) of k terms each, as one part of a step asks for it.
struct Shape {
    model: &'static str,
    layer: String,
    dims: [usize; 3],
    layout: Layout,
    /// Whether the result is added to.
    accumulate: bool,
}

fn shapes(models: &[Model], rows: usize) -> Vec<Shape> {
    use Layout::{Dw, Dx, Forward, Gram};
    let of = |&Model { name, c, vocabulary, head_rows }: &Model| {
        let shape = |layer: &str, dims, layout, accumulate| Shape {
            model: name,
            layer: layer.to_owned(),
            dims,
            layout,
            accumulate,
        };
        let mut shapes = vec![
            shape("mlp in", [rows, 4 * c, c], Forward, false),
            shape("mlp out, added to the stream", [rows, c, 4 * c], Forward, true),
            shape("mlp in, dx", [rows, c, 4 * c], Dx, false),
            shape("mlp out, dx", [rows, 4 * c, c], Dx, false),
            shape("mlp in, dw", [4 * c, c, rows], Dw, true),
            shape("mlp out, dw", [c, 4 * c, rows], Dw, true),
            shape("attention q, k, v", [rows, c, c], Forward, false),
            shape("attention out, added to the stream", [rows, c, c], Forward, true),
            shape("attention, dx", [rows, c, c], Dx, false),
            shape("attention k, v, dx, added", [rows, c, c], Dx, true),
            shape("attention, dw", [c, c, rows], Dw, true),
        ];
        let mut chunks = head_rows.map(|chunk| chunk.min(rows)).to_vec();
        chunks.dedup();
        for chunk in chunks {
            let shape = |what: &str, dims, layout, accumulate| {
                shape(&format!("head of {chunk} rows{what}"), dims, layout, accumulate)
            };
            shapes.extend([
                shape("", [chunk, vocabulary, c], Forward, false),
                shape(", dx", [chunk, c, vocabulary], Dx, false),
                shape(", dw", [vocabulary, c, chunk], Dw, true),
            ]);
        }
        // A = x·xᵀ, A·A and B·x of a (C, C) and of a (C, 4C); from the other side of a (4C, C).
        shapes.extend([
            shape("polar x·xᵀ, square", [c, c, c], Forward, false),
            shape("polar A·A and B·x, square", [c, c, c], Dx, false),
            shape("polar x·xᵀ, wide", [c, c, 4 * c], Forward, false),
            shape("polar B·x, wide", [c, 4 * c, c], Dx, false),
            shape("polar xᵀ·x, tall", [c, c, 4 * c], Gram, false),
            shape("polar x·B, tall", [4 * c, c, c], Dx, false),
        ]);
        shapes
    };
    models.iter().flat_map(of).collect()
}

/// Seconds of one call, once the clock and the caches are warm: the least of three batches that take about `budget_s` together.
fn seconds(
    driver: &dyn Driver,
    budget_s: f64,
    call: &mut dyn FnMut() -> Result<()>,
) -> Result<f64> {
    let mut timed = |calls: usize| {
        let from = driver.record()?;
        for _ in 0..calls {
            call()?;
        }
        let to = driver.record()?;
        Ok::<_, Error>(driver.elapsed_s(from, to)? / calls as f64)
    };
    timed(1)?;
    let once = timed(1)?;
    let calls = ((budget_s / 3.0 / once.max(1e-7)) as usize).clamp(1, 50);
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        best = best.min(timed(calls)?);
    }
    Ok(best)
}

/// Memory of the machine, given back when dropped.
struct Buffer {
    driver: Arc<dyn Driver>,
    address: u64,
}

impl Buffer {
    fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self> {
        let buffer = Self { driver: driver.clone(), address: driver.alloc(bytes.max(1))? };
        driver.zero(buffer.address, bytes.max(1))?;
        Ok(buffer)
    }

    /// Repeated random bytes: what a GPU draws, and so how fast it runs, depends on the values.
    fn random(driver: &Arc<dyn Driver>, bytes: usize, pattern: &[u8]) -> Result<Self> {
        let buffer = Self::new(driver, bytes)?;
        let mut filled = pattern.len().min(bytes);
        driver.write(buffer.address, &pattern[..filled])?;
        while filled < bytes {
            let more = filled.min(bytes - filled);
            driver.copy(buffer.address + filled as u64, buffer.address, more)?;
            filled += more;
        }
        Ok(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.driver.free(self.address);
    }
}

/// Uniform random 32 bits, the same on every run.
fn random(count: usize) -> impl Iterator<Item = u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    })
    .take(count)
}

/// What multiplies.
enum Multiplier {
    Library(CublasLt),
    /// One way of multiplying, on the host.
    Host(HostGemm),
}

/// How fast one product is: by the first choice, and by the best, which is which of how many.
struct Speed {
    first_s: f64,
    best_s: f64,
    best: usize,
    of: usize,
}

impl Multiplier {
    fn speed(&self, driver: &dyn Driver, product: &Product) -> Result<Speed> {
        match self {
            Self::Library(library) => fastest(driver, library, &library.candidates(product, MOST)?),
            Self::Host(host) => {
                let s = seconds(driver, LOOK_S, &mut || host.multiply(product))?;
                Ok(Speed { first_s: s, best_s: s, best: 0, of: 1 })
            }
        }
    }
}

fn fastest(driver: &dyn Driver, library: &CublasLt, candidates: &Candidates) -> Result<Speed> {
    let look = |index: usize, budget_s: f64| {
        seconds(driver, budget_s, &mut || library.multiply_by(candidates, index))
    };
    let mut order: Vec<(f64, usize)> = Vec::new();
    for index in 0..candidates.len() {
        order.push((look(index, LOOK_S)?, index));
    }
    // One look may be lucky.
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let finalists = order.iter().take(FINALISTS).map(|&(_, index)| index);
    let finalists: Vec<usize> = finalists.filter(|&index| index != 0).chain([0]).collect();
    let mut speed = Speed { first_s: 0.0, best_s: f64::INFINITY, best: 0, of: candidates.len() };
    for index in finalists {
        let s = look(index, SECOND_LOOK_S)?;
        if index == 0 {
            speed.first_s = s;
        }
        if s < speed.best_s {
            (speed.best_s, speed.best) = (s, index);
        }
    }
    Ok(speed)
}

/// Operands of the largest product, which the others use the beginnings of.
struct Operands {
    a: Buffer,
    b: Buffer,
    c: Buffer,
    /// For fp8.
    a8: Buffer,
    b8: Buffer,
}

impl Operands {
    fn new(driver: &Arc<dyn Driver>, shapes: &[Shape]) -> Result<Self> {
        // Uniform in −1..1, which products of millions of terms stay small by.
        let halves: Vec<Bf16> = random(1 << 19)
            .map(|r| Bf16::from_f32(f64::from(r) as f32 / 2f32.powi(31) - 1.0))
            .collect();
        // e4m3 of any sign and fraction, exponents −3 to 3: no NaN.
        let eighths: Vec<u8> = random(1 << 20)
            .map(|r| (r >> 24 & 0x87) as u8 | ((4 + (r >> 8) % 7) as u8) << 3)
            .collect();
        let most = |of: fn([usize; 3]) -> usize| {
            shapes.iter().map(|shape| of(shape.dims)).max().unwrap_or(0)
        };
        let (a, b, c) = (most(|[m, _, k]| m * k), most(|[_, n, k]| n * k), most(|[m, n, _]| m * n));
        let halves: &[u8] = bytemuck::cast_slice(&halves);
        Ok(Self {
            a: Buffer::random(driver, 2 * a, halves)?,
            b: Buffer::random(driver, 2 * b, halves)?,
            c: Buffer::new(driver, 4 * c)?,
            a8: Buffer::random(driver, a, &eighths)?,
            b8: Buffer::random(driver, b, &eighths)?,
        })
    }

    fn product(&self, shape: &Shape) -> Product {
        let &Shape { dims: [m, n, k], layout, accumulate, .. } = shape;
        let (at, bt) = match layout {
            Layout::Forward => (false, true),
            Layout::Dx => (false, false),
            Layout::Dw | Layout::Gram => (true, false),
        };
        let out = if layout == Layout::Dw { DType::F32 } else { DType::BF16 };
        let matrix = |buffer: &Buffer, dtype, transposed| Matrix {
            address: buffer.address,
            dtype,
            transposed,
        };
        Product {
            m,
            n,
            k,
            a: matrix(&self.a, DType::BF16, at),
            b: matrix(&self.b, DType::BF16, bt),
            c: matrix(&self.c, out, false),
            accumulate,
        }
    }
}

/// What was measured, on the screen and in its file.
struct Report<'a> {
    arguments: &'a Arguments,
    json: Value,
    table: Vec<String>,
    failed: bool,
}

const HEAD: &str = "| what | m × n × k | layout | first choice, TFLOP/s | best, TFLOP/s | which | fp8: first, best | GB/s |\n\
                    | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |";

impl<'a> Report<'a> {
    fn new(arguments: &'a Arguments, driver: &dyn Driver, rows: usize) -> Result<Self> {
        let mut json = described(driver.name(), driver.properties());
        json["rows"] = rows.into();
        json["memory"] = Value::Null;
        json["products"] = json!([]);
        json["left_out"] = json!([]);
        let mut report = Self { arguments, json, table: Vec::new(), failed: false };
        report.line(HEAD.to_owned())?;
        Ok(report)
    }

    fn line(&mut self, line: String) -> Result<()> {
        match &self.arguments.json {
            Some(path) => {
                println!("{line}");
                write_json(path, &self.json)?;
            }
            None => eprintln!("{line}"),
        }
        self.table.push(line);
        Ok(())
    }

    fn add(&mut self, list: &str, value: Value) {
        if let Some(list) = self.json[list].as_array_mut() {
            list.push(value);
        }
    }

    fn left_out(&mut self, what: String) {
        eprintln!("left out: {what}");
        self.add("left_out", what.into());
    }

    fn memory(&mut self, driver: &Arc<dyn Driver>, toy: bool) -> Result<()> {
        let most = if toy { 1 << 16 } else { 1 << 30 };
        let bytes = (driver.properties().memory_bytes / 8).min(most);
        let (from, to) = (Buffer::new(driver, bytes)?, Buffer::new(driver, bytes)?);
        let rate = |passes: f64, call: &mut dyn FnMut() -> Result<()>| {
            Ok::<_, Error>(rounded(passes * bytes as f64 / seconds(&**driver, 0.05, call)? / 1e9))
        };
        let copied = rate(2.0, &mut || driver.copy(to.address, from.address, bytes))?;
        let zeroed = rate(1.0, &mut || driver.zero(to.address, bytes))?;
        self.json["memory"] = json!({
            "bytes": bytes,
            "copy_read_and_written_gb_per_s": copied,
            "zero_written_gb_per_s": zeroed,
        });
        self.line(format!("| copy, bytes read and written | | | | | | | {copied} |"))?;
        self.line(format!("| zeroing, bytes written | | | | | | | {zeroed} |"))
    }

    fn products(
        &mut self,
        driver: &Arc<dyn Driver>,
        multiplier: &Multiplier,
        shapes: &[Shape],
        start: Instant,
    ) -> Result<()> {
        let operands = Operands::new(driver, shapes)?;
        // Compute capability 8.9 is the first with fp8.
        let library = match multiplier {
            Multiplier::Library(library) if driver.properties().capability >= (8, 9) => {
                Some(library)
            }
            _ => None,
        };
        if library.is_none() {
            self.left_out("fp8: it takes cuBLASLt and compute capability 8.9".into());
        }
        // fp8 has one layout and no sum, so that parts of a step share a product.
        let mut of_fp8: HashMap<[usize; 3], Option<Speed>> = HashMap::new();
        for (done, shape) in shapes.iter().enumerate() {
            if start.elapsed() > LIMIT {
                let rest = shapes.len() - done;
                let what = format!("{rest} products, after {} s", LIMIT.as_secs());
                self.left_out(what);
                break;
            }
            let speed = multiplier.speed(&**driver, &operands.product(shape));
            let Operands { a8, b8, c, .. } = &operands;
            let dims = shape.dims;
            let fp8 = of_fp8.entry(dims).or_insert_with(|| {
                let library = library.filter(|_| dims.iter().all(|x| x.is_multiple_of(16)))?;
                let [at_c, at_a, at_b] = [c, a8, b8].map(|buffer| buffer.address);
                let candidates = library.candidates_fp8(dims, at_c, at_a, at_b, MOST);
                let speed = candidates.and_then(|c| fastest(&**driver, library, &c));
                speed.inspect_err(|error| eprintln!("fp8, {dims:?}: {error}")).ok()
            });
            let row = shape.row(&speed, fp8.as_ref());
            self.add("products", shape.json(&speed, fp8.as_ref()));
            self.line(row)?;
            if let Err(error) = speed {
                self.failed = true;
                eprintln!("{}: {}: {error}", shape.model, shape.layer);
                // After a kernel's fault no product would do better.
                driver.synchronize()?;
            }
        }
        Ok(())
    }
}

impl Shape {
    fn tflops(&self, seconds: f64) -> f64 {
        let [m, n, k] = self.dims;
        rounded(2.0 * (m * n * k) as f64 / seconds / 1e12)
    }

    fn layout_text(&self) -> String {
        format!("{}{}", self.layout.text(), if self.accumulate { ", +=" } else { "" })
    }

    fn row(&self, speed: &Result<Speed>, fp8: Option<&Speed>) -> String {
        let [m, n, k] = self.dims;
        let speeds = match speed {
            Ok(Speed { first_s, best_s, best, of }) => {
                let (first, best_rate) = (self.tflops(*first_s), self.tflops(*best_s));
                format!("{first} | {best_rate} | {} of {of}", best + 1)
            }
            Err(_) => "failed | |".into(),
        };
        let fp8 = fp8.map_or("none".into(), |fp8| {
            format!("{}, {}", self.tflops(fp8.first_s), self.tflops(fp8.best_s))
        });
        format!(
            "| {}: {} | {m} × {n} × {k} | {} | {speeds} | {fp8} | |",
            self.model,
            self.layer,
            self.layout_text()
        )
    }

    fn json(&self, speed: &Result<Speed>, fp8: Option<&Speed>) -> Value {
        let [m, n, k] = self.dims;
        let mut value = json!({
            "model": self.model,
            "layer": self.layer,
            "m": m,
            "n": n,
            "k": k,
            "layout": self.layout_text(),
            "why": speed.as_ref().err().map(ToString::to_string),
        });
        for (name, speed) in [("bf16", speed.as_ref().ok()), ("fp8", fp8)] {
            let mut set = |what: &str, of: &dyn Fn(&Speed) -> Value| {
                value[format!("{name}_{what}")] = speed.map_or(Value::Null, of);
            };
            set("tflops", &|speed| self.tflops(speed.first_s).into());
            set("best_tflops", &|speed| self.tflops(speed.best_s).into());
            set("best_index", &|speed| speed.best.into());
            set("candidates", &|speed| speed.of.into());
        }
        value
    }
}

/// To three significant figures or a tenth, whichever is finer.
fn rounded(x: f64) -> f64 {
    if x < 100.0 { (x * 1e3).round() / 1e3 } else { (x * 10.0).round() / 10.0 }
}

/// Measures what there is; whether all went well.
fn measure(arguments: &Arguments) -> Result<bool> {
    let start = Instant::now();
    let machine = Machine::open(arguments.device)?.ok_or_else(|| Error::Unavailable {
        what: format!("{} runs no PTX, and has no ceilings of this kind", arguments.device),
        hint: "use cuda:N, or emulated --toy".into(),
    })?;
    if arguments.device == DeviceKind::Emulated && !arguments.toy {
        let what = "the emulator would take hours".into();
        return Err(Error::Unavailable { what, hint: "add --toy".into() });
    }
    let driver = machine.driver();
    let rows = (arguments.rows as usize).min(if arguments.toy { TOY_ROWS } else { usize::MAX });
    let models: &[Model] = if arguments.toy { &TOY } else { &MODELS };
    let mut report = Report::new(arguments, &*driver, rows)?;
    report.memory(&driver, arguments.toy)?;
    let multiplier = match machine {
        Machine::Gpu(_, Ok(library)) => Some(Multiplier::Library(library)),
        Machine::Gpu(_, Err(error)) => {
            report.left_out(format!("products: {error}"));
            None
        }
        Machine::Emulated(_) => {
            report.left_out("choices: the host multiplies in one way".into());
            Some(Multiplier::Host(HostGemm::new(driver.clone())?))
        }
    };
    if let Some(multiplier) = multiplier {
        report.products(&driver, &multiplier, &shapes(models, rows), start)?;
    }
    match &arguments.json {
        // What was left out last is not in the file yet.
        Some(path) => write_json(path, &report.json)?,
        None => println!("{:#}\n\n{}", report.json, report.table.join("\n")),
    }
    Ok(!report.failed)
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error @ Error::Unavailable { .. }) => {
            eprintln!("nothing is measured: {}", error.with_hint());
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{}", error.with_hint());
            ExitCode::FAILURE
        }
    }
}
