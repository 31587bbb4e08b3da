//! What an operation declares of itself, and the macro that makes the rest of it: the value, its check, its cost, its method on [`Device`](crate::Device).

use super::check::Letters;
use crate::{Coef, DType, Mut, Place, Ref, Result, Shape};

/// What an operation does with an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads it.
    Read,
    /// Overwrites it, whatever it held; or reads it and adds to it, where the operation's own argument says so.
    Write,
    /// Reads it and writes it.
    Update,
}

/// What an operand's elements are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Activations and weights as they are multiplied: the compute dtype.
    Compute,
    /// Weights, their gradients, statistics, optimizer state: the master dtype.
    Master,
    /// An update of weights under way: the master dtype, in values that the compute dtype has.
    Update,
    /// Ids, targets, positions: I32.
    Index,
    /// Floats of any type.
    Float,
    /// Anything.
    Any,
}

/// The shape that an operand has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// "(B, T, C)": letters that are the same dimension wherever they stand. A first letter N is all leading axes, flattened.
    Letters(&'static str),
    /// That of the operand of this name.
    Like(&'static str),
    /// A single number.
    One,
    /// Any, or one that the operation checks itself.
    Any,
}

/// An operand, as its operation declares it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// What is done with it.
    pub role: Access,
    /// What its elements are.
    pub kind: Kind,
    /// Its shape.
    pub extent: Extent,
}

/// A view, without its elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Shape,
    /// Where its memory is.
    pub place: Place,
}

impl Seen {
    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        (self.shape.elements() as u64).saturating_mul(self.dtype.bytes() as u64)
    }
}

impl From<&Ref<'_>> for Seen {
    fn from(view: &Ref<'_>) -> Self {
        Self { dtype: view.dtype(), shape: view.shape(), place: view.place() }
    }
}

impl From<&Mut<'_>> for Seen {
    fn from(view: &Mut<'_>) -> Self {
        Self { dtype: view.dtype(), shape: view.shape(), place: view.place() }
    }
}

/// What a call moves and computes: each operand read or written once in full, and the FLOPs of its matrix products.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// 2 for each multiplication and addition inside a product; what is done once per element is not counted.
    pub flops: u64,
}

impl Cost {
    /// Bytes read and written.
    pub fn moved(&self) -> u64 {
        self.read + self.written
    }

    /// That of so many such calls.
    #[must_use]
    pub fn times(self, n: u64) -> Self {
        Self { read: n * self.read, written: n * self.written, flops: n * self.flops }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, more: Self) {
        self.read += more.read;
        self.written += more.written;
        self.flops += more.flops;
    }
}

/// Views in exchange for others, for a device that wraps another. See `Op::with`.
pub trait Views<'a, 'b> {
    /// What is read in place of `view`.
    ///
    /// # Errors
    /// The implementor's own.
    fn read(&mut self, operand: &'static Argument, view: Ref<'a>) -> Result<Ref<'b>>;
    /// What is written in place of `view`.
    ///
    /// # Errors
    /// The implementor's own.
    fn written(&mut self, operand: &'static Argument, view: Mut<'a>) -> Result<Mut<'b>>;
}

/// What an operand may be given as.
pub(super) trait Given<'a>: Sized {
    /// The same, of another lifetime.
    type With<'b>
    where
        'a: 'b;
    /// Its view, if there is one.
    fn seen(&self) -> Option<Seen>;
    /// With another view.
    fn with<'b>(
        self,
        operand: &'static Argument,
        views: &mut dyn Views<'a, 'b>,
    ) -> Result<Self::With<'b>>
    where
        'a: 'b;
}

impl<'a> Given<'a> for Ref<'a> {
    type With<'b>
        = Ref<'b>
    where
        'a: 'b;
    fn seen(&self) -> Option<Seen> {
        Some(self.into())
    }
    fn with<'b>(self, operand: &'static Argument, views: &mut dyn Views<'a, 'b>) -> Result<Ref<'b>>
    where
        'a: 'b,
    {
        views.read(operand, self)
    }
}

impl<'a> Given<'a> for Mut<'a> {
    type With<'b>
        = Mut<'b>
    where
        'a: 'b;
    fn seen(&self) -> Option<Seen> {
        Some(self.into())
    }
    fn with<'b>(self, operand: &'static Argument, views: &mut dyn Views<'a, 'b>) -> Result<Mut<'b>>
    where
        'a: 'b,
    {
        views.written(operand, self)
    }
}

