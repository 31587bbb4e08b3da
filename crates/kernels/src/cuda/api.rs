//! The functions of NVIDIA's driver and of cuBLASLt that this device calls, found by name when their library is opened.
//!
//! cudarc declares both libraries; its own calls are not used, because they panic where a library or a symbol is absent, take
//! every status for one that was known when its enumeration was written, and call the newest form of a function
//! (`cuEventElapsedTime_v2`), which older drivers lack. Here a missing symbol is an error when the library is opened, a status
//! is a number, and the compiler holds each signature against cudarc's.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys as cu;
use libloading::Library;

/// What both libraries return for "done".
pub(super) const SUCCESS: u32 = 0;

/// A table of functions that return a status. Those under `as …` have cudarc's signatures.
macro_rules! table {
    (
        $(#[$doc:meta])* $table:ident, $sys:ident as $status:ty:
        { $($name:ident($($arg:ty),*);)* }
        own: { $($own:ident($($own_arg:ty),*);)* }
    ) => {
        $(#[$doc])*
        #[allow(non_snake_case, reason = "named as the library names them")]
        #[derive(Clone, Copy)]
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> u32,)*
            $(pub(super) $own: unsafe extern "C" fn($($own_arg),*) -> u32,)*
        }

        impl $table {
            /// All functions of `library`, or the name of the first that it lacks.
            ///
            /// # Safety
            /// `library` is what its name says, and stays loaded.
            pub(super) unsafe fn load(library: &Library) -> Result<Self, &'static str> {
                // SAFETY: the symbols of that library have these signatures, and a status is 32 bits wide.
                unsafe {
                    Ok(Self {
                        $($name: symbol(library, stringify!($name))?,)*
                        $($own: symbol(library, stringify!($own))?,)*
                    })
                }
            }
        }

        $(const _: unsafe fn($($arg),*) -> $status = $sys::$name;)*
    };
}

