//! What this machine's GPU can do at best: copies within its memory, and matrix products by cuBLASLt at the shapes of d12 and d24,
//! in bf16 and in fp8. Prints JSON, then a Markdown table. Not yet run on a GPU.
//!
//! Run with: `cargo run --release -p farthing-kernels --example ceilings [ROWS]`, where ROWS is B·T, 32768 unless given.
//! Exit status: 0 measured, 1 something failed, 2 no usable GPU or bad arguments.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it measured is its output")]

use std::process::ExitCode;
use std::sync::Arc;

use farthing_kernels::cuda::cublaslt::CublasLt;
use farthing_kernels::cuda::driver::Driver;
use farthing_kernels::cuda::gemm::{Gemm, Matrix, Product};
use farthing_kernels::cuda::nvidia::Nvidia;
use farthing_kernels::{Bf16, DType, Error, Result};
use serde_json::{Value, json};

/// Batches that are timed, of which the fastest counts, and calls of each.
const BATCHES: usize = 5;
const CALLS: usize = 10;

/// Rows that a model's last layer is computed in at a time.
const HEAD_ROWS: usize = 8192;
const VOCABULARY: usize = 32768;

/// c (m, n) of k terms each, as one layer of a model asks for it.
struct Shape {
    model: &'static str,
    layer: &'static str,
    m: usize,
    n: usize,
    k: usize,
    /// A weight's gradient: the left operand is transposed in memory, the result is f32 and added to.
    gradient: bool,
}

fn shapes(rows: usize) -> Vec<Shape> {
    let of = |(model, channels): (&'static str, usize)| {
        let head_rows = rows.min(HEAD_ROWS);
        let shape =
            |layer, [m, n, k]: [usize; 3], gradient| Shape { model, layer, m, n, k, gradient };
        [
            shape("attention, each of q k v and out", [rows, channels, channels], false),
            shape("attention, gradient of each", [channels, channels, rows], true),
            shape("mlp, in", [rows, 4 * channels, channels], false),
            shape("mlp, out", [rows, channels, 4 * channels], false),
            shape("mlp, gradient of in", [4 * channels, channels, rows], true),
            shape("head", [head_rows, VOCABULARY, channels], false),
            shape("head, gradient", [VOCABULARY, channels, head_rows], true),
        ]
    };
    [("d12", 768), ("d24", 1536)].into_iter().flat_map(of).collect()
}

/// Seconds of one call, once the clock and the caches are warm.
fn seconds(gpu: &Nvidia, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..3 {
        call()?;
    }
    let mut best = f64::INFINITY;
    for _ in 0..BATCHES {
        let from = gpu.record()?;
        for _ in 0..CALLS {
            call()?;
        }
        let to = gpu.record()?;
        best = best.min(gpu.elapsed_s(from, to)? / CALLS as f64);
    }
    Ok(best)
}

/// Memory of the GPU, given back when dropped.
struct Buffer<'g> {
    gpu: &'g Nvidia,
    address: u64,
}

impl<'g> Buffer<'g> {
    fn new(gpu: &'g Nvidia, bytes: usize) -> Result<Self> {
        let buffer = Self { gpu, address: gpu.alloc(bytes)? };
        gpu.zero(buffer.address, bytes)?;
        Ok(buffer)
    }