impl<'a, V: Given<'a>> Given<'a> for Option<V> {
    type With<'b>
        = Option<V::With<'b>>
    where
        'a: 'b;
    fn seen(&self) -> Option<Seen> {
        self.as_ref().and_then(Given::seen)
    }
    fn with<'b>(
        self,
        operand: &'static Argument,
        views: &mut dyn Views<'a, 'b>,
    ) -> Result<Option<V::With<'b>>>
    where
        'a: 'b,
    {
        self.map(|view| view.with(operand, views)).transpose()
    }
}

impl<'a> Given<'a> for Coef<'a> {
    type With<'b>
        = Coef<'b>
    where
        'a: 'b;
    fn seen(&self) -> Option<Seen> {
        self.parameter.seen()
    }
    fn with<'b>(self, operand: &'static Argument, views: &mut dyn Views<'a, 'b>) -> Result<Coef<'b>>
    where
        'a: 'b,
    {
        Ok(Coef { parameter: self.parameter.with(operand, views)?, times: self.times })
    }
}

/// Named dimensions, made of what letters stand for.
pub(super) trait Dims {
    fn of(letters: &Letters) -> Self;
}

/// The elements of the operand that is looked at first.
impl Dims for usize {
    fn of(letters: &Letters) -> Self {
        letters.elements()
    }
}

/// What a call moves.
pub(super) fn moved(operands: &[Argument], seen: &[Option<Seen>], adds: bool, flops: u64) -> Cost {
    let mut cost = Cost { flops, ..Cost::default() };
    for (operand, seen) in operands.iter().zip(seen) {
        let bytes = seen.map_or(0, |seen| seen.bytes());
        if operand.role != Access::Write || adds {
            cost.read += bytes;
        }
        if operand.role != Access::Read {
            cost.written += bytes;
        }
    }
    cost
}

/// Declares dimensions: `LinearDims { n: N, i: I, o: O }`.
macro_rules! dims {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $letter:literal),* $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name {
            $($(#[$doc])* pub $field: usize,)*
        }

        impl $crate::ops::declare::Dims for $name {
            fn of(letters: &$crate::ops::check::Letters) -> Self {
                Self { $($field: letters.of($letter)),* }
            }
        }
    };
}

