//! Instructions other than those for memory and for whole warps: control flow, moves, arithmetic by lane.

use crate::counters::Class;
use crate::decode::{Decoded, Decoder, Problem, Symbol, malformed};
use crate::lanes::{Lanes, Modifiers, Row, lanes, lop3};
use crate::program::{NONE, Op};
use crate::syntax::{Instruction, Number, Operand, Ty};

impl<'a> Decoder<'a> {
    pub(crate) fn instruction(&mut self, i: &'a Instruction<'a>) -> Decoded<()> {
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

    pub(crate) fn lanes(
        &mut self,
        f: Lanes,
        ty: Ty,
        o: &'a [Operand<'a>],
        class: Class,
    ) -> Decoded<()> {
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
    pub(crate) fn vector_move(
        &mut self,
        o: &'a [Operand<'a>],
        mut m: Modifiers<'_>,
    ) -> Decoded<()> {
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
    pub(crate) fn clock(&mut self, o: &'a [Operand<'a>]) -> Decoded<bool> {
        let [d, Operand::Name("%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo", 0)] = o
        else {
            return Ok(false);
        };
        let d = self.target(d)?.0;
        self.emit(Op::Clock { d }, Class::Move);
        Ok(true)
    }

    pub(crate) fn logic(&mut self, o: &'a [Operand<'a>], mut m: Modifiers<'_>) -> Decoded<()> {
        m.ty()?;
        m.finish()?;
        let [_, _, _, _, Operand::Number(Number::Integer(0..=255))] = o else {
            return malformed("three sources and a table below 256 were expected");
        };
        self.lanes(lop3(), Ty::B32, o, Class::Integer)
    }

    pub(crate) fn convert_address(
        &mut self,
        o: &'a [Operand<'a>],
        mut m: Modifiers<'_>,
    ) -> Decoded<()> {
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

    pub(crate) fn is_space(&mut self, o: &'a [Operand<'a>], mut m: Modifiers<'_>) -> Decoded<()> {
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

pub(crate) fn not(d: &mut Row, a: &Row) {
    (0..32).for_each(|i| d[i] = !a[i] & 1);
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
