//! Copies, casts and fills.

use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::{DTYPES, get, set};
use crate::{DType, Device, Error, Mut, Ref, Result};

operation! {
    /// dst = src, equal types and numbers of elements.
    Copy = fn copy(dst: write Any any, src: read Any any) -> usize, rule |op: &Self, n| {
        let (asked, got) = (op.dst.dtype(), op.src.dtype());
        if asked != got {
            return Err(Error::DType { op: Self::NAME, got, asked });
        }
        as_many(Self::NAME, &op.dst, op.src, n)
    }
}

operation! {
    /// dst = src, rounded to nearest even where `dst`'s float type is narrower; equal numbers of elements.
    Cast = fn cast(
        dst: write Float any,
        src: read Float any,
    ) -> usize, rule |op: &Self, n| as_many(Self::NAME, &op.dst, op.src, n)
}

operation! {
    /// Every element of `dst` = `value`, in its own type.
    Fill = fn fill(
        dst: write Any any,
    ) with (
        /// The value.
        value: f64,
    ) -> usize
}

fn as_many(op: &'static str, dst: &Mut<'_>, src: Ref<'_>, n: usize) -> Result<()> {
    if src.shape().elements() == n {
        return Ok(());
    }
    let expected = format!("{n} elements, as dst {}", dst.shape());
    Err(Error::Shape { op, arg: "src", got: src.shape(), expected })
}

impl Copy<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        self.check(&DTYPES)?;
        let Self { dst, src } = self;
        dst.host_bytes()?.copy_from_slice(src.host_bytes()?);
        Ok(())
    }
}

impl Cast<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let n = self.check(&DTYPES)?;
        let Self { mut dst, src } = self;
        for i in 0..n {
            set(&mut dst, i, get(src, i)?)?;
        }
        Ok(())
    }
}

impl Fill<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let n = self.check(&DTYPES)?;
        let Self { mut dst, value } = self;
        for i in 0..n {
            set(&mut dst, i, value)?;
        }
        Ok(())
    }
}

/// [`Copy`](struct@Copy).
pub fn copy(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "copy");
    for n in [1, 15, 1000] {
        check.case(format!("{n} elements"));
        let x = check.normal([n, 3]);
        // Another shape of as many elements will do.
        check.run([&Operand::poison([3, n])], [&x], |d, [y], [x]| d.copy(y, x))?;
    }
    Ok(check.worst)
}

/// [`Cast`] between the device's float types.
pub fn cast(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "cast");
    let (compute, master) = (dev.compute_dtype(), dev.master_dtype());
    for (from, to) in [(master, compute), (compute, master), (master, DType::BF16)] {
        for n in [1, 33, 1000] {
            check.case(format!("{n} of {from:?} to {to:?}"));
            let x = check.normal([n]).of(from);
            check.run([&Operand::poison([n]).of(to)], [&x], |d, [y], [x]| d.cast(y, x))?;
        }
    }
    Ok(check.worst)
}

/// [`Fill`].
pub fn fill(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "fill");
    for n in [1, 17, 1000] {
        check.case(format!("{n} floats and integers"));
        let (floats, index) = (Operand::poison([n]), Operand::index([n], vec![5; n]));
        check.run([&floats, &index], [], |d, [floats, index], []| {
            d.fill(floats, -1.5)?;
            d.fill(index, -1.0)
        })?;
    }
    Ok(check.worst)
}
