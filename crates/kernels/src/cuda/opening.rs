//! Opens a GPU step by step: the driver's library, the driver's age, the ordinal, the compute capability. Each step is checked before the next one starts, so an error can name what is
//! missing, and nothing that is absent gets called.

use std::ffi::{CStr, c_int};
use std::ptr;

use cu::CUdevice_attribute as Attribute;
use cudarc::driver::sys as cu;

use super::api::{Api, SUCCESS};
use super::driver::Properties;
use super::probe::{self, Machine};
use crate::{Error, Result};

/// The oldest driver, as it reports itself: CUDA 11.8, which reads PTX 7.8.
const OLDEST_DRIVER: i32 = 11080;

/// The oldest GPU: compute capability 8.0, for which the PTX is made.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// What a driver says where there is no GPU, and a toolkit's empty shell of a library of itself.
const NO_DEVICE: u32 = 100;
const STUB_LIBRARY: u32 = 34;

/// The hint where there is no driver, or one that is too old.
const INSTALL: &str = "install NVIDIA's driver, release 520 or newer, or use cpu";

/// A GPU with its primary context and a stream in it, which its owner gives back.
pub(super) struct Opened {
    pub(super) api: Api,
    /// The newest CUDA that the driver knows: 12040 is 12.4.
    pub(super) driver_version: i32,
    pub(super) properties: Properties,
    /// The most dynamic shared memory that a block may ask for.
    pub(super) shared_bytes: u32,
    pub(super) device: cu::CUdevice,
    pub(super) context: cu::CUcontext,
    pub(super) stream: cu::CUstream,
}

/// What is asked about a GPU goes through here, so that each refusal names it.
struct Opening {
    ordinal: u32,
    api: Api,
}

impl Opened {
    /// # Errors
    /// [`Error::Unavailable`], with a hint.
    pub(super) fn new(ordinal: u32) -> Result<Self> {
        let (api, from) = driver_library().map_err(|what| missing(ordinal, what, INSTALL))?;
        let opening = Opening { ordinal, api };
        let driver_version = opening.start(&from)?;
        let device = opening.find()?;
        let (properties, shared_bytes) = opening.ask(device)?;
        let (context, stream) = opening.enter(device)?;
        Ok(Self { api, driver_version, properties, shared_bytes, device, context, stream })
    }
}

fn missing(ordinal: u32, what: impl std::fmt::Display, hint: &str) -> Error {
    Error::Unavailable {
        what: format!("cuda:{ordinal} cannot be opened: {what}"),
        hint: hint.into(),
    }
}

impl Opening {
    fn missing(&self, what: impl std::fmt::Display, hint: &str) -> Error {
        missing(self.ordinal, what, hint)
    }

    fn done(&self, doing: &str, status: u32) -> Result<()> {
        if status == SUCCESS {
            return Ok(());
        }
        let what = format!("{doing}: {}", self.api.describe(status));
        Err(self.missing(what, "run nvidia-smi; it should name the GPU"))
    }

    /// Initialises the driver, unless it is too old; its version.
    fn start(&self, from: &str) -> Result<i32> {
        let mut driver_version = 0;
        // SAFETY: writes one number, and needs no initialisation before.
        let status = unsafe { (self.api.cuDriverGetVersion)(&raw mut driver_version) };
        if status != STUB_LIBRARY {
            self.done("asking the driver for its version", status)?;
            if driver_version < OLDEST_DRIVER {
                let (is, needed) = (version(driver_version), version(OLDEST_DRIVER));
                let what =
                    format!("the driver is of CUDA {is}, the kernels need {needed} or newer");
                return Err(self.missing(what, INSTALL));
            }
        }
        // SAFETY: the flags must be 0.
        match unsafe { (self.api.cuInit)(0) } {
            STUB_LIBRARY => Err(self.missing(
                format!("{from} is a toolkit's stub, not the driver"),
                "take the toolkit's `stubs` folder out of LD_LIBRARY_PATH",
            )),
            NO_DEVICE => Err(self.missing("the driver sees no GPU", &visible())),
            status => self.done("starting the driver", status).map(|()| driver_version),
        }
    }

