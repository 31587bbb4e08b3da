//! What the examples share: a machine and its matrix product, opened apart, and results that appear whole under their name.

use std::path::Path;
use std::sync::Arc;

use farthing_base::{Hint, files};
use farthing_kernels::cuda::cublaslt::CublasLt;
use farthing_kernels::cuda::driver::{Driver, Properties};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::nvidia::Nvidia;
use farthing_kernels::{DeviceKind, Error, Result};
use serde_json::{Value, json};

/// A machine that runs PTX.
pub(crate) enum Machine {
    /// A GPU, with cuBLASLt or why there is none.
    Gpu(Arc<Nvidia>, Result<CublasLt>),
    /// The emulator, which multiplies on the host.
    Emulated(Arc<Emulator>),
}

impl Machine {
    /// A GPU or the emulator; `None` for the devices that run no PTX.
    pub(crate) fn open(kind: DeviceKind) -> Result<Option<Self>> {
        Ok(match kind {
            DeviceKind::Cuda(ordinal) => {
                let gpu = Arc::new(Nvidia::open(ordinal)?);
                let gemm = CublasLt::open(gpu.clone());
                Some(Self::Gpu(gpu, gemm))
            }
            DeviceKind::Emulated => Some(Self::Emulated(Arc::new(Emulator::new()))),
            _ => None,
        })
    }

    /// Its driver.
    pub(crate) fn driver(&self) -> Arc<dyn Driver> {
        match self {
            Self::Gpu(gpu, _) => gpu.clone(),
            Self::Emulated(emulator) => emulator.clone(),
        }
    }
}

/// What a machine is, as JSON.
pub(crate) fn described(name: &str, properties: &Properties) -> Value {
    let Properties { model, capability: (major, minor), multiprocessors, memory_bytes } =
        properties;
    json!({
        "name": name,
        "model": model,
        "capability": format!("{major}.{minor}"),
        "multiprocessors": multiprocessors,
        "memory_bytes": memory_bytes,
    })
}

/// Writes `value` beside `path` and moves it there, so that whoever looks finds a whole file, also when this process is ended in between.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    files::write(path, &[format!("{value:#}\n").as_bytes()]).map_err(Error::Io)
}

/// A device's name on the command line.
pub(crate) fn device(name: &str) -> std::result::Result<DeviceKind, String> {
    name.parse().map_err(|error: Error| error.with_hint())
}
