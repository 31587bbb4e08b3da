//! Matrices kept in fewer bytes, for decoding: a token reads every weight once, so the time goes to memory.
//!
//! [`CompactCpu`] is the [`Cpu`] device plus copies of some matrices in bf16 or int8. A product with such a matrix reads the copy; everything else runs as on [`Cpu`]. Activations
//! and results are f32. It cannot train: gradients would still belong to the original matrices.

mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vectors;

use std::collections::BTreeMap;
use std::ops::Range;

use super::matrix::MatMut;
use super::simd::{LANES, vectorised};
use super::work::{Line, Workers};
use super::{Cpu, DTYPES};
use crate::ops::{Linear, LinearDims, LinearRelu2, Op};
use crate::{Bf16, DType, Device, Error, Memory, Mut, Place, Ref, Result, Shape, Tensor};
use rows::{BLOCK, Job, Left, PAD, Right, apart};

/// Rows that share one reading of a matrix.
const ROWS: usize = 12;
/// Elements of the matrix in a task: so many that a task costs nothing beside them.
const TASK: usize = 1 << 17;

/// How a matrix is kept, and how it is multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compact {
    /// Each weight rounded to bf16: 2 bytes, off by at most 2⁻⁹ of itself. Multiplied in f32.
    Bf16,
    /// Each row as whole numbers of −127 to 127 times a scale, its largest weight / 127: 1 byte, off by at most half a scale. Multiplied in whole numbers, for which x,
    /// 512 elements at a time, becomes numbers of −32,767 to 32,767 times a scale: off by at most 1/65,534 of the largest of them, hundreds of times less than weights are; 512 that are all below 1e-34 are zeros.
    Int8,
}

/// A matrix (O, I), row by row, each padded to `k` elements.
struct Matrix {
    k: usize,
    values: Values,
}

enum Values {
    Bf16(Vec<Line>),
    Int8 { values: Vec<Line>, scales: Vec<f32> },
}

/// The processor, with some weights in fewer bytes.
///
/// # Numerics
/// With w′ and x′ for what weights and, for int8, x were rounded to, a product is the one of x′ and w′, with an error as that of [`Cpu`]; so a result differs from the
/// one with w by at most Σ |x|·|w − w′| + Σ |x − x′|·|w′| and rounding: see [`Compact`]. A row's result does not depend on how many rows there are, on the number of
/// threads or on whether the machine has AVX-512 or AVX2. What holds no number (infinities, too) makes results that are none. Tests below show all of it.
///
/// # Cost
/// A product reads 1 or 2 bytes for each weight, once for every 12 rows. Memory: the copies stand beside the matrices that they were made of.
pub struct CompactCpu {
    cpu: Cpu,
    /// By address and shape.
    matrices: BTreeMap<(usize, usize, usize), Matrix>,
}

impl CompactCpu {
    /// The device, with nothing kept.
    pub fn new(cpu: Cpu) -> Self {
        Self { cpu, matrices: BTreeMap::new() }
    }

    /// Keeps a copy of a matrix (O, I), which must neither change nor go while products are made with it: it is known by its address.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no matrix; [`Error::DType`] for another type than F32; [`Error::Place`].
    pub fn keep(&mut self, kind: Compact, matrix: Ref<'_>) -> Result<()> {
        let &[o, i] = &*matrix.shape() else {
            let what = format!("a tensor of shape {}, expected a matrix", matrix.shape());
            return Err(Error::Argument { op: "CompactCpu::keep", what });
        };
        let key = (matrix.address() as usize, o, i);
        let weights = matrix.slice::<f32>()?;
        if o * i > 0 {
            self.matrices.insert(key, Matrix::new(kind, weights, i));
        }
        Ok(())
    }

    /// Bytes of the copies.
    pub fn kept_bytes(&self) -> usize {
        let bytes = |matrix: &Matrix| match &matrix.values {
            Values::Bf16(values) => size_of_val(&values[..]),
            Values::Int8 { values, scales } => size_of_val(&values[..]) + size_of_val(&scales[..]),
        };
        self.matrices.values().map(bytes).sum()
    }

