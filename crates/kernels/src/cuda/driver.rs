//! What launch code needs from a machine that runs PTX: memory, launches and events. No operation is mentioned here.
//!
//! Two machines provide it: a GPU, through its driver ([`nvidia`](super::nvidia)), and the emulator on the host ([`emulated`](super::emulated)). Launch code sends both the same kernels with
//! the same arguments.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{Place, Result, Room};

/// One PTX file.
#[derive(Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    /// Its text.
    pub ptx: &'static str,
}

/// One kernel of a [`Module`].
#[derive(Debug)]
pub struct Kernel {
    /// The file it is in.
    pub module: &'static Module,
    /// Its name there.
    pub name: &'static str,
    /// Threads of a block; each kernel is written for one number.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

impl Kernel {
    /// The bytes of each parameter, as the PTX declares them; `None` when there is no such kernel, or when it takes what no
    /// [`Arg`] is (arrays).
    pub fn parameters(&self) -> Option<Vec<usize>> {
        let declared = |head: &str| {
            self.module.ptx.split(head).skip(1).find_map(|rest| {
                let rest = rest.trim_start().strip_prefix(self.name)?.trim_start();
                rest.strip_prefix('(')?.split_once(')').map(|(list, _)| list)
            })
        };
        let width = |parameter: &str| {
            let mut words = parameter.split_whitespace();
            let kind = words.next().filter(|&word| word == ".param").and(words.next())?;
            let name = words.next().filter(|name| !name.contains('['));
            let bits: usize =
                kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
            name.map(|_| bits / 8)
        };
        let list = declared(".entry")?;
        list.split(',').filter(|p| !p.trim().is_empty()).map(width).collect()
    }
}

/// One argument of a kernel, as wide as its parameter.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Arg {
    /// A device address.
    Address(u64),
    /// `int64_t`.
    I64(i64),
    /// `int32_t`.
    I32(i32),
    /// `uint32_t`.
    U32(u32),
    /// `uint16_t`.
    U16(u16),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

impl Arg {
    /// Bytes that the parameter has.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Address(_) | Self::I64(_) | Self::F64(_) => 8,
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
            Self::U16(_) => 2,
        }
    }

    /// Calls `f` with the argument's bytes, as a kernel's parameter holds them.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Address(x) => f(&x.to_le_bytes()),
            Self::I64(x) => f(&x.to_le_bytes()),
            Self::I32(x) => f(&x.to_le_bytes()),
            Self::U32(x) => f(&x.to_le_bytes()),
            Self::U16(x) => f(&x.to_le_bytes()),
            Self::F32(x) => f(&x.to_le_bytes()),
            Self::F64(x) => f(&x.to_le_bytes()),
        }
    }
}

/// What a machine is.
#[derive(Clone, Debug)]
pub struct Properties {
    /// Its maker's name for it.
    pub model: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory_bytes: usize,
}

/// A moment in a stream of a machine, for timing, or for another stream to wait for. No two are equal, whichever machine made them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Event(u64);

impl Event {
    /// A moment of its own. For implementors of machines.
    #[allow(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// A CUDA stream beside the one that a device's own work is launched in, for a library that launches work of its own. Neither stream waits for the other but where it is said here, and the
/// host waits for neither.
#[allow(clippy::missing_errors_doc, reason = "any may fail with what the driver says")]
pub trait Beside: Send + Sync {
    /// Its handle (a `CUstream`), whose context is the calling thread's from then on.
    fn cuda_stream(&self) -> Result<usize>;

    /// What is launched here from now on waits for all that the device was asked for so far.
    fn follow(&self) -> Result<()>;

    /// This moment: the end of all that was launched here so far.
    fn mark(&self) -> Result<Event>;

    /// What the device is asked for from now on waits for that moment, which is forgotten by it.
    fn join(&self, moment: Event) -> Result<()>;
}

/// A machine that runs PTX. Launches and copies are ordered: each sees what those before it wrote.
pub trait Driver: Send + Sync {
    /// A short name for messages: "cuda:0", "emulated".
    fn name(&self) -> &'static str;

    /// Where its memory is.
    fn place(&self) -> Place;

    /// What it is.
    fn properties(&self) -> &Properties;

    /// The address of `bytes` > 0 bytes, aligned to 256, whatever they hold.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    fn alloc(&self, bytes: usize) -> Result<u64>;

    /// Gives memory from [`Driver::alloc`] back, after all that was launched before.
    fn free(&self, address: u64);

    /// As [`Memory::room`](crate::Memory::room).
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    fn room(&self) -> Result<Option<Room>> {
        Ok(None)
    }

    /// Copies host bytes to the machine.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    fn write(&self, dst: u64, src: &[u8]) -> Result<()>;

    /// Copies the machine's bytes to the host and waits for them.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver), also for what went wrong in any kernel launched before.
    fn read(&self, dst: &mut [u8], src: u64) -> Result<()>;

    /// Copies bytes within the machine; the ranges do not overlap.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()>;

    /// Sets bytes to zero.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    fn zero(&self, dst: u64, bytes: usize) -> Result<()>;

    /// Launches `blocks` of a kernel. A module is loaded when the first of its kernels is launched.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver); what goes wrong inside a kernel may be reported by a later call.
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()>;

    /// Waits for everything launched so far.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    fn synchronize(&self) -> Result<()>;

    /// As [`Memory::beside`](crate::Memory::beside).
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    fn beside(&self) -> Result<Option<Box<dyn Beside + '_>>> {
        Ok(None)
    }

    /// Marks this moment in the stream.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    fn record(&self) -> Result<Event>;

    /// Seconds between two moments, waiting for the later. Both are forgotten by it.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver), also for events of another machine and for one moment given twice.
    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64>;
}
