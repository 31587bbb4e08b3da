//! The `cuda` device: our PTX kernels, launched on a GPU or in the emulator; matrix products from a library, where it is worth one.
//!
//! Activations are BF16, statistics, parameters' gradients and optimizer state F32. One file per operation has
//! the launch code: it checks arguments, picks a kernel and its grid, and packs arguments. [`driver`] is the seam below, [`gemm`] the one beside it; [`nvidia`] and [`cublaslt`] are behind
//! them on a GPU, [`emulated`] and [`gemm::HostGemm`] without one. Kernels are in `cu/`, what `nvcc` made of them in `ptx/`.

mod adamw;
#[cfg(feature = "nvidia")]
mod api;
mod attention;
#[cfg(feature = "nvidia")]
mod code;
#[cfg_attr(not(feature = "nvidia"), allow(dead_code, reason = "cuBLASLt asks for most of it"))]
mod columns;
mod cross_entropy;
#[cfg(feature = "nvidia")]
pub mod cublaslt;
pub mod driver;
mod embed;
#[cfg(feature = "emulator")]
pub mod emulated;
mod flat;
pub mod gemm;
mod linear;
mod map;
mod memory;
mod mix;
mod muon;
#[cfg(feature = "nvidia")]
pub mod nvidia;
#[cfg(feature = "nvidia")]
mod opening;
#[cfg(feature = "nvidia")]
pub mod probe;
mod product;
#[cfg(feature = "nvidia")]
mod pythons;
mod relu2;
mod rms_norm;
#[cfg(feature = "nvidia")]
mod side;
mod smear;
#[cfg(feature = "nvidia")]
mod staging;
mod sum;
mod swiglu;
pub mod watched;

use std::sync::{Arc, Mutex};

use self::columns::Key;
#[cfg(feature = "nvidia")]
use self::cublaslt::CublasLt;
use self::driver::{Arg, Driver, Kernel};
#[cfg(feature = "emulator")]
use self::emulated::Emulator;
use self::gemm::Gemm;
#[cfg(feature = "emulator")]
use self::gemm::HostGemm;
#[cfg(feature = "nvidia")]
use self::nvidia::Nvidia;
pub use self::product::Fallback;
use crate::ops::{Dtypes, Op};
use crate::{Allocation, DType, Device, Error, Mut, Place, Ref, Result, Shape};

/// Elements of f32 scratch that reductions leave the sums of blocks, rows or columns in: one MiB.
const PARTIALS: usize = 1 << 18;

/// A machine that runs our PTX.
///
/// # Numerics
/// Every operation that has a kernel agrees with [`reference`](crate::reference) within 1e-2 (‖Δ‖/‖ref‖) where results are
/// BF16 or come of BF16; `tests/conformance.rs` shows it, in the emulator and on a GPU where there is one.
pub struct Cuda {
    driver: Arc<dyn Driver>,
    gemm: Box<dyn Gemm>,
    dtypes: Dtypes,
    partials: DeviceAllocation,
    programs: map::Programs,
    /// Products that `gemm` has no algorithm for.
    refused: Mutex<Vec<(Key, Fallback)>>,
}

impl Cuda {
    /// The GPU with this ordinal. Not yet run on one.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with a hint, when the driver, the GPU or cuBLASLt is missing or too old;
    /// [`Error::OutOfMemory`].
    #[cfg(feature = "nvidia")]
    pub fn open(ordinal: u32) -> Result<Self> {
        let driver = Arc::new(Nvidia::open(ordinal)?);
        let gemm = CublasLt::open(driver.clone())?;
        Self::new(driver, Box::new(gemm))
    }

    /// The emulated machine: every launch runs on the host, each access checked. Slow; for tests and for seeing what a
    /// kernel does.
    ///
    /// # Errors
    /// As [`Cpu::new`](crate::cpu::Cpu::new), which multiplies its matrices.
    #[cfg(feature = "emulator")]
    pub fn emulated() -> Result<Self> {
        Self::on_emulator(Arc::new(Emulator::new()))
    }

    /// An emulated machine whose counters the caller reads.
    ///
    /// # Errors
    /// As [`Cuda::emulated`].
    #[cfg(feature = "emulator")]
    pub fn on_emulator(emulator: Arc<Emulator>) -> Result<Self> {
        let gemm = HostGemm::new(emulator.clone())?;
        Self::new(emulator, Box::new(gemm))
    }