    fn linear(&self, op: Linear<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let Some(matrix) = self.kept(op.w, dims) else { return self.cpu.linear(op) };
        let Linear { y, x, accumulate, .. } = op;
        self.product(y.slice()?, x.slice()?, matrix, dims, accumulate);
        Ok(())
    }

    fn linear_relu2(&self, op: LinearRelu2<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let Some(matrix) = self.kept(op.w, dims) else { return self.cpu.linear_relu2(op) };
        let (y, x) = (op.y.slice::<f32>()?, op.x.slice::<f32>()?);
        self.product(y, x, matrix, dims, false);
        for y in y {
            *y = y.max(0.0) * y.max(0.0);
        }
        Ok(())
    }

    /// The copy of a matrix, if there is one.
    fn kept(&self, w: Ref<'_>, LinearDims { i, o, .. }: LinearDims) -> Option<&Matrix> {
        self.matrices.get(&(w.address() as usize, o, i))
    }

    fn product(&self, y: &mut [f32], x: &[f32], w: &Matrix, dims: LinearDims, accumulate: bool) {
        let LinearDims { i, o, .. } = dims;
        for (y, x) in y.chunks_mut(ROWS * o).zip(x.chunks(ROWS * i)) {
            let rows = y.len() / o;
            w.multiply(&self.cpu.workers, MatMut::new(y, rows, o), x, accumulate);
        }
    }
}

impl Matrix {
    /// Of rows of `i` weights.
    fn new(kind: Compact, weights: &[f32], i: usize) -> Self {
        let (o, k) = (weights.len() / i, i.next_multiple_of(PAD));
        let lines = |bytes: usize| vec![Line::ZERO; (o * k * bytes).div_ceil(size_of::<Line>())];
        let rows = || weights.chunks_exact(i);
        let values = match kind {
            Compact::Bf16 => {
                let mut values = lines(size_of::<Bf16>());
                let to: &mut [Bf16] = bytemuck::cast_slice_mut(&mut values);
                for (to, from) in to.chunks_exact_mut(k).zip(rows()) {
                    for (to, &w) in to.iter_mut().zip(from) {
                        *to = Bf16::from_f32(w);
                    }
                }
                Values::Bf16(values)
            }
            Compact::Int8 => {
                let mut values = lines(size_of::<i8>());
                let to: &mut [i8] = bytemuck::cast_slice_mut(&mut values);
                let to = to.chunks_exact_mut(k);
                let scales = to.zip(rows()).map(|(to, from)| whole(to, from, 127.0, |w| w as i8));
                let scales = scales.collect();
                Values::Int8 { values, scales }
            }
        };
        Self { k, values }
    }

