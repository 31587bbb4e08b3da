//! The machine that computes: a device whose operations are traced and whose work is timed.

use std::sync::Arc;

use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::cublaslt::CublasLt;
use farthing_kernels::cuda::driver::{Driver, Properties};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::{Gemm, HostGemm};
use farthing_kernels::cuda::nvidia::Nvidia;
use farthing_kernels::cuda::watched::{Recording, Watched};
use farthing_kernels::rounded::Rounded;
use farthing_kernels::traced::{Call, Traced};
use farthing_kernels::{Device, DeviceKind};
use serde_json::{Value, json};

use crate::Result;

/// A device, and what is known about it.
pub(crate) struct Machine {
    device: Traced,
    /// None for a CPU, which has no events.
    watched: Option<Arc<Watched>>,
}

/// Dense bf16 products, TFLOP/s, as NVIDIA's data sheets have them.
/// The first whose name a model contains.
const PEAKS: [(&str, f64); 8] = [
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("H100 NVL", 835.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("B200", 2250.0),
    ("L40S", 362.0),
];

impl Machine {
    pub(crate) fn open(kind: DeviceKind) -> Result<Self> {
        let cuda = |driver: Arc<dyn Driver>, gemm: Box<dyn Gemm>| -> Result<Self> {
            let watched = Watched::new(driver);
            let cuda = Cuda::new(watched.clone(), watched.gemm(gemm))?;
            Ok(Self { device: Traced::new(Box::new(cuda)), watched: Some(watched) })
        };
        match kind {
            DeviceKind::Cuda(ordinal) => {
                let driver = Arc::new(Nvidia::open(ordinal)?);
                cuda(driver.clone(), Box::new(CublasLt::open(driver)?))
            }
            DeviceKind::Emulated => {
                let emulator = Arc::new(Emulator::new());
                cuda(emulator.clone(), Box::new(HostGemm::new(emulator)?))
            }
            DeviceKind::Cpu => {
                let device = Box::new(Rounded::new(Box::new(Cpu::new(0)?))?);
                Ok(Self { device: Traced::new(device), watched: None })
            }
            other => Err(format!(
                "a step is not timed on {other}\nhint: use cuda:0, emulated or, with --check, cpu"
            )
            .into()),
        }
    }

    pub(crate) fn device(&self) -> &dyn Device {
        &self.device
    }

    /// The driver, whose memory is counted.
    pub(crate) fn watched(&self) -> Result<&Watched> {
        self.watched.as_deref().ok_or_else(|| "only cuda and emulated have events to time by\nhint: use --check, or another --device".into())
    }

    /// Does `work`; what the device was asked for, and what its machine spent its time on.
    pub(crate) fn recorded(
        &self,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<(Vec<Call>, Recording)> {
        let watched = self.watched()?;
        self.device.clear();
        watched.start()?;
        work()?;
        let recording = watched.stop()?;
        Ok((self.device.calls(), recording))
    }

    /// The moment that a call's start is counted from.
    pub(crate) fn opened(&self) -> std::time::Instant {
        self.device.opened()
    }

    /// What it can do at most by its maker's word, FLOP/s.
    pub(crate) fn peak_flops(&self) -> Option<f64> {
        let model = &self.properties()?.model;
        PEAKS.iter().find(|(name, _)| model.contains(name)).map(|(_, tflops)| tflops * 1e12)
    }

    fn properties(&self) -> Option<&Properties> {
        self.watched.as_ref().map(|watched| watched.properties())
    }

    pub(crate) fn describe(&self) -> String {
        let name = self.device().name();
        match self.properties() {
            None => name.into(),
            Some(Properties {
                model,
                capability: (major, minor),
                multiprocessors,
                memory_bytes,
            }) => format!(
                "{name}: {model} (capability {major}.{minor}; {multiprocessors} multiprocessors; {:.1} GiB)",
                *memory_bytes as f64 / f64::from(1 << 30)
            ),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let model = self.properties().map(|properties| properties.model.clone());
        json!({ "name": self.device().name(), "model": model })
    }
}
