//! A model's matrices in fewer bytes, for decoding on the processor.

use farthing_kernels::Weights;
use farthing_kernels::cpu::{Compact, CompactCpu};

use crate::{Gpt, Result};

/// Has a device keep every matrix that a token is multiplied with, the head included, in fewer bytes. Tables that are looked up, gates and scalars stay as they
/// are. The weights must stay where they are, and what they are, as long as the device computes with them.
///
/// # Errors
/// [`Error::Kernel`](crate::Error::Kernel) for weights of another device.
///
/// # Cost
/// Reads every matrix once; memory for the copies.
pub fn compact(gpt: &Gpt, weights: Weights<'_>, dev: &mut CompactCpu, kind: Compact) -> Result<()> {
    for spec in gpt.params() {
        let multiplied = spec.name == "lm_head.weight" || spec.name.contains(".c_");
        if multiplied {
            dev.keep(kind, weights.get(spec.id)?)?;
        }
    }
    Ok(())
}
