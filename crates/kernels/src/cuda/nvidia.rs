//! A GPU as a driver: memory, launches and events in one stream of its primary context; others are beside it (`Side`).
//!
//! What is needed for that is found and checked in `opening`; nothing here panics on a machine without a GPU. Not yet run on a
//! GPU: `tests/nvidia` runs it against a stand-in for the driver's library, written after NVIDIA's "CUDA Driver API".

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys as cu;

use super::api::{Api, SUCCESS};
use super::code::Code;
use super::driver::{Arg, Beside, Driver, Event, Kernel, Properties};
use super::opening::Opened;
use super::side::Side;
use super::staging::Staging;
use crate::error::LOST;
use crate::{Error, Place, Result, Room};

/// The most parameters of a kernel.
const MAX_ARGS: usize = 64;

/// What a driver says of memory that is not there.
const OUT_OF_MEMORY: u32 = 2;

/// A GPU.
pub struct Nvidia {
    api: Api,
    name: &'static str,
    ordinal: u32,
    driver_version: i32,
    properties: Properties,
    device: cu::CUdevice,
    context: cu::CUcontext,
    stream: cu::CUstream,
    code: Code,
    staging: Mutex<Staging>,
    events: Mutex<Events>,
}

// SAFETY: the driver's handles may be used from any thread that has made the context current, and each method does.
unsafe impl Send for Nvidia {}
// SAFETY: the driver's functions may be called from several threads at once; our own state is behind locks.
unsafe impl Sync for Nvidia {}

/// Events that were recorded, and those that can be used again.
#[derive(Default)]
struct Events {
    recorded: HashMap<Event, cu::CUevent>,
    idle: Vec<cu::CUevent>,
}

/// The name of a GPU in messages.
fn name_of(ordinal: u32) -> &'static str {
    const NAMES: [&str; 16] = [
        "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7", "cuda:8",
        "cuda:9", "cuda:10", "cuda:11", "cuda:12", "cuda:13", "cuda:14", "cuda:15",
    ];
    // No machine has that many; where one does, a name is made each time it is opened.
    NAMES.get(ordinal as usize).copied().unwrap_or_else(|| format!("cuda:{ordinal}").leak())
}

impl Nvidia {
    /// The GPU with this ordinal.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with a hint, when there is no driver, no such GPU, or when either is too old.
    pub fn open(ordinal: u32) -> Result<Self> {
        let Opened { api, driver_version, properties, shared_bytes, device, context, stream } =
            Opened::new(ordinal)?;
        let name = name_of(ordinal);
        Ok(Self {
            api,
            name,
            ordinal,
            driver_version,
            properties,
            device,
            context,
            stream,
            code: Code::new(&api, name, shared_bytes),
            staging: Mutex::default(),
            events: Mutex::default(),
        })
    }

    /// The newest CUDA that the driver knows: 12040 is 12.4.
    pub(super) fn driver_version(&self) -> i32 {
        self.driver_version
    }

    /// The driver's functions.
    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// The stream that everything is launched in.
    pub(super) fn stream(&self) -> cu::CUstream {
        self.stream
    }

    /// Makes the context the calling thread's, which every other function asks for.
    pub(super) fn enter(&self, op: &'static str) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        self.done(op, unsafe { (self.api.cuCtxSetCurrent)(self.context) })
    }

    pub(super) fn done(&self, op: &'static str, status: u32) -> Result<()> {
        match status {
            SUCCESS => Ok(()),
            _ => Err(self.failed(op, status)),
        }
    }

    fn failed(&self, op: &'static str, status: u32) -> Error {
        let mut what = self.api.describe(status);
        if is_a_kernels_fault(status) {
            what += LOST;
        }
        Error::Driver { op, device: self.name, what }
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Statuses after which a context is of no use: a kernel went wrong.
fn is_a_kernels_fault(status: u32) -> bool {
    matches!(status, 700 | 702 | 710 | 714..=719)
}

impl Driver for Nvidia {
    fn name(&self) -> &'static str {
        self.name
    }

    fn place(&self) -> Place {
        Place::Cuda(self.ordinal)
    }

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.enter("alloc")?;
        let mut address = 0;
        // SAFETY: writes one address.
        match unsafe { (self.api.cuMemAlloc_v2)(&raw mut address, bytes) } {
            OUT_OF_MEMORY => Err(Error::OutOfMemory { device: self.name, bytes }),
            status => self.done("alloc", status).map(|()| address),
        }
    }

    fn free(&self, address: u64) {
        // What was launched before may still use it. A failure was, or will be, told to whoever waits for a result.
        if self.synchronize().is_ok() {
            // SAFETY: from `alloc`, and nothing uses it any more.
            let _ = unsafe { (self.api.cuMemFree_v2)(address) };
        }
    }

    fn room(&self) -> Result<Option<Room>> {
        self.enter("room")?;
        let (mut free, mut all) = (0, 0);
        // SAFETY: writes two numbers.
        self.done("room", unsafe { (self.api.cuMemGetInfo_v2)(&raw mut free, &raw mut all) })?;
        Ok(Some(Room { free_bytes: free as u64, bytes: all as u64 }))
    }

    fn write(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.enter("write")?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's addresses are from `alloc`, and a wrong one is the driver's to refuse.
        unsafe { staging.write(&self.api, self.stream, dst, src) }
            .map_err(|status| self.failed("write", status))
    }

