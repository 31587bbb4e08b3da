//! Operands: registers, numbers, addresses and special registers become rows of the register file.

use crate::counters::Class;
use crate::decode::{Decoded, Decoder, Symbol, malformed};
use crate::decode_instruction::not;
use crate::program::{Address, Inst, Op, RowInit, Special};
use crate::shared::SHARED_BASE;
use crate::syntax::{Number, Operand, Ty};

/// More registers than this are taken for an attack; nvcc's largest kernels use thousands.
const MOST_ROWS: usize = 1 << 16;

impl<'a> Decoder<'a> {
    pub(crate) fn row(&mut self, init: RowInit) -> Decoded<u32> {
        if init != RowInit::Register
            && let Some(row) = self.constants.get(&init)
        {
            return Ok(*row);
        }
        if self.rows.len() >= MOST_ROWS {
            return malformed(format!("more than {MOST_ROWS} registers and constants in use"));
        }
        let row = self.rows.len() as u32;
        self.rows.push(init);
        if init != RowInit::Register {
            self.constants.insert(init, row);
        }
        Ok(row)
    }

    pub(crate) fn constant(&mut self, value: u64) -> Decoded<u32> {
        self.row(RowInit::Value(value))
    }

    /// A register that no name refers to.
    pub(crate) fn scratch(&mut self) -> Decoded<u32> {
        self.row(RowInit::Register)
    }

    pub(crate) fn lookup(&mut self, name: &'a str) -> Decoded<Symbol> {
        for i in (0..self.scopes.len()).rev() {
            if let Some(s) = self.scopes[i].names.get(name) {
                return Ok(*s);
            }
            let range = self.scopes[i].ranges.iter().find_map(|(prefix, count, ty)| {
                let number = name.strip_prefix(prefix)?;
                let n: u32 = number.parse().ok()?;
                (n < *count && (number == "0" || !number.starts_with(['0', '+']))).then_some(*ty)
            });
            if let Some(ty) = range {
                let row = self.row(RowInit::Register)?;
                let symbol = Symbol::Register(row, ty);
                self.scopes[i].names.insert(name, symbol);
                return Ok(symbol);
            }
        }
        match self.globals.get(name) {
            Some(s) => Ok(*s),
            None => malformed(format!("`{name}` is not declared")),
        }
    }

    /// The row of a source operand; `ty` gives a decimal literal its format.
    pub(crate) fn source(&mut self, operand: &Operand<'a>, ty: Ty) -> Decoded<u32> {
        Ok(self.source_typed(operand, ty)?.0)
    }

    /// With the register's type, or that of an address.
    pub(crate) fn source_typed(&mut self, operand: &Operand<'a>, ty: Ty) -> Decoded<(u32, Ty)> {
        match operand {
            Operand::Number(n) => Ok((self.constant(literal(*n, ty))?, Ty::B64)),
            Operand::Not(name) => match self.lookup(name)? {
                Symbol::Register(row, Ty::Pred) => {
                    let d = self.scratch()?;
                    self.emit(Op::Lanes1 { f: not, d, a: row }, Class::Other);
                    Ok((d, Ty::Pred))
                }
                _ => malformed(format!("`{name}` is not a predicate")),
            },
            Operand::Name(name, offset) => {
                if let Some(special) = special(name) {
                    return match special {
                        Some(s) => Ok((self.row(RowInit::Special(s))?, Ty::B32)),
                        None => Err(format!("special register {name}").into()),
                    };
                }
                let at = |base: u32| RowInit::Value((base as u64).wrapping_add_signed(*offset));
                let init = match self.lookup(name)? {
                    Symbol::Register(row, ty) if *offset == 0 => return Ok((row, ty)),
                    Symbol::Register(..) => return malformed("an offset outside of an address"),
                    Symbol::Shared(o) => at(o + SHARED_BASE as u32),
                    Symbol::Local(o) | Symbol::Param(o) => at(o),
                    Symbol::DynamicShared => RowInit::Dynamic(*offset),
                    Symbol::Global(g) => RowInit::Global(g, *offset),
                };
                Ok((self.row(init)?, Ty::B64))
            }
            _ => malformed("a register or a number was expected"),
        }
    }

