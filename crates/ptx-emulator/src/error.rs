//! What can go wrong, from reading the text to the last access of the last thread.

use std::fmt;

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why PTX could not be read, launched or executed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX as this crate reads it.
    #[error("line {line}: {what}\n  {text}")]
    Parse {
        /// 1-based line of the PTX text.
        line: u32,
        /// That line.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// A kernel uses an instruction or a form of one that is not emulated.
    #[error("kernel {kernel}, line {line}: `{opcode}` is not emulated ({why})\n  {text}")]
    Unsupported {
        /// The kernel's name.
        kernel: String,
        /// 1-based line of the PTX text.
        line: u32,
        /// That line.
        text: String,
        /// The whole mnemonic.
        opcode: String,
        /// Which part of it is missing here.
        why: String,
    },
    /// The module has no such kernel.
    #[error("no kernel `{name}`\nhint: the module has {known}")]
    NoKernel {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The launch does not fit the kernel or what a GPU can do.
    #[error("launch of {kernel}: {what}")]
    Launch {
        /// The kernel's name.
        kernel: String,
        /// What does not fit.
        what: String,
    },
    /// The host read, wrote or freed device memory that it must not.
    #[error("{0}")]
    Memory(String),
    /// A thread did something wrong.
    #[error(transparent)]
    Fault(Box<Fault>),
}

/// What a thread did wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The kernel's name.
    pub kernel: String,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid` of the (first) thread concerned.
    pub thread: [u32; 3],
    /// 1-based line of the PTX text.
    pub line: u32,
    /// That line.
    pub text: String,
    /// What happened.
    pub kind: FaultKind,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "kernel {}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz}), line {}: {}\n  {}",
            self.kernel, self.line, self.kind, self.text
        )
    }
}

/// The kinds of [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside of every allocation, of shared, local or parameter memory.
    #[error("{bytes} bytes at {place} are out of bounds: {bounds}")]
    OutOfBounds {
        /// Where, in words.
        place: String,
        /// Size of the access.
        bytes: u32,
        /// What would be in bounds.
        bounds: String,
    },
    /// An address that is not a multiple of the access's size.
    #[error("{place} is not aligned to {bytes} bytes")]
    Misaligned {
        /// Where, in words.
        place: String,
        /// Size of the access.
        bytes: u32,
    },
    /// A read of bytes that nobody has written.
    #[error("{bytes} bytes at {place} are read before anything was written there")]
    Uninitialised {
        /// Where, in words.
        place: String,
        /// Size of the access.
        bytes: u32,
    },
    /// A use of shared memory that an asynchronous copy is still writing.
    #[error(
        "{place} is used while an asynchronous copy into it is in flight\nhint: wait for the copy (cp.async.wait_group, or the copy's mbarrier) first"
    )]
    InFlight {
        /// Where, in words.
        place: String,
    },
    /// Two warps (or two blocks) use the same bytes, at least one writing, with nothing that orders them.
    #[error("data race: {what} {place}, and nothing orders the two")]
    Race {
        /// Who does what against whom.
        what: String,
        /// Where, in words.
        place: String,
    },
    /// No thread of the block can continue.
    #[error("deadlock: {waiting}")]
    Deadlock {
        /// Where each warp waits.
        waiting: String,
    },
    /// The block has executed more instructions than the options allow.
    #[error(
        "the block has executed {limit} warp instructions\nhint: an endless loop, or raise Options::step_limit"
    )]
    StepLimit {
        /// The limit.
        limit: u64,
    },
    /// An instruction for the whole warp (or a mask of it) was reached by a part of it.
    #[error("{what}")]
    Convergence {
        /// What was expected and what came.
        what: String,
    },
    /// An operand has a value that the instruction cannot take.
    #[error("{what}")]
    Operand {
        /// Which value.
        what: String,
    },
    /// `trap` or a failed device-side assertion.
    #[error("trap")]
    Trap,
}