/// # Safety
/// `F` is the symbol's type.
unsafe fn symbol<F: Copy>(library: &Library, name: &'static str) -> Result<F, &'static str> {
    // SAFETY: passed on.
    unsafe { library.get::<F>(name) }.map(|f| *f).map_err(|_| name)
}

table! {
    /// The driver. Nothing here is newer than CUDA 11.0; see NVIDIA's "CUDA Driver API" for each.
    Api, cu as cu::CUresult:
    {
        cuInit(c_uint);
        cuDriverGetVersion(*mut c_int);
        cuDeviceGetCount(*mut c_int);
        cuDeviceGet(*mut cu::CUdevice, c_int);
        cuDeviceGetName(*mut c_char, c_int, cu::CUdevice);
        cuDeviceGetAttribute(*mut c_int, cu::CUdevice_attribute, cu::CUdevice);
        cuDeviceTotalMem_v2(*mut usize, cu::CUdevice);
        cuDevicePrimaryCtxRetain(*mut cu::CUcontext, cu::CUdevice);
        cuDevicePrimaryCtxRelease_v2(cu::CUdevice);
        cuCtxSetCurrent(cu::CUcontext);
        cuStreamCreate(*mut cu::CUstream, c_uint);
        cuStreamDestroy_v2(cu::CUstream);
        cuStreamSynchronize(cu::CUstream);
        cuStreamWaitEvent(cu::CUstream, cu::CUevent, c_uint);
        cuMemAlloc_v2(*mut cu::CUdeviceptr, usize);
        cuMemFree_v2(cu::CUdeviceptr);
        cuMemGetInfo_v2(*mut usize, *mut usize);
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
        cuMemFreeHost(*mut c_void);
        cuMemcpyHtoDAsync_v2(cu::CUdeviceptr, *const c_void, usize, cu::CUstream);
        cuMemcpyDtoHAsync_v2(*mut c_void, cu::CUdeviceptr, usize, cu::CUstream);
        cuMemcpyDtoDAsync_v2(cu::CUdeviceptr, cu::CUdeviceptr, usize, cu::CUstream);
        cuMemsetD8Async(cu::CUdeviceptr, u8, usize, cu::CUstream);
        cuModuleLoadDataEx(*mut cu::CUmodule, *const c_void, c_uint, *mut cu::CUjit_option, *mut *mut c_void);
        cuModuleUnload(cu::CUmodule);
        cuModuleGetFunction(*mut cu::CUfunction, cu::CUmodule, *const c_char);
        cuFuncSetAttribute(cu::CUfunction, cu::CUfunction_attribute, c_int);
        cuLaunchKernel(
            cu::CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, cu::CUstream,
            *mut *mut c_void, *mut *mut c_void
        );
        cuEventCreate(*mut cu::CUevent, c_uint);
        cuEventDestroy_v2(cu::CUevent);
        cuEventRecord(cu::CUevent, cu::CUstream);
        cuEventSynchronize(cu::CUevent);
    }
    own: {
        // cudarc hides this one from CUDA 13 on; the driver keeps it.
        cuEventElapsedTime(*mut f32, cu::CUevent, cu::CUevent);
        // Any number may be asked about, not only those that cudarc enumerates.
        cuGetErrorName(u32, *mut *const c_char);
        cuGetErrorString(u32, *mut *const c_char);
    }
}

impl Api {
    /// A status in the driver's words.
    pub(super) fn describe(&self, status: u32) -> String {
        let words = |get: unsafe extern "C" fn(u32, *mut *const c_char) -> u32| {
            let mut text = std::ptr::null();
            // SAFETY: writes one pointer, to a text that the library keeps, or null.
            let found = unsafe { get(status, &raw mut text) };
            // SAFETY: a text that ends in a zero.
            (found == SUCCESS && !text.is_null())
                .then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        match (words(self.cuGetErrorName), words(self.cuGetErrorString)) {
            (Some(name), Some(text)) => format!("{name} ({text})"),
            (Some(name), None) => name,
            (None, _) => format!("status {status}"),
        }
    }
}

table! {
    /// cuBLASLt, as of CUDA 11.8.
    LtApi, lt as lt::cublasStatus_t:
    {
        cublasLtCreate(*mut lt::cublasLtHandle_t);
        cublasLtDestroy(lt::cublasLtHandle_t);
        cublasLtMatmulDescCreate(*mut lt::cublasLtMatmulDesc_t, lt::cublasComputeType_t, lt::cudaDataType_t);
        cublasLtMatmulDescDestroy(lt::cublasLtMatmulDesc_t);
        cublasLtMatmulDescSetAttribute(
            lt::cublasLtMatmulDesc_t, lt::cublasLtMatmulDescAttributes_t, *const c_void, usize
        );
        cublasLtMatrixLayoutCreate(*mut lt::cublasLtMatrixLayout_t, lt::cudaDataType, u64, u64, i64);
        cublasLtMatrixLayoutDestroy(lt::cublasLtMatrixLayout_t);
        cublasLtMatmulPreferenceCreate(*mut lt::cublasLtMatmulPreference_t);
        cublasLtMatmulPreferenceDestroy(lt::cublasLtMatmulPreference_t);
        cublasLtMatmulPreferenceSetAttribute(
            lt::cublasLtMatmulPreference_t, lt::cublasLtMatmulPreferenceAttributes_t, *const c_void, usize
        );
        cublasLtMatmulAlgoGetHeuristic(
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
            lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatmulPreference_t, c_int,
            *mut lt::cublasLtMatmulHeuristicResult_t, *mut c_int
        );
        cublasLtMatmul(
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, *const c_void, *const c_void,
            lt::cublasLtMatrixLayout_t, *const c_void, lt::cublasLtMatrixLayout_t, *const c_void, *const c_void,
            lt::cublasLtMatrixLayout_t, *mut c_void, lt::cublasLtMatrixLayout_t, *const lt::cublasLtMatmulAlgo_t,
            *mut c_void, usize, lt::cudaStream_t
        );
    }
    own: {}
}