    /// The row and type of a destination register; `_` is one that nobody reads.
    pub(crate) fn target(&mut self, operand: &Operand<'a>) -> Decoded<(u32, Ty)> {
        match operand {
            Operand::Name("_", 0) => Ok((self.scratch()?, Ty::B64)),
            Operand::Name(name, 0) => match self.lookup(name)? {
                Symbol::Register(row, ty) => Ok((row, ty)),
                _ => malformed(format!("`{name}` is not a register")),
            },
            _ => malformed("a register was expected"),
        }
    }

    pub(crate) fn targets(&mut self, operand: &Operand<'a>) -> Decoded<Vec<(u32, Ty)>> {
        match operand {
            Operand::List(all) => all.iter().map(|o| self.target(o)).collect(),
            one => Ok(vec![self.target(one)?]),
        }
    }

    pub(crate) fn sources(&mut self, operand: &Operand<'a>, ty: Ty) -> Decoded<Vec<u32>> {
        match operand {
            Operand::List(all) => all.iter().map(|o| self.source(o, ty)).collect(),
            one => Ok(vec![self.source(one, ty)?]),
        }
    }

    /// `[base + offset]`.
    pub(crate) fn address(&mut self, operand: &Operand<'a>) -> Decoded<Address> {
        match operand {
            Operand::Address(parts) if parts.len() == 1 => self.address_part(&parts[0]),
            _ => malformed("an address in brackets was expected"),
        }
    }

    pub(crate) fn address_part(&mut self, part: &Operand<'a>) -> Decoded<Address> {
        if let Operand::Name(name, offset) = part
            && special(name).is_none()
            && let Symbol::Register(row, ty) = self.lookup(name)?
        {
            return Ok(Address { row, offset: *offset, wide: ty.bits() == 64 });
        }
        let row = self.source(part, Ty::B64)?;
        Ok(Address { row, offset: 0, wide: true })
    }

    pub(crate) fn emit(&mut self, op: Op, class: Class) {
        let (guard, negated) = self.guard;
        self.code.push(Inst { op, guard, negated, line: self.line, class });
    }
}

fn literal(n: Number, ty: Ty) -> u64 {
    match (n, ty) {
        (Number::Single(v), Ty::F64) => (f32::from_bits(v) as f64).to_bits(),
        (Number::Single(v), _) => v as u64,
        (Number::Double(v), Ty::F32) => (f64::from_bits(v) as f32).to_bits() as u64,
        (Number::Integer(v) | Number::Double(v), _) => v,
        (Number::Decimal(v), Ty::F32) => (v as f32).to_bits() as u64,
        (Number::Decimal(v), _) => v.to_bits(),
    }
}

/// `None` if it is no special register; `Some(None)` if it is one that is not emulated.
#[allow(clippy::option_option, reason = "three answers, spelled out above")]
fn special(name: &str) -> Option<Option<Special>> {
    let axis = |s: &str| match s {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((base, a)) = name.split_once('.') {
        let make: fn(u8) -> Special = match base {
            "%tid" => Special::Tid,
            "%ntid" => Special::Ntid,
            "%ctaid" => Special::Ctaid,
            "%nctaid" => Special::Nctaid,
            _ if name.starts_with('%') => return Some(None),
            _ => return None,
        };
        return Some(axis(a).map(make));
    }
    Some(Some(match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_eq" => Special::LaneBit,
        "%lanemask_lt" => Special::LanesBelow { equal: false },
        "%lanemask_le" => Special::LanesBelow { equal: true },
        "%lanemask_gt" => Special::LanesAbove { equal: false },
        "%lanemask_ge" => Special::LanesAbove { equal: true },
        "%dynamic_smem_size" => Special::DynamicSharedBytes,
        "%total_smem_size" => Special::TotalSharedBytes,
        "%smid"
        | "%nsmid"
        | "%gridid"
        | "%clock_hi"
        | "%globaltimer_hi"
        | "%cluster_ctarank"
        | "%is_explicit_cluster"
        | "%aggr_smem_size" => return Some(None),
        _ => return None,
    }))
}
