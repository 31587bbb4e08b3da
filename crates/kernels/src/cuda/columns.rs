//! A row-major product as cuBLASLt is asked for it.
//!
//! The library thinks in columns: a row-major (m, n) is to it a column-major (n, m), so that c = a·b is asked for as
//! cᵀ = bᵀ·aᵀ, and no operand is moved.

#[cfg(feature = "nvidia")]
use cudarc::cublaslt::sys::cudaDataType as Type;

use super::gemm::{Matrix, Product};
use crate::DType;

/// The alignment that an algorithm may ask for at most, and that of every allocation.
const ALIGNMENT: u32 = 256;

/// What an algorithm is chosen for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) left: Operand,
    pub(super) right: Operand,
    pub(super) out: Operand,
    /// Whether short sums may be kept in less than f32, which fp8 products are fast by.
    pub(super) fast: bool,
}

/// A column-major matrix as the library is told of it: `rows` × `cols` in memory, then transposed or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Operand {
    pub(super) dtype: Element,
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) transposed: bool,
    pub(super) alignment: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Element {
    F32,
    Bf16,
    /// 8 bits, 4 of them the exponent: fp8 as weights and activations have it.
    E4m3,
}

impl Element {
    fn of(dtype: DType) -> Self {
        if dtype == DType::F32 { Self::F32 } else { Self::Bf16 }
    }

    #[cfg(feature = "nvidia")]
    pub(super) fn code(self) -> Type {
        match self {
            Self::F32 => Type::CUDA_R_32F,
            Self::Bf16 => Type::CUDA_R_16BF,
            Self::E4m3 => Type::CUDA_R_8F_E4M3,
        }
    }
}

impl Operand {
    /// A row-major (rows, cols), or its transpose in memory, as the column-major (cols, rows).
    fn of(matrix: Matrix, rows: usize, cols: usize) -> Self {
        let (rows, cols) = if matrix.transposed { (cols, rows) } else { (rows, cols) };
        Self {
            dtype: Element::of(matrix.dtype),
            rows: cols as u64,
            cols: rows as u64,
            transposed: matrix.transposed,
            alignment: alignment(matrix.address),
        }
    }
}

/// The power of two that an address is a multiple of, as far as algorithms ask.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(ALIGNMENT.trailing_zeros())
}

impl Key {
    /// c = a·b as cᵀ = bᵀ·aᵀ.
    pub(super) fn of(product: &Product) -> Self {
        let &Product { m, n, k, a, b, c, .. } = product;
        Self {
            left: Operand::of(b, k, n),
            right: Operand::of(a, m, k),
            out: Operand::of(c, m, n),
            fast: false,
        }
    }

    /// c = a·bᵀ of fp8 into BF16: a (m, k), b (n, k), c (m, n). Both are then columns of k, which fp8 asks for.
    pub(super) fn fp8([m, n, k]: [usize; 3], c: u64, a: u64, b: u64) -> Self {
        let operand = |dtype, address, rows: usize, cols: usize, transposed| Operand {
            dtype,
            rows: rows as u64,
            cols: cols as u64,
            transposed,
            alignment: alignment(address),
        };
        Self {
            left: operand(Element::E4m3, b, k, n, true),
            right: operand(Element::E4m3, a, k, m, false),
            out: operand(Element::Bf16, c, n, m, false),
            fast: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library would read: element (i, j) of op(memory), column-major.
    fn at(memory: &[f64], operand: Operand, i: usize, j: usize) -> f64 {
        let (i, j) = if operand.transposed { (j, i) } else { (i, j) };
        assert!(i < operand.rows as usize && j < operand.cols as usize);
        memory[j * operand.rows as usize + i]
    }

    #[test]
    fn the_columns_that_are_asked_for_are_the_rows_that_are_meant() {
        let (m, n, k) = (3, 5, 4);
        for (at_a, at_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let matrix = |transposed| Matrix { address: 512, dtype: DType::BF16, transposed };
            let (a, b, c) = (matrix(at_a), matrix(at_b), matrix(false));
            let key = Key::of(&Product { m, n, k, a, b, c, accumulate: false });
            let element_a = |i: usize, l: usize| (10 * i + l) as f64;
            let element_b = |l: usize, j: usize| ((7 * l * l + j) % 11) as f64;
            let mut memory_a = vec![0.0; m * k];
            let mut memory_b = vec![0.0; k * n];
            for l in 0..k {
                for i in 0..m {
                    memory_a[if at_a { l * m + i } else { i * k + l }] = element_a(i, l);
                }
                for j in 0..n {
                    memory_b[if at_b { j * k + l } else { l * n + j }] = element_b(l, j);
                }
            }
            // The library's product, as its documentation defines it, into column-major memory.
            let mut out = vec![f64::NAN; m * n];
            let (rows, cols) = (key.out.rows as usize, key.out.cols as usize);
            assert!(!key.out.transposed);
            for i in 0..rows {
                for j in 0..cols {
                    out[j * rows + i] = (0..k)
                        .map(|l| at(&memory_b, key.left, i, l) * at(&memory_a, key.right, l, j))
                        .sum();
                }
            }
            for i in 0..m {
                for j in 0..n {
                    let meant: f64 = (0..k).map(|l| element_a(i, l) * element_b(l, j)).sum();
                    assert_eq!(out[i * n + j], meant, "transposed: a {at_a}, b {at_b}; ({i}, {j})");
                }
            }
        }
    }

    #[test]
    fn alignment_is_what_the_address_has_up_to_what_is_asked() {
        let of = |address: u64| alignment(address);
        assert_eq!([of(0x1000), of(0x1100), of(0x1010), of(0x1002)], [256, 256, 16, 2]);
    }
}
