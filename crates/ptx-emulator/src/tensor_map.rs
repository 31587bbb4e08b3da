//! Tensor maps: what a bulk copy needs to know of a tensor in global memory to fetch a box of it, as `CUtensorMap` of the
//! CUDA driver API describes it. The 128 bytes that a kernel sees are this crate's own encoding.

use crate::error::{Error, Result};
use crate::memory::Pointer;

/// How the 16-byte chunks of a box are permuted in shared memory, so that columns do not fall into the same banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Swizzle {
    /// Not at all.
    None,
    /// Address bit 4 is xored with bit 7.
    Bytes32,
    /// Bits 4 and 5 are xored with bits 7 and 8.
    Bytes64,
    /// Bits 4 to 6 are xored with bits 7 to 9.
    Bytes128,
}

impl Swizzle {
    /// Where the byte at `address` lies.
    pub(crate) fn apply(self, address: u64) -> u64 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 1,
            Swizzle::Bytes64 => 3,
            Swizzle::Bytes128 => 7,
        };
        address ^ ((address >> 7 & mask) << 4)
    }

    /// The widest inner row of a box.
    fn span(self) -> u64 {
        match self {
            Swizzle::None => u64::MAX,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }
}

/// A tensor of up to five axes, the innermost first, and the box that one copy fetches. What lies outside of the tensor
/// arrives as zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub(crate) base: u64,
    pub(crate) element_bytes: u32,
    pub(crate) shape: Vec<u64>,
    /// Of each axis, the innermost included.
    pub(crate) strides: Vec<u64>,
    pub(crate) extent: Vec<u32>,
    pub(crate) swizzle: Swizzle,
}

const MAGIC: u64 = 0x5041_4d4e_5452_5054;

impl TensorMap {
    /// `shape` counts elements, innermost axis first; `strides_bytes` are those of all axes but the innermost, which is
    /// contiguous; `extent` is the box, in elements.
    ///
    /// # Errors
    /// What `cuTensorMapEncodeTiled` refuses: more than five axes, a base or stride that is not a multiple of 16 bytes,
    /// a box of more than 256 elements along an axis, or an inner row of a box that is no multiple of 16 bytes or wider
    /// than the swizzle.
    pub fn new(
        base: Pointer,
        element_bytes: u32,
        shape: &[u64],
        strides_bytes: &[u64],
        extent: &[u32],
        swizzle: Swizzle,
    ) -> Result<TensorMap> {
        let refuse = |what: String| Err(Error::Memory(format!("tensor map: {what}")));
        let axes = shape.len();
        if axes == 0 || axes > 5 || strides_bytes.len() != axes - 1 || extent.len() != axes {
            return refuse(format!(
                "{axes} axes with {} outer strides and a box of {}",
                strides_bytes.len(),
                extent.len()
            ));
        }
        if !matches!(element_bytes, 1 | 2 | 4 | 8) {
            return refuse(format!("elements of {element_bytes} bytes"));
        }
        if !base.address().is_multiple_of(16) {
            return refuse(format!("base {base} is not a multiple of 16"));
        }
        if let Some(s) = strides_bytes.iter().find(|s| **s % 16 != 0 || **s >= 1 << 40) {
            return refuse(format!("stride {s} is not a multiple of 16 below 2^40"));
        }
        if let Some(n) = shape.iter().find(|n| **n == 0 || **n > 1 << 32) {
            return refuse(format!("an axis of {n} elements"));
        }
        if let Some(n) = extent.iter().find(|n| **n == 0 || **n > 256) {
            return refuse(format!("a box of {n} elements along an axis; the limit is 256"));
        }
        let inner = extent[0] as u64 * element_bytes as u64;
        if !inner.is_multiple_of(16) || inner > swizzle.span() {
            return refuse(format!("an inner row of {inner} bytes under {swizzle:?}"));
        }
        let mut strides = vec![element_bytes as u64];
        strides.extend_from_slice(strides_bytes);
        Ok(TensorMap {
            base: base.address(),
            element_bytes,
            shape: shape.to_vec(),
            strides,
            extent: extent.to_vec(),
            swizzle,
        })
    }

    pub(crate) fn to_bytes(&self) -> [u8; 128] {
        let mut out = [0; 128];
        let mut at = 0;
        let mut put = |v: u64, bytes: usize| {
            out[at..at + bytes].copy_from_slice(&v.to_le_bytes()[..bytes]);
            at += bytes;
        };
        put(MAGIC, 8);
        put(self.base, 8);
        put(self.shape.len() as u64, 1);
        put(self.element_bytes as u64, 1);
        put(self.swizzle as u64, 1);
        for i in 0..5 {
            put(self.shape.get(i).copied().unwrap_or(1), 8);
            put(self.strides.get(i).copied().unwrap_or(0), 8);
            put(self.extent.get(i).copied().unwrap_or(1) as u64, 2);
        }
        out
    }

    /// `None` if the bytes are no tensor map.
    pub(crate) fn from_bytes(bytes: &[u8; 128]) -> Option<TensorMap> {
        let mut at = 0;
        let mut take = |n: usize| {
            let mut b = [0; 8];
            b[..n].copy_from_slice(&bytes[at..at + n]);
            at += n;
            u64::from_le_bytes(b)
        };
        if take(8) != MAGIC {
            return None;
        }
        let base = take(8);
        let axes = take(1) as usize;
        let element_bytes = take(1) as u32;
        let swizzle = match take(1) {
            0 => Swizzle::None,
            1 => Swizzle::Bytes32,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes128,
        };
        let (mut shape, mut strides, mut extent) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            shape.push(take(8));
            strides.push(take(8));
            extent.push(take(2) as u32);
        }
        shape.truncate(axes);
        strides.truncate(axes);
        extent.truncate(axes);
        // A kernel may have put these bytes together itself; what a copy relies on must hold.
        TensorMap::new(Pointer(base), element_bytes, &shape, strides.get(1..)?, &extent, swizzle)
            .ok()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.extent.iter().map(|n| *n as u64).product::<u64>() * self.element_bytes as u64
    }
}
