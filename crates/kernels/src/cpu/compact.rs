//! Weights in fewer bytes, for who multiplies a few rows with them: decoding reads every weight once per token, and waits for memory.
//!
//! A [`CompactCpu`] is the `cpu` device with copies of some matrices in bf16 or int8; a product with one of them reads the copy, everything else is as on [`Cpu`].
//! Activations, sums and results stay f32. It does not train: gradients are of the matrices as they are.

use std::collections::BTreeMap;
use std::ops::Range;

use super::dot::{Dots, dots};
use super::matrix::{Mat, MatMut};
use super::work::Workers;
use super::{Cpu, DTYPES};
use crate::ops::{Linear, LinearDims, LinearRelu2, Op};
use crate::{Bf16, DType, Device, Error, Memory, Mut, Place, Ref, Result, Shape, Tensor};

/// Rows that share one reading of a matrix.
const ROWS: usize = 12;
/// Elements of the matrix in a task: so many that a task costs nothing beside them.
const TASK: usize = 1 << 17;

/// How a matrix is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compact {
    /// Each weight rounded to bf16: 2 bytes, off by at most 2⁻⁹ of itself.
    Bf16,
    /// Each row as whole numbers of −127 to 127 times a scale, its largest weight / 127: 1 byte, off by at most half a scale.
    Int8,
}

/// A matrix (O, I), row by row.
enum Matrix {
    Bf16(Vec<Bf16>),
    Int8 { values: Vec<i8>, scales: Vec<f32> },
}

/// The processor, with some weights in fewer bytes.
///
/// # Numerics
/// With w′ for what a weight was rounded to, a product is the f32 product with w′, whose error is that of [`Cpu`]; so a result differs from the one with w by at
/// most Σ |x|·|w − w′| and rounding: see [`Compact`]. A row's result does not depend on how many rows there are, nor on the number of threads.
/// Tests below show all of it.
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
        let kept = match kind {
            Compact::Bf16 => Matrix::Bf16(weights.iter().map(|&w| Bf16::from_f32(w)).collect()),
            Compact::Int8 => {
                let rows = || weights.chunks_exact(i.max(1));
                let scales: Vec<f32> = rows().map(scale).collect();
                let whole = |(row, &s): (&[f32], &f32)| {
                    let inverse = if s > 0.0 { 1.0 / s } else { 0.0 };
                    row.iter().map(|w| (w * inverse).round() as i8).collect::<Vec<_>>()
                };
                let values = rows().zip(&scales).flat_map(whole).collect();
                Matrix::Int8 { values, scales }
            }
        };
        self.matrices.insert(key, kept);
        Ok(())
    }

    /// Bytes of the copies.
    pub fn kept_bytes(&self) -> usize {
        let bytes = |matrix: &Matrix| match matrix {
            Matrix::Bf16(values) => 2 * values.len(),
            Matrix::Int8 { values, scales } => values.len() + 4 * scales.len(),
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
        let found = self.matrices.get(&(w.address() as usize, o, i));
        found.filter(|_| o * i > 0)
    }

    fn product(&self, y: &mut [f32], x: &[f32], w: &Matrix, dims: LinearDims, accumulate: bool) {
        let LinearDims { i, o, .. } = dims;
        for (y, x) in y.chunks_mut(ROWS * o).zip(x.chunks(ROWS * i)) {
            let rows = y.len() / o;
            let (y, x) = (MatMut::new(y, rows, o), Mat::new(x, rows, i));
            multiply(&self.cpu.workers, y, x, w, accumulate);
        }
    }
}

/// A row's largest weight / 127.
fn scale(row: &[f32]) -> f32 {
    row.iter().fold(0.0f32, |most, w| most.max(w.abs())) / 127.0
}

/// y = x · wᵀ, or added to it. A row of w is widened once for all rows of x; every dot product is the one of [`Cpu`].
fn multiply(workers: &Workers, y: MatMut<'_>, x: Mat<'_>, w: &Matrix, accumulate: bool) {
    let (m, n, k) = (y.rows, y.cols, x.cols);
    let cols = (TASK / k.max(1)).clamp(1, n);
    let y = y.share();
    workers.tasks(n.div_ceil(cols), |task| {
        let cols = task * cols..n.min((task + 1) * cols);
        // SAFETY: each task has columns of its own.
        let mut y = unsafe { y.part(0..m, cols.clone()) };
        workers.scratch(k, |wide: &mut [f32]| {
            dots(Columns { y: &mut y, cols, x, w, wide, accumulate });
        });
    });
}

/// Some columns of a result.
struct Columns<'t, 'y, 'x> {
    y: &'t mut MatMut<'y>,
    cols: Range<usize>,
    x: Mat<'x>,
    w: &'t Matrix,
    /// Room for a row.
    wide: &'t mut [f32],
    accumulate: bool,
}

impl Dots for Columns<'_, '_, '_> {
    #[inline(always)]
    fn run(self, dot: impl Fn(&[f32], &[f32]) -> f32) {
        let Self { y, cols, x, w, wide, accumulate } = self;
        for c in cols.clone() {
            let factor = widen(wide, w, c, x.cols);
            for r in 0..y.rows {
                let sum = factor * dot(x.row(r), wide);
                let to = &mut y.row(r)[c - cols.start];
                *to = if accumulate { *to + sum } else { sum };
            }
        }
    }
}

