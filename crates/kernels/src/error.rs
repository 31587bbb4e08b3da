//! What can go wrong in an operation, said with the operation's name and the figures; what helps is a value beside it.

use std::borrow::Cow;

use farthing_base::{FileError, Hint};

use crate::{DType, Place, Shape};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was refused or failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument's shape does not fit the operation's others.
    #[error("{op}: {arg} has shape {got}, expected {expected}")]
    Shape {
        /// The operation, as its method is called.
        op: &'static str,
        /// The argument that does not fit.
        arg: &'static str,
        /// Its shape.
        got: Shape,
        /// The shape it should have, given the other arguments.
        expected: String,
    },
    /// An argument is outside what the operation's formula allows (an odd head dim, fewer keys than queries, …).
    #[error("{op}: {what}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// What is wrong, with the figure.
        what: String,
    },
    /// A view was asked to cover elements that its tensor does not have.
    #[error("{op}: rows {start}..{end} of a tensor of shape {shape}")]
    OutOfRange {
        /// The view operation.
        op: &'static str,
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// The shape that was there.
        shape: Shape,
    },
    /// The device has no implementation for these element types.
    #[error("{op}: {device} does not support {dtypes:?}")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// The device's name.
        device: &'static str,
        /// The element types given.
        dtypes: Vec<DType>,
    },
    /// A view's elements are of another type than the caller asked to see.
    #[error("{op}: elements are {got:?}, asked for as {asked:?}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The element type there is.
        got: DType,
        /// The element type asked for.
        asked: DType,
    },
    /// Memory of one device was handed to another.
    #[error("{op}: memory is on {got:?}, expected {expected:?}")]
    Place {
        /// The operation.
        op: &'static str,
        /// Where the memory is.
        got: Place,
        /// Where it should be.
        expected: Place,
    },
    /// An index (a token id, a target) points outside its table.
    #[error("{op}: index {index} at position {position}, the table has {rows} rows")]
    Index {
        /// The operation.
        op: &'static str,
        /// The index.
        index: i64,
        /// Where in the list of indices it stands.
        position: usize,
        /// The rows there are.
        rows: usize,
    },
    /// The device could not give the memory.
    #[error("{device} could not allocate {bytes} bytes")]
    OutOfMemory {
        /// The device's name.
        device: &'static str,
        /// The bytes asked for.
        bytes: usize,
    },
    /// The device itself cannot be opened here.
    #[error("{what}")]
    Unavailable {
        /// What is missing.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A device's driver, or a kernel on the device, failed.
    #[error("{op}: {device}: {what}")]
    Driver {
        /// The operation or kernel.
        op: &'static str,
        /// The device's name.
        device: &'static str,
        /// What the driver said.
        what: String,
    },
    /// A library has no algorithm for a matrix product. Nothing was launched; another way may be tried.
    #[error("gemm: {device}: {what}")]
    NoAlgorithm {
        /// The device's name.
        device: &'static str,
        /// The product, and what the library said.
        what: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Io(FileError),
}

/// What a driver's error says of itself where a kernel's fault has cost the context.
pub(crate) const LOST: &str = " in a kernel launched before; no later call will succeed";

farthing_base::debug_with_hint!(Error);

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let hint: &str = match self {
            Self::Unsupported { .. } => {
                "allocate with the device's compute_dtype() and master_dtype()"
            }
            Self::OutOfMemory { .. } => "lower the rows per micro-batch, or close other programs",
            Self::Unavailable { hint, .. } => hint,
            Self::Driver { what, .. } if what.ends_with(LOST) => {
                "set CUDA_LAUNCH_BLOCKING=1 to have the launch itself fail, or use the device `emulated`, which names the line"
            }
            Self::Io(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.into())
    }
}
