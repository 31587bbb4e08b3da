//! Muon's steps. Polar Express is three products in BF16 for each coefficient, matrix by matrix, rounding what each stores, as nanochat does;
//! the symmetry of two of them is not used.

use super::driver::{Arg, Kernel, Module};
use super::gemm::{Matrix, Product};
use super::memory::CAST_BF16_F32;
use super::{Cuda, OnDevice, PARTIALS};
use crate::ops::{
    CautiousUpdate, EquilibrateRows, Nesterov, PolarExpress, Renormalize, StackDims, VarianceReduce,
};
use crate::{DType, Error, Mut, Result, Shape};

static MUON: Module = Module { name: "muon", ptx: include_str!("../../ptx/sm80/muon.ptx") };

/// A kernel of [`MUON`].
const fn kernel(name: &'static str) -> Kernel {
    Kernel { module: &MUON, name, threads: 256, shared_bytes: 0 }
}

static NESTEROV: Kernel = kernel("nesterov");
static CAUTIOUS_UPDATE: Kernel = kernel("cautious_update");
static ROW_SQUARES: Kernel = kernel("row_squares");
static ROW_SQUARES_BF16: Kernel = kernel("row_squares_bf16");
static COLUMN_SQUARES: Kernel = kernel("column_squares");
static EQUILIBRATE_ROWS: Kernel = kernel("equilibrate_rows");
static RENORMALIZE: Kernel = kernel("renormalize");
static VARIANCE_MOMENTS: Kernel = kernel("variance_moments");
static VARIANCE_SCALE_ROWS: Kernel = kernel("variance_scale_rows");
static VARIANCE_SCALE_COLUMNS: Kernel = kernel("variance_scale_columns");
static POLAR_START: Kernel = kernel("polar_start");
static POLAR_COMBINE: Kernel = kernel("polar_combine");

/// Elements that a block of an elementwise kernel takes at a time.
const BLOCK_ELEMENTS: usize = 1024;

/// Bytes of a BF16 buffer, rounded up so that the next one is as aligned as this.
fn padded(elements: usize) -> usize {
    (2 * elements).next_multiple_of(64)
}

/// Matrices `first..first + count` of a stack, whose sums fit into the scratch for them.
struct Group {
    count: usize,
    x: Arg,
    /// The sums, and as many numbers as there are matrices behind them.
    sums: Arg,
    scales: Arg,
    /// Elements of x before this group.
    first: usize,
}

impl Cuda {
    /// Moves 16 bytes an element.
    pub(super) fn nesterov(&self, op: Nesterov<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Nesterov { out, buf, g, momentum } = op;
        let (momentum, complement) = (momentum as f32, (1.0 - momentum) as f32);
        let args = [
            out.arg(),
            buf.arg(),
            g.arg(),
            Arg::F32(momentum),
            Arg::F32(complement),
            Arg::I64(n as i64),
        ];
        self.launch(&NESTEROV, self.blocks_for(n, BLOCK_ELEMENTS), &args)
    }

    /// Moves 12 bytes an element.
    pub(super) fn cautious_update(&self, op: CautiousUpdate<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let CautiousUpdate { p, x, lr, weight_decay } = op;
        let (lr, decay) = (lr as f32, (lr * weight_decay) as f32);
        let args = [p.arg(), x.arg(), Arg::F32(lr), Arg::F32(decay), Arg::I64(n as i64)];
        self.launch(&CAUTIOUS_UPDATE, self.blocks_for(n, BLOCK_ELEMENTS), &args)
    }

    /// Moves 12 bytes an element, 4 of them to sum its rows.
    pub(super) fn equilibrate_rows(&self, op: EquilibrateRows<'_>) -> Result<()> {
        let StackDims { k, r, s } = op.check(&self.dtypes)?;
        let EquilibrateRows { x } = op;
        let x = &x;
        let dims = [Arg::I64(r as i64), Arg::I64(s as i64)];
        self.groups("equilibrate_rows", x, k, [r, s], r, |group| {
            let rows = group.count * r;
            self.launch(&ROW_SQUARES, rows, &[group.sums, group.x, dims[1]])?;
            self.launch(&EQUILIBRATE_ROWS, rows, &[group.x, group.sums, dims[0], dims[1]])
        })
    }

