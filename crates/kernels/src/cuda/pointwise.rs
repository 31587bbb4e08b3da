//! Operations that read and write each row or element about once.

use super::driver::{Arg, Kernel, Module};
use super::{Cuda, OnDevice, PARTIALS, columns};
use crate::shapes::{RowDims, SmearDims};
use crate::{Coef, Error, Expr, Mut, Pointwise, Ref, Result, shapes};

static NORM: Module = Module { name: "norm", ptx: include_str!("../../ptx/sm80/norm.ptx") };
static RMS_NORM: RowKernels = RowKernels::of("rms_norm_warp", "rms_norm_block");
static RMS_NORM_BACKWARD: RowKernels =
    RowKernels::of("rms_norm_backward_warp", "rms_norm_backward_block");
static MIX_NORM: RowKernels = RowKernels::of("mix_norm_warp", "mix_norm_block");

static POINTWISE: Module =
    Module { name: "pointwise", ptx: include_str!("../../ptx/sm80/pointwise.ptx") };
static MIX: Kernel = flat("mix");
static MIX_BACKWARD: Kernel = flat("mix_backward");
static ADD_PARTIALS: Kernel = flat("add_partials");
static RELU2: Kernel = flat("relu2");
static RELU2_BACKWARD: Kernel = flat("relu2_backward");
static SWIGLU: Kernel = flat("swiglu");
static SWIGLU_BACKWARD: Kernel = flat("swiglu_backward");

static SMEARS: Module = Module { name: "smear", ptx: include_str!("../../ptx/sm80/smear.ptx") };
static SMEAR: Kernel = kernel(&SMEARS, "smear");
static SMEAR_BACKWARD: Kernel = kernel(&SMEARS, "smear_backward");
static SMEAR_SUMS: Kernel = kernel(&SMEARS, "smear_sums");

const THREADS: u32 = 256;
/// Blocks that share a sum over a whole tensor, at most: few enough for one block to add up their shares, and as many on every
/// machine, so that the sum has the same bits on every machine.
const SHARES: usize = 1024;
/// Rows of a block that gives each a warp.
const ROWS: usize = THREADS as usize / 32;
/// Blocks that share the sums of smear's gradient, at most.
const SMEAR_SHARES: usize = 512;
/// Elements that a block of a flat kernel moves with one 16-byte access of each thread.
const EACH: usize = 8 * THREADS as usize;

const fn kernel(module: &'static Module, name: &'static str) -> Kernel {
    Kernel { module, name, threads: THREADS, shared_bytes: 0 }
}

const fn flat(name: &'static str) -> Kernel {
    kernel(&POINTWISE, name)
}

/// A kernel over rows in two versions: a warp for each row, eight rows to a block, and a block for each row.
struct RowKernels {
    warp: Kernel,
    block: Kernel,
}

impl RowKernels {
    /// The widest row that a warp keeps in its registers: eight 16-byte pieces of each of 32 threads.
    const WARP_COLUMNS: usize = 8 * 32 * 8;

    const fn of(warp: &'static str, block: &'static str) -> Self {
        Self { warp: kernel(&NORM, warp), block: kernel(&NORM, block) }
    }

    /// The version for rows of `c` elements, and its blocks for `n` of them.
    fn choose(&'static self, RowDims { n, c }: RowDims) -> (&'static Kernel, usize) {
        if c <= Self::WARP_COLUMNS { (&self.warp, n.div_ceil(ROWS)) } else { (&self.block, n) }
    }
}

/// A factor as kernels take it: the parameter's address or null, and the host's number.
fn factor(coef: &Coef<'_>) -> [Arg; 2] {
    let parameter = coef.parameter.as_ref().map_or(Arg::Address(0), OnDevice::arg);
    [parameter, Arg::F32(coef.times as f32)]
}

/// B·T, T, C and G.
fn smear_args(op: &'static str, SmearDims { b, t, c, g }: SmearDims) -> Result<[Arg; 4]> {
    let n = i32::try_from(b * t).map_err(|_| {
        let what = format!("{} positions, at most {}", b * t, i32::MAX);
        Error::Argument { op, what }
    })?;
    Ok([Arg::I32(n), Arg::I32(t as i32), columns(op, c)?, Arg::I32(g as i32)])
}

/// N, C and 1/C.
fn row_args(kernel: &Kernel, RowDims { n, c }: RowDims) -> Result<[Arg; 3]> {
    let inverse = Arg::F32((1.0 / c as f64) as f32);
    Ok([Arg::I64(n as i64), columns(kernel.name, c)?, inverse])
}

impl Cuda {
    /// Launches a kernel over flat elements.
    fn launch_flat(&self, kernel: &'static Kernel, n: usize, args: &[Arg]) -> Result<()> {
        self.launch(kernel, self.blocks_for(n, EACH), args)
    }
}

