//! Decoding of what touches memory: loads, stores, atomics, asynchronous copies, mbarriers, matrix loads.

use crate::counters::Class;
use crate::decode::{Decoded, Decoder, Problem, malformed};
use crate::lanes::Modifiers;
use crate::program::{Atomic, MbarrierOp, Op};
use crate::syntax::{Number, Operand, Space, Ty};

/// Takes the state space; generic if none is named.
fn space(m: &mut Modifiers<'_>) -> Decoded<Space> {
    let all = ["global", "const", "shared", "shared::cta", "local", "param", "param::entry"];
    if m.has("shared::cluster") {
        return Err("shared memory of a cluster".into());
    }
    if m.has("param::func") {
        return Err("a function's parameters".into());
    }
    Ok(match m.take_any(&all) {
        None => Space::Generic,
        Some("global") => Space::Global,
        Some("const") => Space::Const,
        Some("shared" | "shared::cta") => Space::Shared,
        Some("local") => Space::Local,
        Some(_) => Space::Param,
    })
}

/// Takes the hints that change no result: caches, ordering (kept anyway), scope.
fn hints(m: &mut Modifiers<'_>) -> Decoded<()> {
    for h in
        ["weak", "nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "cta", "gpu", "sys", "unified"]
    {
        m.take(h);
    }
    for h in ["L2::64B", "L2::128B", "L2::256B", "L2::cache_hint"] {
        m.take(h);
    }
    for level in ["L1", "L2"] {
        for h in ["evict_normal", "evict_unchanged", "evict_first", "evict_last", "no_allocate"] {
            m.take(&format!("{level}::{h}"));
        }
    }
    if m.take("cluster") {
        return Err("cluster scope".into());
    }
    Ok(())
}

/// Takes an ordering; true if the access is one that may meet another thread's without a race.
fn ordered(m: &mut Modifiers<'_>) -> bool {
    m.take_any(&["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"]).is_some()
}

fn vector(m: &mut Modifiers<'_>) -> Decoded<usize> {
    match m.take_any(&["v2", "v4", "v8"]) {
        None => Ok(1),
        Some("v2") => Ok(2),
        Some("v4") => Ok(4),
        Some(_) => Err("256-bit accesses".into()),
    }
}

/// An immediate operand.
pub(crate) fn immediate(o: &Operand<'_>) -> Decoded<u64> {
    match o {
        Operand::Number(Number::Integer(n)) => Ok(*n),
        _ => malformed("a constant was expected"),
    }
}

fn small(o: &Operand<'_>) -> Decoded<u32> {
    immediate(o).map(|n| n.min(u32::MAX as u64) as u32)
}

impl<'a> Decoder<'a> {
    /// True if `name` belongs here.
    pub(crate) fn memory(
        &mut self,
        name: &str,
        m: Modifiers<'_>,
        o: &'a [Operand<'a>],
    ) -> Decoded<bool> {
        match name {
            "ld" | "ldu" => self.load(m, o)?,
            "st" => self.store(m, o)?,
            "atom" => self.atomic(m, o, true)?,
            "red" => self.atomic(m, o, false)?,
            "cp" => self.copy(m, o)?,
            "ldmatrix" | "stmatrix" => self.matrix_move(name == "ldmatrix", m, o)?,
            "mbarrier" => self.mbarrier(m, o)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn load(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        let atomic = ordered(&mut m);
        let space = space(&mut m)?;
        hints(&mut m)?;
        let (ty, count) = (m.ty()?, vector(&mut m)?);
        m.finish()?;
        let ([d, address] | [d, address, _]) = o else {
            return malformed("two operands were expected");
        };
        if ty.bits() < 8 || ty.bytes() * count as u64 > 16 || ty == Ty::B128 {
            return Err(format!("{count} times {ty:?}").into());
        }
        let d = self.targets(d)?;
        if d.len() != count {
            return malformed(format!("{} registers for {count} values", d.len()));
        }
        // A signed value fills its register.
        let address = self.address(address)?;
        let d = d.into_iter().map(|t| t.0).collect();
        self.emit(Op::Load { space, ty, d, address, atomic }, Class::Load);
        Ok(())
    }

    fn store(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        if m.has("async") {
            return Err("asynchronous stores to a cluster".into());
        }
        let atomic = ordered(&mut m);
        let space = space(&mut m)?;
        hints(&mut m)?;
        let (ty, count) = (m.ty()?, vector(&mut m)?);
        m.finish()?;
        let ([address, a] | [address, a, _]) = o else {
            return malformed("two operands were expected");
        };
        if ty.bits() < 8 || ty.bytes() * count as u64 > 16 || ty == Ty::B128 {
            return Err(format!("{count} times {ty:?}").into());
        }
        if matches!(space, Space::Param | Space::Const) {
            return Err("a store to this space".into());
        }
        let a = self.sources(a, ty)?;
        if a.len() != count {
            return malformed(format!("{} registers for {count} values", a.len()));
        }
        let address = self.address(address)?;
        self.emit(Op::Store { space, ty, a, address, atomic }, Class::Store);
        Ok(())
    }

    fn atomic(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>], returns: bool) -> Decoded<()> {
        if m.has("async") {
            return Err("asynchronous reductions to a cluster".into());
        }
        ordered(&mut m);
        let space = space(&mut m)?;
        hints(&mut m)?;
        let ops = ["add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas"];
        let how = match m.take_any(&ops).ok_or("this operation")? {
            "add" => Atomic::Add,
            "min" => Atomic::Min,
            "max" => Atomic::Max,
            "and" => Atomic::And,
            "or" => Atomic::Or,
            "xor" => Atomic::Xor,
            "inc" => Atomic::Inc,
            "dec" => Atomic::Dec,
            "exch" => Atomic::Exchange,
            _ => Atomic::CompareSwap,
        };
        let noftz = m.take("noftz");
        let ty = m.ty()?;
        m.finish()?;
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return Err("an atomic in this space".into());
        }
        let allowed = match how {
            Atomic::Add => match ty {
                Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::F32 | Ty::F64 => !noftz,
                Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 => noftz,
                _ => false,
            },
            Atomic::Min | Atomic::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
            Atomic::And | Atomic::Or | Atomic::Xor | Atomic::Exchange => {
                matches!(ty, Ty::B32 | Ty::B64 | Ty::U32 | Ty::U64 | Ty::S32 | Ty::F32)
            }
            Atomic::Inc | Atomic::Dec => ty == Ty::U32,
            Atomic::CompareSwap => {
                matches!(ty, Ty::B16 | Ty::B32 | Ty::B64 | Ty::U32 | Ty::U64 | Ty::S32)
            }
        };
        if !allowed {
            return Err(format!("this operation on {ty:?}").into());
        }
        let (d, rest) = if returns {
            let [d, rest @ ..] = o else { return malformed("no operands") };
            (self.target(d)?.0, rest)
        } else {
            (self.scratch()?, o)
        };
        let (address, b, c) = match (rest, how) {
            ([a, b, c], Atomic::CompareSwap) => (a, b, Some(c)),
            ([a, b], _) if how != Atomic::CompareSwap => (a, b, None),
            ([a, b, _], _) if how != Atomic::CompareSwap => (a, b, None), // a cache policy
            _ => return malformed("operands of an atomic"),
        };
        let address = self.address(address)?;
        let b = self.source(b, ty)?;
        let c = match c {
            Some(c) => self.source(c, ty)?,
            None => b,
        };
        self.emit(Op::Atomic { space, ty, how, d, address, b, c }, Class::Atomic);
        Ok(())
    }

    fn copy(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        if !m.take("async") {
            return Err("this copy".into());
        }
        if m.take("bulk") {
            return self.bulk(m, o);
        }
        if m.take("commit_group") {
            m.finish()?;
            self.emit(Op::CopyCommit, Class::Copy);
            return Ok(());
        }
        if m.take("wait_all") {
            m.finish()?;
            // What is not in a group yet is waited for too.
            self.emit(Op::CopyCommit, Class::Other);
            self.emit(Op::CopyWait { groups: 0 }, Class::Copy);
            return Ok(());
        }
        if m.take("wait_group") {
            m.finish()?;
            let [n] = o else { return malformed("a number of groups was expected") };
            let groups = small(n)?;
            self.emit(Op::CopyWait { groups }, Class::Copy);
            return Ok(());
        }
        if m.has("mbarrier") {
            return Err("arrival of cp.async on an mbarrier".into());
        }
        let narrow = m.take("ca");
        if !narrow && !m.take("cg") {
            return Err("neither .ca nor .cg".into());
        }
        if m.has("shared::cluster") {
            return Err("shared memory of a cluster".into());
        }
        let to_shared = m.take("shared") || m.take("shared::cta");
        let policy = m.has("L2::cache_hint");
        hints(&mut m)?;
        if !to_shared || !m.take("global") {
            return Err("a copy between these spaces".into());
        }
        m.finish()?;
        let [to, from, size, rest @ ..] = o else { return malformed("operands of cp.async") };
        let bytes = small(size)?;
        if !(bytes == 16 || narrow && (bytes == 4 || bytes == 8)) {
            return malformed(format!("a copy of {bytes} bytes"));
        }
        let rest = if policy { rest.split_last().map_or(rest, |r| r.1) } else { rest };
        let (mut source_bytes, mut ignore) = (None, None);
        match rest {
            [] => {}
            [x] => {
                let (row, ty) = self.source_typed(x, Ty::U32)?;
                if ty == Ty::Pred {
                    ignore = Some(row);
                } else {
                    source_bytes = Some(row);
                }
            }
            _ => return malformed("operands of cp.async"),
        }
        let (to, from) = (self.address(to)?, self.address(from)?);
        self.emit(Op::CopyAsync { to, from, bytes, source_bytes, ignore }, Class::Copy);
        Ok(())
    }

    fn bulk(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        if m.take("prefetch") {
            self.emit(Op::Nothing, Class::Other);
            return Ok(());
        }
        let tensor = m.take("tensor");
        let first = m.first();
        let axes = match (tensor, first) {
            (true, Some(d @ ("1d" | "2d" | "3d" | "4d" | "5d"))) => {
                usize::from(d.as_bytes()[0] - b'0')
            }
            (false, Some("shared::cluster" | "shared::cta")) => 0,
            _ => return Err("a bulk store, reduction or its groups".into()),
        };
        if tensor && m.take_any(&["shared::cluster", "shared::cta"]).is_none() {
            return Err("a bulk store or reduction of a tensor".into());
        }
        if !m.take("global") {
            return Err("a bulk copy between these spaces".into());
        }
        m.take("tile");
        if m.has("multicast::cluster") {
            return Err("multicast to a cluster".into());
        }
        if !m.take("mbarrier::complete_tx::bytes") {
            return Err("without an mbarrier".into());
        }
        m.take("L2::cache_hint");
        m.finish()?;
        if tensor {
            let ([to, Operand::Address(from), mbarrier]
            | [to, Operand::Address(from), mbarrier, _]) = o
            else {
                return malformed("operands of a tensor copy");
            };
            let [map, coordinates] = from.as_slice() else {
                return malformed("a tensor map and coordinates were expected");
            };
            let map = self.address_part(map)?;
            let coordinates = self.sources(coordinates, Ty::S32)?;
            if coordinates.len() != axes {
                return malformed(format!("{} coordinates for {axes} axes", coordinates.len()));
            }
            let (to, mbarrier) = (self.address(to)?, self.address(mbarrier)?);
            self.emit(Op::TensorCopy { to, map, coordinates, mbarrier }, Class::Copy);
        } else {
            let ([to, from, bytes, mbarrier] | [to, from, bytes, mbarrier, _]) = o else {
                return malformed("operands of a bulk copy");
            };
            let bytes = self.source(bytes, Ty::U32)?;
            let (to, from) = (self.address(to)?, self.address(from)?);
            let mbarrier = self.address(mbarrier)?;
            self.emit(Op::BulkCopy { to, from, bytes, mbarrier }, Class::Copy);
        }
        Ok(())
    }

    fn matrix_move(
        &mut self,
        load: bool,
        mut m: Modifiers<'_>,
        o: &'a [Operand<'a>],
    ) -> Decoded<()> {
        m.take("sync");
        m.take("aligned");
        if !m.take("m8n8") {
            return Err("this shape".into());
        }
        let count = match m.take_any(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err("no number of matrices".into()),
        };
        let transposed = m.take("trans");
        if !matches!(space(&mut m)?, Space::Shared | Space::Generic) {
            return Err("this space".into());
        }
        if !m.take("b16") {
            return Err("this element type".into());
        }
        m.finish()?;
        let [first, second] = o else { return malformed("two operands were expected") };
        let (registers, address) = if load { (first, second) } else { (second, first) };
        let rows: Vec<u32> = if load {
            self.targets(registers)?.into_iter().map(|t| t.0).collect()
        } else {
            self.sources(registers, Ty::B32)?
        };
        if rows.len() != count {
            return malformed(format!("{} registers for {count} matrices", rows.len()));
        }
        let address = self.address(address)?;
        let op = if load {
            Op::LoadMatrix { d: rows, transposed, address }
        } else {
            Op::StoreMatrix { a: rows, transposed, address }
        };
        self.emit(op, Class::MatrixMove);
        Ok(())
    }

    fn mbarrier(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        let what = m.first().unwrap_or("").to_owned();
        let (expect, parity) = (m.take("expect_tx"), m.take("parity"));
        for h in [
            "release",
            "acquire",
            "relaxed",
            "cta",
            "cluster",
            "shared",
            "shared::cta",
            "shared::cluster",
        ] {
            m.take(h);
        }
        if !m.take("b64") {
            return Err("this form".into());
        }
        m.finish()?;
        let op = match what.as_str() {
            "init" => MbarrierOp::Init,
            "inval" => MbarrierOp::Invalidate,
            "arrive" => MbarrierOp::Arrive { expect },
            "expect_tx" => MbarrierOp::Expect,
            "test_wait" => MbarrierOp::Test { parity, spins: false },
            "try_wait" => MbarrierOp::Test { parity, spins: true },
            _ => return Err("this form".into()),
        };
        let (d, rest) = match (op, o) {
            (MbarrierOp::Arrive { .. } | MbarrierOp::Test { .. }, [d, rest @ ..]) => {
                (self.target(d)?.0, rest)
            }
            _ => (self.scratch()?, o),
        };
        let [address, rest @ ..] = rest else { return malformed("no mbarrier") };
        let address = self.address(address)?;
        let value = match (op, rest) {
            (MbarrierOp::Invalidate, []) => self.constant(0)?,
            (MbarrierOp::Arrive { expect: false }, []) => self.constant(1)?,
            (MbarrierOp::Test { spins: true, .. }, [v, _]) | (_, [v]) => self.source(v, Ty::U32)?,
            _ => return Err(Problem::Malformed("operands of an mbarrier".into())),
        };
        self.emit(Op::Mbarrier { op, d, address, value }, Class::Barrier);
        Ok(())
    }
}
