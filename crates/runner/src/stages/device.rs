//! From a stage's resources to a device. Says what is missing when there is none.

use farthing_kernels::{Device, DeviceKind};

use crate::{Accelerator, Lacking, Resources, Result};

/// Opens the device that a stage's `resources` ask for.
pub(crate) fn open(resources: &Resources) -> Result<Box<dyn Device>> {
    open_of(resources, 0)
}

/// The same for one of several ranks on this machine, of whose GPUs it has the one with this number.
pub(crate) fn open_of(resources: &Resources, local_rank: usize) -> Result<Box<dyn Device>> {
    let kind = match resources.device {
        Accelerator::Cpu => DeviceKind::Cpu,
        Accelerator::Emulated => DeviceKind::Emulated,
        Accelerator::Cuda => DeviceKind::Cuda(u32::try_from(local_rank).unwrap_or(u32::MAX)),
    };
    let opened = farthing_kernels::open(kind, resources.threads);
    if resources.device != Accelerator::Cuda {
        return Ok(opened?);
    }
    opened.map_err(|e| {
        let text = e.to_string();
        let asked = match resources.gpus {
            gpus @ 2.. => format!("`device = \"cuda\", gpus = {gpus}`"),
            _ => "`device = \"cuda\"`".to_owned(),
        };
        let what = text.lines().next().unwrap_or_default();
        let text = format!(
            "its `resources` ask for {asked}, and {what}\n\
             hint: --plan works without one; take `resources` out to compute on this processor"
        );
        Lacking(text).into()
    })
}
