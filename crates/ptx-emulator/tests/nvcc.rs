//! Kernels as nvcc makes them, against plain arithmetic, with the memory traffic they claim.

use crate::common;
use common::{Numbers, bf16, fault, module, relative, wide};
use ptx_emulator::{Arg, Class, FaultKind, Memory, Options};

#[test]
fn elementwise_f32_at_odd_sizes() {
    let module = module("elementwise");
    let kernel = module.kernel("scaled_relu2").unwrap();
    for n in [1usize, 31, 33, 1000, 4097] {
        let mut numbers = Numbers(n as u64);
        let (x, y) = (numbers.f32(n), numbers.f32(n));
        let mut memory = Memory::new();
        let (dx, dy) = (memory.upload(&x), memory.upload(&y));
        let args = [dy.into(), dx.into(), 0.5f32.into(), (n as i32).into()];
        let counters =
            kernel.launch([3, 1, 1], [128, 1, 1], 0, &args, &mut memory, &Options::default());
        let counters = counters.unwrap();
        let got: Vec<f32> = memory.read(dy, n).unwrap();
        for i in 0..n {
            let r = x[i].max(0.0);
            let exact = (0.5 * r) as f64 * r as f64 + y[i] as f64;
            assert_eq!(got[i], exact as f32, "{i} of {n}");
        }
        assert_eq!(counters.global_load.bytes, 8 * n as u64);
        assert_eq!(counters.global_store.bytes, 4 * n as u64);
    }
}

#[test]
fn elementwise_bf16_moves_each_byte_once() {
    let module = module("elementwise");
    let kernel = module.kernel("relu2_bf16").unwrap();
    let n = 8 * 1000;
    let x = Numbers(7).bf16(n);
    let mut memory = Memory::new();
    let (dx, dy) = (memory.upload(&x), memory.alloc(2 * n));
    let args = [dy.into(), dx.into(), (n as i32 / 8).into()];
    let c = kernel.launch([8, 1, 1], [128, 1, 1], 0, &args, &mut memory, &Options::default());
    let c = c.unwrap();
    let got: Vec<u16> = memory.read(dy, n).unwrap();
    for (g, x) in got.iter().zip(&x) {
        let r = wide(*x).max(0.0);
        assert_eq!(*g, bf16(r * r));
    }
    assert_eq!((c.global_load.bytes, c.global_load.sectors), (16_000, 500));
    assert_eq!((c.global_store.bytes, c.global_store.sectors), (16_000, 500));
}

fn rms_reference(x: &[u16], columns: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(columns) {
        let mean = row.iter().map(|v| (wide(*v) as f64).powi(2)).sum::<f64>() / columns as f64;
        out.extend(row.iter().map(|v| wide(*v) as f64 / (mean + 1e-6).sqrt()));
    }
    out
}

#[test]
fn rmsnorm_three_ways() {
    let module = module("rmsnorm");
    for (name, rows, columns, rows_per_block) in [
        ("rmsnorm_warp", 64usize, 1024usize, 4u32),
        ("rmsnorm_warp", 5, 264, 4),
        ("rmsnorm_block", 64, 1024, 1),
        ("rmsnorm_block", 3, 24, 1),
        ("rmsnorm_strided", 64, 1024, 4),
    ] {
        let x = Numbers(3).bf16(rows * columns);
        let mut memory = Memory::new();
        let (dx, dy) = (memory.upload(&x), memory.alloc(2 * rows * columns));
        let args: [Arg; 5] =
            [dy.into(), dx.into(), (rows as i32).into(), (columns as i32).into(), 1e-6f32.into()];
        let grid = [(rows as u32).div_ceil(rows_per_block), 1, 1];
        let kernel = module.kernel(name).unwrap();
        let c = kernel.launch(grid, [128, 1, 1], 0, &args, &mut memory, &Options::default());
        let c = c.unwrap();
        let got: Vec<u16> = memory.read(dy, rows * columns).unwrap();
        let error = relative(got.iter().map(|v| wide(*v) as f64), rms_reference(&x, columns));
        // bf16 keeps 8 bits: a rounding is at most 2^-9 of the value.
        assert!(error < 2f64.powi(-9), "{name} at ({rows}, {columns}): {error}");
        let bytes = 2 * (rows * columns) as u64;
        if (rows, columns) == (64, 1024) {
            // As the source's comment states: the input is read twice, the output written once.
            assert_eq!((c.global_load.bytes, c.global_store.bytes), (2 * bytes, bytes), "{name}");
            if name == "rmsnorm_strided" {
                // A lane's 2 bytes use a sector of 32 alone.
                assert_eq!(c.global_load.efficiency(), 1.0 / 16.0);
                assert_eq!(c.global_store.sectors, bytes / 2);
            } else {
                assert_eq!(c.global_load.sectors, 2 * bytes / 32, "{name}");
                assert_eq!(c.global_store.sectors, bytes / 32, "{name}");
            }
        }
        assert!(c.class(Class::Warp) >= 5);
    }
}

#[test]
fn an_overrun_names_kernel_thread_and_line() {
    let module = module("elementwise");
    let kernel = module.kernel("scaled_relu2").unwrap();
    let mut memory = Memory::new();
    let (dx, dy) = (memory.upload(&[1f32; 100]), memory.upload(&[1f32; 100]));
    let args = [dy.into(), dx.into(), 0.5f32.into(), 101i32.into()];
    let f =
        fault(kernel.launch([1, 1, 1], [128, 1, 1], 0, &args, &mut memory, &Options::default()));
    assert_eq!(f.kernel, "scaled_relu2");
    assert_eq!((f.block, f.thread), ([0, 0, 0], [100, 0, 0]));
    assert!(f.text.starts_with("ld.global"), "{f}");
    assert!(matches!(f.kind, FaultKind::OutOfBounds { .. }), "{f}");
    assert!(f.to_string().contains("allocation 1 + 400"), "{f}");
}
