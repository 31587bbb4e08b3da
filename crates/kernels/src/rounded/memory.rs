//! Allocation, copies and casts: the wrapped device's, which know every element type.

use super::Rounded;
use crate::{DType, Memory, Mut, Place, Ref, Result, Shape, Tensor};

impl Memory for Rounded {
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
        self.device.alloc(dtype, shape)
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        self.device.write(dst, src)
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        self.device.read(dst, src)
    }

    fn copy(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        self.device.copy(dst, src)
    }

    fn cast(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        self.device.cast(dst, src)
    }

    fn fill(&self, dst: Mut<'_>, value: f64) -> Result<()> {
        self.device.fill(dst, value)
    }

    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }

    fn notes(&self) -> Vec<String> {
        self.device.notes()
    }
}