    /// Moves 12 bytes an element, 4 of them to sum its rows.
    pub(super) fn renormalize(&self, op: Renormalize<'_>) -> Result<()> {
        let StackDims { k, r, s } = op.check(&self.dtypes)?;
        let Renormalize { x } = op;
        let x = &x;
        let dims = [Arg::I64(r as i64), Arg::I64(s as i64)];
        let target = Arg::F32((r.min(s) as f64).sqrt() as f32);
        self.groups("renormalize", x, k, [r, s], r, |group| {
            let rows = group.count * r;
            self.launch(&ROW_SQUARES, rows, &[group.sums, group.x, dims[1]])?;
            self.launch(&RENORMALIZE, rows, &[group.x, group.sums, dims[0], dims[1], target])
        })
    }

    /// Moves 12 bytes an element, 4 of them to sum its rows or columns.
    pub(super) fn variance_reduce(&self, op: VarianceReduce<'_>) -> Result<()> {
        let StackDims { k, r, s: columns } = op.check(&self.dtypes)?;
        let VarianceReduce { x, s, beta2 } = op;
        let (x, s) = (&x, &s);
        // One moment to a row when R ≥ S, else to a column; n elements in each.
        let by_row = r >= columns;
        let (moments, n) = if by_row { (r, columns) } else { (columns, r) };
        let dims = [Arg::I64(r as i64), Arg::I64(columns as i64)];
        let complement = Arg::F32((1.0 - beta2) as f32);
        self.groups("variance_reduce", x, k, [r, columns], moments, |group| {
            let Group { count, x, sums, scales, first } = group;
            let rows = count * r;
            let moment = s.device_address() + 4 * (first / (r * columns) * moments) as u64;
            let moment = Arg::Address(moment);
            if by_row {
                self.launch(&ROW_SQUARES, rows, &[sums, x, dims[1]])?;
            } else {
                let blocks = count * columns.div_ceil(32);
                self.launch(&COLUMN_SQUARES, blocks, &[sums, x, dims[0], dims[1]])?;
            }
            let args =
                [moment, scales, sums, Arg::I64(moments as i64), Arg::F32(n as f32), complement];
            self.launch(&VARIANCE_MOMENTS, count, &args)?;
            let scale = if by_row { &VARIANCE_SCALE_ROWS } else { &VARIANCE_SCALE_COLUMNS };
            self.launch(scale, rows, &[x, moment, scales, dims[0], dims[1]])
        })
    }

    /// Calls `f` on groups of matrices, as many at a time as have room for `sums` numbers each, and one more.
    fn groups(
        &self,
        op: &'static str,
        x: &Mut<'_>,
        k: usize,
        [r, s]: [usize; 2],
        sums: usize,
        mut f: impl FnMut(Group) -> Result<()>,
    ) -> Result<()> {
        if k * r * s == 0 {
            return Ok(());
        }
        let most = PARTIALS / (sums + 1);
        if most == 0 {
            let what = format!("{sums} rows or columns, at most {} on this device", PARTIALS - 1);
            return Err(Error::Argument { op, what });
        }
        for start in (0..k).step_by(most) {
            let count = most.min(k - start);
            let first = start * r * s;
            f(Group {
                count,
                x: Arg::Address(x.device_address() + 4 * first as u64),
                sums: Arg::Address(self.partials.address),
                scales: Arg::Address(self.partials.address + 4 * (count * sums) as u64),
                first,
            })?;
        }
        Ok(())
    }

    /// Elements of the master type in which one matrix's iteration fits: the matrix twice and two of its Gram matrix's size, in BF16.
    pub(crate) fn polar_scratch(shape: Shape) -> usize {
        let [_, r, s] = *shape else { return 0 };
        let m = r.min(s);
        (2 * padded(r * s) + 2 * padded(m * m)) / 4
    }

