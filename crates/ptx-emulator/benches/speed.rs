//! Lane-instructions per second: an elementwise kernel and attention by mma.sync, with every check on, on all cores.
//!
//! `cargo bench -p ptx-emulator`

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to report")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emulator::{Arg, Counters, Memory, Module, Options};
use std::time::Duration;

fn module(name: &str) -> Module {
    let path = format!("{}/tests/kernels/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    Module::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn measure(c: &mut Criterion, name: &str, mut launch: impl FnMut() -> Counters) {
    let lanes = launch().lane_instructions;
    let mut group = c.benchmark_group("lane_instructions");
    group.throughput(Throughput::Elements(lanes));
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    group.bench_function(name, |b| b.iter(&mut launch));
    group.finish();
}

fn elementwise(c: &mut Criterion) {
    let module = module("elementwise");
    let n = 1 << 20;
    let mut memory = Memory::new();
    let (x, y) = (memory.upload(&vec![0.5f32; n]), memory.upload(&vec![0.25f32; n]));
    let args: [Arg; 4] = [y.into(), x.into(), 0.5f32.into(), (n as i32).into()];
    measure(c, "scaled_relu2", || {
        let kernel = module.kernel("scaled_relu2").unwrap();
        kernel.launch([256, 1, 1], [256, 1, 1], 0, &args, &mut memory, &Options::default()).unwrap()
    });
}

fn attention(c: &mut Criterion) {
    let module = module("attention");
    let (time, heads, dim) = (512usize, 4usize, 64usize);
    let size = time * heads * dim;
    let mut memory = Memory::new();
    // bf16 values between 0.5 and 1.
    let values: Vec<u16> = (0..size).map(|i| 0x3f00 | (i * 37 % 128) as u16).collect();
    let [q, k, v] = [0; 3].map(|_| memory.upload(&values));
    let (out, lse) = (memory.alloc(2 * size), memory.alloc(4 * time * heads));
    let args: [Arg; 9] = [
        out.into(),
        lse.into(),
        q.into(),
        k.into(),
        v.into(),
        (time as i32).into(),
        (heads as i32).into(),
        0i32.into(),
        0.125f32.into(),
    ];
    let grid = [time.div_ceil(64) as u32, heads as u32, 1];
    let shared = 3 * 64 * 2 * dim as u32;
    measure(c, "attention_64", || {
        let kernel = module.kernel("attention_64").unwrap();
        kernel.launch(grid, [128, 1, 1], shared, &args, &mut memory, &Options::default()).unwrap()
    });
}

criterion_group!(speed, elementwise, attention);
criterion_main!(speed);
