//! The `reference` device: plain f64 loops, the definition of every operation.
//!
//! Each operation is written as its formula reads, in one thread, with sums in ascending order. It is what other devices
//! are compared with and what gradients are checked on. It is not for training.

#![allow(clippy::needless_range_loop, reason = "loops are over the formula's letters")]

mod attention;
mod dense;
mod loss;
mod map;
mod memory;
mod pointwise;
mod update;

use crate::shapes::Dtypes;
use crate::{DType, Place};

/// The reference device. All floats are F64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Reference {
    /// Opens the device; there is nothing to prepare.
    pub fn new() -> Self {
        Self
    }
}

const DTYPES: Dtypes =
    Dtypes { device: "reference", place: Place::Host, compute: DType::F64, master: DType::F64 };

/// RMSNorm's epsilon, 2⁻²³: that of f32, in every type.
const EPS: f64 = f32::EPSILON as f64;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// y += a·x.
fn add_scaled(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}
