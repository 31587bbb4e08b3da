//! What one instruction does to one lane, lifted to all 32 at once: each opcode form becomes one function over
//! whole registers, compiled for that form alone, so that the loop over lanes has no branch on the form.
//! Nothing here touches memory or looks at another lane.

mod bits;
mod compare;
mod convert;
mod decimal;
mod half;
mod integer;

use crate::float::Rounding;
use crate::syntax::Ty;

/// One register of a warp: the value of each lane, zero-extended.
pub(crate) type Row = [u64; 32];

/// An instruction without side effects.
#[derive(Clone, Copy)]
pub(crate) enum Lanes {
    /// One source.
    One(fn(&mut Row, &Row)),
    /// Two sources.
    Two(fn(&mut Row, &Row, &Row)),
    /// Three sources.
    Three(fn(&mut Row, &Row, &Row, &Row)),
    /// Four sources.
    Four(fn(&mut Row, [&Row; 4])),
    /// One source and a number that says which form, for families too large to compile one by one.
    OneBy(fn(&mut Row, &Row, u32), u32),
    /// Two sources and such a number.
    TwoBy(fn(&mut Row, &Row, &Row, u32), u32),
    /// Three sources and such a number.
    ThreeBy(fn(&mut Row, &Row, &Row, &Row, u32), u32),
}

macro_rules! one {
    (|$a:ident| $e:expr) => {{
        fn go(d: &mut $crate::lanes::Row, a: &$crate::lanes::Row) {
            for i in 0..32 {
                let $a = a[i];
                d[i] = $e;
            }
        }
        $crate::lanes::Lanes::One(go)
    }};
}
macro_rules! two {
    (|$a:ident, $b:ident| $e:expr) => {{
        fn go(d: &mut $crate::lanes::Row, a: &$crate::lanes::Row, b: &$crate::lanes::Row) {
            for i in 0..32 {
                let ($a, $b) = (a[i], b[i]);
                d[i] = $e;
            }
        }
        $crate::lanes::Lanes::Two(go)
    }};
}
macro_rules! three {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {{
        fn go(
            d: &mut $crate::lanes::Row,
            a: &$crate::lanes::Row,
            b: &$crate::lanes::Row,
            c: &$crate::lanes::Row,
        ) {
            for i in 0..32 {
                let ($a, $b, $c) = (a[i], b[i], c[i]);
                d[i] = $e;
            }
        }
        $crate::lanes::Lanes::Three(go)
    }};
}
/// `flags!(ftz, sat => two(|a, b| f::<ftz, sat>(a, b)))` without writing the four cases.
macro_rules! flags {
    ($x:expr, $y:expr => one $f:ident $(, $g:literal)*) => {
        match ($x, $y) {
            (false, false) => one!(|a| $f::<false, false $(, $g)*>(a)),
            (false, true) => one!(|a| $f::<false, true $(, $g)*>(a)),
            (true, false) => one!(|a| $f::<true, false $(, $g)*>(a)),
            (true, true) => one!(|a| $f::<true, true $(, $g)*>(a)),
        }
    };
    ($x:expr, $y:expr => two $f:ident $(, $g:literal)*) => {
        match ($x, $y) {
            (false, false) => two!(|a, b| $f::<false, false $(, $g)*>(a, b)),
            (false, true) => two!(|a, b| $f::<false, true $(, $g)*>(a, b)),
            (true, false) => two!(|a, b| $f::<true, false $(, $g)*>(a, b)),
            (true, true) => two!(|a, b| $f::<true, true $(, $g)*>(a, b)),
        }
    };
    ($x:expr, $y:expr => three $f:ident $(, $g:literal)*) => {
        match ($x, $y) {
            (false, false) => three!(|a, b, c| $f::<false, false $(, $g)*>(a, b, c)),
            (false, true) => three!(|a, b, c| $f::<false, true $(, $g)*>(a, b, c)),
            (true, false) => three!(|a, b, c| $f::<true, false $(, $g)*>(a, b, c)),
            (true, true) => three!(|a, b, c| $f::<true, true $(, $g)*>(a, b, c)),
        }
    };
}
use {flags, one, three, two};

