//! The bytes that an argument of an operation stands for.

use crate::{AdamW, AttentionShape, Coef, Expr, Mut, Ref};

pub(super) trait Bytes {
    fn bytes(&self) -> u64;
}

impl Bytes for Ref<'_> {
    fn bytes(&self) -> u64 {
        (self.shape().elements() * self.dtype().bytes()) as u64
    }
}

impl Bytes for Mut<'_> {
    fn bytes(&self) -> u64 {
        self.view().bytes()
    }
}

impl<T: Bytes> Bytes for Option<T> {
    fn bytes(&self) -> u64 {
        self.as_ref().map_or(0, Bytes::bytes)
    }
}

impl<T: Bytes> Bytes for &[T] {
    fn bytes(&self) -> u64 {
        self.iter().map(Bytes::bytes).sum()
    }
}

impl<T: Bytes> Bytes for &mut [T] {
    fn bytes(&self) -> u64 {
        self.iter().map(Bytes::bytes).sum()
    }
}

impl Bytes for Coef<'_> {
    fn bytes(&self) -> u64 {
        self.parameter.bytes()
    }
}

/// Not views, and host memory, whose bytes the view beside it counts.
macro_rules! nothing {
    ($($type:ty)*) => {
        $(impl Bytes for $type {
            fn bytes(&self) -> u64 {
                0
            }
        })*
    };
}
nothing! { bool u8 usize f64 [f64; 3] AttentionShape AdamW Expr }