    /// y = x · wᵀ, or added to it. A row of w is read once for all rows of x.
    fn multiply(&self, workers: &Workers, y: MatMut<'_>, x: &[f32], accumulate: bool) {
        let (k, kernel) = (self.k, workers.kernel());
        let (m, n, i) = (y.rows, y.cols, x.len() / y.rows);
        let tasks = |y: MatMut<'_>, f: &(dyn Fn(&mut MatMut<'_>, Range<usize>) + Sync)| {
            let cols = (TASK / k).clamp(1, n);
            let y = y.share();
            workers.tasks(n.div_ceil(cols), |task| {
                let cols = task * cols..n.min((task + 1) * cols);
                // SAFETY: each task has columns of its own.
                f(&mut unsafe { y.part(0..m, cols.clone()) }, cols);
            });
        };
        match &self.values {
            Values::Bf16(values) => workers.scratch(m * k, |padded: &mut [f32]| {
                for (to, from) in padded.chunks_exact_mut(k).zip(x.chunks_exact(i)) {
                    move_apart(to, from);
                }
                let w: &[Bf16] = bytemuck::cast_slice(values);
                let x = Left { x: padded, scales: &[1.0; ROWS][..m] };
                tasks(y, &|y, cols| {
                    let w = &w[cols.start * k..cols.end * k];
                    Job { y, x, w: Right { w, scales: None, k }, accumulate }.run(kernel);
                });
            }),
            Values::Int8 { values, scales } => workers.scratch(m * k, |numbers: &mut [i16]| {
                let blocks = k.div_ceil(BLOCK);
                workers.scratch(m * blocks, |of_blocks: &mut [f32]| {
                    let rows = numbers.chunks_exact_mut(k).zip(x.chunks_exact(i));
                    for ((to, from), scales) in rows.zip(of_blocks.chunks_exact_mut(blocks)) {
                        let to = to.chunks_mut(BLOCK);
                        for ((to, from), scale) in to.zip(from.chunks(BLOCK)).zip(scales) {
                            *scale = whole(to, from, 32_767.0, |x| x as i16);
                        }
                    }
                    let w: &[i8] = bytemuck::cast_slice(values);
                    let x = Left { x: numbers, scales: of_blocks };
                    tasks(y, &|y, cols| {
                        let (w, scales) = (&w[cols.start * k..cols.end * k], &scales[cols]);
                        Job { y, x, w: Right { w, scales: Some(scales), k }, accumulate }
                            .run(kernel);
                    });
                });
            }),
        }
    }
}

/// Writes `from` in the order of [`apart`], and zeros behind it.
fn move_apart(to: &mut [f32], from: &[f32]) {
    let whole = from.len() - from.len() % LANES;
    for (to, from) in to.chunks_exact_mut(LANES).zip(from[..whole].chunks_exact(LANES)) {
        let (even, odd) = to.split_at_mut(LANES / 2);
        for ((even, odd), pair) in even.iter_mut().zip(odd).zip(from.chunks_exact(2)) {
            (*even, *odd) = (pair[0], pair[1]);
        }
    }
    to[whole..].fill(0.0);
    for (i, x) in from.iter().enumerate().skip(whole) {
        to[apart(i)] = *x;
    }
}

/// Writes `from` as whole numbers of at most `most` and zeros behind it; returns their scale, which is no number where one of `from` is none or infinite.
fn whole<T: Default + Copy>(
    to: &mut [T],
    from: &[f32],
    most: f32,
    number: impl Fn(f32) -> T,
) -> f32 {
    vectorised(
        #[inline(always)]
        || {
            let largest = from.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let finite = from.iter().fold(true, |finite, x| finite & x.is_finite());
            // What is so small that this is infinite (about 1e-34) is 0.
            let inverse = most / largest;
            let inverse = if inverse.is_finite() { inverse } else { 0.0 };
            let (numbers, rest) = to.split_at_mut(from.len());
            for (to, x) in numbers.iter_mut().zip(from) {
                *to = number((x * inverse).round_ties_even());
            }
            rest.fill(T::default());
            if finite { largest / most } else { f32::NAN }
        },
    )
}

impl Memory for CompactCpu {
    fn name(&self) -> &'static str {
        self.cpu.name()
    }

    fn place(&self) -> Place {
        self.cpu.place()
    }

    fn compute_dtype(&self) -> DType {
        self.cpu.compute_dtype()
    }

    fn master_dtype(&self) -> DType {
        self.cpu.master_dtype()
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        self.cpu.alloc(dtype, shape)
    }

    fn write(&self, dst: Mut<'_>, src: &[u8]) -> Result<()> {
        self.cpu.write(dst, src)
    }

    fn read(&self, dst: &mut [u8], src: Ref<'_>) -> Result<()> {
        self.cpu.read(dst, src)
    }

    fn synchronize(&self) -> Result<()> {
        self.cpu.synchronize()
    }
}

impl Device for CompactCpu {
    fn run(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::Linear(op) => self.linear(op),
            Op::LinearRelu2(op) => self.linear_relu2(op),
            op => self.cpu.run(op),
        }
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        self.cpu.polar_express_scratch(shape)
    }
}