/// # Numerics
/// Sums and everything between a load and a store are f32; a result is rounded to BF16 once, where it is stored. Reciprocal roots
/// and exponentials are the hardware's approximations, with relative errors below 2⁻²² and about (2 + 1.2·|x|)·2⁻²³ for exp(x),
/// where a BF16 is off by up to 2⁻⁹. `tests/cuda_pointwise.rs` shows each element within the tolerance of its type.
///
/// # Cost
/// Each states the bytes that it moves, for aligned views; a parameter of a [`Coef`] adds 4 bytes, read by each warp.
impl Pointwise for Cuda {
    /// Per row: reads 2·C bytes, writes 2·C + 4.
    fn rms_norm(&self, y: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let dims = shapes::rms_norm(&self.dtypes, &y, &rstd, &x)?;
        let (kernel, blocks) = RMS_NORM.choose(dims);
        let [n, c, inverse] = row_args(kernel, dims)?;
        self.launch(kernel, blocks, &[y.arg(), rstd.arg(), x.arg(), n, c, inverse])
    }

    /// Per row: reads 4·C bytes and the 4 of rstd by each warp, and 2·C more to add to dx; writes 2·C.
    fn rms_norm_backward(
        &self,
        dx: Mut<'_>,
        dy: Ref<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        accumulate: bool,
    ) -> Result<()> {
        let dims = shapes::rms_norm_backward(&self.dtypes, &dx, &dy, &y, &rstd)?;
        let (kernel, blocks) = RMS_NORM_BACKWARD.choose(dims);
        let [n, c, inverse] = row_args(kernel, dims)?;
        let accumulate = Arg::U32(u32::from(accumulate));
        let args = [dx.arg(), dy.arg(), y.arg(), rstd.arg(), n, c, inverse, accumulate];
        self.launch(kernel, blocks, &args)
    }

    /// Per element: reads 4 bytes, writes 2.
    fn mix(&self, out: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>, b: Coef<'_>) -> Result<()> {
        let n = shapes::mix(&self.dtypes, &out, &x, &a, &y, &b)?;
        let ([a, a_times], [b, b_times]) = (factor(&a), factor(&b));
        let args = [out.arg(), x.arg(), a, a_times, y.arg(), b, b_times, Arg::I64(n as i64)];
        self.launch_flat(&MIX, n, &args)
    }

    /// The norm is that of `out` as it is stored, so that the result is [`Pointwise::mix`]'s followed by [`Pointwise::rms_norm`]'s, to the bit.
    ///
    /// Per row: reads 4·C bytes, writes 4·C + 4.
    fn mix_norm(
        &self,
        out: Mut<'_>,
        normed: Mut<'_>,
        rstd: Mut<'_>,
        x: Ref<'_>,
        a: Coef<'_>,
        y: Ref<'_>,
        b: Coef<'_>,
    ) -> Result<()> {
        let dims = shapes::mix_norm(&self.dtypes, &out, &normed, &rstd, &x, &a, &y, &b)?;
        let (kernel, blocks) = MIX_NORM.choose(dims);
        let [n, c, inverse] = row_args(kernel, dims)?;
        let ([a, a_times], [b, b_times]) = (factor(&a), factor(&b));
        let (out, normed, rstd) = (out.arg(), normed.arg(), rstd.arg());
        let (x, y) = (x.arg(), y.arg());
        let args = [out, normed, rstd, x, a, a_times, y, b, b_times, n, c, inverse];
        self.launch(kernel, blocks, &args)
    }

    /// The sums are taken in f32 by a tree that depends on the number of elements alone: each block leaves its share in scratch, a second
    /// launch adds the shares.
    ///
    /// Per element: reads 4 bytes and 2 for each of da and db that is given, writes 4.
    fn mix_backward(
        &self,
        dx: Mut<'_>,
        dy: Mut<'_>,
        da: Option<Mut<'_>>,
        db: Option<Mut<'_>>,
        x: Ref<'_>,
        a: Coef<'_>,
        y: Ref<'_>,
        b: Coef<'_>,
    ) -> Result<()> {
        let (dtypes, given) = (&self.dtypes, (da.as_ref(), db.as_ref()));
        let n = shapes::mix_backward(dtypes, &dx, &dy, given.0, given.1, &x, &a, &y, &b)?;
        let address = |given: Option<&Mut<'_>>| given.map_or(Arg::Address(0), OnDevice::arg);
        let (da, db) = (address(da.as_ref()), address(db.as_ref()));
        let ([a, a_times], [b, b_times]) = (factor(&a), factor(&b));
        // A sum that no one asks for is not computed, and its operand not read.
        let summed = |x: Ref<'_>, wanted| if wanted { x.arg() } else { Arg::Address(0) };
        let (x, y) = (summed(x, given.0.is_some()), summed(y, given.1.is_some()));
        let blocks = n.div_ceil(EACH).min(SHARES);
        let partials = Arg::Address(self.partials.address);
        let n = Arg::I64(n as i64);
        let args = [dx.arg(), dy.arg(), x, a, a_times, y, b, b_times, partials, n];
        self.launch(&MIX_BACKWARD, blocks, &args)?;
        if blocks == 0 || (given.0.is_none() && given.1.is_none()) {
            return Ok(());
        }
        let args = [da, a_times, db, b_times, partials, Arg::I32(blocks as i32)];
        self.launch(&ADD_PARTIALS, 2, &args)
    }

