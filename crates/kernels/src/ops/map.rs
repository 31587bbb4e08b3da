//! `map`: small elementwise programs, so that an optimizer of another crate runs on every device.

use std::ops::{Deref, DerefMut};

use super::check::require;
use super::{Access, Argument, Cost, Dtypes, Extent, Kind, Op, Operation, Seen, Views, check};
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::{DTYPES, get, set};
use crate::{Binary, DType, Device, Error, Expr, Mut, Ref, Result, Unary};

/// [`Map`]'s outputs, at most [`Expr::MAX_OUTPUTS`], without an allocation.
pub struct Outputs<'a> {
    views: [Mut<'a>; Expr::MAX_OUTPUTS],
    len: usize,
}

impl<'a> Outputs<'a> {
    fn of(out: &'a mut [Mut<'_>]) -> Result<Self> {
        let len = out.len();
        require(Map::NAME, len <= Expr::MAX_OUTPUTS, || {
            format!("{len} outputs, at most {}", Expr::MAX_OUTPUTS)
        })?;
        let mut given = out.iter_mut().map(Mut::reborrow);
        let views = std::array::from_fn(|_| given.next().unwrap_or_else(Mut::nothing));
        Ok(Self { views, len })
    }
}

impl<'a> Deref for Outputs<'a> {
    type Target = [Mut<'a>];

    fn deref(&self) -> &[Mut<'a>] {
        &self.views[..self.len]
    }
}

impl<'a> DerefMut for Outputs<'a> {
    fn deref_mut(&mut self) -> &mut [Mut<'a>] {
        &mut self.views[..self.len]
    }
}

/// out\[i\] = exprs\[i\] at each element, from inputs, the old outputs and host scalars, so that a foreign optimizer runs on any
/// device. All expressions of an element are evaluated before any of its outputs is written.
///
/// # Shapes
/// All `out` and `ins` have the same number of elements; any mix of float types; one expression per output, of which
/// there are at most [`Expr::MAX_OUTPUTS`].
pub struct Map<'a> {
    /// What each output becomes.
    pub exprs: &'a [Expr],
    /// Read and written.
    pub out: Outputs<'a>,
    /// Read.
    pub ins: &'a [Ref<'a>],
    /// What expressions name as scalars.
    pub scalars: &'a [f64],
}

static OUT: Argument =
    Argument { name: "out", role: Access::Update, kind: Kind::Float, extent: Extent::Any };
static INS: Argument =
    Argument { name: "ins", role: Access::Read, kind: Kind::Float, extent: Extent::Any };

impl Map<'_> {
    /// The method's name, as errors and traces have it.
    pub const NAME: &'static str = "map";

    fn seen(&self) -> impl Iterator<Item = (&'static Argument, Seen)> {
        let outs = self.out.iter().map(|out| (&OUT, out.into()));
        outs.chain(self.ins.iter().map(|x| (&INS, x.into())))
    }

    /// Checks everything; returns the number of elements.
    ///
    /// # Errors
    /// [`Error::Place`], [`Error::Unsupported`] for integers, [`Error::Shape`]; [`Error::Argument`] unless there is one expression per
    /// output and each names only inputs, outputs and scalars that are given.
    pub fn check(&self, dtypes: &Dtypes) -> Result<usize> {
        let (op, exprs, outs) = (Self::NAME, self.exprs.len(), self.out.len());
        require(op, exprs == outs, || format!("{exprs} expressions for {outs} outputs"))?;
        let n = self.out.first().map_or(0, |out| out.shape().elements());
        for (operand, seen) in self.seen() {
            check::arguments(op, std::slice::from_ref(operand), &[], &[Some(seen)], dtypes)?;
            if seen.shape.elements() != n {
                let expected = format!("{n} elements, as the first output");
                return Err(Error::Shape { op, arg: operand.name, got: seen.shape, expected });
            }
        }
        self.exprs.iter().try_for_each(|expr| self.names(expr))?;
        Ok(n)
    }

    /// Whether an expression names only what is given.
    fn names(&self, expr: &Expr) -> Result<()> {
        let below = |what: &str, i: usize, n: usize| {
            require(Self::NAME, i < n, || format!("the expression names {what} {i} of {n}"))
        };
        match expr {
            Expr::Input(i) => below("input", *i, self.ins.len()),
            Expr::Old(i) => below("output", *i, self.out.len()),
            Expr::Scalar(i) => below("scalar", *i, self.scalars.len()),
            Expr::Const(_) => Ok(()),
            Expr::Unary(_, x) => self.names(x),
            Expr::Binary(_, x, y) => {
                self.names(x)?;
                self.names(y)
            }
            Expr::Select(x, y, z) => {
                self.names(x)?;
                self.names(y)?;
                self.names(z)
            }
        }
    }
}

