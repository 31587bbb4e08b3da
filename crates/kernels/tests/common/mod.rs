//! Values and tensors for whole-crate tests.
#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod attention;

use farthing_base::random::{PHI, mix};
use farthing_kernels::{Device, Shape, Tensor};

/// Counter-based random numbers.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed << 32)
    }

    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 += 1;
        ((mix(self.0.wrapping_mul(PHI)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub(crate) fn normals(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Activations with these values.
pub(crate) fn tensor(dev: &dyn Device, shape: impl Into<Shape>, values: &[f64]) -> Tensor {
    let mut tensor = dev.activations(shape).unwrap();
    dev.write_f64(tensor.view_mut(), values).unwrap();
    tensor
}

/// Ids, targets or positions.
pub(crate) fn indices(dev: &dyn Device, values: &[i32]) -> Tensor {
    let shape = Shape::from([values.len()]);
    let mut tensor = dev.alloc(farthing_kernels::DType::I32, shape).unwrap();
    dev.write_i32(tensor.view_mut(), values).unwrap();
    tensor
}

pub(crate) fn values(dev: &dyn Device, tensor: &Tensor) -> Vec<f64> {
    dev.read_f64(tensor.view()).unwrap()
}

pub(crate) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// ‖x − y‖ / ‖y‖.
pub(crate) fn relative(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    let difference: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    norm(&difference) / norm(y)
}
