//! `Planned`: a device without memory. It computes nothing and counts what another device would have to do.
//!
//! Code that allocates memory and calls operations runs on it unchanged, in a moment. This is how a plan knows the bytes and FLOPs of a training in advance: the training's own code tells it.
//! Arguments are checked as usual. Reads give zeros, and writes are forgotten. Memory that a device takes for itself (a driver's context, a library's workspace, packing buffers) is not counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cpu::Cpu;
use crate::cuda::Cuda;
use crate::ops::{Cost, Dtypes, Op, Operation, host_copy};
use crate::rounded::Rounded;
use crate::{Allocation, DType, Device, Memory, Mut, Place, Ref, Result, Shape, Tensor};

/// All calls of one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calls {
    /// The operation.
    pub op: &'static str,
    /// How often it was called.
    pub calls: u64,
    /// What all calls move and compute.
    pub cost: Cost,
}

/// A device that only counts.
///
/// # Example
/// ```
/// use farthing_kernels::{Device, planned::Planned};
/// let planned = Planned::cuda();
/// let dev: &dyn Device = &planned;
/// // A hundred thousand rows by as many channels: 20 GB each, and no machine needed.
/// let (mut y, x, w) =
///     (dev.activations([100_000, 100_000])?, dev.activations([100_000, 64])?, dev.activations([100_000, 64])?);
/// dev.linear(y.view_mut(), x.view(), w.view(), false)?;
/// assert_eq!(planned.peak_bytes(), 2 * (10_000_000_000 + 2 * 6_400_000));
/// let [linear] = planned.calls()[..] else { panic!("one operation") };
/// assert_eq!(linear.cost.flops, 2 * 64 * 10_000_000_000);
/// # Ok::<(), farthing_kernels::Error>(())
/// ```
pub struct Planned {
    dtypes: Dtypes,
    /// Elements of scratch for Polar Express, on the device that is planned for.
    polar_scratch: fn(Shape) -> usize,
    held: Arc<Held>,
    calls: Mutex<Vec<Calls>>,
}

/// Bytes that tensors have.
#[derive(Default)]
struct Held {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Planned {
    /// Counts for a GPU: BF16 and F32.
    pub fn cuda() -> Self {
        Self::new(DType::BF16, Cuda::polar_scratch)
    }

    /// Counts for the `cpu` device: F32.
    pub fn cpu() -> Self {
        Self::new(DType::F32, Cpu::polar_scratch)
    }

    /// Counts for the `cpu` device with activations in BF16, as [`Rounded`] has them; without what that converts in.
    pub fn rounded() -> Self {
        Self::new(DType::BF16, Rounded::polar_scratch)
    }

    fn new(compute: DType, polar_scratch: fn(Shape) -> usize) -> Self {
        let place = Place::Planned;
        let dtypes = Dtypes { device: "planned", place, compute, master: DType::F32 };
        Self { dtypes, polar_scratch, held: Arc::default(), calls: Mutex::default() }
    }

    /// Bytes that the tensors there are have.
    pub fn bytes(&self) -> u64 {
        self.held.now.load(Ordering::Relaxed)
    }

    /// The most bytes that tensors had at one time.
    pub fn peak_bytes(&self) -> u64 {
        self.held.peak.load(Ordering::Relaxed)
    }

    /// What was called so far, in the order of first calls.
    pub fn calls(&self) -> Vec<Calls> {
        self.calls_so_far().clone()
    }

    /// Forgets the calls so far, and takes the bytes of now for the peak.
    pub fn clear(&self) {
        self.calls_so_far().clear();
        self.held.peak.store(self.bytes(), Ordering::Relaxed);
    }

    fn calls_so_far(&self) -> MutexGuard<'_, Vec<Calls>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Planned {
    fn run(&self, op: Op<'_>) -> Result<()> {
        let (name, cost) = (op.name(), op.cost(&self.dtypes)?);
        let mut calls = self.calls_so_far();
        match calls.iter_mut().find(|calls| calls.op == name) {
            Some(calls) => {
                calls.calls += 1;
                calls.cost += cost;
            }
            None => calls.push(Calls { op: name, calls: 1, cost }),
        }
        Ok(())
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        (self.polar_scratch)(shape)
    }
}

impl Memory for Planned {
    fn name(&self) -> &'static str {
        self.dtypes.device
    }

    fn place(&self) -> Place {
        self.dtypes.place
    }

    fn compute_dtype(&self) -> DType {
        self.dtypes.compute
    }

    fn master_dtype(&self) -> DType {
        self.dtypes.master
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        let bytes = shape.elements().saturating_mul(dtype.bytes());
        let held = Arc::clone(&self.held);
        let now = held.now.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        held.peak.fetch_max(now, Ordering::Relaxed);
        Tensor::from_allocation(Box::new(Nothing { bytes, held }), dtype, shape)
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        host_copy("write", &self.dtypes, (&dst).into(), src.len())
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        host_copy("read", &self.dtypes, (&src).into(), dst.len())?;
        dst.fill(0);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// Bytes that are only counted.
struct Nothing {
    bytes: usize,
    held: Arc<Held>,
}

impl Drop for Nothing {
    fn drop(&mut self) {
        self.held.now.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: only the device at `Place::Planned` may use these addresses, and it uses none.
unsafe impl Allocation for Nothing {
    fn address(&self) -> *mut u8 {
        // As if aligned; views of it are told apart by nothing but their offsets.
        std::ptr::without_provenance_mut(256)
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn place(&self) -> Place {
        Place::Planned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn bytes_are_counted_until_they_are_given_back() {
        let planned = Planned::cpu();
        let dev: &dyn Device = &planned;
        let x = dev.activations([3, 5]).unwrap();
        let y = dev.master([7]).unwrap();
        assert_eq!((planned.bytes(), planned.peak_bytes()), (4 * 22, 4 * 22));
        drop(x);
        assert_eq!((planned.bytes(), planned.peak_bytes()), (4 * 7, 4 * 22));
        planned.clear();
        assert_eq!(planned.peak_bytes(), 4 * 7);
        assert_eq!(dev.read_f64(y.view()).unwrap(), [0.0; 7]);
    }

    #[test]
    fn what_a_device_would_refuse_is_refused() {
        let planned = Planned::cuda();
        let dev: &dyn Device = &planned;
        let (mut y, x) = (dev.activations([2, 3]).unwrap(), dev.activations([2, 4]).unwrap());
        let refused = dev.relu2(y.view_mut(), x.view());
        assert!(matches!(refused, Err(Error::Shape { op: "relu2", .. })));
        assert!(planned.calls().is_empty());
        let wide = dev.write(y.view_mut(), &[0; 3]);
        assert!(matches!(wide, Err(Error::Argument { op: "write", .. })));
    }
}
