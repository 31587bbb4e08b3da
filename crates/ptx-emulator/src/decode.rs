//! Syntax to [`Program`]: looks up names, types immediates, resolves labels. What an opcode means is decided in
//! `lanes` for arithmetic, and in `decode_memory` and `decode_warp` for everything else.

use crate::cfg::reconverge;
use crate::counters::Class;
use crate::lanes::{Lanes, Modifiers, Row, lanes, lop3};
use crate::program::{Address, Inst, NONE, Op, Program, RowInit, Special};
use crate::shared::SHARED_BASE;
use crate::syntax::{Entry, Instruction, Number, Operand, Space, Statement, Ty, Variable};
use std::collections::HashMap;

/// Why a kernel cannot be decoded.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    /// It is not PTX.
    Malformed(String),
    /// It is PTX that is not emulated.
    Unsupported(String),
}

impl From<String> for Problem {
    fn from(why: String) -> Problem {
        Problem::Unsupported(why)
    }
}

impl From<&str> for Problem {
    fn from(why: &str) -> Problem {
        Problem::Unsupported(why.into())
    }
}

pub(crate) type Decoded<T> = Result<T, Problem>;

/// A problem with the line and mnemonic it came from.
pub(crate) struct Located {
    pub(crate) line: u32,
    pub(crate) opcode: String,
    pub(crate) problem: Problem,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Symbol {
    Register(u32, Ty),
    Shared(u32),
    DynamicShared,
    Local(u32),
    Param(u32),
    Global(u32),
}

#[derive(Default)]
struct Scope<'a> {
    number: u32,
    names: HashMap<&'a str, Symbol>,
    ranges: Vec<(&'a str, u32, Ty)>,
}

/// A label to be found once all are known.
struct Fixup<'a> {
    inst: usize,
    label: &'a str,
    scopes: Vec<u32>,
    line: u32,
}

pub(crate) struct Decoder<'a> {
    globals: &'a HashMap<&'a str, Symbol>,
    scopes: Vec<Scope<'a>>,
    labels: HashMap<(u32, &'a str), u32>,
    tables: HashMap<&'a str, Vec<&'a str>>,
    fixups: Vec<Fixup<'a>>,
    rows: Vec<RowInit>,
    constants: HashMap<RowInit, u32>,
    code: Vec<Inst>,
    line: u32,
    guard: (u32, bool),
    static_shared: u32,
    dynamic_align: u32,
    local_bytes: u32,
}

/// More registers than this are taken for an attack; nvcc's largest kernels use thousands.
const MOST_ROWS: usize = 1 << 16;
/// ptxas' limit of static shared memory, and the hardware's of local memory.
const MOST_STATIC_SHARED: u64 = 48 << 10;
const MOST_LOCAL: u64 = 512 << 10;
const MOST_PARAM: u64 = 32_764;

pub(crate) fn malformed<T>(what: impl Into<String>) -> Decoded<T> {
    Err(Problem::Malformed(what.into()))
}

