//! `Device`: the one trait behind which every machine computes an [`Op`]. It is object-safe.
//!
//! What each operation computes, and the rules that hold for all of them, are documented in [`ops`](crate::ops). Every `dyn Device` also has one method per operation, for example
//! `dev.linear(y, x, w, false)`, which builds the value and calls [`Device::run`].

use crate::cuda::driver::Beside;
use crate::ops::Op;
use crate::{Bf16, DType, Mut, Place, Ref, Result, Shape, Tensor};

/// Everything a training step needs of a machine.
pub trait Device: Memory + Send + Sync {
    /// Computes one operation, after its check and before anything that is asked of the device later.
    ///
    /// # Errors
    /// What the operation's check says, before anything is written; what the machine says.
    fn run(&self, op: Op<'_>) -> Result<()>;

    /// Elements of scratch that [`PolarExpress`](crate::ops::PolarExpress) needs for this shape (K, R, S).
    fn polar_express_scratch(&self, shape: Shape) -> usize;
}

/// A device's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes that nobody has taken, other programs included.
    pub free_bytes: u64,
    /// Bytes in all.
    pub bytes: u64,
}

#[allow(
    clippy::missing_errors_doc,
    reason = "any may fail with what the machine says, or with `Error::Place` and `Error::Argument` for a view that does not fit"
)]
/// Memory and its movement.
pub trait Memory {
    /// A short name for messages: "cpu", "reference", "cuda:0".
    fn name(&self) -> &'static str;

    /// Where this device's tensors are.
    fn place(&self) -> Place;

    /// The float type of activations, and of weights as they are multiplied: F64 on `reference`, F32 on `cpu`.
    fn compute_dtype(&self) -> DType;

    /// The float type of master weights, gradients, statistics and optimizer state: F64 on `reference`, else F32.
    fn master_dtype(&self) -> DType;

    /// A zeroed tensor.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor>;

    /// Copies host bytes, in `dst`'s own element type, to the device.
    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()>;

    /// Copies the device's bytes, in `src`'s own element type, to the host, after all that was launched before.
    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()>;

    /// Waits for everything launched so far.
    fn synchronize(&self) -> Result<()>;

    /// A CUDA stream beside the one that this device's work is launched in, another one at each call: for a library that launches work of its own. `None` where there is no such
    /// thing.
    fn beside(&self) -> Result<Option<Box<dyn Beside + '_>>> {
        Ok(None)
    }

    /// What of its memory is free just now. `None` where that is not the device's own to say, as on the processor.
    fn room(&self) -> Result<Option<Room>> {
        Ok(None)
    }

    /// What a user should know of how this device has computed so far, a line each: a slow way, taken because a library refused the fast one.
    /// Empty on most.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Conveniences that every device gets; all go through [`Memory`].
impl dyn Device + '_ {
    /// A zeroed tensor of the compute dtype.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn activations(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.alloc(self.compute_dtype(), shape.into())
    }

    /// A zeroed tensor of the master dtype.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn master(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.alloc(self.master_dtype(), shape.into())
    }

    /// Writes floats, rounded to `dst`'s type. Allocates on the host: for initialisation and tests.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) when the lengths differ; as [`Memory::write`].
    pub fn write_f64(&self, dst: Mut<'_>, src: &[f64]) -> Result<()> {
        check_len("write_f64", dst.shape(), src.len())?;
        match dst.dtype() {
            DType::F64 => self.write(dst, bytemuck::cast_slice(src)),
            DType::F32 => {
                let src: Vec<f32> = src.iter().map(|&x| x as f32).collect();
                self.write(dst, bytemuck::cast_slice(&src))
            }
            DType::I32 => {
                let src: Vec<i32> = src.iter().map(|&x| x as i32).collect();
                self.write(dst, bytemuck::cast_slice(&src))
            }
            DType::BF16 => {
                let src: Vec<Bf16> = src.iter().map(|&x| Bf16::from_f64(x)).collect();
                self.write(dst, bytemuck::cast_slice(&src))
            }
        }
    }

    /// Reads floats, widened. Allocates on the host: for checkpoints, metrics and tests.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn read_f64(&self, src: Ref<'_>) -> Result<Vec<f64>> {
        match src.dtype() {
            DType::F64 => self.read_as::<f64>(src),
            DType::F32 => Ok(self.read_as::<f32>(src)?.into_iter().map(f64::from).collect()),
            DType::I32 => Ok(self.read_as::<i32>(src)?.into_iter().map(f64::from).collect()),
            DType::BF16 => {
                Ok(self.read_as::<Bf16>(src)?.into_iter().map(|x| f64::from(x.to_f32())).collect())
            }
        }
    }

    /// Writes ids, targets or positions.
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) when `dst` is not I32; as [`Memory::write`].
    pub fn write_i32(&self, dst: Mut<'_>, src: &[i32]) -> Result<()> {
        check_len("write_i32", dst.shape(), src.len())?;
        if dst.dtype() != DType::I32 {
            return Err(crate::Error::DType {
                op: "write_i32",
                got: dst.dtype(),
                asked: DType::I32,
            });
        }
        self.write(dst, bytemuck::cast_slice(src))
    }

    fn read_as<T: crate::Element>(&self, src: Ref<'_>) -> Result<Vec<T>> {
        let mut out = vec![T::zeroed(); src.shape().elements()];
        self.read(bytemuck::cast_slice_mut(&mut out), src)?;
        Ok(out)
    }
}

fn check_len(op: &'static str, shape: Shape, len: usize) -> Result<()> {
    if shape.elements() == len {
        return Ok(());
    }
    Err(crate::Error::Argument { op, what: format!("{len} values for a tensor of shape {shape}") })
}
