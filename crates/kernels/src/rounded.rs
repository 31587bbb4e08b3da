//! `Rounded`: any device, with activations and multiplied weights stored in bf16. The numerics of a GPU on a machine without one.
//!
//! Tensors of the compute type are bf16 in memory. An operation widens them, computes as the wrapped device does (f32 on `cpu`, f64
//! on `reference`), and rounds every activation that it writes once, to nearest even. So the rounding points are where results are
//! stored, by construction: activations, gradients by activations, logits, and the copies of weights that are multiplied. In the master
//! type stay master weights, gradients by parameters, statistics (1/rms, log-sum-exp, gates), losses, rotary tables and optimizer state; sums
//! accumulate there. What is fused into one operation is not rounded inside: a branch is added to the residual stream by the product that makes it, the scores of
//! attention never leave the kernel. Muon's update is rounded too wherever an operation writes it, as nanochat does on a GPU: the Nesterov gradient, the matrix after
//! equilibration, renormalisation and variance reduction, and in Polar Express the matrix, its Gram matrix, every product and every polynomial.
//! Momentum, variances and the weight that the update is subtracted from stay in the master type.
//!
//! It computes no faster: each call converts its operands. It is for studying numerics, and holds callers to the types of a bf16 device.

mod polar;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cuda::driver::Beside;
use crate::ops::{Argument, Dtypes, Embed, EmbedDims, Kind, Op, Operation, Views, indices};
use crate::{DType, Device, Error, Memory, Mut, Place, Ref, Result, Room, Shape, Tensor};

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

    /// The operation on widened operands, and what it wrote rounded.
    fn through(&self, op: Op<'_>) -> Result<()> {
        let mut elements = 0;
        op.each(&mut |argument, seen| {
            if argument.kind == Kind::Compute {
                elements += room(seen.shape);
            }
        });
        self.lend(self.dtypes.master, elements, |wide| {
            let mut written = [const { None }; MOST_WRITTEN];
            let rest = Some(wide.view_mut());
            let mut views = Widening { dev: self, rest, used: 0, written: written.iter_mut() };
            self.device.run(op.with(&mut views)?)?;
            written.into_iter().flatten().try_for_each(|written| match written {
                Written::Narrow(out, start) => {
                    let n = out.shape().elements();
                    self.device.cast(out, wide.view().rows(start..start + n)?)
                }
                Written::Update(update) => self.round(update),
            })
        })
    }

    /// Rows of the table as they are: nothing is computed, so the table is not widened.
    fn embed(&self, op: Embed<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = op.check(&self.dtypes)?;
        let ids = op.ids.slice::<i32>()?;
        indices("embed", ids, 0, v)?;
        let mut out = op.out.reshape([n, c])?;
        for (n, &id) in ids.iter().enumerate() {
            self.device.copy(out.reborrow().at(n)?, op.table.at(id as usize)?)?;
        }
        Ok(())
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

/// What an operation wrote that has to be rounded.
enum Written<'a> {
    /// A bf16 operand, whose copy begins at this element.
    Narrow(Mut<'a>, usize),
    /// An update of weights, where it lies.
    Update(Mut<'a>),
}

/// The most operands of one operation that have to be rounded.
const MOST_WRITTEN: usize = 4;

/// Puts widened copies in the place of bf16 operands, and keeps what is written.
struct Widening<'d, 'a, 'b> {
    dev: &'d Rounded,
    rest: Option<Mut<'b>>,
    /// Elements before `rest`.
    used: usize,
    written: std::slice::IterMut<'b, Option<Written<'a>>>,
}

impl<'a, 'b> Widening<'_, 'a, 'b> {
    /// A copy of `x` in the master dtype, in its own shape.
    fn widen(&mut self, x: Ref<'_>) -> Result<Mut<'b>> {
        let short = || Error::Argument { op: "rounded", what: "no room for an operand".into() };
        let rest = self.rest.take().ok_or_else(short)?;
        let (part, tail) = rest.split_rows(room(x.shape()))?;
        self.rest = Some(tail);
        self.used += room(x.shape());
        let mut part = part.rows(0..x.shape().elements())?.reshape(x.shape())?;
        self.dev.device.cast(part.reborrow(), x)?;
        Ok(part)
    }

    fn keep(&mut self, written: Written<'a>) -> Result<&'b mut Written<'a>> {
        let short = || Error::Argument { op: "rounded", what: "too many results".into() };
        Ok(self.written.next().ok_or_else(short)?.insert(written))
    }
}

impl<'a, 'b> Views<'a, 'b> for Widening<'_, 'a, 'b>
where
    'a: 'b,
{
    fn read(&mut self, argument: &'static Argument, view: Ref<'a>) -> Result<Ref<'b>> {
        if argument.kind == Kind::Compute { Ok(self.widen(view)?.into_ref()) } else { Ok(view) }
    }

    fn written(&mut self, argument: &'static Argument, view: Mut<'a>) -> Result<Mut<'b>> {
        match argument.kind {
            Kind::Compute => {
                let start = self.used;
                let wide = self.widen(view.view())?;
                self.keep(Written::Narrow(view, start))?;
                Ok(wide)
            }
            Kind::Update => match self.keep(Written::Update(view))? {
                Written::Update(update) | Written::Narrow(update, _) => Ok(update.reborrow()),
            },
            _ => Ok(view),
        }
    }
}

impl Device for Rounded {
    fn run(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::Embed(op) => self.embed(op),
            Op::PolarExpress(op) => self.polar_express(op),
            op => {
                op.cost(&self.dtypes)?;
                self.through(op)
            }
        }
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        Self::polar_scratch(shape)
    }
}

/// The wrapped device's, which knows every element type.
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

    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }

    fn beside(&self) -> Result<Option<Box<dyn Beside + '_>>> {
        self.device.beside()
    }

    fn room(&self) -> Result<Option<Room>> {
        self.device.room()
    }

    fn notes(&self) -> Vec<String> {
        self.device.notes()
    }
}
