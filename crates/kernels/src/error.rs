//! What can go wrong in an operation, said with the operation's name and the figures.

use crate::{DType, Place, Shape};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was refused or failed.
#[derive(Debug, thiserror::Error)]
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
    #[error(
        "{op}: {device} does not support {dtypes:?}\nhint: allocate with the device's compute_dtype() and master_dtype()"
    )]
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
    #[error(
        "{device} could not allocate {bytes} bytes\nhint: lower the rows per micro-batch, or close other programs"
    )]
    OutOfMemory {
        /// The device's name.
        device: &'static str,
        /// The bytes asked for.
        bytes: usize,
    },
    /// The device itself cannot be opened here.
    #[error("{what}\nhint: {hint}")]
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
    #[error(
        "{op}: {path}: {source}\nhint: check that the directory exists, is writable and has room"
    )]
    Io {
        /// The operation.
        op: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}
