//! The shape of PTX after parsing and before any name is looked up.

/// The types that PTX instructions and declarations name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(crate) enum Ty {
    B8, B16, B32, B64, B128,
    U8, U16, U32, U64,
    S8, S16, S32, S64,
    F16, F16x2, BF16, BF16x2, TF32, F32, F64,
    E4M3, E5M2, E4M3x2, E5M2x2,
    Pred,
}

impl Ty {
    pub(crate) fn parse(word: &str) -> Option<Ty> {
        Some(match word {
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "b128" => Ty::B128,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::BF16,
            "bf16x2" => Ty::BF16x2,
            "tf32" => Ty::TF32,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            "e4m3" => Ty::E4M3,
            "e5m2" => Ty::E5M2,
            "e4m3x2" => Ty::E4M3x2,
            "e5m2x2" => Ty::E5M2x2,
            "pred" => Ty::Pred,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 | Ty::E4M3 | Ty::E5M2 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::BF16 | Ty::E4M3x2 | Ty::E5M2x2 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F16x2 | Ty::BF16x2 | Ty::TF32 | Ty::F32 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 64,
            Ty::B128 => 128,
        }
    }

    /// Bytes in memory; a predicate has none.
    pub(crate) fn bytes(self) -> u64 {
        self.bits() as u64 / 8
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub(crate) fn float(self) -> bool {
        !self.integer() && self != Ty::Pred
    }

    /// Signed, unsigned or untyped bits.
    pub(crate) fn integer(self) -> bool {
        self.signed()
            || matches!(self, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64)
            || matches!(self, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128)
    }
}

/// A literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// Two's complement in 64 bits.
    Integer(u64),
    /// `0f` and eight digits.
    Single(u32),
    /// `0d` and sixteen digits.
    Double(u64),
    /// With a decimal point.
    Decimal(f64),
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    /// A register, variable, label or special register, and what is added to it.
    Name(&'a str, i64),
    /// A literal.
    Number(Number),
    /// `!p`.
    Not(&'a str),
    /// `p|q`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `{a, b}`, and the parenthesised lists of a call.
    List(Vec<Operand<'a>>),
    /// `[a]`, or `[map, {x, y}]`.
    Address(Vec<Operand<'a>>),
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction<'a> {
    pub(crate) line: u32,
    /// The guard predicate and whether it is negated.
    pub(crate) guard: Option<(&'a str, bool)>,
    pub(crate) opcode: &'a str,
    pub(crate) operands: Vec<Operand<'a>>,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A declared variable or parameter.
#[derive(Clone, Debug)]
pub(crate) struct Variable<'a> {
    pub(crate) line: u32,
    pub(crate) name: &'a str,
    pub(crate) space: Space,
    pub(crate) ty: Ty,
    pub(crate) align: u64,
    /// Bytes; 0 for an external array without a size.
    pub(crate) bytes: u64,
    pub(crate) external: bool,
    pub(crate) initial: Vec<Number>,
}

/// One statement of a kernel's body.
#[derive(Clone, Debug)]
pub(crate) enum Statement<'a> {
    Open,
    Close,
    Label(&'a str, u32),
    /// A type, and names each with the number in `name<number>`.
    Registers(Ty, Vec<(&'a str, Option<u32>)>),
    Variable(Variable<'a>),
    /// The targets of a `brx.idx`.
    Targets(&'a str, Vec<&'a str>),
    Instruction(Instruction<'a>),
}

/// A kernel as written.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) line: u32,
    pub(crate) name: &'a str,
    pub(crate) params: Vec<Variable<'a>>,
    /// `.maxntid` and its kin, with their numbers.
    pub(crate) limits: Vec<(&'a str, Vec<u32>)>,
    pub(crate) body: Vec<Statement<'a>>,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File<'a> {
    pub(crate) target: String,
    pub(crate) variables: Vec<Variable<'a>>,
    pub(crate) entries: Vec<Entry<'a>>,
}
