//! Memory of the reference device: the host's.

use super::{DTYPES, Reference};
use crate::shapes;
use crate::{Bf16, DType, Error, HostAllocation, Memory, Mut, Place, Ref, Result, Shape, Tensor};

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
        shapes::write(&DTYPES, &dst, src)?;
        dst.host_bytes()?.copy_from_slice(src);
        Ok(())
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        shapes::read(&DTYPES, dst, &src)?;
        dst.copy_from_slice(src.host_bytes()?);
        Ok(())
    }

    fn copy(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        shapes::copy(&DTYPES, &dst, &src)?;
        dst.host_bytes()?.copy_from_slice(src.host_bytes()?);
        Ok(())
    }

    fn cast(&self, mut dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        for i in 0..shapes::cast(&DTYPES, &dst, &src)? {
            set(&mut dst, i, get(src, i)?)?;
        }
        Ok(())
    }

    fn fill(&self, mut dst: Mut<'_>, value: f64) -> Result<()> {
        for i in 0..shapes::fill(&DTYPES, &dst)? {
            set(&mut dst, i, value)?;
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// Element `i`, of any type, widened.
pub(super) fn get(x: Ref<'_>, i: usize) -> Result<f64> {
    Ok(match x.dtype() {
        DType::F64 => x.slice::<f64>()?[i],
        DType::F32 => f64::from(x.slice::<f32>()?[i]),
        DType::BF16 => f64::from(x.slice::<Bf16>()?[i].to_f32()),
        DType::I32 => f64::from(x.slice::<i32>()?[i]),
    })
}

/// Sets element `i`, of any type, rounding to nearest even (integers: towards zero).
pub(super) fn set(x: &mut Mut<'_>, i: usize, value: f64) -> Result<()> {
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
