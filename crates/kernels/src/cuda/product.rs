//! Decides who computes a matrix product: the machine's [`Gemm`](super::gemm::Gemm), which is a library, or a kernel of ours.
//!
//! Our kernel takes products that are too small to gain from the library, and operands that lie where a library may not read them: cuBLAS documents that the best performance needs
//! addresses and leading dimensions that are multiples of 16 bytes, and fp8 requires them ("Tensor Core Usage", "cublasLtMatmul"). Algorithms that need more alignment than an operand has are
//! left out ("cublasLtMatmulPreferenceAttributes_t", minimum alignments), and only the library can tell whether one remains. It is asked to take such a product only when ours would be slow.
//! If it refuses, our kernel computes the product at any size: a training step never fails because no algorithm fits.

use std::sync::{MutexGuard, PoisonError};

use super::Cuda;
use super::columns::Key;
use super::driver::{Arg, Kernel, Module};
use super::gemm::{Matrix, Product};
use crate::{DType, Error, Result};

static MODULE: Module = Module { name: "product", ptx: include_str!("../../ptx/sm80/product.ptx") };

const fn kernel(name: &'static str) -> Kernel {
    Kernel { module: &MODULE, name, threads: 256, shared_bytes: 0 }
}

static PRODUCT_BF16: Kernel = kernel("product_bf16");
static PRODUCT_BF16_F32: Kernel = kernel("product_bf16_f32");
static PRODUCT_F32: Kernel = kernel("product_f32");

/// Rows and columns of a block.
const TILE: usize = 32;

/// Multiplications that take no longer than a launch: a block's, of 32 terms.
const TINY: usize = 1 << 15;
/// Multiplications up to which a product that lies oddly is ours: some ten microseconds of a GPU.
const SMALL: usize = 1 << 24;
/// What addresses and leading dimensions are multiples of where every algorithm of a library will do.
const ALIGNMENT: u64 = 16;

/// A kind of product that the library has no algorithm for, and that our own kernel takes in its place: right, and slower.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fallback {
    /// Rows of the result, columns of the result, terms of each sum.
    pub sizes: [usize; 3],
    /// What the library said, with sizes, types and alignments.
    pub why: String,
    /// Products of this kind so far.
    pub launches: u64,
}

/// Whether a product is our kernel's, whatever the library would say.
fn ours(product: &Product) -> bool {
    let &Product { m, n, k, a, b, c, .. } = product;
    let odd = |matrix: Matrix, rows: usize, columns: usize| {
        let row = if matrix.transposed { rows } else { columns } * matrix.dtype.bytes();
        !(matrix.address.is_multiple_of(ALIGNMENT) && (row as u64).is_multiple_of(ALIGNMENT))
    };
    let multiplications = m.saturating_mul(n).saturating_mul(k);
    multiplications <= TINY
        || multiplications <= SMALL && (odd(a, m, k) || odd(b, k, n) || odd(c, m, n))
}

impl Cuda {
    /// The kinds of products that the library has refused, in the order of their first one.
    pub fn fallbacks(&self) -> Vec<Fallback> {
        self.refused().iter().map(|(_, fallback)| fallback.clone()).collect()
    }

    /// For [`Memory::notes`](crate::Memory::notes).
    pub(super) fn slow_products(&self) -> Vec<String> {
        let note = |Fallback { why, launches, .. }: Fallback| {
            let times = if launches == 1 { "once".into() } else { format!("{launches} times") };
            format!(
                "{}: {why}; multiplied {times} by a slower kernel of our own",
                self.dtypes.device
            )
        };
        self.fallbacks().into_iter().map(note).collect()
    }

    fn refused(&self) -> MutexGuard<'_, Vec<(Key, Fallback)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Launches one product, by the library or by our own kernel. Memory has as many elements as the dimensions say.
    ///
    /// # Numerics
    /// Sums are f32, rounded once into c. The kernel's are in the order of k, each term by fma.
    ///
    /// # Errors
    /// As [`Gemm::multiply`](super::gemm::Gemm::multiply), but for products that the library does not do.
    pub fn multiply(&self, product: &Product) -> Result<()> {
        let &Product { m, n, k, c, accumulate, .. } = product;
        if m * n == 0 || (k == 0 && accumulate) {
            return Ok(());
        }
        if k == 0 {
            return self.driver.zero(c.address, m * n * c.dtype.bytes());
        }
        if ours(product) {
            return self.launch_product(product);
        }
        let key = Key::of(product);
        if let Some((_, known)) = self.refused().iter_mut().find(|(refused, _)| *refused == key) {
            known.launches += 1;
            return self.launch_product(product);
        }
        match self.gemm.multiply(product) {
            Err(Error::NoAlgorithm { what, .. }) => {
                let fallback = Fallback { sizes: [m, n, k], why: what, launches: 1 };
                self.refused().push((key, fallback));
                self.launch_product(product)
            }
            done => done,
        }
    }

