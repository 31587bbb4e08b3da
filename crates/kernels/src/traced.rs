//! `Traced`: wraps any device and records the time and the bytes of each operation.
//!
//! Only a wrapped device pays for it: two clock readings and a lock per call, and no allocation. On a device that works asynchronously, the time of a call is the time to launch it. What happens
//! inside an operation is not recorded.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farthing_base::files::NewFile;

use crate::cuda::driver::Beside;
use crate::ops::{Op, Operation};
use crate::{DType, Device, Error, Memory, Mut, Place, Ref, Result, Room, Shape, Tensor};

/// One call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// The operation, as its method is called.
    pub op: &'static str,
    /// When it began, counted from [`Traced::new`].
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
    /// Bytes of all views it was given.
    pub bytes: u64,
}

/// All calls of one operation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Total {
    /// The operation.
    pub op: &'static str,
    /// How often it was called.
    pub calls: u64,
    /// Seconds in all.
    pub seconds: f64,
    /// Bytes of all views in all calls.
    pub bytes: u64,
}

/// A device that records what it is asked to do.
pub struct Traced {
    device: Box<dyn Device>,
    opened: Instant,
    trace: Mutex<Trace>,
}

struct Trace {
    /// The latest calls, a ring once full.
    calls: Vec<Call>,
    capacity: usize,
    /// Calls so far.
    count: u64,
    totals: Vec<(&'static str, u64, Duration, u64)>,
}

impl Trace {
    fn record(&mut self, call: Call) {
        if self.calls.len() < self.capacity {
            self.calls.push(call);
        } else if self.capacity > 0 {
            self.calls[(self.count % self.capacity as u64) as usize] = call;
        }
        self.count += 1;
        match self.totals.iter_mut().find(|total| total.0 == call.op) {
            Some((_, calls, duration, bytes)) => {
                *calls += 1;
                *duration += call.duration;
                *bytes += call.bytes;
            }
            None => self.totals.push((call.op, 1, call.duration, call.bytes)),
        }
    }
}

impl Traced {
    /// Calls kept when not said otherwise: 3 MiB, some steps of a small model.
    pub const CAPACITY: usize = 65_536;

    /// Wraps a device; keeps the latest [`Traced::CAPACITY`] calls.
    pub fn new(device: Box<dyn Device>) -> Self {
        Self::with_capacity(device, Self::CAPACITY)
    }

    /// Wraps a device; keeps the latest `capacity` calls. Totals cover all calls.
    pub fn with_capacity(device: Box<dyn Device>, capacity: usize) -> Self {
        let trace = Trace {
            calls: Vec::with_capacity(capacity),
            capacity,
            count: 0,
            totals: Vec::with_capacity(64),
        };
        Self { device, opened: Instant::now(), trace: Mutex::new(trace) }
    }

    /// The latest calls, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        let trace = self.trace();
        let mut calls = trace.calls.clone();
        if !calls.is_empty() && calls.len() == trace.capacity {
            calls.rotate_left((trace.count % trace.capacity as u64) as usize);
        }
        calls
    }

    /// Totals per operation, the slowest first.
    pub fn summary(&self) -> Vec<Total> {
        let total = |&(op, calls, duration, bytes): &(_, _, Duration, _)| Total {
            op,
            calls,
            seconds: duration.as_secs_f64(),
            bytes,
        };
        let mut totals: Vec<Total> = self.trace().totals.iter().map(total).collect();
        totals.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then(a.op.cmp(b.op)));
        totals
    }

    /// The moment from which [`Call::start`] is counted.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Forgets all calls and totals.
    pub fn clear(&self) {
        let mut trace = self.trace();
        trace.calls.clear();
        trace.totals.clear();
        trace.count = 0;
    }

    /// Writes the latest calls as a Chrome trace (chrome://tracing, ui.perfetto.dev). The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_chrome_trace(&self, path: &Path) -> Result<()> {
        let mut file = NewFile::create(path).map_err(Error::Io)?;
        let written = write_events(&mut file, self.device.name(), &self.calls());
        written.map_err(|e| Error::Io(file.refused("write")(e)))?;
        file.finish().map_err(Error::Io)
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs and records one call.
    fn record<T>(&self, op: &'static str, bytes: u64, call: impl FnOnce(&dyn Device) -> T) -> T {
        let start = self.opened.elapsed();
        let result = call(&*self.device);
        let duration = self.opened.elapsed().saturating_sub(start);
        self.trace().record(Call { op, start, duration, bytes });
        result
    }
}

impl Device for Traced {
    fn run(&self, op: Op<'_>) -> Result<()> {
        let mut bytes = 0;
        op.each(&mut |_, seen| bytes += seen.bytes());
        self.record(op.name(), bytes, |device| device.run(op))
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        self.device.polar_express_scratch(shape)
    }
}

impl Memory for Traced {
    fn name(&self) -> &'static str {
        self.device.name()
    }

    fn place(&self) -> Place {
        self.device.place()
    }

    fn compute_dtype(&self) -> DType {
        self.device.compute_dtype()
    }

    fn master_dtype(&self) -> DType {
        self.device.master_dtype()
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        let bytes = shape.elements().saturating_mul(dtype.bytes());
        self.record("alloc", bytes as u64, |device| device.alloc(dtype, shape))
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        self.record("write", src.len() as u64, |device| device.write(dst, src))
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        self.record("read", dst.len() as u64, |device| device.read(dst, src))
    }

    fn synchronize(&self) -> Result<()> {
        self.record("synchronize", 0, |device| device.synchronize())
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

fn write_events(file: impl Write, device: &str, calls: &[Call]) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    writeln!(file, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    let name = serde_json::json!({"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": device}});
    write!(file, "{name}")?;
    for call in calls {
        let event = serde_json::json!({
            "ph": "X", "pid": 1, "tid": 1, "name": call.op,
            "ts": call.start.as_secs_f64() * 1e6, "dur": call.duration.as_secs_f64() * 1e6,
            "args": {"bytes": call.bytes},
        });
        write!(file, ",\n{event}")?;
    }
    writeln!(file, "\n]}}")?;
    file.flush()
}
