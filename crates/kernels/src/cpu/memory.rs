//! Allocation, copies and casts.

use bytemuck::Pod;

use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, NAME};
use crate::{DType, Error, HostAllocation, Memory, Mut, Place, Ref, Result, Shape, Tensor};

impl Memory for Cpu {
    fn name(&self) -> &'static str {
        NAME
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
        let allocation = bytes
            .and_then(HostAllocation::new)
            .ok_or(Error::OutOfMemory { device: NAME, bytes: bytes.unwrap_or(usize::MAX) })?;
        Tensor::from_allocation(Box::new(allocation), dtype, shape)
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        let dst = bytes_mut("write", dst)?;
        equal_lengths("write", dst.len(), src.len())?;
        dst.copy_from_slice(src);
        Ok(())
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        let src = bytes("read", src)?;
        equal_lengths("read", src.len(), dst.len())?;
        dst.copy_from_slice(src);
        Ok(())
    }

    fn copy(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        if dst.dtype() != src.dtype() {
            return Err(Error::DType { op: "copy", got: src.dtype(), asked: dst.dtype() });
        }
        same_elements("copy", dst.shape(), src.shape())?;
        let (dst, src) = (bytes_mut("copy", dst)?, bytes("copy", src)?);
        self.workers.blocks(dst.len(), 4 * BLOCK_ELEMENTS, rows(dst, 1), |first, dst| {
            dst.data.copy_from_slice(&src[first..first + dst.data.len()]);
        });
        Ok(())
    }

    fn cast(&self, dst: Mut<'_>, src: Ref<'_>) -> Result<()> {
        same_elements("cast", dst.shape(), src.shape())?;
        let (to, from) = (dst.dtype(), src.dtype());
        if to == from {
            return self.copy(dst, src);
        }
        let (dst, src) = (bytes_mut("cast", dst)?, bytes("cast", src)?);
        match (to, from) {
            (DType::F32, DType::F64) => self.convert(dst, src, |x: f64| x as f32),
            (DType::F64, DType::F32) => self.convert(dst, src, |x: f32| f64::from(x)),
            (DType::BF16, DType::F32) => self.convert(dst, src, bf16_from_f32),
            (DType::F32, DType::BF16) => self.convert(dst, src, f32_from_bf16),
            _ => {
                let dtypes = vec![to, from];
                return Err(Error::Unsupported { op: "cast", device: NAME, dtypes });
            }
        }
        Ok(())
    }

    fn fill(&self, dst: Mut<'_>, value: f64) -> Result<()> {
        let dtype = dst.dtype();
        let dst = bytes_mut("fill", dst)?;
        match dtype {
            DType::F64 => self.set(dst, value),
            DType::F32 => self.set(dst, value as f32),
            DType::I32 => self.set(dst, value as i32),
            DType::BF16 => self.set(dst, bf16_from_f32(value as f32)),
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

impl Cpu {
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

/// Round to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

#[inline(always)]
pub(super) fn f32_from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn on_host(op: &'static str, place: Place) -> Result<()> {
    if place == Place::Host {
        return Ok(());
    }
    Err(Error::Place { op, got: place, expected: Place::Host })
}

fn bytes<'a>(op: &'static str, src: Ref<'a>) -> Result<&'a [u8]> {
    on_host(op, src.place())?;
    let len = src.shape().elements() * src.dtype().bytes();
    // SAFETY: a view on the host has this many initialised bytes, borrowed for 'a.
    Ok(unsafe { std::slice::from_raw_parts(src.address(), len) })
}

fn bytes_mut<'a>(op: &'static str, dst: Mut<'a>) -> Result<&'a mut [u8]> {
    on_host(op, dst.place())?;
    let len = dst.shape().elements() * dst.dtype().bytes();
    // SAFETY: as above, and the view, consumed here, is unique for 'a.
    Ok(unsafe { std::slice::from_raw_parts_mut(dst.address(), len) })
}

fn same_elements(op: &'static str, dst: Shape, src: Shape) -> Result<()> {
    if dst.elements() == src.elements() {
        return Ok(());
    }
    let expected = format!("{} elements as dst", dst.elements());
    Err(Error::Shape { op, arg: "src", got: src, expected })
}

fn equal_lengths(op: &'static str, tensor: usize, host: usize) -> Result<()> {
    if tensor == host {
        return Ok(());
    }
    Err(Error::Argument { op, what: format!("{host} host bytes for a tensor of {tensor} bytes") })
}