    /// Three matrix products and 6·(R·S + m²) bytes a step and matrix beside them.
    pub(super) fn polar_express(&self, op: PolarExpress<'_>) -> Result<()> {
        let needed = Self::polar_scratch(op.x.shape());
        let StackDims { k, r, s } = op.check_with(&self.dtypes, needed)?;
        let PolarExpress { x, scratch, safety, steps } = op;
        let (x, scratch) = (&x, &scratch);
        let m = r.min(s);
        self.groups("polar_express", x, k, [r, s], r, |group| {
            for matrix in 0..group.count {
                let at = |bytes: usize| scratch.device_address() + bytes as u64;
                let buffer =
                    |bytes| Matrix { address: at(bytes), dtype: DType::BF16, transposed: false };
                let first = x.device_address() + 4 * (group.first + matrix * r * s) as u64;
                let mut polar = Polar {
                    cuda: self,
                    dims: [r, s],
                    x: buffer(0),
                    next: buffer(padded(r * s)),
                    gram: buffer(2 * padded(r * s)),
                    poly: buffer(2 * padded(r * s) + padded(m * m)),
                };
                polar.start(first, group.sums, safety)?;
                steps.iter().try_for_each(|&step| polar.step(step))?;
                let n = Arg::I64((r * s) as i64);
                let args = [Arg::Address(first), Arg::Address(polar.x.address), n];
                self.launch(&CAST_BF16_F32, self.blocks_for(r * s, BLOCK_ELEMENTS), &args)?;
            }
            Ok(())
        })
    }
}

/// One matrix's iteration: it and the next one (R, S), its Gram matrix and a polynomial of that (m, m), in BF16.
struct Polar<'a> {
    cuda: &'a Cuda,
    dims: [usize; 2],
    x: Matrix,
    next: Matrix,
    gram: Matrix,
    poly: Matrix,
}

impl Polar<'_> {
    /// The matrix at `from`, rounded and divided by its norm.
    fn start(&mut self, from: u64, sums: Arg, safety: f64) -> Result<()> {
        let [r, s] = self.dims;
        let (from, columns) = (Arg::Address(from), Arg::I64(s as i64));
        self.cuda.launch(&ROW_SQUARES_BF16, r, &[sums, from, columns])?;
        let args = [Arg::Address(self.x.address), from, sums, columns, Arg::F32(safety as f32)];
        self.cuda.launch(&POLAR_START, r, &args)
    }

    /// A = x·xᵀ, B = b·A + c·A·A, x = a·x + B·x; or the same from the right.
    fn step(&mut self, [a, b, c]: [f64; 3]) -> Result<()> {
        let ([r, s], x) = (self.dims, self.x);
        let m = r.min(s);
        let xt = Matrix { transposed: true, ..x };
        let (left, right) = if r <= s { (x, xt) } else { (xt, x) };
        self.multiply([m, m, r.max(s)], self.gram, left, right)?;
        self.multiply([m, m, m], self.poly, self.gram, self.gram)?;
        self.combine(self.poly, self.gram, b, c, m * m)?;
        let (left, right) = if r <= s { (self.poly, x) } else { (x, self.poly) };
        self.multiply([r, s, m], self.next, left, right)?;
        self.combine(self.next, x, a, 1.0, r * s)?;
        std::mem::swap(&mut self.x, &mut self.next);
        Ok(())
    }

    fn multiply(&self, [m, n, k]: [usize; 3], c: Matrix, a: Matrix, b: Matrix) -> Result<()> {
        self.cuda.multiply(&Product { m, n, k, a, b, c, accumulate: false })
    }

    /// y = a·x + b·y.
    fn combine(&self, y: Matrix, x: Matrix, a: f64, b: f64, n: usize) -> Result<()> {
        let args = [
            Arg::Address(y.address),
            Arg::Address(x.address),
            Arg::F32(a as f32),
            Arg::F32(b as f32),
            Arg::I64(n as i64),
        ];
        self.cuda.launch(&POLAR_COMBINE, self.cuda.blocks_for(n, 8 * 256), &args)
    }
}
