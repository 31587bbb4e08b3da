//! The `reference` device: plain f64 loops that define every operation.
//!
//! Each operation is written the way its formula reads, on one thread, with sums in ascending order. Other devices are compared with it, and gradients are checked on it. It is far too slow for
//! training.

use crate::ops::polar_scratch;
use crate::ops::{Dtypes, Op, host_copy};
use crate::{
    Bf16, DType, Device, Error, HostAllocation, Memory, Mut, Place, Ref, Result, Shape, Tensor,
};

/// The reference device. All floats are F64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Reference {
    /// Opens the device; there is nothing to prepare.
    pub fn new() -> Self {
        Self
    }
}

pub(crate) const DTYPES: Dtypes =
    Dtypes { device: "reference", place: Place::Host, compute: DType::F64, master: DType::F64 };

impl Memory for Reference {
    fn name(&self) -> &'static str {
        DTYPES.device
    }

    fn place(&self) -> Place {
        DTYPES.place
    }

    fn compute_dtype(&self) -> DType {
        DTYPES.compute
    }

    fn master_dtype(&self) -> DType {
        DTYPES.master
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        let bytes = shape.elements().saturating_mul(dtype.bytes());
        let allocation =
            HostAllocation::new(bytes).ok_or(Error::OutOfMemory { device: self.name(), bytes })?;
        Tensor::from_allocation(Box::new(allocation), dtype, shape)
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        host_copy("write", &DTYPES, (&dst).into(), src.len())?;
        dst.host_bytes()?.copy_from_slice(src);
        Ok(())
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        host_copy("read", &DTYPES, (&src).into(), dst.len())?;
        dst.copy_from_slice(src.host_bytes()?);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

impl Device for Reference {
    fn run(&self, op: Op<'_>) -> Result<()> {
        op.reference()
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        polar_scratch(shape)
    }
}

/// RMSNorm's epsilon, 2⁻²³: that of f32, in every type.
pub(crate) const EPS: f64 = f32::EPSILON as f64;

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// y += a·x.
pub(crate) fn add_scaled(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

pub(crate) fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

pub(crate) fn lerp(a: f64, b: f64, w: f64) -> f64 {
    a + w * (b - a)
}

/// Element `i`, of any type, widened.
pub(crate) fn get(x: Ref<'_>, i: usize) -> Result<f64> {
    Ok(match x.dtype() {
        DType::F64 => x.slice::<f64>()?[i],
        DType::F32 => f64::from(x.slice::<f32>()?[i]),
        DType::BF16 => f64::from(x.slice::<Bf16>()?[i].to_f32()),
        DType::I32 => f64::from(x.slice::<i32>()?[i]),
    })
}

/// Sets element `i`, of any type, rounding to nearest even (integers: towards zero).
pub(crate) fn set(x: &mut Mut<'_>, i: usize, value: f64) -> Result<()> {
    let dtype = x.dtype();
    let x = x.reborrow();
    match dtype {
        DType::F64 => x.slice::<f64>()?[i] = value,
        DType::F32 => x.slice::<f32>()?[i] = value as f32,
        DType::BF16 => x.slice::<Bf16>()?[i] = Bf16::from_f64(value),
        DType::I32 => x.slice::<i32>()?[i] = value as i32,
    }
    Ok(())
}