    fn read(&self, dst: &mut [u8], src: u64) -> Result<()> {
        self.enter("read")?;
        let to = dst.as_mut_ptr().cast::<c_void>();
        // SAFETY: `dst` is borrowed until the stream has been waited for.
        let status = unsafe { (self.api.cuMemcpyDtoHAsync_v2)(to, src, dst.len(), self.stream) };
        let waited = self.synchronize();
        self.done("read", status).and(waited)
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.enter("copy")?;
        // SAFETY: addresses on the device only, which the driver checks.
        self.done("copy", unsafe { (self.api.cuMemcpyDtoDAsync_v2)(dst, src, bytes, self.stream) })
    }

    fn zero(&self, dst: u64, bytes: usize) -> Result<()> {
        self.enter("zero")?;
        // SAFETY: as for `copy`.
        self.done("zero", unsafe { (self.api.cuMemsetD8Async)(dst, 0, bytes, self.stream) })
    }

    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        self.enter(kernel.name)?;
        self.code.with(kernel, |function| {
            let failed = |what| Error::Driver { op: kernel.name, device: self.name, what };
            let fits = args.len() <= MAX_ARGS
                && args.iter().map(Arg::bytes).eq(function.parameters.iter().copied());
            if !fits {
                let given: Vec<usize> = args.iter().map(Arg::bytes).collect();
                return Err(failed(format!(
                    "arguments of {given:?} bytes for parameters of {:?} bytes",
                    function.parameters
                )));
            }
            let mut values = [0u64; MAX_ARGS];
            let mut pointers = [ptr::null_mut::<c_void>(); MAX_ARGS];
            for ((value, pointer), arg) in values.iter_mut().zip(&mut pointers).zip(args) {
                arg.with_bytes(|bytes| {
                    bytemuck::bytes_of_mut(value)[..bytes.len()].copy_from_slice(bytes);
                });
                *pointer = ptr::from_mut(value).cast();
            }
            let [x, y, z] = blocks;
            // SAFETY: one pointer per parameter, to as many bytes as it has; the driver copies them before it returns.
            let status = unsafe {
                (self.api.cuLaunchKernel)(
                    function.handle,
                    x,
                    y,
                    z,
                    kernel.threads,
                    1,
                    1,
                    kernel.shared_bytes,
                    self.stream,
                    pointers.as_mut_ptr(),
                    ptr::null_mut(),
                )
            };
            match status {
                SUCCESS => Ok(()),
                status if is_a_kernels_fault(status) => Err(self.failed(kernel.name, status)),
                status => Err(failed(format!(
                    "launch of {x}×{y}×{z} blocks of {} threads with {} bytes of shared memory: {}",
                    kernel.threads,
                    kernel.shared_bytes,
                    self.api.describe(status)
                ))),
            }
        })
    }

    fn synchronize(&self) -> Result<()> {
        self.enter("synchronize")?;
        // SAFETY: our stream.
        self.done("synchronize", unsafe { (self.api.cuStreamSynchronize)(self.stream) })
    }

    fn beside(&self) -> Result<Option<Box<dyn Beside + '_>>> {
        Ok(Some(Box::new(Side::new(self)?)))
    }

    fn record(&self) -> Result<Event> {
        self.enter("record")?;
        let idle = self.events().idle.pop();
        let handle = match idle {
            Some(handle) => handle,
            None => {
                let mut handle = ptr::null_mut();
                // SAFETY: writes one handle; it is destroyed on drop.
                self.done("record", unsafe { (self.api.cuEventCreate)(&raw mut handle, 0) })?;
                handle
            }
        };
        // SAFETY: an event and a stream of this context.
        let status = unsafe { (self.api.cuEventRecord)(handle, self.stream) };
        let mut events = self.events();
        if status != SUCCESS {
            events.idle.push(handle);
            return Err(self.failed("record", status));
        }
        let event = Event::new();
        events.recorded.insert(event, handle);
        Ok(event)
    }

    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64> {
        self.enter("elapsed_s")?;
        let handle = |event: Event| {
            self.events().recorded.remove(&event).ok_or_else(|| Error::Driver {
                op: "elapsed_s",
                device: self.name,
                what: format!("{event:?} is not of this machine, or was used before"),
            })
        };
        let from = handle(from)?;
        let to = handle(to).inspect_err(|_| self.events().idle.push(from))?;
        let mut ms = 0.0;
        // SAFETY: recorded events of this context; the wait makes both complete where they are in order.
        let status = unsafe {
            match (self.api.cuEventSynchronize)(to) {
                SUCCESS => (self.api.cuEventElapsedTime)(&raw mut ms, from, to),
                status => status,
            }
        };
        self.events().idle.extend([from, to]);
        self.done("elapsed_s", status).map(|()| f64::from(ms) / 1e3)
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // Tensors hold this driver, so that none is left. There is no one to tell of a failure.
        let _ = self.synchronize();
        self.code.unload();
        self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).free(&self.api);
        let Events { recorded, idle } =
            std::mem::take(self.events.get_mut().unwrap_or_else(PoisonError::into_inner));
        for event in idle.into_iter().chain(recorded.into_values()) {
            // SAFETY: made by `record`, destroyed once.
            let _ = unsafe { (self.api.cuEventDestroy_v2)(event) };
        }
        // SAFETY: made by `open`, given back once.
        unsafe {
            let _ = (self.api.cuStreamDestroy_v2)(self.stream);
            let _ = (self.api.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}