    fn launch_product(&self, product: &Product) -> Result<()> {
        product.check_types(self.dtypes.device)?;
        let &Product { m, n, k, a, b, c, accumulate } = product;
        let kernel = match (a.dtype, c.dtype) {
            (DType::F32, _) => &PRODUCT_F32,
            (_, DType::F32) => &PRODUCT_BF16_F32,
            _ => &PRODUCT_BF16,
        };
        // Room for a kernel to step beyond the end.
        let size = |size: usize| match i32::try_from(size) {
            Ok(size) if size <= 1 << 30 => Ok(Arg::I32(size)),
            _ => Err(Error::Argument {
                op: "gemm",
                what: format!("a product of m={m}, n={n}, k={k}, at most {} each", 1 << 30),
            }),
        };
        let flag = |flag: bool| Arg::I32(flag.into());
        let args = [
            Arg::Address(c.address),
            Arg::Address(a.address),
            Arg::Address(b.address),
            size(m)?,
            size(n)?,
            size(k)?,
            flag(a.transposed),
            flag(b.transposed),
            flag(accumulate),
        ];
        self.launch(kernel, m.div_ceil(TILE) * n.div_ceil(TILE), &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product([m, n, k]: [usize; 3], offsets: [u64; 3], turned: [bool; 2]) -> Product {
        let matrix =
            |offset, transposed| Matrix { address: 4096 + offset, dtype: DType::BF16, transposed };
        let [a, b, c] = offsets;
        let (a, b, c) = (matrix(a, turned[0]), matrix(b, turned[1]), matrix(c, false));
        Product { m, n, k, a, b, c, accumulate: false }
    }

    #[test]
    fn the_library_has_what_is_large_or_lies_well() {
        let straight = [false, false];
        for (sizes, offsets, turned, expected) in [
            // Muon's gates: tiny.
            ([12, 12, 12], [0; 3], straight, true),
            ([32, 32, 32], [0; 3], straight, true),
            ([33, 32, 32], [0; 3], straight, false),
            ([64, 64, 64], [0; 3], straight, false),
            ([64, 64, 64], [16, 32, 48], straight, false),
            // One operand two bytes off, then each leading dimension.
            ([64, 64, 64], [2, 0, 0], straight, true),
            ([64, 64, 64], [0, 8, 0], straight, true),
            ([64, 64, 64], [0, 0, 4], straight, true),
            ([64, 64, 65], [0; 3], straight, true),
            ([64, 65, 64], [0; 3], straight, true),
            // m is nobody's leading dimension until a is turned; k is one of two until b is turned too.
            ([65, 64, 64], [0; 3], straight, false),
            ([65, 64, 64], [0; 3], [true, false], true),
            ([64, 64, 65], [0; 3], [true, false], false),
            ([64, 64, 65], [0; 3], [true, true], true),
            // Odd and large.
            ([256, 256, 256], [2, 0, 0], straight, true),
            ([256, 256, 257], [2, 0, 0], straight, false),
            ([1 << 40, 1 << 40, 1 << 40], [2, 0, 0], straight, false),
        ] {
            let product = product(sizes, offsets, turned);
            assert_eq!(
                ours(&product),
                expected,
                "{sizes:?}, offsets {offsets:?}, turned {turned:?}"
            );
        }
    }

    #[test]
    fn leading_dimensions_are_counted_in_bytes() {
        let mut odd = product([68, 68, 68], [0; 3], [false; 2]);
        assert!(ours(&odd), "136 bytes");
        for matrix in [&mut odd.a, &mut odd.b, &mut odd.c] {
            matrix.dtype = DType::F32;
        }
        assert!(!ours(&odd), "272 bytes");
    }
}
