//! Checks of every operation's arguments, shared by all devices so that errors are equal everywhere.
//!
//! One function per operation, named as the operation: it checks places, element types, shapes and ranges, and returns
//! the dimensions that a kernel needs. Where a shape's first letter is N, all leading axes are flattened into it: (B, T, C)
//! is (B·T, C). Indices are checked by [`indices`] and [`order`], which host devices call before they write.

mod attention;
mod dense;
mod loss;
mod memory;
mod pointwise;
mod update;

pub use attention::{
    AttentionDims, GateDims, HeadDims, attention, attention_backward, rotary_norm,
    rotary_norm_backward, value_gate, value_gate_backward,
};
pub use dense::{
    EmbedDims, LinearDims, embed, embed_backward, indices, linear, linear_dw, linear_dx, order,
};
pub use loss::{argmax, cross_entropy, sum, sum_squares};
pub use memory::{cast, copy, fill, read, write};
pub use pointwise::{
    SmearDims, map, mix, mix_backward, mix_norm, relu2, relu2_backward, rms_norm,
    rms_norm_backward, smear, smear_backward, swiglu, swiglu_backward,
};
pub use update::{
    StackDims, adamw, cautious_update, equilibrate_rows, nesterov, polar_express, renormalize,
    variance_reduce,
};

use crate::{DType, Error, Memory, Mut, Place, Ref, Result, Shape};

/// What a device holds tensors in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dtypes {
    /// The device's name, for messages.
    pub device: &'static str,
    /// Where its memory is.
    pub place: Place,
    /// The type of activations and of weights as they are multiplied.
    pub compute: DType,
    /// The type of master weights, gradients, statistics and optimizer state.
    pub master: DType,
}

impl Dtypes {
    /// A device's own.
    pub fn of(dev: &(impl Memory + ?Sized)) -> Self {
        Self {
            device: dev.name(),
            place: dev.place(),
            compute: dev.compute_dtype(),
            master: dev.master_dtype(),
        }
    }
}

/// Rows and columns, leading axes flattened into rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowDims {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub c: usize,
}

/// What can be checked of a view.
trait View {
    fn dtype(&self) -> DType;
    fn shape(&self) -> Shape;
    fn place(&self) -> Place;
}

macro_rules! view {
    ($view:ident) => {
        impl View for $view<'_> {
            fn dtype(&self) -> DType {
                $view::dtype(self)
            }
            fn shape(&self) -> Shape {
                $view::shape(self)
            }
            fn place(&self) -> Place {
                $view::place(self)
            }
        }
    };
}
view!(Ref);
view!(Mut);

/// What an argument's elements have to be.
#[derive(Clone, Copy)]
enum Kind {
    Compute,
    Master,
    Index,
    Float,
    Any,
}
use Kind::{Any, Compute, Float, Index, Master};

/// An operation whose arguments' places and element types were found right.
#[derive(Clone, Copy)]
struct Op(&'static str);

impl Dtypes {
    /// Checks places, then types; all types are named when one is wrong.
    fn op(&self, op: &'static str, args: &[(&dyn View, Kind)]) -> Result<Op> {
        for (view, _) in args {
            if view.place() != self.place {
                return Err(Error::Place { op, got: view.place(), expected: self.place });
            }
        }
        let fits = |(view, kind): &(&dyn View, Kind)| match kind {
            Compute => view.dtype() == self.compute,
            Master => view.dtype() == self.master,
            Index => view.dtype() == DType::I32,
            Float => view.dtype() != DType::I32,
            Any => true,
        };
        if !args.iter().all(fits) {
            let dtypes = args.iter().map(|(view, _)| view.dtype()).collect();
            return Err(Error::Unsupported { op, device: self.device, dtypes });
        }
        Ok(Op(op))
    }
}

impl Op {
    fn fault(self, arg: &'static str, view: &dyn View, expected: String) -> Error {
        Error::Shape { op: self.0, arg, got: view.shape(), expected }
    }

    /// An [`Error::Argument`] unless `holds`.
    fn require(self, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(Error::Argument { op: self.0, what: what() }) }
    }

    /// All dimensions of an argument of rank N, called `letters`.
    fn dims<const N: usize>(
        self,
        arg: &'static str,
        view: &dyn View,
        letters: &str,
    ) -> Result<[usize; N]> {
        <[usize; N]>::try_from(&*view.shape())
            .map_err(|_| self.fault(arg, view, format!("{letters}: {N} dimensions")))
    }

    /// Leading axes, flattened, and the last N dimensions.
    fn leading<const N: usize>(
        self,
        arg: &'static str,
        view: &dyn View,
        letters: &str,
    ) -> Result<(usize, [usize; N])> {
        let shape = view.shape();
        let split = shape.split_last_chunk::<N>().filter(|(leading, _)| !leading.is_empty());
        let (leading, &last) = split.ok_or_else(|| {
            self.fault(arg, view, format!("{letters}: at least {} dimensions", N + 1))
        })?;
        Ok((leading.iter().product(), last))
    }

    /// Exactly these dimensions.
    fn is(self, arg: &'static str, view: &dyn View, letters: &str, dims: &[usize]) -> Result<()> {
        if *view.shape() == *dims {
            return Ok(());
        }
        Err(self.fault(arg, view, format!("{letters} = {}", list(dims))))
    }

    /// `n` rows, over any leading axes, of exactly the dimensions `last`.
    fn rows(
        self,
        arg: &'static str,
        view: &dyn View,
        letters: &str,
        n: usize,
        last: &[usize],
    ) -> Result<()> {
        let shape = view.shape();
        let leading = shape.strip_suffix(last).filter(|leading| !leading.is_empty());
        if leading.is_some_and(|leading| leading.iter().product::<usize>() == n) {
            return Ok(());
        }
        let dims: Vec<usize> = std::iter::once(n).chain(last.iter().copied()).collect();
        Err(self.fault(arg, view, format!("{letters} = {}", list(&dims))))
    }

    /// A single number.
    fn one(self, arg: &'static str, view: &dyn View) -> Result<()> {
        if view.shape().elements() == 1 {
            return Ok(());
        }
        Err(self.fault(arg, view, "(1)".into()))
    }

    /// The shape of another argument, `like`.
    fn like(
        self,
        arg: &'static str,
        view: &dyn View,
        other: &'static str,
        like: Shape,
    ) -> Result<()> {
        if view.shape() == like {
            return Ok(());
        }
        Err(self.fault(arg, view, format!("{like}, the shape of {other}")))
    }
}

fn list(dims: &[usize]) -> String {
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    format!("({})", dims.join(", "))
}
