//! Devices present, fixed numbers, and an evaluation of both update rules in plain f64, straight from the formulas of
//! the papers: it calls no device and shares no code with the crate.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot get its data fails")]

pub(crate) mod oracle;

use farthing_base::random::{PHI, mix};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::reference::Reference;
use farthing_kernels::{Device, ParamId, Params, Shape, SlabSpec};

/// Every device of this machine, with the relative tolerance against f64 of what a few updates move. In f32 a weight near 1 that
/// moves by 0.02 keeps 2e-6 of the movement, and five Polar Express steps amplify a rounding up to about a hundredfold.
/// The weights themselves are compared to 1e-5.
pub(crate) fn devices() -> Vec<(Box<dyn Device>, f64)> {
    vec![(Box::new(Reference::new()), 1e-11), (Box::new(Cpu::new(2).unwrap()), 5e-5)]
}

/// Numbers in −1..1 that look random and are the same everywhere: splitmix64 of (seed, index).
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let at = |i: usize| {
        let bits = mix((seed << 32 | i as u64).wrapping_add(PHI));
        (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    // Rounded to f32, so that every device starts from the same numbers.
    (0..n).map(|i| f64::from(at(i) as f32)).collect()
}

/// A slab of K parameters of one shape, named p0, p1, ….
pub(crate) fn spec(group: &str, k: usize, shape: impl Into<Shape>) -> SlabSpec {
    SlabSpec {
        group: group.into(),
        params: (0..k).map(ParamId).collect(),
        names: (0..k).map(|i| format!("p{i}")).collect(),
        shape: shape.into(),
    }
}

/// Writes every gradient of slab `i`.
pub(crate) fn set_grad(dev: &dyn Device, params: &mut Params, i: usize, values: &[f64]) {
    dev.write_f64(params.slab(i).grad, values).unwrap();
}

/// Writes every weight of slab `i`.
pub(crate) fn set_weight(dev: &dyn Device, params: &mut Params, i: usize, values: &[f64]) {
    dev.write_f64(params.slab(i).weight, values).unwrap();
}

/// Reads every weight of slab `i`.
pub(crate) fn weight(dev: &dyn Device, params: &mut Params, i: usize) -> Vec<f64> {
    dev.read_f64(params.slab(i).weight.view()).unwrap()
}

/// ‖a − b‖ / ‖b‖.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}