/// Row `c` as f32, but for a factor, which is returned.
#[inline(always)]
fn widen(wide: &mut [f32], w: &Matrix, c: usize, k: usize) -> f32 {
    match w {
        Matrix::Bf16(values) => {
            for (wide, w) in wide.iter_mut().zip(&values[c * k..(c + 1) * k]) {
                *wide = w.to_f32();
            }
            1.0
        }
        Matrix::Int8 { values, scales } => {
            for (wide, &w) in wide.iter_mut().zip(&values[c * k..(c + 1) * k]) {
                *wide = f32::from(w);
            }
            scales[c]
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn random(len: usize, seed: u64) -> Vec<f64> {
        let mut draws = farthing_base::random::Draws::new(seed, "compact", 0);
        (0..len).map(|_| f64::from(draws.unit() as f32 - 0.5)).collect()
    }

    fn tensor(dev: &dyn Device, shape: [usize; 2], values: &[f64]) -> Tensor {
        let mut made = dev.activations(shape).unwrap();
        dev.write_f64(made.view_mut(), values).unwrap();
        made
    }

    fn product(dev: &dyn Device, x: &Tensor, w: &Tensor, old: Option<&[f64]>) -> Vec<f64> {
        let (n, o) = (x.shape()[0], w.shape()[0]);
        let mut y = tensor(dev, [n, o], old.unwrap_or(&vec![7.0; n * o]));
        dev.linear(y.view_mut(), x.view(), w.view(), old.is_some()).unwrap();
        dev.read_f64(y.view()).unwrap()
    }

    /// Single rows and columns, one more than a batch of rows, an odd number of channels, several tasks.
    const SIZES: [[usize; 3]; 5] =
        [[1, 1, 1], [1, 300, 257], [8, 40, 1_024], [13, 33, 100], [30, 5, 2_049]];

    #[test]
    fn results_are_as_near_to_those_of_f32_as_is_said() {
        for [n, o, i] in SIZES {
            let (x, mut w) = (random(n * i, 1), random(o * i, 2));
            // A row of zeros, and one with a weight that is far larger than the others.
            w[..i].fill(0.0);
            w[o * i - 1] = 40.0;
            for kind in [Compact::Bf16, Compact::Int8] {
                let mut dev = CompactCpu::new(Cpu::new(2).unwrap());
                let (xs, ws) = (tensor(&dev, [n, i], &x), tensor(&dev, [o, i], &w));
                let exact = product(&dev, &xs, &ws, None);
                dev.keep(kind, ws.view()).unwrap();
                let bytes = if kind == Compact::Bf16 { 2 * o * i } else { o * i + 4 * o };
                assert_eq!(dev.kept_bytes(), bytes);
                let found = product(&dev, &xs, &ws, None);
                let mut squared = tensor(&dev, [n, o], &vec![7.0; n * o]);
                let plain: &dyn Device = &dev;
                plain.linear_relu2(squared.view_mut(), xs.view(), ws.view()).unwrap();
                let expected = found.iter().map(|y| f64::from((*y as f32).max(0.0)).powi(2) as f32);
                let squared = plain.read_f64(squared.view()).unwrap();
                assert!(squared.iter().map(|y| *y as f32).eq(expected), "{kind:?}");
                assert!(n * o < 20 || found != exact, "the copy is what was multiplied");
                for (at, (found, exact)) in found.iter().zip(&exact).enumerate() {
                    let (row, col) = (at / o, at % o);
                    let (x, w) = (&x[row * i..(row + 1) * i], &w[col * i..(col + 1) * i]);
                    let most = w.iter().fold(0.0f64, |most, w| most.max(w.abs()));
                    let off = |w: f64| match kind {
                        Compact::Bf16 => w.abs() / 512.0,
                        Compact::Int8 => most / 254.0,
                    };
                    let sum = |f: &dyn Fn(f64) -> f64| -> f64 {
                        x.iter().zip(w).map(|(x, w)| x.abs() * f(*w)).sum()
                    };
                    let bound = sum(&off) + 1e-5 * sum(&f64::abs);
                    assert!((found - exact).abs() <= bound, "{kind:?}, {n} by {o} by {i}");
                }
            }
        }
    }

    #[test]
    fn a_row_alone_is_the_same_as_among_others_on_any_number_of_threads() {
        for [n, o, i] in SIZES {
            let (x, w, old) = (random(n * i, 3), random(o * i, 4), random(n * o, 5));
            for kind in [Compact::Bf16, Compact::Int8] {
                let mut results = Vec::new();
                for threads in [1, 3] {
                    let mut dev = CompactCpu::new(Cpu::new(threads).unwrap());
                    let ws = tensor(&dev, [o, i], &w);
                    dev.keep(kind, ws.view()).unwrap();
                    let xs = tensor(&dev, [n, i], &x);
                    results.push(product(&dev, &xs, &ws, Some(&old)));
                    let rows = (0..n).flat_map(|row| {
                        let xs = tensor(&dev, [1, i], &x[row * i..(row + 1) * i]);
                        product(&dev, &xs, &ws, Some(&old[row * o..(row + 1) * o]))
                    });
                    results.push(rows.collect());
                }
                assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_not_kept_is_as_on_the_processor() {
        let mut dev = CompactCpu::new(Cpu::new(1).unwrap());
        let (x, w) =
            (tensor(&dev, [3, 20], &random(60, 6)), tensor(&dev, [7, 20], &random(140, 7)));
        let kept = tensor(&dev, [7, 20], &random(140, 8));
        dev.keep(Compact::Int8, kept.view()).unwrap();
        let plain = Cpu::new(1).unwrap();
        assert_eq!(product(&dev, &x, &w, None), product(&plain, &x, &w, None));
        let flat = dev.alloc(DType::F32, [5].into()).unwrap();
        assert!(dev.keep(Compact::Int8, flat.view()).is_err());
        let ids = dev.alloc(DType::I32, [2, 2].into()).unwrap();
        assert!(dev.keep(Compact::Bf16, ids.view()).is_err());
    }
}
