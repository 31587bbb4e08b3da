//! A GPU's kernels: PTX handed to the driver's compiler when the first kernel of a module is launched, then kept.

use std::collections::HashMap;
use std::ffi::{CString, c_uint, c_void};
use std::ptr;
use std::sync::{PoisonError, RwLock};

use cudarc::driver::sys as cu;

use super::api::{Api, SUCCESS};
use super::driver::{Kernel, Module};
use crate::{Error, Result};

/// Room for what the driver's compiler says against a module.
const LOG_BYTES: usize = 16 << 10;

/// A kernel that can be launched.
pub(super) struct Function {
    pub(super) handle: cu::CUfunction,
    /// Bytes of each parameter.
    pub(super) parameters: Vec<usize>,
}

/// What has been loaded into one context.
pub(super) struct Code {
    api: Api,
    device: &'static str,
    /// The most dynamic shared memory that a block may ask for.
    shared_bytes: u32,
    loaded: RwLock<Loaded>,
}

/// By the address of the static that describes each, which is as good as its name and quicker to look up.
#[derive(Default)]
struct Loaded {
    modules: HashMap<usize, cu::CUmodule>,
    functions: HashMap<usize, Function>,
}

impl Code {
    pub(super) fn new(api: &Api, device: &'static str, shared_bytes: u32) -> Self {
        Self { api: *api, device, shared_bytes, loaded: RwLock::default() }
    }

    /// Calls `f` with a kernel, which is loaded first if need be. The context is current.
    pub(super) fn with<R>(
        &self,
        kernel: &'static Kernel,
        f: impl FnOnce(&Function) -> Result<R>,
    ) -> Result<R> {
        let key = ptr::from_ref(kernel).addr();
        {
            let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(function) = loaded.functions.get(&key) {
                return f(function);
            }
        }
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let function = self.load(&mut loaded, kernel)?;
        let result = f(&function);
        loaded.functions.insert(key, function);
        result
    }

    fn load(&self, loaded: &mut Loaded, kernel: &'static Kernel) -> Result<Function> {
        let failed = |what: String| Error::Driver { op: kernel.name, device: self.device, what };
        let parameters = kernel.parameters().ok_or_else(|| {
            failed(format!(
                "{}.ptx declares no such kernel that can be launched",
                kernel.module.name
            ))
        })?;
        if kernel.shared_bytes > self.shared_bytes {
            return Err(failed(format!(
                "asks for {} bytes of shared memory per block, this GPU has {}",
                kernel.shared_bytes, self.shared_bytes
            )));
        }
        let key = ptr::from_ref(kernel.module).addr();
        let module = match loaded.modules.get(&key) {
            Some(&module) => module,
            None => {
                let module = self.compile(kernel.module).map_err(failed)?;
                loaded.modules.insert(key, module);
                module
            }
        };
        let check = |status: u32, doing: &str| match status {
            SUCCESS => Ok(()),
            _ => Err(failed(format!("{doing}: {}", self.api.describe(status)))),
        };
        let name = CString::new(kernel.name).map_err(|e| failed(e.to_string()))?;
        let mut handle = ptr::null_mut();
        // SAFETY: a live module of the current context, and a name that ends in a zero.
        let status =
            unsafe { (self.api.cuModuleGetFunction)(&raw mut handle, module, name.as_ptr()) };
        check(status, "looking it up in its module")?;
        if kernel.shared_bytes > 0 {
            // More than 48 KiB has to be asked for ahead of the launch.
            let attribute =
                cu::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function of the line above.
            let status = unsafe {
                (self.api.cuFuncSetAttribute)(handle, attribute, kernel.shared_bytes as i32)
            };
            check(status, &format!("asking for {} bytes of shared memory", kernel.shared_bytes))?;
        }
        Ok(Function { handle, parameters })
    }

    /// Compiles PTX for the GPU at hand; what the compiler says is part of the error.
    fn compile(&self, module: &'static Module) -> std::result::Result<cu::CUmodule, String> {
        let text = CString::new(module.ptx).map_err(|e| format!("{}.ptx: {e}", module.name))?;
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            cu::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            cu::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The size is an unsigned int in the place of a pointer; the driver writes back how much it used.
        let mut values: [*mut c_void; 2] =
            [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG_BYTES)];
        let mut handle = ptr::null_mut();
        // SAFETY: two options with their two values, a text that ends in a zero, and a log of the size that is said.
        let status = unsafe {
            (self.api.cuModuleLoadDataEx)(
                &raw mut handle,
                text.as_ptr().cast(),
                options.len() as c_uint,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if status == SUCCESS {
            return Ok(handle);
        }
        let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]);
        let (name, why) = (module.name, self.api.describe(status));
        let log = match log.trim() {
            "" => String::new(),
            log => format!("\n{log}"),
        };
        Err(format!("{name}.ptx was not compiled: {why}{log}"))
    }

    /// Unloads everything. The context is current.
    pub(super) fn unload(&mut self) {
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        loaded.functions.clear();
        for module in std::mem::take(&mut loaded.modules).into_values() {
            // SAFETY: loaded once, unloaded once. That it could not be unloaded concerns no one any more.
            let _ = unsafe { (self.api.cuModuleUnload)(module) };
        }
    }
}
