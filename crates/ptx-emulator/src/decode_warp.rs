//! Decoding of what involves a whole warp or block: barriers, shuffles, votes, matrix products.

use crate::counters::Class;
use crate::decode::{Decoded, Decoder, malformed};
use crate::decode_memory::immediate;
use crate::lanes::Modifiers;
use crate::program::{
    Atomic, BarrierReduce, BarrierVote, MatrixTypes, Mma, Op, Shuffle, Vote, Wgmma,
};
use crate::syntax::{Operand, Ty};

/// `p`, or `!p` with the flag.
fn negated<'a, 'b>(o: &'b Operand<'a>) -> (Operand<'a>, bool)
where
    'a: 'b,
{
    match o {
        Operand::Not(name) => (Operand::Name(name, 0), true),
        other => (other.clone(), false),
    }
}

impl<'a> Decoder<'a> {
    /// True if `name` belongs here.
    pub(crate) fn warp(
        &mut self,
        name: &str,
        m: Modifiers<'_>,
        o: &'a [Operand<'a>],
    ) -> Decoded<bool> {
        match name {
            "bar" | "barrier" => self.barrier(m, o)?,
            "shfl" => self.shuffle(m, o)?,
            "vote" => self.vote(m, o)?,
            "match" => self.matching(m, o)?,
            "redux" => self.reduce(m, o)?,
            "activemask" => {
                let [d] = o else { return malformed("one operand was expected") };
                let d = self.target(d)?.0;
                self.emit(Op::ActiveMask { d }, Class::Warp);
            }
            "elect" => {
                let [d, mask] = o else { return malformed("two operands were expected") };
                let Operand::Pair(d, p) = d else { return malformed("d|p was expected") };
                let (d, p) = (self.target(d)?.0, self.target(p)?.0);
                let mask = self.source(mask, Ty::B32)?;
                self.emit(Op::Elect { d, p, mask }, Class::Warp);
            }
            "mma" => self.mma(m, o)?,
            "wgmma" => self.wgmma(m, o)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn barrier(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        if m.has("cluster") {
            return Err("barriers of a cluster".into());
        }
        if m.take("warp") {
            m.take("sync");
            m.finish()?;
            let [mask] = o else { return malformed("a mask was expected") };
            let mask = self.source(mask, Ty::B32)?;
            self.emit(Op::WarpBarrier { mask }, Class::Warp);
            return Ok(());
        }
        m.take("cta");
        m.take("aligned");
        let what = m.take_any(&["sync", "arrive", "red"]).ok_or("this form")?;
        let (o, vote) = if what == "red" {
            let how = match m.take_any(&["popc", "and", "or"]) {
                Some("popc") => BarrierReduce::Count,
                Some("and") => BarrierReduce::And,
                Some(_) => BarrierReduce::Or,
                None => return Err("this reduction".into()),
            };
            m.ty()?;
            let [d, middle @ .., p] = o else { return malformed("operands of bar.red") };
            let (p, negated) = negated(p);
            // The predicate's name outlives the clone: it borrows from the text.
            let Operand::Name(name, 0) = p else { return malformed("a predicate was expected") };
            let p = self.predicate(name)?;
            let d = self.target(d)?.0;
            (middle, Some(BarrierVote { d, p, negated, how }))
        } else {
            (o, None)
        };
        m.finish()?;
        let (id, threads) = match o {
            [id] => (self.source(id, Ty::U32)?, None),
            [id, n] => (self.source(id, Ty::U32)?, Some(self.source(n, Ty::U32)?)),
            [] if what == "sync" => (self.constant(0)?, None),
            _ => return malformed("operands of a barrier"),
        };
        if what == "arrive" && threads.is_none() {
            return malformed("bar.arrive needs a number of threads");
        }
        self.emit(Op::Barrier { id, threads, waits: what != "arrive", vote }, Class::Barrier);
        Ok(())
    }

    fn shuffle(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        if !m.take("sync") {
            return Err("without `.sync`".into());
        }
        let how = match m.take_any(&["up", "down", "bfly", "idx"]) {
            Some("up") => Shuffle::Up,
            Some("down") => Shuffle::Down,
            Some("bfly") => Shuffle::Butterfly,
            Some(_) => Shuffle::Index,
            None => return Err("this mode".into()),
        };
        m.ty()?;
        m.finish()?;
        let [d, a, b, c, mask] = o else { return malformed("five operands were expected") };
        let (d, p) = match d {
            Operand::Pair(d, p) => (self.target(d)?.0, Some(self.target(p)?.0)),
            d => (self.target(d)?.0, None),
        };
        let a = self.source(a, Ty::B32)?;
        let (b, c) = (self.source(b, Ty::B32)?, self.source(c, Ty::B32)?);
        let mask = self.source(mask, Ty::B32)?;
        self.emit(Op::Shuffle { how, d, p, a, b, c, mask }, Class::Warp);
        Ok(())
    }

    fn vote(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        if !m.take("sync") {
            return Err("without `.sync`".into());
        }
        let how = match m.take_any(&["all", "any", "uni", "ballot"]) {
            Some("all") => Vote::All,
            Some("any") => Vote::Any,
            Some("uni") => Vote::Uniform,
            Some(_) => Vote::Ballot,
            None => return Err("this mode".into()),
        };
        m.ty()?;
        m.finish()?;
        let [d, p, mask] = o else { return malformed("three operands were expected") };
        let (p, negated) = negated(p);
        let p = match p {
            Operand::Name(name, 0) => self.predicate(name)?,
            Operand::Number(n) => self.source(&Operand::Number(n), Ty::Pred)?,
            _ => return malformed("a predicate was expected"),
        };
        let mask = self.source(mask, Ty::B32)?;
        let d = self.target(d)?.0;
        self.emit(Op::Vote { how, d, p, negated, mask }, Class::Warp);
        Ok(())
    }

    fn matching(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        m.take("sync");
        let all = m.take("all");
        m.take("any");
        let bits = m.ty()?.bits();
        m.finish()?;
        let [d, a, mask] = o else { return malformed("three operands were expected") };
        let (d, p) = match d {
            Operand::Pair(d, p) => (self.target(d)?.0, Some(self.target(p)?.0)),
            d => (self.target(d)?.0, None),
        };
        let a = self.source(a, Ty::B64)?;
        let mask = self.source(mask, Ty::B32)?;
        self.emit(Op::Match { all, d, p, a, bits, mask }, Class::Warp);
        Ok(())
    }

    fn reduce(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        m.take("sync");
        let how = match m.take_any(&["add", "min", "max", "and", "or", "xor"]) {
            Some("add") => Atomic::Add,
            Some("min") => Atomic::Min,
            Some("max") => Atomic::Max,
            Some("and") => Atomic::And,
            Some("or") => Atomic::Or,
            Some(_) => Atomic::Xor,
            None => return Err("this reduction".into()),
        };
        let ty = m.ty()?;
        m.finish()?;
        if ty.bits() != 32 || ty.float() {
            return Err(format!("type {ty:?}").into());
        }
        let [d, a, mask] = o else { return malformed("three operands were expected") };
        let (a, mask) = (self.source(a, ty)?, self.source(mask, Ty::B32)?);
        let d = self.target(d)?.0;
        self.emit(Op::Reduce { how, ty, d, a, mask }, Class::Warp);
        Ok(())
    }

    fn mma(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        m.take("sync");
        m.take("aligned");
        let shape = m.first().unwrap_or("").to_owned();
        if !m.take("row") || !m.take("col") {
            return Err("a layout other than row.col".into());
        }
        let (c, b, a, d) = (m.ty()?, m.ty()?, m.ty()?, m.ty()?);
        m.finish()?;
        let k: u32 = match shape.strip_prefix("m16n8k").and_then(|k| k.parse().ok()) {
            Some(k) => k,
            None => return Err(format!("shape {shape}").into()),
        };
        let fits = c == d
            && match (a, b) {
                (Ty::F16, Ty::F16) => matches!(c, Ty::F32 | Ty::F16) && matches!(k, 8 | 16),
                (Ty::BF16, Ty::BF16) => c == Ty::F32 && matches!(k, 8 | 16),
                (Ty::TF32, Ty::TF32) => c == Ty::F32 && matches!(k, 4 | 8),
                (Ty::S8 | Ty::U8, Ty::S8 | Ty::U8) => c == Ty::S32 && matches!(k, 16 | 32),
                (Ty::E4M3 | Ty::E5M2, Ty::E4M3 | Ty::E5M2) => c == Ty::F32 && k == 32,
                _ => false,
            };
        if !fits {
            return Err(format!("{shape} of these types").into());
        }
        let [od, oa, ob, oc] = o else { return malformed("four operands were expected") };
        let (ra, rb, rc) =
            (self.sources(oa, Ty::B32)?, self.sources(ob, Ty::B32)?, self.sources(oc, Ty::B32)?);
        let rd: Vec<u32> = self.targets(od)?.into_iter().map(|t| t.0).collect();
        let per_register = 32 / a.bits();
        let blocks = (k / (4 * per_register)) as usize;
        let accumulators = if c == Ty::F16 { 2 } else { 4 };
        let counts = [ra.len(), rb.len(), rc.len(), rd.len()];
        if counts != [2 * blocks, blocks, accumulators, accumulators] {
            return malformed(format!("{counts:?} registers of A, B, C and D"));
        }
        let types = MatrixTypes { a, b, c };
        let mma = Mma { types, k, d: rd, a: ra, b: rb, c: rc };
        self.emit(Op::Mma(Box::new(mma)), Class::Matrix);
        Ok(())
    }

    fn wgmma(&mut self, mut m: Modifiers<'_>, o: &'a [Operand<'a>]) -> Decoded<()> {
        let what = m.first().unwrap_or("").to_owned();
        m.take("sync");
        m.take("aligned");
        match (what.as_str(), o) {
            ("fence", _) => self.emit(Op::Nothing, Class::Barrier),
            ("commit_group", _) => self.emit(Op::WgmmaCommit, Class::Matrix),
            ("wait_group", [n]) => {
                let groups = immediate(n)?.min(u32::MAX as u64) as u32;
                self.emit(Op::WgmmaWait { groups }, Class::Matrix);
            }
            ("mma_async", [od, oa, ob, scale, rest @ ..]) => {
                let shape = m.first().unwrap_or("").to_owned();
                let (b, a, d) = (m.ty()?, m.ty()?, m.ty()?);
                m.finish()?;
                let n = shape.strip_prefix("m64n").and_then(|s| s.strip_suffix("k16"));
                let n: u32 = match n.and_then(|n| n.parse().ok()) {
                    Some(n) if n % 8 == 0 && n > 0 && n <= 256 => n,
                    _ => return Err(format!("shape {shape}").into()),
                };
                if !(a == b && matches!(a, Ty::BF16 | Ty::F16) && d == Ty::F32) {
                    return Err("other types than f32 += bf16 · bf16 or f16 · f16".into());
                }
                let registers = matches!(oa, Operand::List(_));
                let (negate, transposed) = match rest {
                    [] => ([1, 1], [0, 0]),
                    [x, y] => ([immediate(x)?, immediate(y)?], [0, 0]),
                    [x, y, tb] if registers => {
                        ([immediate(x)?, immediate(y)?], [0, immediate(tb)?])
                    }
                    [x, y, ta, tb] if !registers => {
                        ([immediate(x)?, immediate(y)?], [immediate(ta)?, immediate(tb)?])
                    }
                    _ => return malformed("operands of wgmma"),
                };
                let rd: Vec<u32> = self.targets(od)?.into_iter().map(|t| t.0).collect();
                let ra = self.sources(oa, Ty::B64)?;
                if rd.len() != n as usize / 2 || ra.len() != if registers { 4 } else { 1 } {
                    return malformed(format!("{} accumulators, {} of A", rd.len(), ra.len()));
                }
                let wgmma = Wgmma {
                    ty: a,
                    n,
                    d: rd,
                    a: ra,
                    b: self.source(ob, Ty::B64)?,
                    scale_d: self.source(scale, Ty::Pred)?,
                    negate: negate.map(|x| x as u32 == u32::MAX),
                    transposed: transposed.map(|x| x == 1),
                };
                self.emit(Op::Wgmma(Box::new(wgmma)), Class::Matrix);
            }
            _ => return Err("this form".into()),
        }
        Ok(())
    }

    fn predicate(&mut self, name: &'a str) -> Decoded<u32> {
        Ok(self.target(&Operand::Name(name, 0))?.0)
    }
}
