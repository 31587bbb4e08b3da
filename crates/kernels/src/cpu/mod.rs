//! The `cpu` device: f32 on all cores.
//!
//! Both the compute type and the master type are F32. Matrix products use our own tiles (`gemm/`); everything else is plain loops, compiled for the widest vectors that the machine has. Work is
//! cut by shapes alone, which makes every result bit-equal for any number of threads. The device does no BF16 arithmetic and uses one machine only.

#![allow(
    clippy::inline_always,
    reason = "loops must be inlined into `simd::vectorised`, or they are compiled for baseline x86-64"
)]

mod adamw;
mod attention;
mod compact;
mod cross_entropy;
mod dot;
mod embed;
mod gemm;
mod linear;
mod map;
mod matrix;
mod memory;
mod mix;
mod muon;
mod polar;
mod relu2;
mod rms_norm;
mod rotary_norm;
mod simd;
mod slab;
mod smear;
mod sum;
mod swiglu;
mod value_gate;
mod work;

pub use compact::{Compact, CompactCpu};

use crate::ops::{Dtypes, Op, StackDims};
use crate::{DType, Device, Error, Place, Result, Shape};

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
        simd::chosen().map_err(|what| Error::Unavailable {
            what: format!("cpu: {what}"),
            hint: format!(
                "unset {}, or set it to `avx2` on a processor that has AVX2",
                simd::VECTORS
            ),
        })?;
        let workers = work::Workers::new(threads).map_err(|e| Error::Unavailable {
            what: format!("cpu: could not start {threads} threads: {e}"),
            hint: "ask for fewer threads".into(),
        })?;
        Ok(Self { workers })
    }

    /// Elements of scratch for Polar Express on matrices of this shape (K, R, S).
    pub(crate) fn polar_scratch(shape: Shape) -> usize {
        match *shape {
            [k, r, s] => polar::scratch(StackDims { k, r, s }),
            _ => 0,
        }
    }

    /// The number of threads that work.
    pub fn threads(&self) -> usize {
        self.workers.threads()
    }
}

impl Device for Cpu {
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

/// What the device holds tensors in.
const DTYPES: Dtypes =
    Dtypes { device: "cpu", place: Place::Host, compute: DType::F32, master: DType::F32 };
