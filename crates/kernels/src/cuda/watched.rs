//! Wraps a machine and watches it: which kernels are launched, how much memory is in use and, on demand, how long each piece of work takes, measured by an event before and one after it.
//!
//! While nothing is recorded, a call costs one lock. A recording adds two events to each piece, about a microsecond of GPU time; to time a whole step, measure without one.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::driver::{Arg, Beside, Driver, Event, Kernel, Properties};
use super::gemm::{Gemm, Product};
use crate::{Place, Result, Room};

/// One thing that a machine was asked to do.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Work {
    /// A kernel, by its name.
    Kernel(&'static str),
    /// A matrix product of the library's.
    Product(Product),
    /// Bytes copied within the machine.
    Copy(usize),
    /// Bytes set to zero.
    Zero(usize),
    /// Bytes from the host.
    Write(usize),
    /// Bytes to the host, and the host's waiting for them.
    Read(usize),
}

/// A piece of work that was done.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Piece {
    /// What it was.
    pub work: Work,
    /// When the host asked for it.
    pub asked: Instant,
    /// Seconds that the machine took.
    pub seconds: f64,
}

/// What was done between [`Watched::start`] and [`Watched::stop`].
#[derive(Clone, PartialEq, Debug)]
pub struct Recording {
    /// In order.
    pub pieces: Vec<Piece>,
    /// Seconds from the start to the end, with the gaps between pieces.
    pub seconds: f64,
}

impl Recording {
    /// Seconds in which the machine did nothing that is recorded.
    pub fn gaps(&self) -> f64 {
        self.seconds - self.pieces.iter().map(|piece| piece.seconds).sum::<f64>()
    }
}

/// A driver that is watched.
pub struct Watched {
    driver: Arc<dyn Driver>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    /// The moment that a recording began.
    begun: Option<Event>,
    pieces: Vec<(Work, Instant, [Event; 2])>,
    launched: BTreeSet<&'static str>,
    sizes: HashMap<u64, usize>,
    bytes: usize,
    peak: usize,
}

impl Watched {
    /// A driver in front of this one.
    pub fn new(driver: Arc<dyn Driver>) -> Arc<Self> {
        Arc::new(Self { driver, log: Mutex::default() })
    }

    /// A matrix product of the same machine, watched too.
    pub fn gemm(self: &Arc<Self>, gemm: Box<dyn Gemm>) -> Box<dyn Gemm> {
        Box::new(WatchedGemm { gemm, watched: Arc::clone(self) })
    }

    /// Begins a recording; what was recorded before and not taken is forgotten.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn start(&self) -> Result<()> {
        let begun = self.driver.record()?;
        let mut log = self.log();
        log.pieces.clear();
        log.begun = Some(begun);
        Ok(())
    }

    /// Ends a recording, waits for the machine and says how long each piece took. Nothing, where none had begun.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn stop(&self) -> Result<Recording> {
        let (begun, pieces) = {
            let mut log = self.log();
            (log.begun.take(), std::mem::take(&mut log.pieces))
        };
        let Some(begun) = begun else { return Ok(Recording { pieces: vec![], seconds: 0.0 }) };
        let ended = self.driver.record()?;
        let timed = |(work, asked, [from, to]): (Work, Instant, [Event; 2])| {
            self.driver.elapsed_s(from, to).map(|seconds| Piece { work, asked, seconds })
        };
        let pieces = pieces.into_iter().map(timed).collect::<Result<_>>()?;
        Ok(Recording { pieces, seconds: self.driver.elapsed_s(begun, ended)? })
    }

    /// The kernels that were asked for since the last call, each once, by name; those that the driver refused too.
    pub fn take_launched(&self) -> BTreeSet<&'static str> {
        std::mem::take(&mut self.log().launched)
    }

    /// Bytes of memory that are taken now, and the most that were since [`Watched::new`] or [`Watched::forget_peak`].
    pub fn bytes(&self) -> (usize, usize) {
        let log = self.log();
        (log.bytes, log.peak)
    }

    /// Counts the most bytes from now on.
    pub fn forget_peak(&self) {
        let mut log = self.log();
        log.peak = log.bytes;
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a piece of work, between two events while there is a recording.
    fn time(&self, work: Work, call: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.log().begun.is_none() {
            return call();
        }
        let asked = Instant::now();
        let from = self.driver.record()?;
        call()?;
        let to = self.driver.record()?;
        self.log().pieces.push((work, asked, [from, to]));
        Ok(())
    }
}

impl Driver for Watched {
    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn place(&self) -> Place {
        self.driver.place()
    }

    fn properties(&self) -> &Properties {
        self.driver.properties()
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let address = self.driver.alloc(bytes)?;
        let mut log = self.log();
        log.sizes.insert(address, bytes);
        log.bytes += bytes;
        log.peak = log.peak.max(log.bytes);
        Ok(address)
    }

    fn free(&self, address: u64) {
        self.driver.free(address);
        let mut log = self.log();
        log.bytes -= log.sizes.remove(&address).unwrap_or(0);
    }

    fn room(&self) -> Result<Option<Room>> {
        self.driver.room()
    }

    fn write(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.time(Work::Write(src.len()), || self.driver.write(dst, src))
    }

    fn read(&self, dst: &mut [u8], src: u64) -> Result<()> {
        self.time(Work::Read(dst.len()), || self.driver.read(dst, src))
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.time(Work::Copy(bytes), || self.driver.copy(dst, src, bytes))
    }

    fn zero(&self, dst: u64, bytes: usize) -> Result<()> {
        self.time(Work::Zero(bytes), || self.driver.zero(dst, bytes))
    }

    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        self.log().launched.insert(kernel.name);
        self.time(Work::Kernel(kernel.name), || self.driver.launch(kernel, blocks, args))
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn beside(&self) -> Result<Option<Box<dyn Beside + '_>>> {
        self.driver.beside()
    }

    fn record(&self) -> Result<Event> {
        self.driver.record()
    }

    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64> {
        self.driver.elapsed_s(from, to)
    }
}

/// A matrix product between two events of its driver.
struct WatchedGemm {
    gemm: Box<dyn Gemm>,
    watched: Arc<Watched>,
}

impl Gemm for WatchedGemm {
    fn multiply(&self, product: &Product) -> Result<()> {
        self.watched.time(Work::Product(*product), || self.gemm.multiply(product))
    }
}
