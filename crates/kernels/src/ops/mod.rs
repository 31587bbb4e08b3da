//! The operations of a training step, as values.
//!
//! One file per operation and its gradient. It declares what the operation computes and each operand once (see `declare`), defines it in plain
//! f64 loops, and has the body that holds every device to that. From the declaration come the method on
//! [`Device`](crate::Device), the check of arguments with its error messages, the bytes and FLOPs of a call, and what wrappers do: [`traced`](crate::traced) writes calls down,
//! [`rounded`](crate::rounded) puts others in the place of bf16 operands, [`planned`](crate::planned) counts without computing.
//!
//! The contract, for every operation here:
//! - Arguments are contiguous and row-major. Outputs come first. N stands for B·T rows, C channels, V vocabulary,
//!   H query heads, K key/value heads, D head dim, G gate channels; shapes are given beside each argument.
//! - Floats are of the device's [`compute_dtype`](crate::Memory::compute_dtype) unless said otherwise; parameters' gradients, parameters that
//!   are single numbers or gates, statistics (`rstd`, `lse`, `losses`) and optimizer state are of its
//!   [`master_dtype`](crate::Memory::master_dtype). Ids, targets and positions are I32. Sums accumulate in at least f32.
//! - Leading axes are flattened into N: (B, T, C) is (B·T, C). Trailing ones make up a single letter that is known: (B, T, H, D) is (N, C) where C = H·D.
//! - "Adds to" means the output is read and added to; otherwise it is overwritten, whatever it held.
//! - Nothing is allocated, and the result never depends on the number of threads.
//! - Every operation may fail with [`Error::Shape`](crate::Error::Shape), [`Error::Unsupported`](crate::Error::Unsupported)
//!   or [`Error::Place`](crate::Error::Place), before it writes anything.
//! - A body that holds a device to an operation fails with the first case that does not conform.

#![allow(clippy::missing_errors_doc, reason = "said above, once for all")]
#![allow(clippy::needless_range_loop, reason = "definitions loop over the formula's letters")]
#![allow(
    clippy::elidable_lifetime_names,
    reason = "some operations' arguments beside their views name it"
)]

#[macro_use]
mod declare;
mod check;

mod adamw;
mod attention;
mod cross_entropy;
mod embed;
mod linear;
mod map;
mod memory;
mod mix;
mod muon;
mod relu2;
mod rms_norm;
mod rotary_norm;
mod smear;
mod sum;
mod swiglu;
mod value_gate;

pub use adamw::AdamWHyper;
pub use attention::{AttentionDims, AttentionShape};
pub use check::{Dtypes, Letters, host_copy, indices, order};
pub use cross_entropy::RowDims;
pub use declare::{Access, Argument, Cost, Extent, Kind, Seen, Views};
pub use embed::EmbedDims;
pub use linear::LinearDims;
pub use map::Outputs;
pub use mix::Coef;
pub use muon::StackDims;
pub(crate) use muon::polar_scratch;
pub use rotary_norm::HeadDims;
pub use smear::SmearDims;
pub use value_gate::GateDims;

use crate::Result;
use crate::conformance::{self, Body};

/// What every operation can say of itself.
pub trait Operation<'a>: Sized + Into<Op<'a>> {
    /// The method's name, as errors and traces have it.
    fn name(&self) -> &'static str;