/// Declares an operation: its formula, then each operand once, then what the host gives.
///
/// An operand is `name: role Kind extent`. The role says how it is given, too: `read` is a [`Ref`], `write` and `update` are [`Mut`]s,
/// `read?` and `update?` may be absent, `factor` is a [`Coef`]. An extent is `"(B, T, C)"`, `[like x]`, `one` or `any`. After the operands: the dimensions that the
/// check returns; `first`, the operands that say what letters stand for, where that is not the order in which they are declared; `adds`, the host's argument that makes written operands be added to;
/// `rule`, what else has to hold; `flops`, from the dimensions.
macro_rules! operation {
    (
        $(#[$about:meta])*
        $Op:ident = fn $method:ident(
            $($operand:ident: $role:ident $(($optional:tt))? $kind:ident $extent:tt),* $(,)?
        ) $(with ($($(#[$doc:meta])* $host:ident: $type:ty),* $(,)?))? -> $dims:ty
        $(, first [$($first:ident),*])?
        $(, adds $adds:ident)?
        $(, rule $rule:expr)?
        $(, flops $flops:expr)?
        $(,)?
    ) => {
        $(#[$about])*
        pub struct $Op<'a> {
            $(
                #[doc = concat!(
                    operation!(@role $role), " ", operation!(@extent $extent), ", ", stringify!($kind), "."
                )]
                pub $operand: operation!(@given 'a $role $($optional)?),
            )*
            $($($(#[$doc])* pub $host: $type,)*)?
        }

        impl<'a> $Op<'a> {
            /// The method's name, as errors and traces have it.
            pub const NAME: &'static str = stringify!($method);

            /// The operands, in the order of the method's arguments.
            pub const ARGUMENTS: &'static [$crate::ops::Argument] = &[$(
                $crate::ops::Argument {
                    name: stringify!($operand),
                    role: operation!(@as_role $role),
                    kind: $crate::ops::Kind::$kind,
                    extent: operation!(@as_extent $extent),
                },
            )*];

            fn seen(&self) -> [Option<$crate::ops::Seen>; [$(stringify!($operand)),*].len()] {
                use $crate::ops::declare::Given;
                [$(self.$operand.seen()),*]
            }

            /// Checks every argument but the values of ids; returns the dimensions.
            ///
            /// # Errors
            /// [`Error::Place`](crate::Error::Place), [`Error::Unsupported`](crate::Error::Unsupported), [`Error::Shape`](crate::Error::Shape),
            /// [`Error::Argument`](crate::Error::Argument), before anything is written.
            pub fn check(&self, dtypes: &$crate::ops::Dtypes) -> $crate::Result<$dims> {
                let first = &[$($(stringify!($first)),*)?];
                let letters =
                    $crate::ops::check::arguments(Self::NAME, Self::ARGUMENTS, first, &self.seen(), dtypes)?;
                let dims = <$dims as $crate::ops::declare::Dims>::of(&letters);
                $(($rule)(self, dims)?;)?
                Ok(dims)
            }
        }

        impl<'a> $crate::ops::Operation<'a> for $Op<'a> {
            fn name(&self) -> &'static str {
                Self::NAME
            }

            fn each(&self, f: &mut dyn FnMut(&'static $crate::ops::Argument, $crate::ops::Seen)) {
                for (operand, seen) in Self::ARGUMENTS.iter().zip(self.seen()) {
                    if let Some(seen) = seen {
                        f(operand, seen);
                    }
                }
            }

            fn cost(&self, dtypes: &$crate::ops::Dtypes) -> $crate::Result<$crate::ops::Cost> {
                #[allow(unused_variables, reason = "most operations count no products")]
                let dims = self.check(dtypes)?;
                let adds = false $(|| self.$adds)?;
                let flops = 0 $(+ ($flops)(self, dims) as u64)?;
                Ok($crate::ops::declare::moved(Self::ARGUMENTS, &self.seen(), adds, flops))
            }

            fn with<'b>(
                self,
                views: &mut dyn $crate::ops::Views<'a, 'b>,
            ) -> $crate::Result<$crate::ops::Op<'b>>
            where
                'a: 'b,
            {
                use $crate::ops::declare::Given;
                let [$($operand),*] = Self::ARGUMENTS else { unreachable!() };
                Ok($crate::ops::Op::$Op($Op {
                    $($operand: self.$operand.with($operand, views)?,)*
                    $($($host: self.$host,)*)?
                }))
            }
        }

        impl<'a> From<$Op<'a>> for $crate::ops::Op<'a> {
            fn from(op: $Op<'a>) -> Self {
                Self::$Op(op)
            }
        }

        impl dyn $crate::Device + '_ {
            $(#[$about])*
            pub fn $method<'a>(
                &self,
                $($operand: operation!(@given 'a $role $($optional)?),)*
                $($($host: $type,)*)?
            ) -> $crate::Result<()> {
                self.run($crate::ops::Op::$Op($Op { $($operand,)* $($($host,)*)? }))
            }
        }
    };

    (@given $a:lifetime read) => { $crate::Ref<$a> };
    (@given $a:lifetime read ?) => { Option<$crate::Ref<$a>> };
    (@given $a:lifetime write) => { $crate::Mut<$a> };
    (@given $a:lifetime update) => { $crate::Mut<$a> };
    (@given $a:lifetime update ?) => { Option<$crate::Mut<$a>> };
    (@given $a:lifetime factor) => { $crate::Coef<$a> };

    (@as_role write) => { $crate::ops::Access::Write };
    (@as_role update) => { $crate::ops::Access::Update };
    (@as_role $read:ident) => { $crate::ops::Access::Read };
    (@role write) => { "Written:" };
    (@role update) => { "Read and written:" };
    (@role $read:ident) => { "Read:" };

    (@as_extent [like $other:ident]) => { $crate::ops::Extent::Like(stringify!($other)) };
    (@as_extent one) => { $crate::ops::Extent::One };
    (@as_extent any) => { $crate::ops::Extent::Any };
    (@as_extent $letters:literal) => { $crate::ops::Extent::Letters($letters) };
    (@extent [like $other:ident]) => { concat!("the shape of `", stringify!($other), "`") };
    (@extent one) => { "one number" };
    (@extent any) => { "a shape as above" };
    (@extent $letters:literal) => { $letters };
}
