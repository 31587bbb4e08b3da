//! What the tests share: numbers from a seed, bf16 by bit tricks of its own, and the committed PTX.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod forms;
pub mod matrix;

use ptx_emulator::{Error, Fault, Module};

pub fn module(name: &str) -> Module {
    let path = format!("{}/tests/kernels/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Module::parse(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn text(name: &str) -> String {
    let path = format!("{}/tests/kernels/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// SplitMix64.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1).
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn bf16(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| bf16(self.value())).collect()
    }

    pub fn f32(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Nearest, ties to even, by comparing the two candidates.
pub fn bf16(x: f32) -> u16 {
    let low = (x.to_bits() >> 16) as u16;
    let (a, b) = (wide(low) as f64, wide(low + 1) as f64);
    let (da, db) = ((x as f64 - a).abs(), (b - x as f64).abs());
    if da < db || da == db && low.is_multiple_of(2) { low } else { low + 1 }
}

pub fn wide(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}

pub fn relative(a: impl IntoIterator<Item = f64>, b: impl IntoIterator<Item = f64>) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (x, y) in a.into_iter().zip(b) {
        difference += (x - y) * (x - y);
        size += y * y;
    }
    // A NaN is no number to pass a comparison with.
    let r: f64 = difference / size;
    if r.is_finite() { r.sqrt() } else { f64::INFINITY }
}

pub fn fault<T: std::fmt::Debug>(result: Result<T, Error>) -> Fault {
    match result {
        Err(Error::Fault(f)) => *f,
        other => panic!("a fault was expected, not {other:?}"),
    }
}