/// Decodes one kernel. `static_shared` and `globals` are the module's.
pub(crate) fn decode<'a>(
    entry: &'a Entry<'a>,
    globals: &'a HashMap<&'a str, Symbol>,
    static_shared: u32,
    dynamic_align: u32,
) -> Result<Program, Located> {
    let mut d = Decoder {
        globals,
        scopes: vec![Scope::default()],
        labels: HashMap::new(),
        tables: HashMap::new(),
        fixups: Vec::new(),
        rows: Vec::new(),
        constants: HashMap::new(),
        code: Vec::new(),
        line: entry.line,
        guard: (NONE, false),
        static_shared,
        dynamic_align,
        local_bytes: 0,
    };
    let wrong = |line, opcode: &str, problem| Located { line, opcode: opcode.to_owned(), problem };
    let (params, param_bytes) =
        d.params(&entry.params).map_err(|p| wrong(entry.line, ".param", p))?;
    let (mut max_threads, mut required_threads) = (None, None);
    for (directive, numbers) in &entry.limits {
        let axes: [u32; 3] = std::array::from_fn(|i| numbers.get(i).copied().unwrap_or(1));
        match *directive {
            ".maxntid" => max_threads = Some(axes.iter().fold(1u32, |a, b| a.saturating_mul(*b))),
            ".reqntid" => required_threads = Some(axes),
            ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".noreturn" => {}
            other => {
                return Err(wrong(
                    entry.line,
                    other,
                    "launch of clusters, or an unknown limit".into(),
                ));
            }
        }
    }
    let mut scope_count = 0;
    for statement in &entry.body {
        match statement {
            Statement::Open => {
                scope_count += 1;
                d.scopes.push(Scope { number: scope_count, ..Scope::default() });
            }
            Statement::Close => {
                d.scopes.pop();
            }
            Statement::Label(name, line) => {
                let scope = d.scope().number;
                if d.labels.insert((scope, name), d.code.len() as u32).is_some() {
                    let p = Problem::Malformed(format!("label {name} is there twice"));
                    return Err(wrong(*line, name, p));
                }
            }
            Statement::Targets(name, targets) => {
                d.tables.insert(name, targets.clone());
            }
            Statement::Registers(ty, names) => {
                for (name, count) in names {
                    match count {
                        Some(n) => d.scope().ranges.push((name, *n, *ty)),
                        None => {
                            let row =
                                d.row(RowInit::Register).map_err(|p| wrong(d.line, ".reg", p))?;
                            d.scope().names.insert(name, Symbol::Register(row, *ty));
                        }
                    }
                }
            }
            Statement::Variable(v) => {
                d.line = v.line;
                d.variable(v).map_err(|p| wrong(v.line, "declaration", p))?;
            }
            Statement::Instruction(i) => {
                d.line = i.line;
                d.instruction(i).map_err(|p| wrong(i.line, i.opcode, p))?;
            }
        }
    }
    d.link().map_err(|(line, p)| wrong(line, "bra", p))?;
    reconverge(&mut d.code);
    Ok(Program {
        name: entry.name.to_owned(),
        code: d.code,
        rows: d.rows,
        params,
        param_bytes,
        static_shared: d.static_shared,
        dynamic_align: d.dynamic_align,
        local_bytes: d.local_bytes,
        max_threads,
        required_threads,
    })
}

/// Places `bytes` after `used` with `align`; `None` beyond `most`.
pub(crate) fn place(used: u64, align: u64, bytes: u64, most: u64) -> Option<u64> {
    let at = used.next_multiple_of(align.max(1));
    (at.saturating_add(bytes) <= most).then_some(at)
}

