//! `Expr`: a small elementwise program, as data, that every device can run.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// One value per element, computed from inputs, old outputs and scalars. Built with operators:
/// `Expr::input(0) * Expr::scalar(0) + Expr::old(0)`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Expr {
    /// Element of the i-th input.
    Input(usize),
    /// Element of the i-th output, as it was before the call.
    Old(usize),
    /// The i-th host scalar.
    Scalar(usize),
    /// A number.
    Const(f64),
    /// A function of one value.
    Unary(Unary, Box<Expr>),
    /// A function of two values.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// The second where the first is ≥ 0, else the third (also where it is NaN).
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// Functions of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unary {
    /// −x.
    Neg,
    /// |x|.
    Abs,
    /// −1, 0 or 1; 0 for NaN.
    Sign,
    /// √x.
    Sqrt,
    /// eˣ.
    Exp,
    /// Natural logarithm.
    Ln,
    /// Hyperbolic tangent.
    Tanh,
}

/// Functions of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Binary {
    /// x + y.
    Add,
    /// x − y.
    Sub,
    /// x · y.
    Mul,
    /// x / y.
    Div,
    /// The smaller; the other where one is NaN.
    Min,
    /// The larger; the other where one is NaN.
    Max,
}

impl Expr {
    /// The most outputs of one [`map`](crate::ops::Map), so that a device can hold an element's in registers.
    pub const MAX_OUTPUTS: usize = 8;

    /// Element of the i-th input.
    pub fn input(i: usize) -> Self {
        Self::Input(i)
    }
    /// Element of the i-th output before the call.
    pub fn old(i: usize) -> Self {
        Self::Old(i)
    }
    /// The i-th host scalar.
    pub fn scalar(i: usize) -> Self {
        Self::Scalar(i)
    }
    /// |self|.
    #[must_use]
    pub fn abs(self) -> Self {
        Self::Unary(Unary::Abs, Box::new(self))
    }
    /// −1, 0 or 1.
    #[must_use]
    pub fn sign(self) -> Self {
        Self::Unary(Unary::Sign, Box::new(self))
    }
    /// √self.
    #[must_use]
    pub fn sqrt(self) -> Self {
        Self::Unary(Unary::Sqrt, Box::new(self))
    }
    /// e to the self.
    #[must_use]
    pub fn exp(self) -> Self {
        Self::Unary(Unary::Exp, Box::new(self))
    }
    /// Natural logarithm.
    #[must_use]
    pub fn ln(self) -> Self {
        Self::Unary(Unary::Ln, Box::new(self))
    }
    /// Hyperbolic tangent.
    #[must_use]
    pub fn tanh(self) -> Self {
        Self::Unary(Unary::Tanh, Box::new(self))
    }
    /// The smaller of two.
    #[must_use]
    pub fn min(self, other: impl Into<Expr>) -> Self {
        Self::Binary(Binary::Min, Box::new(self), Box::new(other.into()))
    }
    /// The larger of two.
    #[must_use]
    pub fn max(self, other: impl Into<Expr>) -> Self {
        Self::Binary(Binary::Max, Box::new(self), Box::new(other.into()))
    }
    /// `then` where self ≥ 0, else `otherwise`.
    #[must_use]
    pub fn select(self, then: impl Into<Expr>, otherwise: impl Into<Expr>) -> Self {
        Self::Select(Box::new(self), Box::new(then.into()), Box::new(otherwise.into()))
    }
}

impl From<f64> for Expr {
    fn from(value: f64) -> Self {
        Self::Const(value)
    }
}

impl Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        Expr::Unary(Unary::Neg, Box::new(self))
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl<E: Into<Expr>> $trait<E> for Expr {
            type Output = Expr;
            fn $method(self, other: E) -> Expr {
                Expr::Binary(Binary::$trait, Box::new(self), Box::new(other.into()))
            }
        }
    };
}
operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);
