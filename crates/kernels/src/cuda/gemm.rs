//! Matrix products on a machine's memory, apart from the driver: cuBLASLt on a GPU, the host's GEMM on an emulated one.

use std::sync::Arc;

use super::driver::Driver;
use crate::cpu::Cpu;
use crate::{Bf16, DType, Device, Error, Result, Shape};

/// One operand, row-major in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Matrix {
    /// The first element's address on the machine.
    pub address: u64,
    /// BF16 or F32.
    pub dtype: DType,
    /// Whether memory holds its transpose.
    pub transposed: bool,
}

/// c = a·b, or c += a·b when `accumulate`, accumulated in f32: a (m, k), b (k, n), c (m, n), row-major.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Product {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// The left operand.
    pub a: Matrix,
    /// The right operand.
    pub b: Matrix,
    /// The result; never transposed.
    pub c: Matrix,
    /// Whether the result is added to.
    pub accumulate: bool,
}

impl Product {
    /// Whether the element types are ones that every machine multiplies: BF16 by BF16 into BF16 or F32, and F32 by F32 into
    /// F32.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn check_types(&self, device: &'static str) -> Result<()> {
        match (self.a.dtype, self.b.dtype, self.c.dtype) {
            (DType::BF16, DType::BF16, DType::BF16 | DType::F32)
            | (DType::F32, DType::F32, DType::F32) => Ok(()),
            (a, b, c) => Err(Error::Unsupported { op: "gemm", device, dtypes: vec![c, a, b] }),
        }
    }
}

/// A machine's matrix product.
pub trait Gemm: Send + Sync {
    /// Launches one product, in order with what its driver launches.
    ///
    /// # Errors
    /// As [`Product::check_types`]; [`Error::NoAlgorithm`], with nothing launched, for what the machine's library does not do;
    /// [`Error::Driver`].
    fn multiply(&self, product: &Product) -> Result<()>;
}

/// Products on the host, in f32, of what is read from any [`Driver`]'s memory: for the emulated device.
pub struct HostGemm {
    driver: Arc<dyn Driver>,
    cpu: Cpu,
}

impl HostGemm {
    /// Products in the memory of `driver`.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn new(driver: Arc<dyn Driver>) -> Result<Self> {
        Ok(Self { driver, cpu: Cpu::new(0)? })
    }

    /// The (rows, cols) elements at `address`, widened.
    fn read(&self, matrix: Matrix, elements: usize) -> Result<Vec<f64>> {
        let mut bytes = vec![0; elements * matrix.dtype.bytes()];
        self.driver.read(&mut bytes, matrix.address)?;
        match matrix.dtype {
            DType::F32 => Ok(bytes
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                .collect()),
            DType::BF16 => Ok(bytes
                .chunks_exact(2)
                .map(|b| f64::from(bytemuck::pod_read_unaligned::<Bf16>(b).to_f32()))
                .collect()),
            other => Err(self.unsupported(other)),
        }
    }

    fn unsupported(&self, dtype: DType) -> Error {
        Error::Unsupported { op: "gemm", device: self.driver.name(), dtypes: vec![dtype] }
    }
}

impl Gemm for HostGemm {
    fn multiply(&self, product: &Product) -> Result<()> {
        product.check_types(self.driver.name())?;
        let &Product { m, n, k, a, b, c, accumulate } = product;
        let dev: &dyn Device = &self.cpu;
        let tensor = |shape: [usize; 2], values: &[f64]| {
            let mut tensor = dev.alloc(DType::F32, Shape::from(shape))?;
            dev.write_f64(tensor.view_mut(), values)?;
            Ok::<_, Error>(tensor)
        };
        // As the CPU's `linear` takes them: a as (m, k), b as its transpose (n, k).
        let left = self.read(a, m * k)?;
        let left = if a.transposed { transposed(&left, k, m) } else { left };
        let right = self.read(b, k * n)?;
        let right = if b.transposed { right } else { transposed(&right, k, n) };
        let (left, right) = (tensor([m, k], &left)?, tensor([n, k], &right)?);
        let old = if accumulate { self.read(c, m * n)? } else { vec![0.0; m * n] };
        let mut out = tensor([m, n], &old)?;
        dev.linear(out.view_mut(), left.view(), right.view(), true)?;
        match c.dtype {
            DType::F32 => self.driver.write(c.address, out.view().host_bytes()?),
            DType::BF16 => {
                let mut narrow = dev.alloc(DType::BF16, out.shape())?;
                dev.cast(narrow.view_mut(), out.view())?;
                self.driver.write(c.address, narrow.view().host_bytes()?)
            }
            other => Err(self.unsupported(other)),
        }
    }
}

/// A (rows, cols) matrix as (cols, rows).
fn transposed(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}
