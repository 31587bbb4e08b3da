//! Arguments of [`Memory`](crate::Memory)'s operations.

use super::{Any, Dtypes, Float};
use crate::{Error, Mut, Ref, Result};

/// Checks [`Memory::write`](crate::Memory::write).
///
/// # Errors
/// [`Error::Place`]; [`Error::Argument`] when the bytes differ in number.
pub fn write(d: &Dtypes, dst: &Mut<'_>, src: &[u8]) -> Result<()> {
    d.op("write", &[(dst, Any)])?;
    bytes("write", dst.shape().elements() * dst.dtype().bytes(), src.len())
}

/// Checks [`Memory::read`](crate::Memory::read).
///
/// # Errors
/// [`Error::Place`]; [`Error::Argument`] when the bytes differ in number.
pub fn read(d: &Dtypes, dst: &[u8], src: &Ref<'_>) -> Result<()> {
    d.op("read", &[(src, Any)])?;
    bytes("read", src.shape().elements() * src.dtype().bytes(), dst.len())
}

fn bytes(op: &'static str, tensor: usize, host: usize) -> Result<()> {
    if tensor == host {
        return Ok(());
    }
    let what = format!("{host} bytes on the host for a tensor of {tensor} bytes");
    Err(Error::Argument { op, what })
}

/// Checks [`Memory::copy`](crate::Memory::copy); returns the number of elements.
///
/// # Errors
/// [`Error::Place`], [`Error::DType`], [`Error::Shape`].
pub fn copy(d: &Dtypes, dst: &Mut<'_>, src: &Ref<'_>) -> Result<usize> {
    d.op("copy", &[(dst, Any), (src, Any)])?;
    if dst.dtype() != src.dtype() {
        return Err(Error::DType { op: "copy", got: src.dtype(), asked: dst.dtype() });
    }
    equal_elements("copy", dst, src)
}

/// Checks [`Memory::cast`](crate::Memory::cast); returns the number of elements.
///
/// # Errors
/// [`Error::Place`], [`Error::Unsupported`] for integers, [`Error::Shape`].
pub fn cast(d: &Dtypes, dst: &Mut<'_>, src: &Ref<'_>) -> Result<usize> {
    d.op("cast", &[(dst, Float), (src, Float)])?;
    equal_elements("cast", dst, src)
}

fn equal_elements(op: &'static str, dst: &Mut<'_>, src: &Ref<'_>) -> Result<usize> {
    let n = dst.shape().elements();
    if src.shape().elements() == n {
        return Ok(n);
    }
    let expected = format!("{n} elements, as dst {}", dst.shape());
    Err(Error::Shape { op, arg: "src", got: src.shape(), expected })
}

/// Checks [`Memory::fill`](crate::Memory::fill); returns the number of elements.
///
/// # Errors
/// [`Error::Place`].
pub fn fill(d: &Dtypes, dst: &Mut<'_>) -> Result<usize> {
    d.op("fill", &[(dst, Any)])?;
    Ok(dst.shape().elements())
}