impl<'a> Operation<'a> for Map<'a> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn each(&self, f: &mut dyn FnMut(&'static Argument, Seen)) {
        self.seen().for_each(|(operand, seen)| f(operand, seen));
    }

    fn cost(&self, dtypes: &Dtypes) -> Result<Cost> {
        self.check(dtypes)?;
        let outs = self.out.iter().map(|out| Seen::from(out).bytes()).sum::<u64>();
        let ins = self.ins.iter().map(|x| Seen::from(x).bytes()).sum::<u64>();
        Ok(Cost { read: outs + ins, written: outs, flops: 0 })
    }

    /// As it is: its operands are of any type, so that a wrapper has none to put in their place.
    fn with<'b>(self, _: &mut dyn Views<'a, 'b>) -> Result<Op<'b>>
    where
        'a: 'b,
    {
        Ok(self.into())
    }
}

impl<'a> From<Map<'a>> for Op<'a> {
    fn from(op: Map<'a>) -> Self {
        Self::Map(op)
    }
}

impl dyn Device + '_ {
    /// See [`Map`].
    pub fn map(
        &self,
        exprs: &[Expr],
        out: &mut [Mut<'_>],
        ins: &[Ref<'_>],
        scalars: &[f64],
    ) -> Result<()> {
        self.run(Op::Map(Map { exprs, out: Outputs::of(out)?, ins, scalars }))
    }
}

impl Map<'_> {
    /// The definition: an interpreter of [`Expr`], one element at a time.
    pub(super) fn reference(self) -> Result<()> {
        let elements = self.check(&DTYPES)?;
        let Self { exprs, mut out, ins, scalars } = self;
        let mut values = [0.0; Expr::MAX_OUTPUTS];
        for i in 0..elements {
            for (value, expr) in values.iter_mut().zip(exprs) {
                *value = eval(expr, &Element { i, ins, olds: &out, scalars })?;
            }
            for (out, value) in out.iter_mut().zip(values) {
                set(out, i, value)?;
            }
        }
        Ok(())
    }
}

/// What an expression's names mean at one element.
struct Element<'a, 'v> {
    i: usize,
    ins: &'a [Ref<'v>],
    olds: &'a [Mut<'v>],
    scalars: &'a [f64],
}

fn eval(expr: &Expr, at: &Element<'_, '_>) -> Result<f64> {
    Ok(match expr {
        Expr::Input(i) => get(at.ins[*i], at.i)?,
        Expr::Old(i) => get(at.olds[*i].view(), at.i)?,
        Expr::Scalar(i) => at.scalars[*i],
        Expr::Const(x) => *x,
        Expr::Unary(f, x) => unary(*f, eval(x, at)?),
        Expr::Binary(f, x, y) => binary(*f, eval(x, at)?, eval(y, at)?),
        Expr::Select(x, then, otherwise) => {
            eval(if eval(x, at)? >= 0.0 { then } else { otherwise }, at)?
        }
    })
}

fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        Unary::Sign => 0.0,
        Unary::Sqrt => x.sqrt(),
        Unary::Exp => x.exp(),
        Unary::Ln => x.ln(),
        Unary::Tanh => x.tanh(),
    }
}

fn binary(f: Binary, x: f64, y: f64) -> f64 {
    match f {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
    }
}

/// [`Map`]: every function, two outputs that read each other's old values, mixed types,
/// and NaN where only `select`, `sign`, `min` and `max` see it.
pub fn map(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "map");
    for n in [1, 16, 33, 1000] {
        check.case(format!("{n} elements, every function"));
        let (x, y) = (check.normal([n]), check.normal([n]).master());
        let (p, q) = (check.normal([n]).master(), check.normal([n]));
        let first = (Expr::input(0).abs() + 0.1).sqrt() * Expr::scalar(0)
            - (Expr::input(1) * 0.3).exp()
                / (Expr::input(0).abs() + Expr::scalar(1)).ln().abs().max(0.5)
            + Expr::old(1);
        let second = (-Expr::old(0)).tanh().min(Expr::input(1))
            + Expr::input(0).sign() * Expr::input(1).select(Expr::input(0), 2.0);
        let exprs = [first, second];
        let scalars = [0.7, 1.5];
        check.run([&p, &q], [&x, &y], |d, mut out, ins| d.map(&exprs, &mut out, &ins, &scalars))?;

        check.case(format!("{n} elements, not numbers"));
        let holes = check.normal([n]).edit(|i, x| [x, f64::NAN, 0.0, -0.0][i % 4]);
        let exprs = [
            Expr::input(0).select(3.0, -2.0),
            Expr::input(0).sign(),
            Expr::input(0).min(0.5),
            Expr::input(0).max(-0.5),
        ];
        let outs = [0; 4].map(|_| Operand::poison([n]));
        check
            .run(outs.each_ref(), [&holes], |d, mut out, ins| d.map(&exprs, &mut out, &ins, &[]))?;

        check.case(format!("{n} elements, 16-bit"));
        let (x, y) = (check.normal([n]).of(DType::BF16), check.normal([n]));
        let out = Operand::poison([n]).of(DType::BF16);
        let exprs = [Expr::input(0) * Expr::input(1)];
        check.run([&out], [&x, &y], |d, mut out, ins| d.map(&exprs, &mut out, &ins, &[]))?;
    }
    Ok(check.worst)
}
