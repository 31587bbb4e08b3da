//! Programs that `map` compiles to PTX: how near their functions are, that they run once compiled, what is refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common;

use std::sync::Arc;

use common::{Draw, tensor};
use farthing_kernels::cuda::{Cuda, emulated::Emulator};
use farthing_kernels::{DType, Device, Error, Expr, Shape, Tensor};

fn master(dev: &dyn Device, values: &[f64]) -> Tensor {
    let mut tensor = dev.master([values.len()]).unwrap();
    dev.write_f64(tensor.view_mut(), values).unwrap();
    tensor
}

/// f of each x, in f32 on the emulated device.
fn results(f: &Expr, x: &[f64]) -> Vec<f64> {
    let cuda = Cuda::emulated().unwrap();
    let dev: &dyn Device = &cuda;
    let (x, mut y) = (master(dev, x), dev.master([x.len()]).unwrap());
    dev.map(std::slice::from_ref(f), &mut [y.view_mut()], &[x.view()], &[]).unwrap();
    dev.read_f64(y.view()).unwrap()
}

/// Every f32 of 0.7 % apart from 2⁻¹²⁶ to the largest, and their negatives.
fn floats() -> Vec<f64> {
    let all = (0x0080_0000_u32..0x7f80_0000).step_by(1 << 16).map(|bits| bits | 0x1234);
    all.flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]).map(f64::from).collect()
}

fn worst_relative(f: &Expr, x: &[f64], truth: impl Fn(f64) -> f64) -> f64 {
    let mut worst = 0.0_f64;
    for (&x, y) in x.iter().zip(results(f, x)) {
        let truth = truth(x);
        if (truth.abs() as f32).is_infinite() {
            assert_eq!(y, truth.signum() * f64::INFINITY, "at {x:e}");
        } else if truth.is_nan() {
            assert!(y.is_nan(), "at {x:e}: {y}");
        } else {
            // Below the smallest normal number an f32 has an absolute error.
            let size = truth.abs().max(f64::from(f32::MIN_POSITIVE));
            worst = worst.max((y - truth).abs() / size);
        }
    }
    worst
}

#[test]
fn functions_are_within_a_millionth() {
    let x = floats();
    let one: Vec<f64> = (-500..500).map(|i| f64::from(1.0 + i as f32 * 1e-6)).collect();
    for (name, f, truth) in [
        ("exp", Expr::input(0).exp(), f64::exp as fn(f64) -> f64),
        ("ln", Expr::input(0).ln(), f64::ln),
        ("tanh", Expr::input(0).tanh(), f64::tanh),
    ] {
        for x in [&x, &one] {
            let worst = worst_relative(&f, x, truth);
            assert!(worst < 1e-6, "{name}: {worst:e}");
        }
    }
}

#[test]
fn functions_of_what_is_no_number() {
    let x = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-45];
    let same = |got: Vec<f64>, expected: [f64; 6]| {
        for (got, expected) in got.iter().zip(expected) {
            let equal = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
            assert!(equal, "{got} for {expected}");
        }
    };
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    same(results(&Expr::input(0).exp(), &x), [1.0, 1.0, inf, 0.0, nan, 1.0]);
    same(
        results(&Expr::input(0).tanh(), &x)[..5]
            .iter()
            .copied()
            .chain([f64::from(1e-45_f32)])
            .collect(),
        [0.0, -0.0, 1.0, -1.0, nan, f64::from(1e-45_f32)],
    );
    let ln = results(&Expr::input(0).ln(), &x);
    same(ln[..5].iter().copied().chain([0.0]).collect(), [-inf, -inf, inf, nan, nan, 0.0]);
    assert!((ln[5] - f64::from(1e-45_f32).ln()).abs() < 1e-4, "{}", ln[5]);
}

/// Sums and products are those of an f32 processor, bit for bit: nothing is contracted.
#[test]
fn arithmetic_is_bit_equal_to_the_processor() {
    let mut draw = Draw::new(7);
    let cuda = Cuda::emulated().unwrap();
    let dev: &dyn Device = &cuda;
    let [a, b] = [(); 2].map(|()| draw.normals(1000));
    let rule = [(Expr::old(0) * 0.9 + Expr::input(0) * Expr::scalar(0))
        / (Expr::input(0).abs().sqrt() - 3.0)];
    let (mut p, g) = (master(dev, &a), master(dev, &b));
    dev.map(&rule, &mut [p.view_mut()], &[g.view()], &[0.3]).unwrap();
    for ((got, a), b) in dev.read_f64(p.view()).unwrap().into_iter().zip(a).zip(b) {
        let (a, b) = (a as f32, b as f32);
        let expected = (a * 0.9 + b * 0.3) / (b.abs().sqrt() - 3.0);
        assert_eq!(got as f32, expected);
    }
}

#[test]
fn a_view_in_the_middle_and_what_is_beside_it() {
    let cuda = Cuda::emulated().unwrap();
    let dev: &dyn Device = &cuda;
    let mut out = tensor(dev, [101], &[7.0; 101]);
    let x = tensor(dev, [101], &[2.0; 101]);
    let (part, from) = (out.view_mut().rows(3..98).unwrap(), x.view().rows(1..96).unwrap());
    dev.map(&[Expr::input(0) * 2.0], &mut [part], &[from], &[]).unwrap();
    let out = dev.read_f64(out.view()).unwrap();
    assert!(
        out.iter().enumerate().all(|(i, &x)| x == if (3..98).contains(&i) { 4.0 } else { 7.0 })
    );
}

/// Each element once, in and out, in whole sectors.
#[test]
fn a_program_moves_each_element_once() {
    let emulator = Arc::new(Emulator::new());
    let cuda = Cuda::on_emulator(emulator.clone()).unwrap();
    let dev: &dyn Device = &cuda;
    let (mut p, g) = (master(dev, &[1.0; 1024]), master(dev, &[2.0; 1024]));
    dev.map(&[Expr::old(0) - Expr::input(0)], &mut [p.view_mut()], &[g.view()], &[]).unwrap();
    let [(name, counters)] = &emulator.take_launches()[..] else { panic!("one launch") };
    assert_eq!(*name, "map");
    assert_eq!((counters.global_load.bytes, counters.global_store.bytes), (8192, 4096));
    assert_eq!((counters.global_load.efficiency(), counters.global_store.efficiency()), (1.0, 1.0));
}

#[test]
fn what_cannot_be_compiled_is_refused() {
    let cuda = Cuda::emulated().unwrap();
    let dev: &dyn Device = &cuda;
    let mut wide = dev.alloc(DType::F64, Shape::from([4])).unwrap();
    let refused = dev.map(&[Expr::old(0)], &mut [wide.view_mut()], &[], &[]);
    assert!(matches!(refused, Err(Error::Unsupported { op: "map", .. })));
    let mut x = master(dev, &[1.0; 4]);
    let refused = dev.map(&[Expr::old(0)], &mut [x.view_mut()], &[], &[0.0; 64]);
    let message = refused.unwrap_err().to_string();
    assert_eq!(message, "map: 66 arguments, at most 64 on this device");
}