    /// The handle of the ordinal, if there is one.
    fn find(&self) -> Result<cu::CUdevice> {
        let mut count = 0;
        // SAFETY: writes one number.
        self.done("counting GPUs", unsafe { (self.api.cuDeviceGetCount)(&raw mut count) })?;
        if i64::from(self.ordinal) >= i64::from(count) {
            let what = match count {
                ..=0 => "the driver sees no GPU".into(),
                1 => "there is one GPU, cuda:0".into(),
                _ => format!("there are {count} GPUs, cuda:0 to cuda:{}", count - 1),
            };
            return Err(self.missing(what, &visible()));
        }
        let mut device = 0;
        // SAFETY: writes one handle; the ordinal is below the count.
        let status = unsafe { (self.api.cuDeviceGet)(&raw mut device, self.ordinal as c_int) };
        self.done("opening it", status).map(|()| device)
    }

    /// What it is, and the most shared memory of a block, unless it is too old.
    fn ask(&self, device: cu::CUdevice) -> Result<(Properties, u32)> {
        let api = &self.api;
        let attribute = |attribute: Attribute| {
            let mut value = 0;
            // SAFETY: writes one number, of a device that the driver gave.
            let status = unsafe { (api.cuDeviceGetAttribute)(&raw mut value, attribute, device) };
            self.done("asking for its properties", status).map(|()| value.max(0).cast_unsigned())
        };
        let mut model = [0u8; 128];
        // SAFETY: writes at most that many bytes, the last of them a zero.
        let status = unsafe {
            (api.cuDeviceGetName)(model.as_mut_ptr().cast(), model.len() as c_int, device)
        };
        self.done("asking for its name", status)?;
        let mut memory_bytes = 0;
        // SAFETY: writes one number.
        let status = unsafe { (api.cuDeviceTotalMem_v2)(&raw mut memory_bytes, device) };
        self.done("asking for its memory", status)?;
        let properties = Properties {
            model: CStr::from_bytes_until_nul(&model)
                .map_or_else(|_| "a GPU".into(), |name| name.to_string_lossy().into_owned()),
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory_bytes,
        };
        if properties.capability < OLDEST_CAPABILITY {
            let ((major, minor), (need, tail)) = (properties.capability, OLDEST_CAPABILITY);
            let model = &properties.model;
            return Err(self.missing(
                format!(
                    "{model} has compute capability {major}.{minor}, the kernels need {need}.{tail}"
                ),
                "use a GPU of the Ampere generation or newer, or cpu",
            ));
        }
        let shared_bytes =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        Ok((properties, shared_bytes))
    }

    /// Its primary context, current on this thread, and a stream.
    fn enter(&self, device: cu::CUdevice) -> Result<(cu::CUcontext, cu::CUstream)> {
        let api = &self.api;
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle; it is released by the owner, or just below.
        let status = unsafe { (api.cuDevicePrimaryCtxRetain)(&raw mut context, device) };
        self.done("making a context", status)?;
        let mut stream = ptr::null_mut();
        let apart = cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context of the line above, then a stream in it.
        let made = unsafe {
            self.done("making its context current", (api.cuCtxSetCurrent)(context)).and_then(|()| {
                self.done("making a stream", (api.cuStreamCreate)(&raw mut stream, apart))
            })
        };
        if made.is_err() {
            // SAFETY: retained once, above.
            let _ = unsafe { (api.cuDevicePrimaryCtxRelease_v2)(device) };
        }
        made.map(|()| (context, stream))
    }
}

/// The driver's functions, and where they are from.
fn driver_library() -> std::result::Result<(Api, String), String> {
    let found = probe::load(probe::DRIVER, &Machine::here().driver_folders())
        .map_err(|missing| format!("there is no NVIDIA driver: {}", missing.describe()))?;
    // SAFETY: a library by the driver's name, never unloaded.
    let api = unsafe { Api::load(&found.library) }.map_err(|name| {
        format!("{} has no function {name}: it is too old, or not NVIDIA's driver", found.from)
    })?;
    // The driver has threads of its own, so that it is never unloaded.
    std::mem::forget(found.library);
    Ok((api, found.from))
}

/// What to do about a GPU that is not seen.
fn visible() -> String {
    match std::env::var_os("CUDA_VISIBLE_DEVICES") {
        Some(value) => format!(
            "CUDA_VISIBLE_DEVICES is `{}`; unset it to see all GPUs, or use cpu",
            value.to_string_lossy()
        ),
        None => "run nvidia-smi to see which GPUs there are, or use cpu".into(),
    }
}

fn version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