    /// A device on any driver, with its matrix product.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(driver: Arc<dyn Driver>, gemm: Box<dyn Gemm>) -> Result<Self> {
        let dtypes = Dtypes {
            device: driver.name(),
            place: driver.place(),
            compute: DType::BF16,
            master: DType::F32,
        };
        let partials = DeviceAllocation::new(driver.clone(), PARTIALS * 4)?;
        let (programs, refused) = (map::Programs::default(), Mutex::default());
        Ok(Self { driver, gemm, dtypes, partials, programs, refused })
    }

    /// What runs the kernels.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// Launches `blocks` of a kernel, unless there are none.
    fn launch(&self, kernel: &'static Kernel, blocks: usize, args: &[Arg]) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let blocks = u32::try_from(blocks).map_err(|_| Error::Driver {
            op: kernel.name,
            device: self.dtypes.device,
            what: format!("{blocks} blocks are more than a grid has"),
        })?;
        self.driver.launch(kernel, [blocks, 1, 1], args)
    }

    /// Blocks for `n` elements at `each` per block: as many as it takes, at most as many as keep every multiprocessor busy,
    /// since kernels over flat elements stride by the grid.
    fn blocks_for(&self, n: usize, each: usize) -> usize {
        n.div_ceil(each).min(16 * self.driver.properties().multiprocessors.max(1) as usize)
    }
}

impl Device for Cuda {
    fn run(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::Copy(op) => self.copy(op),
            Op::Cast(op) => self.cast(op),
            Op::Fill(op) => self.fill(op),
            Op::Linear(op) => self.linear(op),
            Op::LinearDx(op) => self.linear_dx(op),
            Op::LinearDw(op) => self.linear_dw(op),
            Op::Embed(op) => self.embed(op),
            Op::EmbedBackward(op) => self.embed_backward(op),
            Op::RotaryNorm(op) => self.rotary_norm(op),
            Op::RotaryNormBackward(op) => self.rotary_norm_backward(op),
            Op::ValueGate(op) => self.value_gate(op),
            Op::ValueGateBackward(op) => self.value_gate_backward(op),
            Op::Attention(op) => self.attention(op),
            Op::AttentionBackward(op) => self.attention_backward(op),
            Op::CrossEntropy(op) => self.cross_entropy(op),
            Op::Argmax(op) => self.argmax(op),
            Op::Sum(op) => self.sum(op),
            Op::SumSquares(op) => self.sum_squares(op),
            Op::RmsNorm(op) => self.rms_norm(op),
            Op::RmsNormBackward(op) => self.rms_norm_backward(op),
            Op::Mix(op) => self.mix(op),
            Op::MixNorm(op) => self.mix_norm(op),
            Op::MixBackward(op) => self.mix_backward(op),
            Op::Smear(op) => self.smear(op),
            Op::SmearBackward(op) => self.smear_backward(op),
            Op::Relu2(op) => self.relu2(op),
            Op::Relu2Backward(op) => self.relu2_backward(op),
            Op::LinearRelu2(op) => self.linear_relu2(op),
            Op::LinearDxRelu2(op) => self.linear_dx_relu2(op),
            Op::Swiglu(op) => self.swiglu(op),
            Op::SwigluBackward(op) => self.swiglu_backward(op),
            Op::Map(op) => self.map(op),
            Op::AdamWUpdate(op) => self.adamw(op),
            Op::Nesterov(op) => self.nesterov(op),
            Op::EquilibrateRows(op) => self.equilibrate_rows(op),
            Op::PolarExpress(op) => self.polar_express(op),
            Op::Renormalize(op) => self.renormalize(op),
            Op::VarianceReduce(op) => self.variance_reduce(op),
            Op::CautiousUpdate(op) => self.cautious_update(op),
        }
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        Self::polar_scratch(shape)
    }
}

/// The width of a row as kernels take it, which leaves them room to step beyond its end.
fn columns(op: &'static str, columns: usize) -> Result<Arg> {
    match i32::try_from(columns) {
        Ok(c) if c <= 1 << 30 => Ok(Arg::I32(c)),
        _ => Err(Error::Argument { op, what: format!("{columns} columns, at most {}", 1 << 30) }),
    }
}

/// The address of a view, as a kernel takes it.
trait OnDevice {
    fn device_address(&self) -> u64;

    fn arg(&self) -> Arg {
        Arg::Address(self.device_address())
    }
}

impl OnDevice for Ref<'_> {
    fn device_address(&self) -> u64 {
        self.address() as u64
    }
}

impl OnDevice for Mut<'_> {
    fn device_address(&self) -> u64 {
        Mut::address(self) as u64
    }
}

/// Memory of a driver.
struct DeviceAllocation {
    driver: Arc<dyn Driver>,
    address: u64,
    bytes: usize,
}

impl DeviceAllocation {
    /// Zeroed memory.
    fn new(driver: Arc<dyn Driver>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1);
        let address = driver.alloc(bytes)?;
        let allocation = Self { driver, address, bytes };
        allocation.driver.zero(address, bytes)?;
        Ok(allocation)
    }
}

impl Drop for DeviceAllocation {
    fn drop(&mut self) {
        self.driver.free(self.address);
    }
}

// SAFETY: the driver gave these bytes to this value alone, aligned to 256, and they were zeroed; they are freed on drop.
unsafe impl Allocation for DeviceAllocation {
    fn address(&self) -> *mut u8 {
        std::ptr::without_provenance_mut(self.address as usize)
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn place(&self) -> Place {
        self.driver.place()
    }
}
