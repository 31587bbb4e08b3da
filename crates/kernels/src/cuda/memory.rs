//! Allocation, copies, casts and fills.

use super::{Cuda, DeviceAllocation, OnDevice};
use crate::{DType, Error, Memory, Mut, Place, Ref, Result, Shape, Tensor, shapes};

impl Memory for Cuda {
    fn name(&self) -> &'static str {
        self.dtypes.device
    }

    fn place(&self) -> Place {
        self.dtypes.place
    }

    fn compute_dtype(&self) -> DType {
        self.dtypes.compute
    }

    fn master_dtype(&self) -> DType {
        self.dtypes.master
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        let bytes = shape.iter().try_fold(dtype.bytes(), |bytes, &dim| bytes.checked_mul(dim));
        let bytes = bytes.filter(|&bytes| bytes <= self.driver.properties().memory_bytes).ok_or(
            Error::OutOfMemory { device: self.dtypes.device, bytes: bytes.unwrap_or(usize::MAX) },
        )?;
        let allocation = DeviceAllocation::new(self.driver.clone(), bytes)?;
        Tensor::from_allocation(Box::new(allocation), dtype, shape)
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        shapes::write(&self.dtypes, &dst, src)?;
        if src.is_empty() { Ok(()) } else { self.driver.write(dst.device_address(), src) }
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        shapes::read(&self.dtypes, dst, &src)?;
        if dst.is_empty() { Ok(()) } else { self.driver.read(dst, src.device_address()) }
    }

    fn copy(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        let bytes = shapes::copy(&self.dtypes, &dst, &src)? * src.dtype().bytes();
        if bytes == 0 {
            return Ok(());
        }
        self.driver.copy(dst.device_address(), src.device_address(), bytes)
    }

    fn cast(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        shapes::cast(&self.dtypes, &dst, &src)?;
        Err(self.missing("cast"))
    }

    fn fill(&self, dst: Mut<'_>, value: f64) -> Result<()> {
        let _ = value;
        shapes::fill(&self.dtypes, &dst)?;
        Err(self.missing("fill"))
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }
}
