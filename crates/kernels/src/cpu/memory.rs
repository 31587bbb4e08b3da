//! Allocation, copies and casts.

use bytemuck::Pod;

use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, DTYPES};
use crate::ops::{Cast, Copy, Fill, host_copy};
use crate::{Bf16, DType, Error, HostAllocation, Memory, Mut, Place, Ref, Result, Shape, Tensor};

impl Memory for Cpu {
    fn name(&self) -> &'static str {
        DTYPES.device
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn compute_dtype(&self) -> DType {
        DType::F32
    }

    fn master_dtype(&self) -> DType {
        DType::F32
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        let bytes = shape.iter().try_fold(dtype.bytes(), |bytes, &dim| bytes.checked_mul(dim));
        let allocation = bytes.and_then(HostAllocation::new).ok_or(Error::OutOfMemory {
            device: DTYPES.device,
            bytes: bytes.unwrap_or(usize::MAX),
        })?;
        Tensor::from_allocation(Box::new(allocation), dtype, shape)
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        host_copy("write", &DTYPES, (&dst).into(), src.len())?;
        bytes_mut(dst).copy_from_slice(src);
        Ok(())
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        host_copy("read", &DTYPES, (&src).into(), dst.len())?;
        dst.copy_from_slice(bytes(src));
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

impl Cpu {
    pub(super) fn copy(&self, op: Copy<'_>) -> Result<()> {
        op.check(&DTYPES)?;
        let Copy { dst, src } = op;
        let (dst, src) = (bytes_mut(dst), bytes(src));
        self.workers.blocks(dst.len(), 4 * BLOCK_ELEMENTS, rows(dst, 1), |first, dst| {
            dst.data.copy_from_slice(&src[first..first + dst.data.len()]);
        });
        Ok(())
    }

    pub(super) fn cast(&self, op: Cast<'_>) -> Result<()> {
        op.check(&DTYPES)?;
        let Cast { dst, src } = op;
        let (to, from) = (dst.dtype(), src.dtype());
        if to == from {
            return self.copy(Copy { dst, src });
        }
        let (dst, src) = (bytes_mut(dst), bytes(src));
        match (to, from) {
            (DType::F32, DType::F64) => self.convert(dst, src, |x: f64| x as f32),
            (DType::F64, DType::F32) => self.convert(dst, src, |x: f32| f64::from(x)),
            (DType::BF16, DType::F32) => self.convert(dst, src, Bf16::from_f32),
            (DType::F32, DType::BF16) => self.convert(dst, src, Bf16::to_f32),
            (DType::BF16, DType::F64) => self.convert(dst, src, Bf16::from_f64),
            (DType::F64, DType::BF16) => self.convert(dst, src, |x: Bf16| f64::from(x.to_f32())),
            _ => {
                let dtypes = vec![to, from];
                return Err(Error::Unsupported { op: "cast", device: DTYPES.device, dtypes });
            }
        }
        Ok(())
    }

    pub(super) fn fill(&self, op: Fill<'_>) -> Result<()> {
        op.check(&DTYPES)?;
        let Fill { dst, value } = op;
        let dtype = dst.dtype();
        let dst = bytes_mut(dst);
        match dtype {
            DType::F64 => self.set(dst, value),
            DType::F32 => self.set(dst, value as f32),
            DType::I32 => self.set(dst, value as i32),
            DType::BF16 => self.set(dst, Bf16::from_f64(value)),
        }
        Ok(())
    }

    fn convert<A: Pod + Send + Sync, B: Pod + Send + Sync>(
        &self,
        dst: &mut [u8],
        src: &[u8],
        f: impl Fn(A) -> B + Sync,
    ) {
        let dst: &mut [B] = bytemuck::cast_slice_mut(dst);
        let src: &[A] = bytemuck::cast_slice(src);
        self.workers.blocks(dst.len(), BLOCK_ELEMENTS, rows(dst, 1), |first, dst| {
            let src = &src[first..first + dst.data.len()];
            dst.data.iter_mut().zip(src).for_each(|(d, &s)| *d = f(s));
        });
    }

    fn set<T: Pod + Send + Sync>(&self, dst: &mut [u8], value: T) {
        let dst: &mut [T] = bytemuck::cast_slice_mut(dst);
        self.workers.blocks(dst.len(), BLOCK_ELEMENTS, rows(dst, 1), |_, dst| dst.data.fill(value));
    }
}

/// All bytes of a view that was found to be on the host.
fn bytes(src: Ref<'_>) -> &[u8] {
    assert_eq!(src.place(), Place::Host);
    let len = src.shape().elements() * src.dtype().bytes();
    // SAFETY: a view on the host has this many initialised bytes, borrowed for 'a.
    unsafe { std::slice::from_raw_parts(src.address(), len) }
}

/// As [`bytes`], to write.
#[allow(clippy::needless_pass_by_value, reason = "the unique view ends here")]
fn bytes_mut(dst: Mut<'_>) -> &mut [u8] {
    assert_eq!(dst.place(), Place::Host);
    let len = dst.shape().elements() * dst.dtype().bytes();
    // SAFETY: as above, and the view, consumed here, is unique for 'a.
    unsafe { std::slice::from_raw_parts_mut(dst.address(), len) }
}
