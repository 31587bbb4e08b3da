//! The `cpu` device: f32 on all cores.
//!
//! Compute and master type are both F32. Matrix products come from the `gemm` crate, everything else is plain loops
//! compiled for the widest vectors the machine has. How work is cut depends on shapes alone, so that every result is
//! bit-equal for any number of threads. What this device does not do: BF16 arithmetic, or more than one machine.

#![allow(
    clippy::inline_always,
    reason = "loops must be inlined into `simd::vectorised`, or they are compiled for baseline x86-64"
)]

mod attention;
mod dense;
mod gemm;
mod loss;
mod map;
mod matrix;
mod memory;
mod pointwise;
mod polar;
mod rotary;
mod simd;
mod slab;
mod smear;
mod update;
mod value_gate;
mod work;

use crate::shapes::Dtypes;
use crate::{DType, Error, Place, Result};

/// The processor: f32, all cores.
///
/// # Numerics
/// Every operation agrees with [`reference`](crate::reference) within 2e-5 (‖Δ‖/‖ref‖); `tests/conformance.rs` shows it.
/// Results are bit-equal for any number of threads; `tests/threads.rs` shows it.
pub struct Cpu {
    workers: work::Workers,
}

impl Cpu {
    /// A device of `threads` threads; 0 for one per core.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the threads cannot be started.
    ///
    /// # Example
    /// ```
    /// use farthing_kernels::{Device, cpu::Cpu};
    /// let cpu = Cpu::new(2)?;
    /// let dev: &dyn Device = &cpu;
    /// let mut x = dev.activations([2, 3])?;
    /// dev.write_f64(x.view_mut(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// let mut total = dev.master([1])?;
    /// dev.sum(total.view_mut(), x.view())?;
    /// assert_eq!(dev.read_f64(total.view())?, [21.0]);
    /// # Ok::<(), farthing_kernels::Error>(())
    /// ```
    pub fn new(threads: usize) -> Result<Self> {
        let workers = work::Workers::new(threads).map_err(|e| Error::Unavailable {
            what: format!("cpu: could not start {threads} threads: {e}"),
            hint: "ask for fewer threads".into(),
        })?;
        Ok(Self { workers })
    }

    /// The number of threads that work.
    pub fn threads(&self) -> usize {
        self.workers.threads()
    }
}

/// What the device holds tensors in.
const DTYPES: Dtypes =
    Dtypes { device: "cpu", place: Place::Host, compute: DType::F32, master: DType::F32 };