    /// Per position: reads 4·C bytes, half of them from cache, and 4·G, writes 2·C + 4.
    fn smear(
        &self,
        out: Mut<'_>,
        gate: Mut<'_>,
        x: Ref<'_>,
        prev: Option<Ref<'_>>,
        w: Ref<'_>,
        lambda: Ref<'_>,
    ) -> Result<()> {
        let (dtypes, previous) = (&self.dtypes, prev.as_ref());
        let dims = shapes::smear(dtypes, &out, &gate, &x, previous, &w, &lambda)?;
        let [n, t, c, g] = smear_args("smear", dims)?;
        let prev = previous.map_or(Arg::Address(0), OnDevice::arg);
        let (out, gate, x) = (out.arg(), gate.arg(), x.arg());
        let args = [out, gate, x, prev, w.arg(), lambda.arg(), n, t, c, g];
        self.launch(&SMEAR, (dims.b * dims.t).div_ceil(ROWS), &args)
    }

    /// The sums are taken in f32 in an order that depends on B·T and G alone, as those of [`Pointwise::mix_backward`].
    ///
    /// Per position: reads 8·C bytes, half of them from cache, and 4·G + 8, writes 2·C.
    ///
    /// # Errors
    /// Also [`Error::Argument`] for a gate of more channels than the scratch of sums has room for.
    fn smear_backward(
        &self,
        dx: Mut<'_>,
        dw: Mut<'_>,
        dlambda: Mut<'_>,
        dout: Ref<'_>,
        x: Ref<'_>,
        gate: Ref<'_>,
        w: Ref<'_>,
        lambda: Ref<'_>,
    ) -> Result<()> {
        let dtypes = &self.dtypes;
        let dims =
            shapes::smear_backward(dtypes, &dx, &dw, &dlambda, &dout, &x, &gate, &w, &lambda)?;
        let [n, t, c, g] = smear_args("smear_backward", dims)?;
        let (positions, sums) = (dims.b * dims.t, dims.g + 1);
        if sums > PARTIALS {
            let what = format!("a gate of {} channels, at most {}", dims.g, PARTIALS - 1);
            return Err(Error::Argument { op: "smear_backward", what });
        }
        if positions == 0 {
            return Ok(());
        }
        let rows = positions.div_ceil(SMEAR_SHARES.min(PARTIALS / sums)).max(ROWS);
        let blocks = positions.div_ceil(rows);
        let partials = Arg::Address(self.partials.address);
        let (dout, x, gate) = (dout.arg(), x.arg(), gate.arg());
        let (rows, lambda) = (Arg::I32(rows as i32), lambda.arg());
        let args = [dx.arg(), partials, dout, x, gate, w.arg(), lambda, n, rows, t, c, g];
        self.launch(&SMEAR_BACKWARD, blocks, &args)?;
        let args = [dw.arg(), dlambda.arg(), partials, Arg::I32(blocks as i32), g];
        self.launch(&SMEAR_SUMS, sums, &args)
    }

    /// Per element: reads 2 bytes, writes 2.
    fn relu2(&self, y: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::relu2(&self.dtypes, &y, &x)?;
        self.launch_flat(&RELU2, n, &[y.arg(), x.arg(), Arg::I64(n as i64)])
    }

    /// Per element: reads 4 bytes, writes 2.
    fn relu2_backward(&self, dx: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::relu2_backward(&self.dtypes, &dx, &x)?;
        self.launch_flat(&RELU2_BACKWARD, n, &[dx.arg(), x.arg(), Arg::I64(n as i64)])
    }

    /// Per element: reads 4 bytes, writes 2.
    fn swiglu(&self, y: Mut<'_>, gate: Ref<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::swiglu(&self.dtypes, &y, &gate, &x)?;
        self.launch_flat(&SWIGLU, n, &[y.arg(), gate.arg(), x.arg(), Arg::I64(n as i64)])
    }

    /// Per element: reads 6 bytes, writes 4.
    fn swiglu_backward(
        &self,
        dx: Mut<'_>,
        dgate: Mut<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
    ) -> Result<()> {
        let n = shapes::swiglu_backward(&self.dtypes, &dx, &dgate, &gate, &x)?;
        self.launch_flat(
            &SWIGLU_BACKWARD,
            n,
            &[dx.arg(), dgate.arg(), gate.arg(), x.arg(), Arg::I64(n as i64)],
        )
    }

    fn map(
        &self,
        exprs: &[Expr],
        out: &mut [Mut<'_>],
        ins: &[Ref<'_>],
        scalars: &[f64],
    ) -> Result<()> {
        self.run_map(exprs, out, ins, scalars)
    }
}
