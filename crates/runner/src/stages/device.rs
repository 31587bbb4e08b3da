//! From a stage's resources to a device. Says what is missing when there is none.

use anyhow::bail;
use farthing_kernels::{Device, DeviceKind};

use crate::{Accelerator, Lacking, Resources, Result};

/// Opens the device that a stage's `resources` ask for.
pub(crate) fn open(resources: &Resources) -> Result<Box<dyn Device>> {
    match resources.device {
        Accelerator::Cpu => Ok(farthing_kernels::open(DeviceKind::Cpu, resources.threads)?),
        Accelerator::Emulated => {
            Ok(farthing_kernels::open(DeviceKind::Emulated, resources.threads)?)
        }
        Accelerator::Cuda => {
            let opened = farthing_kernels::open(DeviceKind::Cuda(0), resources.threads);
            let dev = opened.map_err(|e| {
                let text = e.to_string();
                let also = match resources.gpus {
                    2.. => "; this version trains on one GPU, or on several ranks of the processor",
                    _ => "",
                };
                Lacking(format!(
                    "its `resources` ask for `device = \"cuda\"`, and {}{also}\n\
                     hint: --plan works without one; take `resources` out to compute on this processor",
                    text.lines().next().unwrap_or_default()
                ))
            })?;
            if resources.gpus > 1 {
                bail!(
                    "{} GPUs are asked for, this version trains on one GPU, or on several ranks of the processor\n\
                     hint: set `resources = {{ device = \"cuda\", gpus = 1 }}`",
                    resources.gpus
                );
            }
            Ok(dev)
        }
    }
}