/// Why a form has no meaning here.
pub(crate) type Refused = String;

/// The modifiers of a mnemonic, consumed one by one; what is left over at the end is refused.
#[derive(Clone, Debug)]
pub(crate) struct Modifiers<'a> {
    rest: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    /// Splits `add.rn.f32` into `add` and its modifiers.
    pub(crate) fn split(opcode: &'a str) -> (&'a str, Modifiers<'a>) {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or("");
        (name, Modifiers { rest: parts.collect() })
    }

    pub(crate) fn has(&self, m: &str) -> bool {
        self.rest.contains(&m)
    }

    pub(crate) fn take(&mut self, m: &str) -> bool {
        let found = self.rest.iter().position(|x| *x == m);
        if let Some(i) = found {
            self.rest.remove(i);
        }
        found.is_some()
    }

    /// Takes the first modifier that is one of `all`.
    pub(crate) fn take_any(&mut self, all: &[&str]) -> Option<&'a str> {
        let i = self.rest.iter().position(|x| all.contains(x))?;
        Some(self.rest.remove(i))
    }

    /// Takes the first modifier whatever it is.
    pub(crate) fn first(&mut self) -> Option<&'a str> {
        (!self.rest.is_empty()).then(|| self.rest.remove(0))
    }

    /// Takes the last type.
    pub(crate) fn ty(&mut self) -> Result<Ty, Refused> {
        let i = self.rest.iter().rposition(|x| Ty::parse(x).is_some());
        let i = i.ok_or("no type")?;
        Ty::parse(self.rest.remove(i)).ok_or_else(|| "no type".into())
    }

    pub(crate) fn rounding(&mut self) -> Option<Rounding> {
        Some(match self.take_any(&["rn", "rz", "rm", "rp", "rna"])? {
            "rn" => Rounding::Nearest,
            "rz" => Rounding::Zero,
            "rm" => Rounding::Down,
            "rp" => Rounding::Up,
            _ => Rounding::NearestAway,
        })
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), Refused> {
        match self.rest.first() {
            None => Ok(()),
            Some(m) => Err(format!("`.{m}` in this place")),
        }
    }
}

/// The function of an instruction without side effects; `None` if `name` is not one.
pub(crate) fn lanes(name: &str, mut m: Modifiers<'_>) -> Result<Option<Lanes>, Refused> {
    let form = match name {
        "mov" => {
            let ty = m.ty()?;
            match ty.bits() {
                16 => one!(|a| a as u16 as u64),
                32 => one!(|a| a as u32 as u64),
                64 => one!(|a| a),
                _ => one!(|a| a & 1),
            }
        }
        "cvt" => convert::cvt(&mut m)?,
        "setp" => compare::setp(&mut m)?,
        "selp" => {
            m.ty()?;
            three!(|a, b, p| if p & 1 != 0 { a } else { b })
        }
        "slct" => compare::slct(&mut m)?,
        "testp" => compare::testp(&mut m)?,
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "bfe" | "bfi" | "popc" | "clz"
        | "brev" | "bfind" | "prmt" | "shf" => bits::form(name, &mut m)?,
        "dp4a" | "dp2a" | "sad" | "rem" | "mul24" | "mad24" => integer::form(name, &mut m)?,
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "abs" | "neg" | "min" | "max" | "rcp"
        | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" => {
            let ty = m.ty()?;
            match ty {
                Ty::F32 | Ty::F64 => decimal::form(name, ty, &mut m)?,
                Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 => half::form(name, ty, &mut m)?,
                _ => integer::arithmetic(name, ty, &mut m)?,
            }
        }
        _ => return Ok(None),
    };
    m.finish()?;
    Ok(Some(form))
}

pub(crate) use bits::lop3;