    /// Calls `f` with each operand that is given, and its view without the elements.
    fn each(&self, f: &mut dyn FnMut(&'static Argument, Seen));

    /// Checks every argument but the values of ids; returns what the call moves and computes.
    ///
    /// # Errors
    /// As the operation's `check`.
    fn cost(&self, dtypes: &Dtypes) -> Result<Cost>;

    /// The same operation on other views.
    ///
    /// # Errors
    /// Those of `views`.
    fn with<'b>(self, views: &mut dyn Views<'a, 'b>) -> Result<Op<'b>>
    where
        'a: 'b;
}

/// Lists the operations: the file, and in it the values with the names of their methods.
macro_rules! operations {
    ($($file:ident { $($Op:ident $method:ident),* $(,)? })*) => {
        $(pub use $file::{$($Op),*};)*

        /// One call of an operation: what [`Device::run`](crate::Device::run) is given.
        pub enum Op<'a> {
            $($(#[doc = concat!("See [`", stringify!($Op), "`](struct@", stringify!($Op), ").")] $Op($Op<'a>),)*)*
        }

        impl<'a> Operation<'a> for Op<'a> {
            fn name(&self) -> &'static str {
                match self {
                    $($(Op::$Op(op) => op.name(),)*)*
                }
            }

            fn each(&self, f: &mut dyn FnMut(&'static Argument, Seen)) {
                match self {
                    $($(Op::$Op(op) => op.each(f),)*)*
                }
            }

            fn cost(&self, dtypes: &Dtypes) -> Result<Cost> {
                match self {
                    $($(Op::$Op(op) => op.cost(dtypes),)*)*
                }
            }

            fn with<'b>(self, views: &mut dyn Views<'a, 'b>) -> Result<Op<'b>>
            where
                'a: 'b,
            {
                match self {
                    $($(Op::$Op(op) => op.with(views),)*)*
                }
            }
        }

        impl Op<'_> {
            /// Computes the definition, in plain f64 loops.
            pub(crate) fn reference(self) -> Result<()> {
                match self {
                    $($(Op::$Op(op) => op.reference(),)*)*
                }
            }
        }

        /// The bodies that hold a device to the definitions.
        pub(crate) mod conform {
            $(pub use super::$file::{$($method),*};)*
        }

        /// What holds for memory and every operation's arguments, then each operation: the name and the body.
        pub const BODIES: &[(&str, Body)] = &[
            ("write_read", conformance::write_read),
            ("refusals", conformance::refusals),
            $($((stringify!($method), $file::$method),)*)*
        ];
    };
}

operations! {
    memory { Copy copy, Cast cast, Fill fill }
    linear { Linear linear, LinearDx linear_dx, LinearDw linear_dw }
    embed { Embed embed, EmbedBackward embed_backward }
    rotary_norm { RotaryNorm rotary_norm, RotaryNormBackward rotary_norm_backward }
    value_gate { ValueGate value_gate, ValueGateBackward value_gate_backward }
    attention { Attention attention, AttentionBackward attention_backward }
    cross_entropy { CrossEntropy cross_entropy, Argmax argmax }
    sum { Sum sum, SumSquares sum_squares }
    rms_norm { RmsNorm rms_norm, RmsNormBackward rms_norm_backward }
    mix { Mix mix, MixNorm mix_norm, MixBackward mix_backward }
    smear { Smear smear, SmearBackward smear_backward }
    relu2 {
        Relu2 relu2, Relu2Backward relu2_backward,
        LinearRelu2 linear_relu2, LinearDxRelu2 linear_dx_relu2,
    }
    swiglu { Swiglu swiglu, SwigluBackward swiglu_backward }
    map { Map map }
    adamw { AdamWUpdate adamw }
    muon {
        Nesterov nesterov, EquilibrateRows equilibrate_rows, PolarExpress polar_express,
        Renormalize renormalize, VarianceReduce variance_reduce, CautiousUpdate cautious_update,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::reference::Reference;

    #[test]
    fn a_call_says_what_it_moves_and_computes() {
        let reference = Reference::new();
        let dev: &dyn Device = &reference;
        let (mut y, x, w) = (
            dev.activations([3, 5]).unwrap(),
            dev.activations([3, 4]).unwrap(),
            dev.activations([5, 4]).unwrap(),
        );
        let mut cost = |accumulate| {
            let (y, x, w) = (y.view_mut(), x.view(), w.view());
            Linear { y, x, w, accumulate }.cost(&Dtypes::of(dev)).unwrap()
        };
        let over = cost(false);
        assert_eq!(over, Cost { read: 8 * (12 + 20), written: 8 * 15, flops: 2 * 3 * 4 * 5 });
        // What is added to is read as well.
        assert_eq!(cost(true), Cost { read: over.read + 8 * 15, ..over });
    }

    #[test]
    fn every_operation_has_one_name() {
        let mut names: Vec<&str> = BODIES.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BODIES.len());
    }
}
