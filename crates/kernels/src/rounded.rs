//! `Rounded`: any device, with activations and multiplied weights stored in bf16. The numerics of a GPU on a machine without one.
//!
//! Tensors of the compute type are bf16 in memory. An operation widens them, computes as the wrapped device does (f32 on `cpu`, f64
//! on `reference`), and rounds every activation that it writes once, to nearest even. So the rounding points are where results are
//! stored, by construction: activations, gradients by activations, logits, and the copies of weights that are multiplied. In the master
//! type stay master weights, gradients by parameters, statistics (1/rms, log-sum-exp, gates), losses, rotary tables and optimizer state; sums
//! accumulate there. What is fused into one operation is not rounded inside: a branch is added to the residual stream by the product that makes it, the scores of
//! attention never leave the kernel. Muon's update is rounded too, wherever an operation writes it: see `update`.
//!
//! It computes no faster: each call converts its operands. It is for studying numerics, and holds callers to the types of a bf16 device.

mod attention;
mod dense;
mod memory;
mod pointwise;
mod update;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::shapes::Dtypes;
use crate::{DType, Device, Error, Mut, Ref, Result, Shape, Tensor};

/// A device whose activations are bf16.
pub struct Rounded {
    device: Box<dyn Device>,
    dtypes: Dtypes,
    /// Flat buffers between calls, so that in a steady state none is allocated.
    free: Mutex<Vec<Tensor>>,
}

impl Rounded {
    /// Wraps a device that computes in its master type, as `cpu` and `reference` do.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device that rounds already.
    ///
    /// # Example
    /// ```
    /// use farthing_kernels::{DType, Device, cpu::Cpu, rounded::Rounded};
    /// let rounded = Rounded::new(Box::new(Cpu::new(1)?))?;
    /// let dev: &dyn Device = &rounded;
    /// let (mut x, mut y) = (dev.activations([1])?, dev.activations([1])?);
    /// assert_eq!(x.dtype(), DType::BF16);
    /// dev.write_f64(x.view_mut(), &[1.0 + 1.0 / 128.0])?;
    /// dev.relu2(y.view_mut(), x.view())?;
    /// // (1 + 2⁻⁷)² = 1 + 2⁻⁶ + 2⁻¹⁴, of which seven bits are kept.
    /// assert_eq!(dev.read_f64(y.view())?, [1.0 + 1.0 / 64.0]);
    /// # Ok::<(), farthing_kernels::Error>(())
    /// ```
    pub fn new(device: Box<dyn Device>) -> Result<Self> {
        let inner = Dtypes::of(&*device);
        if inner.compute != inner.master {
            let dtypes = vec![inner.compute, inner.master];
            return Err(Error::Unsupported { op: "Rounded::new", device: inner.device, dtypes });
        }
        let name = match inner.device {
            "cpu" => "cpu, bf16",
            "reference" => "reference, bf16",
            _ => "bf16",
        };
        let dtypes = Dtypes { device: name, compute: DType::BF16, ..inner };
        Ok(Self { device, dtypes, free: Mutex::new(Vec::new()) })
    }

    /// A call on bf16 operands: `outs` and `ins` widened, `call` on the wrapped device, `outs` rounded. Arguments were checked.
    fn through<const O: usize, const I: usize>(
        &self,
        mut outs: [Mut<'_>; O],
        ins: [Ref<'_>; I],
        call: impl FnOnce([Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
    ) -> Result<()> {
        let shapes = outs.iter().map(Mut::shape).chain(ins.iter().map(Ref::shape));
        let elements = shapes.map(room).sum();
        self.lend(self.dtypes.master, elements, |wide| {
            let mut wide_outs = outs.each_mut().map(|out| out.reborrow());
            let mut wide_ins = ins;
            let mut rest = wide.view_mut();
            for out in &mut wide_outs {
                (*out, rest) = self.widen(rest, out.view())?;
            }
            for x in &mut wide_ins {
                let (part, tail) = self.widen(rest, *x)?;
                (*x, rest) = (part.into_ref(), tail);
            }
            call(wide_outs, wide_ins)?;
            let mut start = 0;
            for out in &mut outs {
                let (n, room) = (out.shape().elements(), room(out.shape()));
                self.device.cast(out.reborrow(), wide.view().rows(start..start + n)?)?;
                start += room;
            }
            Ok(())
        })
    }

    /// `x` widened into the beginning of `rest`, in its own shape, and what is left.
    fn widen<'a>(&self, rest: Mut<'a>, x: Ref<'_>) -> Result<(Mut<'a>, Mut<'a>)> {
        let (part, tail) = rest.split_rows(room(x.shape()))?;
        let mut part = part.rows(0..x.shape().elements())?.reshape(x.shape())?;
        self.device.cast(part.reborrow(), x)?;
        Ok((part, tail))
    }

    /// Rounds every element to bf16, in place, whatever its type.
    fn round(&self, mut x: Mut<'_>) -> Result<()> {
        let n = x.shape().elements();
        self.lend(DType::BF16, n, |narrow| {
            self.device.cast(narrow.view_mut().rows(0..n)?, x.view())?;
            self.device.cast(x.reborrow(), narrow.view().rows(0..n)?)
        })
    }

    /// Lends a flat buffer of at least this many elements, whatever they hold.
    fn lend(
        &self,
        dtype: DType,
        elements: usize,
        f: impl FnOnce(&mut Tensor) -> Result<()>,
    ) -> Result<()> {
        let kept = {
            let mut free = self.free();
            let fits = free.iter().position(|buffer| buffer.dtype() == dtype);
            fits.map(|i| free.swap_remove(i)).filter(|buffer| buffer.shape()[0] >= elements)
        };
        let mut buffer = match kept {
            Some(buffer) => buffer,
            None => self.device.alloc(dtype, Shape::from([elements]))?,
        };
        let done = f(&mut buffer);
        self.free().push(buffer);
        done
    }

    fn free(&self) -> MutexGuard<'_, Vec<Tensor>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Elements of scratch for a tensor of this shape: whole cache lines of any float type.
fn room(shape: Shape) -> usize {
    shape.elements().next_multiple_of(16)
}