impl<'a> Decoder<'a> {
    fn scope(&mut self) -> &mut Scope<'a> {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn params(&mut self, params: &[Variable<'a>]) -> Decoded<(Vec<(u32, u32)>, u32)> {
        let mut out = Vec::new();
        let mut used = 0;
        for p in params {
            let Some(at) = place(used, p.align, p.bytes, MOST_PARAM) else {
                return malformed(format!("parameters of more than {MOST_PARAM} bytes"));
            };
            used = at + p.bytes;
            self.scope().names.insert(p.name, Symbol::Param(at as u32));
            out.push((at as u32, p.bytes as u32));
        }
        Ok((out, used as u32))
    }

    fn variable(&mut self, v: &Variable<'a>) -> Decoded<()> {
        let symbol = match v.space {
            Space::Shared if v.external || v.bytes == 0 => {
                self.dynamic_align = self.dynamic_align.max(v.align as u32);
                Symbol::DynamicShared
            }
            Space::Shared => {
                let used = self.static_shared as u64;
                let Some(at) = place(used, v.align, v.bytes, MOST_STATIC_SHARED) else {
                    return malformed(format!(
                        "{} bytes of static shared memory; the limit is {MOST_STATIC_SHARED}",
                        used.saturating_add(v.bytes)
                    ));
                };
                self.static_shared = (at + v.bytes) as u32;
                Symbol::Shared(at as u32)
            }
            Space::Local => {
                let Some(at) = place(self.local_bytes as u64, v.align, v.bytes, MOST_LOCAL) else {
                    return malformed(format!(
                        "{} bytes of local memory; the limit is {MOST_LOCAL}",
                        v.bytes
                    ));
                };
                self.local_bytes = (at + v.bytes) as u32;
                Symbol::Local(at as u32)
            }
            Space::Param => return Err("a call's parameter".into()),
            _ => return Err("a global variable inside of a kernel".into()),
        };
        self.scope().names.insert(v.name, symbol);
        Ok(())
    }

    fn row(&mut self, init: RowInit) -> Decoded<u32> {
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

    fn lookup(&mut self, name: &'a str) -> Decoded<Symbol> {
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

    fn branch_to(&mut self, label: &'a str) {
        let scopes = self.scopes.iter().rev().map(|s| s.number).collect();
        self.fixups.push(Fixup { inst: self.code.len(), label, scopes, line: self.line });
    }

    fn link(&mut self) -> Result<(), (u32, Problem)> {
        for f in std::mem::take(&mut self.fixups) {
            let found = f.scopes.iter().find_map(|s| self.labels.get(&(*s, f.label)));
            let Some(at) = found else {
                return Err((f.line, Problem::Malformed(format!("no label `{}`", f.label))));
            };
            match &mut self.code[f.inst].op {
                Op::Branch { target, .. } => *target = *at,
                Op::Switch { targets, .. } => targets.push(*at),
                _ => {}
            }
        }
        Ok(())
    }

    fn instruction(&mut self, i: &'a Instruction<'a>) -> Decoded<()> {
        self.guard = (NONE, false);
        if let Some((name, negated)) = i.guard {
            match self.lookup(name)? {
                Symbol::Register(row, Ty::Pred) => self.guard = (row, negated),
                _ => return malformed(format!("`{name}` is not a predicate")),
            }
        }
        let (name, mut m) = Modifiers::split(i.opcode);
        let o = &i.operands;
        match name {
            "bra" => {
                m.take("uni");
                m.finish()?;
                let [Operand::Name(label, 0)] = o.as_slice() else {
                    return malformed("a label was expected");
                };
                self.branch_to(label);
                self.emit(Op::Branch { target: 0, meet: NONE }, Class::Control);
            }
            "brx" => {
                m.take("idx");
                m.take("uni");
                m.finish()?;
                let [index, Operand::Name(table, 0)] = o.as_slice() else {
                    return malformed("an index and a list of labels were expected");
                };
                let index = self.source(index, Ty::U32)?;
                let Some(targets) = self.tables.get(table).cloned() else {
                    return malformed(format!("no list of labels `{table}`"));
                };
                for t in targets {
                    self.branch_to(t);
                }
                self.emit(Op::Switch { targets: Vec::new(), index, meet: NONE }, Class::Control);
            }
            "ret" | "exit" => {
                m.take("uni");
                m.finish()?;
                self.emit(Op::Exit, Class::Control);
            }
            "trap" => self.emit(Op::Trap, Class::Control),
            "brkpt" | "pmevent" | "nanosleep" | "discard" | "applypriority" | "prefetch"
            | "prefetchu" | "griddepcontrol" | "setmaxnreg" => self.emit(Op::Nothing, Class::Other),
            "membar" | "fence" => {
                if m.has("acquire") && m.has("sync_restrict::shared::cluster::cta") {
                    return Err("clusters".into());
                }
                self.emit(Op::Nothing, Class::Barrier);
            }
            "call" => return Err("functions are not called; let them be inlined".into()),
            "mov" if o.iter().any(|x| matches!(x, Operand::List(_))) => self.vector_move(o, m)?,
            "mov" if self.clock(o)? => {}
            "lop3" => self.logic(o, m)?,
            "cvta" => self.convert_address(o, m)?,
            "isspacep" => self.is_space(o, m)?,
            _ => {
                if self.memory(name, m.clone(), o)? || self.warp(name, m.clone(), o)? {
                    return Ok(());
                }
                let class = class(name, i.opcode);
                let ty = m.clone().ty().unwrap_or(Ty::B32);
                match lanes(name, m)? {
                    Some(f) => self.lanes(f, ty, o, class)?,
                    None => return Err("no such instruction here".into()),
                }
            }
        }
        Ok(())
    }

    fn lanes(&mut self, f: Lanes, ty: Ty, o: &'a [Operand<'a>], class: Class) -> Decoded<()> {
        let count = match f {
            Lanes::One(_) | Lanes::OneBy(..) => 1,
            Lanes::Two(_) | Lanes::TwoBy(..) => 2,
            Lanes::Three(_) | Lanes::ThreeBy(..) => 3,
            Lanes::Four(_) => 4,
        };
        if o.len() != count + 1 {
            return malformed(format!("{} operands; the form takes {}", o.len(), count + 1));
        }
        let (first, second) = match &o[0] {
            Operand::Pair(p, q) => (&**p, Some(&**q)),
            d => (d, None),
        };
        let mut s = Vec::with_capacity(count);
        for operand in &o[1..] {
            s.push(self.source(operand, ty)?);
        }
        let d = self.target(first)?.0;
        let op = match f {
            Lanes::One(f) => Op::Lanes1 { f, d, a: s[0] },
            Lanes::Two(f) => Op::Lanes2 { f, d, a: s[0], b: s[1] },
            Lanes::Three(f) => Op::Lanes3 { f, d, a: s[0], b: s[1], c: s[2] },
            Lanes::OneBy(f, by) => Op::Lanes1By { f, by, d, a: s[0] },
            Lanes::TwoBy(f, by) => Op::Lanes2By { f, by, d, a: s[0], b: s[1] },
            Lanes::ThreeBy(f, by) => Op::Lanes3By { f, by, d, a: s[0], b: s[1], c: s[2] },
            Lanes::Four(f) => Op::Lanes4 { f, d, sources: [s[0], s[1], s[2], s[3]] },
        };
        if let Some(q) = second {
            // p|q: q is the comparison's opposite, under the same combination.
            let q = self.target(q)?.0;
            if count == 3 {
                return Err("two destinations with a combining predicate".into());
            }
            if q == d {
                return malformed("the same register twice");
            }
            self.emit(op, class);
            self.emit(Op::Lanes1 { f: not, d: q, a: d }, Class::Other);
        } else {
            self.emit(op, class);
        }
        Ok(())
    }

    /// `mov.b64 {a, b}, c` and its reverse.
    fn vector_move(&mut self, o: &'a [Operand<'a>], mut m: Modifiers<'_>) -> Decoded<()> {
        let ty = m.ty()?;
        m.finish()?;
        let [to, from] = o else { return malformed("two operands were expected") };
        let parts = |n: usize| match (n, ty.bits()) {
            (1, b) => Ok(b),
            (2 | 4, b @ (16 | 32 | 64)) if b / n as u32 >= 8 => Ok(b / n as u32),
            _ => Err(Problem::from(format!("{n} parts of {} bits", ty.bits()))),
        };
        match (to, from) {
            (Operand::List(_), Operand::List(_)) => return Err("both sides in braces".into()),
            (Operand::List(all), from) => {
                let bits = parts(all.len())?;
                let a = self.source(from, ty)?;
                let d = self.targets(to)?.into_iter().map(|t| t.0).collect();
                self.emit(Op::Unpack { d, a, bits }, Class::Move);
            }
            (to, from) => {
                let parts_rows = self.sources(from, ty)?;
                let bits = parts(parts_rows.len())?;
                let d = self.target(to)?.0;
                self.emit(Op::Pack { d, parts: parts_rows, bits }, Class::Move);
            }
        }
        Ok(())
    }

    /// `mov.u64 d, %clock64`.
    fn clock(&mut self, o: &'a [Operand<'a>]) -> Decoded<bool> {
        let [d, Operand::Name("%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo", 0)] = o
        else {
            return Ok(false);
        };
        let d = self.target(d)?.0;
        self.emit(Op::Clock { d }, Class::Move);
        Ok(true)
    }

    fn logic(&mut self, o: &'a [Operand<'a>], mut m: Modifiers<'_>) -> Decoded<()> {
        m.ty()?;
        m.finish()?;
        let [_, _, _, _, Operand::Number(Number::Integer(0..=255))] = o else {
            return malformed("three sources and a table below 256 were expected");
        };
        self.lanes(lop3(), Ty::B32, o, Class::Integer)
    }

    fn convert_address(&mut self, o: &'a [Operand<'a>], mut m: Modifiers<'_>) -> Decoded<()> {
        fn add(d: &mut Row, a: &Row, b: &Row) {
            (0..32).for_each(|i| d[i] = a[i].wrapping_add(b[i]));
        }
        fn sub(d: &mut Row, a: &Row, b: &Row) {
            (0..32).for_each(|i| d[i] = a[i].wrapping_sub(b[i]));
        }
        let to = m.take("to");
        let window =
            match m.take_any(&["global", "const", "shared", "shared::cta", "local", "param"]) {
                Some("global" | "const") => 0,
                Some("shared" | "shared::cta") => crate::memory::SHARED_WINDOW,
                Some("local") => crate::memory::LOCAL_WINDOW,
                Some("param") => crate::memory::PARAM_WINDOW,
                _ => return Err("this space".into()),
            };
        if m.ty()?.bits() != 64 {
            return Err("32-bit addresses".into());
        }
        m.finish()?;
        let [d, a] = o else { return malformed("two operands were expected") };
        let a = self.source(a, Ty::U64)?;
        let b = self.constant(window)?;
        let d = self.target(d)?.0;
        self.emit(Op::Lanes2 { f: if to { sub } else { add }, d, a, b }, Class::Move);
        Ok(())
    }

    fn is_space(&mut self, o: &'a [Operand<'a>], mut m: Modifiers<'_>) -> Decoded<()> {
        fn inside(d: &mut Row, a: &Row, b: &Row) {
            (0..32).for_each(|i| d[i] = u64::from(a[i] >> 40 == b[i] >> 40));
        }
        fn below(d: &mut Row, a: &Row, b: &Row) {
            (0..32).for_each(|i| d[i] = u64::from(a[i] < b[i]));
        }
        let (f, bound): (fn(&mut Row, &Row, &Row), _) =
            match m.take_any(&["global", "shared", "shared::cta", "local", "param"]) {
                Some("global") => (below, crate::memory::SHARED_WINDOW),
                Some("shared" | "shared::cta") => (inside, crate::memory::SHARED_WINDOW),
                Some("local") => (inside, crate::memory::LOCAL_WINDOW),
                Some("param") => (inside, crate::memory::PARAM_WINDOW),
                _ => return Err("this space".into()),
            };
        m.finish()?;
        let [d, a] = o else { return malformed("two operands were expected") };
        let a = self.source(a, Ty::U64)?;
        let b = self.constant(bound)?;
        let d = self.target(d)?.0;
        self.emit(Op::Lanes2 { f, d, a, b }, Class::Compare);
        Ok(())
    }
}

fn not(d: &mut Row, a: &Row) {
    (0..32).for_each(|i| d[i] = !a[i] & 1);
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

fn class(name: &str, opcode: &str) -> Class {
    let float = [".f32", ".f64", ".f16", ".bf16", ".f16x2", ".bf16x2"];
    match name {
        "setp" | "testp" | "set" => Class::Compare,
        "cvt" => Class::Convert,
        "mov" | "selp" | "slct" => Class::Move,
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "div" | "rem" => {
            Class::Special
        }
        _ if float.iter().any(|f| opcode.ends_with(f)) => Class::Float,
        _ => Class::Integer,
    }
}
