//! Allocation, copies, casts and fills.

use super::driver::{Arg, Beside, Kernel, Module};
use super::{Cuda, DeviceAllocation, OnDevice};
use crate::ops::{Cast, Copy, Fill, host_copy};
use crate::{Bf16, DType, Error, Memory, Mut, Place, Ref, Result, Room, Shape, Tensor};

static MEMORY: Module = Module { name: "memory", ptx: include_str!("../../ptx/sm80/memory.ptx") };
static FILL_U16: Kernel = kernel("fill_u16");
static FILL_U32: Kernel = kernel("fill_u32");
static CAST_F32_BF16: Kernel = kernel("cast_f32_bf16");
pub(super) static CAST_BF16_F32: Kernel = kernel("cast_bf16_f32");

const fn kernel(name: &'static str) -> Kernel {
    Kernel { module: &MEMORY, name, threads: 256, shared_bytes: 0 }
}

/// Bytes of output that a block writes before it strides: 16 per thread.
const BLOCK_BYTES: usize = 256 * 16;

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
        host_copy("write", &self.dtypes, (&dst).into(), src.len())?;
        if src.is_empty() { Ok(()) } else { self.driver.write(dst.device_address(), src) }
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        host_copy("read", &self.dtypes, (&src).into(), dst.len())?;
        if dst.is_empty() { Ok(()) } else { self.driver.read(dst, src.device_address()) }
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn beside(&self) -> Result<Option<Box<dyn Beside + '_>>> {
        self.driver.beside()
    }

    fn room(&self) -> Result<Option<Room>> {
        self.driver.room()
    }

    fn notes(&self) -> Vec<String> {
        self.slow_products()
    }
}

impl Cuda {
    pub(super) fn copy(&self, op: Copy<'_>) -> Result<()> {
        let bytes = op.check(&self.dtypes)? * op.src.dtype().bytes();
        let Copy { dst, src } = op;
        if bytes == 0 {
            return Ok(());
        }
        self.driver.copy(dst.device_address(), src.device_address(), bytes)
    }

    /// Reads and writes each element once: 6 bytes per element between F32 and BF16, twice an element's for a copy. F64
    /// does not exist on this device.
    pub(super) fn cast(&self, op: Cast<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Cast { dst, src } = op;
        let kernel = match (dst.dtype(), src.dtype()) {
            (DType::BF16, DType::F32) => &CAST_F32_BF16,
            (DType::F32, DType::BF16) => &CAST_BF16_F32,
            (DType::F32, DType::F32) | (DType::BF16, DType::BF16) => {
                return self.copy(Copy { dst, src });
            }
            (to, from) => return Err(self.no_such("cast", &[to, from])),
        };
        let blocks = self.blocks_for(n * DType::BF16.bytes(), BLOCK_BYTES);
        self.launch(kernel, blocks, &[dst.arg(), src.arg(), Arg::I64(n as i64)])
    }

    /// Writes each element once. F64 does not exist on this device.
    pub(super) fn fill(&self, op: Fill<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Fill { dst, value } = op;
        let (kernel, value) = match dst.dtype() {
            DType::BF16 => (&FILL_U16, Arg::U16(bytemuck::cast(Bf16::from_f64(value)))),
            DType::F32 => (&FILL_U32, Arg::U32((value as f32).to_bits())),
            DType::I32 => (&FILL_U32, Arg::U32((value as i32).cast_unsigned())),
            other => return Err(self.no_such("fill", &[other])),
        };
        let blocks = self.blocks_for(n * dst.dtype().bytes(), BLOCK_BYTES);
        self.launch(kernel, blocks, &[dst.arg(), value, Arg::I64(n as i64)])
    }

    fn no_such(&self, op: &'static str, dtypes: &[DType]) -> Error {
        Error::Unsupported { op, device: self.dtypes.device, dtypes: dtypes.to_vec() }
    }
}