    /// Repeated random bytes: what a GPU draws, and so how fast it runs, depends on the values.
    fn random(gpu: &'g Nvidia, bytes: usize, pattern: &[u8]) -> Result<Self> {
        let buffer = Self::new(gpu, bytes)?;
        for start in (0..bytes).step_by(pattern.len()) {
            let some = &pattern[..pattern.len().min(bytes - start)];
            gpu.write(buffer.address + start as u64, some)?;
        }
        Ok(buffer)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.gpu.free(self.address);
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

fn copies(gpu: &Nvidia) -> Result<Value> {
    let bytes = (gpu.properties().memory_bytes / 8).min(1 << 30);
    let (from, to) = (Buffer::new(gpu, bytes)?, Buffer::new(gpu, bytes)?);
    let copy = seconds(gpu, || gpu.copy(to.address, from.address, bytes))?;
    let zero = seconds(gpu, || gpu.zero(to.address, bytes))?;
    Ok(json!({
        "bytes": bytes,
        "copy_read_and_written_gb_per_s": rounded(2.0 * bytes as f64 / copy / 1e9),
        "zero_written_gb_per_s": rounded(bytes as f64 / zero / 1e9),
    }))
}

fn products(gpu: &Nvidia, gemm: &CublasLt, rows: usize) -> Result<Vec<Value>> {
    // Uniform in −1..1, which products of millions of terms stay small by.
    let halves: Vec<Bf16> = random(1 << 19)
        .map(|r| Bf16::from_f32(f64::from(r) as f32 / 2f32.powi(31) - 1.0))
        .collect();
    // e4m3 of any sign and fraction, exponents −3 to 3: no NaN.
    let eighths: Vec<u8> =
        random(1 << 20).map(|r| (r >> 24 & 0x87) as u8 | ((4 + (r >> 8) % 7) as u8) << 3).collect();
    // Compute capability 8.9 is the first with fp8.
    let has_fp8 = gpu.properties().capability >= (8, 9);
    let mut measured = Vec::new();
    for Shape { model, layer, m, n, k, gradient } in shapes(rows) {
        let flops = 2.0 * (m * n * k) as f64;
        let tflops = |seconds: f64| rounded(flops / seconds / 1e12);
        let bf16 = {
            let operand =
                |elements| Buffer::random(gpu, elements * 2, bytemuck::cast_slice(&halves));
            let (a, b) = (operand(m * k)?, operand(n * k)?);
            let out = if gradient { DType::F32 } else { DType::BF16 };
            let c = Buffer::new(gpu, m * n * out.bytes())?;
            let matrix = |buffer: &Buffer<'_>, dtype, transposed| Matrix {
                address: buffer.address,
                dtype,
                transposed,
            };
            let product = Product {
                m,
                n,
                k,
                a: matrix(&a, DType::BF16, gradient),
                b: matrix(&b, DType::BF16, !gradient),
                c: matrix(&c, out, false),
                accumulate: gradient,
            };
            tflops(seconds(gpu, || gemm.multiply(&product))?)
        };
        let fp8 = if has_fp8 && [m, n, k].iter().all(|x| x.is_multiple_of(16)) {
            let operand = |elements| Buffer::random(gpu, elements, &eighths);
            let (a, b, c) = (operand(m * k)?, operand(n * k)?, Buffer::new(gpu, m * n * 2)?);
            let call = || gemm.multiply_fp8([m, n, k], c.address, a.address, b.address);
            Value::from(tflops(seconds(gpu, call)?))
        } else {
            Value::Null
        };
        measured.push(json!({
            "model": model,
            "layer": layer,
            "m": m,
            "n": n,
            "k": k,
            "bf16_tflops": bf16,
            "fp8_tflops": fp8,
        }));
    }
    Ok(measured)
}

/// To three significant figures or a tenth, whichever is finer.
fn rounded(x: f64) -> f64 {
    if x < 100.0 { (x * 1e3).round() / 1e3 } else { (x * 10.0).round() / 10.0 }
}

fn measure(rows: usize) -> Result<Value> {
    let gpu = Arc::new(Nvidia::open(0)?);
    let gemm = CublasLt::open(gpu.clone())?;
    let properties = gpu.properties();
    let (major, minor) = properties.capability;
    Ok(json!({
        "device": properties.model,
        "capability": format!("{major}.{minor}"),
        "multiprocessors": properties.multiprocessors,
        "memory_bytes": properties.memory_bytes,
        "rows": rows,
        "memory": copies(&gpu)?,
        "products": products(&gpu, &gemm, rows)?,
    }))
}

/// The table of what [`measure`] found.
fn table(measured: &Value) -> String {
    let memory = &measured["memory"];
    let mut lines = vec![
        "| what | m × n × k | bf16, TFLOP/s | fp8, TFLOP/s | GB/s |".to_owned(),
        "| --- | --- | ---: | ---: | ---: |".to_owned(),
        format!(
            "| copy, bytes read and written | | | | {} |",
            memory["copy_read_and_written_gb_per_s"]
        ),
        format!("| zeroing, bytes written | | | | {} |", memory["zero_written_gb_per_s"]),
    ];
    for product in measured["products"].as_array().into_iter().flatten() {
        let text = |key: &str| product[key].as_str().unwrap_or_default();
        let fp8 = product["fp8_tflops"].as_f64().map_or("none".into(), |x| x.to_string());
        lines.push(format!(
            "| {}: {} | {} × {} × {} | {} | {fp8} | |",
            text("model"),
            text("layer"),
            product["m"],
            product["n"],
            product["k"],
            product["bf16_tflops"],
        ));
    }
    lines.join("\n")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rows = match &arguments[..] {
        [] => Some(32768),
        [rows] => rows.parse().ok().filter(|&rows| rows > 0 && rows <= 1 << 20),
        _ => None,
    };
    let Some(rows) = rows else {
        eprintln!(
            "ceilings [ROWS]: ROWS is a number from 1 to 1048576, got `{}`",
            arguments.join(" ")
        );
        return ExitCode::from(2);
    };
    match measure(rows) {
        Ok(measured) => {
            println!("{measured:#}\n\n{}", table(&measured));
            ExitCode::SUCCESS
        }
        Err(error @ Error::Unavailable { .. }) => {
            eprintln!("nothing is measured: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
