//! From a stage's resources to a device. Says what is missing when there is none.

use anyhow::anyhow;
use farthing_kernels::{Device, DeviceKind};

use crate::{Accelerator, Lacking, Resources, Result};

/// Opens the device that a stage's `resources` ask for.
pub(crate) fn open(resources: &Resources) -> Result<Box<dyn Device>> {
    open_of(resources, 0)
}

/// The device that a command's `--device` names.
pub(crate) fn of_command(device: Accelerator, threads: usize) -> Result<Box<dyn Device>> {
    found(device, 0, threads).map_err(|e| match device {
        Accelerator::Cuda => {
            anyhow!("{}\nhint: leave --device out to compute on this processor", first_line(&e))
        }
        _ => e.into(),
    })
}

/// The same as [`open`] for one of several ranks on this machine, of whose GPUs it has the one with this number.
pub(crate) fn open_of(resources: &Resources, local_rank: usize) -> Result<Box<dyn Device>> {
    found(resources.device, local_rank, resources.threads).map_err(|e| {
        if resources.device != Accelerator::Cuda {
            return e.into();
        }
        let asked = match resources.gpus {
            gpus @ 2.. => format!("`device = \"cuda\", gpus = {gpus}`"),
            _ => "`device = \"cuda\"`".to_owned(),
        };
        let text = format!(
            "its `resources` ask for {asked}, and {}\n\
             hint: --plan works without one; take `resources` out to compute on this processor",
            first_line(&e)
        );
        Lacking(text).into()
    })
}

fn found(
    device: Accelerator,
    number: usize,
    threads: usize,
) -> farthing_kernels::Result<Box<dyn Device>> {
    let kind = match device {
        Accelerator::Cpu => DeviceKind::Cpu,
        Accelerator::Emulated => DeviceKind::Emulated,
        Accelerator::Cuda => DeviceKind::Cuda(u32::try_from(number).unwrap_or(u32::MAX)),
    };
    farthing_kernels::open(kind, threads)
}

fn first_line(error: &farthing_kernels::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
