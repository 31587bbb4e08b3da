//! The functions of NCCL that the engine calls, found when the program runs, after NVIDIA's "NCCL API" (2.14 to 2.30). cudarc declares them too; its calls panic where the
//! library or a function is absent, and its names for the library leave out the one that packages install.

use std::ffi::{CStr, c_char, c_int, c_void};

use farthing_kernels::DType;
use farthing_kernels::cuda::probe;
use libloading::Library;

use crate::{Error, Result};

/// Runtime packages install the first, development packages the second too.
const NAMES: &[&str] = &["libnccl.so.2", "libnccl.so"];

/// What all ranks of a communicator are given by the first.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// A communicator.
pub(super) type Handle = *mut c_void;
type Stream = *mut c_void;
type Status = c_int;

/// How a communicator is made: the fields of 2.14, with which every later version fills in its own.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

impl Config {
    /// One whose calls come back at once.
    pub(super) fn at_once() -> Self {
        Self { size: size_of::<Self>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 }
    }
}

/// What functions return.
pub(super) const SUCCESS: Status = 0;
pub(super) const IN_PROGRESS: Status = 7;

/// `ncclSum`.
pub(super) const SUM: c_int = 0;

/// `ncclDataType_t`.
///
/// # Errors
/// [`Error::Argument`] for elements that are no floats.
pub(super) fn type_of(during: &'static str, dtype: DType) -> Result<c_int> {
    match dtype {
        DType::F32 => Ok(7),
        DType::F64 => Ok(8),
        DType::BF16 => Ok(9),
        other => Err(Error::Argument { during, what: format!("elements of {other:?}") }),
    }
}

macro_rules! table {
    ($($field:ident = $name:literal ($($arg:ty),*) -> $out:ty;)*) => {
        /// NCCL, loaded.
        #[derive(Clone, Copy)]
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> $out,)*
            pub(super) version: c_int,
        }

        impl Api {
            /// # Safety
            /// `library` is NCCL, and stays loaded.
            unsafe fn of(library: &Library) -> Result<Self, &'static str> {
                // SAFETY: these are NCCL's own signatures.
                unsafe { Ok(Self { $($field: *library.get($name).map_err(|_| $name)?,)* version: 0 }) }
            }
        }
    };
}

table! {
    get_version = "ncclGetVersion" (*mut c_int) -> Status;
    unique_id = "ncclGetUniqueId" (*mut UniqueId) -> Status;
    init_rank = "ncclCommInitRankConfig" (*mut Handle, c_int, UniqueId, c_int, *mut Config) -> Status;
    async_error = "ncclCommGetAsyncError" (Handle, *mut Status) -> Status;
    abort = "ncclCommAbort" (Handle) -> Status;
    finalize = "ncclCommFinalize" (Handle) -> Status;
    destroy = "ncclCommDestroy" (Handle) -> Status;
    error_string = "ncclGetErrorString" (Status) -> *const c_char;
    last_error = "ncclGetLastError" (Handle) -> *const c_char;
    group_start = "ncclGroupStart" () -> Status;
    group_end = "ncclGroupEnd" () -> Status;
    reduce_scatter = "ncclReduceScatter" (*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> Status;
    reduce = "ncclReduce" (*const c_void, *mut c_void, usize, c_int, c_int, c_int, Handle, Stream) -> Status;
    all_gather = "ncclAllGather" (*const c_void, *mut c_void, usize, c_int, Handle, Stream) -> Status;
    broadcast = "ncclBroadcast" (*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> Status;
    all_reduce = "ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> Status;
}

/// The oldest whose communicators are made without blocking, so that a rank that is missing can be named.
const OLDEST: c_int = 21_400;

impl Api {
    /// # Errors
    /// [`Error::Library`]: there is none, or it is too old.
    pub(super) fn load() -> Result<Self> {
        const INSTALL: &str = "install NCCL 2.14 or newer (libnccl2, or the package nvidia-nccl-cu12), and put its folder into LD_LIBRARY_PATH if it is not found";
        let (library, from) = probe::library(NAMES)
            .map_err(|e| Error::library(format!("there is no NCCL: {e}"), INSTALL))?;
        // SAFETY: a library by the name of NCCL, never unloaded.
        let api = unsafe { Self::of(&library) };
        let mut api = api.map_err(|name| {
            Error::library(
                format!("{from} has no function {name}: it is too old, or not NCCL"),
                INSTALL,
            )
        })?;
        // It has threads of its own, so that it is never unloaded.
        std::mem::forget(library);
        // SAFETY: writes one number.
        let status = unsafe { (api.get_version)(&raw mut api.version) };
        if status != SUCCESS || api.version < OLDEST {
            let version = version(api.version);
            return Err(Error::library(format!("{from} is NCCL {version}"), INSTALL));
        }
        Ok(api)
    }

    /// A status in the library's words, and what it said last of this communicator.
    pub(super) fn describe(&self, status: Status, comm: Handle) -> String {
        // SAFETY: texts that the library keeps, or null; a communicator may be null.
        let text = |text: *const c_char| unsafe {
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().trim().to_owned())
        };
        // SAFETY: likewise.
        let (name, last) =
            unsafe { (text((self.error_string)(status)), text((self.last_error)(comm))) };
        let name = name.unwrap_or_else(|| format!("status {status}"));
        match last.filter(|last| !last.is_empty()) {
            Some(last) => format!("{name} ({last})"),
            None => name,
        }
    }
}

/// 21803 is 2.18.3, and 2708 would be 2.7.8.
fn version(code: c_int) -> String {
    let (major, rest) =
        if code < 10_000 { (code / 1_000, code % 1_000) } else { (code / 10_000, code % 10_000) };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}
