//! One warp: 32 lanes in lockstep under an active mask. A divergent branch runs its sides one after the other and
//! joins them at its post-dominator.

use crate::asynchronous::Copies;
use crate::block::{Block, Done, Wrong, WrongAt, wrong};
use crate::error::FaultKind;
use crate::lanes::Row;
use crate::program::{Address, Inst, NONE, Op, Special};
use crate::wgmma::Products;

/// Lanes that run together: where, until where, which.
#[derive(Clone, Copy, Debug)]
struct Frame {
    pc: u32,
    meet: u32,
    mask: u32,
}

/// Why a warp's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It did not; go on with the next instruction.
    Next,
    /// It waits, or tested an mbarrier in vain, or has ended.
    Idle,
    /// It has had enough for now.
    TurnOver,
}

#[derive(Default)]
pub(crate) struct Warp {
    pub(crate) id: u32,
    pub(crate) rows: Vec<Row>,
    pub(crate) live: u32,
    /// Where it waits for a barrier.
    pub(crate) waiting: Option<u32>,
    /// Where it last tested an mbarrier in vain.
    pub(crate) spins_at: u32,
    frames: Vec<Frame>,
    pub(crate) local: Vec<u8>,
    pub(crate) copies: Copies,
    pub(crate) products: Products,
}

/// The lanes of a mask.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}

impl Warp {
    pub(crate) fn start(&mut self, block: &Block<'_>, id: u32, count: u32) {
        let launch = block.launch;
        self.id = id;
        self.rows.clear();
        self.rows.extend_from_slice(&launch.rows);
        self.live = if count == 32 { u32::MAX } else { (1 << count) - 1 };
        self.waiting = None;
        self.spins_at = 0;
        self.frames.clear();
        self.frames.push(Frame { pc: 0, meet: NONE, mask: self.live });
        self.local.clear();
        self.local.resize(launch.program.local_bytes as usize * 32, 0xff);
        self.copies = Copies::default();
        self.products = Products::default();
        let ctaid = block.id();
        for (row, special) in &launch.specials {
            self.rows[*row as usize] = std::array::from_fn(|i| {
                let lane = i as u32;
                let below = (1u64 << lane) - 1;
                let bit = 1u64 << lane;
                let value = match *special {
                    Special::Tid(a) => block.thread(id, lane)[a as usize],
                    Special::Ctaid(a) => ctaid[a as usize],
                    Special::Lane => lane,
                    Special::Warp => id,
                    Special::LaneBit => bit as u32,
                    Special::LanesBelow { equal } => (below | if equal { bit } else { 0 }) as u32,
                    Special::LanesAbove { equal } => (!below & !if equal { 0 } else { bit }) as u32,
                    _ => 0,
                };
                value as u64
            });
        }
    }

    /// Writes the lanes of `mask`.
    pub(crate) fn put(&mut self, row: u32, mask: u32, values: &Row) {
        let d = &mut self.rows[row as usize];
        if mask == u32::MAX {
            *d = *values;
        } else {
            for i in 0..32 {
                d[i] = if mask >> i & 1 == 1 { values[i] } else { d[i] };
            }
        }
    }

    pub(crate) fn row(&self, row: u32) -> &Row {
        &self.rows[row as usize]
    }

    pub(crate) fn address(&self, a: Address, lane: usize) -> u64 {
        let sum = self.rows[a.row as usize][lane].wrapping_add_signed(a.offset);
        if a.wide { sum } else { sum as u32 as u64 }
    }

    /// The lanes of `mask` whose predicate holds.
    pub(crate) fn holds(&self, predicate: u32, negated: bool, mask: u32) -> u32 {
        let p = &self.rows[predicate as usize];
        let mut yes = 0;
        for (i, v) in p.iter().enumerate() {
            yes |= ((v & 1) as u32) << i;
        }
        mask & if negated { !yes } else { yes }
    }

    /// Runs until it waits, ends, or has executed `turn` instructions.
    pub(crate) fn run(&mut self, block: &mut Block<'_>, turn: u64) -> Result<Flow, WrongAt> {
        let launch = block.launch;
        let code = &launch.program.code;
        let limit = launch.options.step_limit;
        let mut steps = 0;
        loop {
            let Some(frame) = self.frames.last_mut() else {
                self.live = 0;
                block.progress += 1;
                return Ok(Flow::Idle);
            };
            let active = frame.mask & self.live;
            if frame.pc == frame.meet || active == 0 {
                self.frames.pop();
                continue;
            }
            let pc = frame.pc;
            let Some(inst) = code.get(pc as usize) else {
                // The end of the text is an exit.
                self.live &= !active;
                continue;
            };
            frame.pc += 1;
            let mask = if inst.guard == NONE {
                active
            } else {
                self.holds(inst.guard, inst.negated, active)
            };
            block.counters.issue(inst.class, mask.count_ones());
            steps += 1;
            block.steps += 1;
            let at = |w: Box<Wrong>| WrongAt { warp: self.id, lane: w.lane, pc, kind: w.kind };
            if block.steps > limit {
                let kind = FaultKind::StepLimit { limit };
                return Err(at(wrong(active.trailing_zeros(), kind)));
            }
            if mask == 0 {
                continue;
            }
            let id = self.id;
            let at = |w: Box<Wrong>| WrongAt { warp: id, lane: w.lane, pc, kind: w.kind };
            match self.step(block, inst, pc, active, mask).map_err(at)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
            if steps >= turn {
                return Ok(Flow::TurnOver);
            }
        }
    }

    fn step(
        &mut self,
        block: &mut Block<'_>,
        inst: &Inst,
        pc: u32,
        active: u32,
        mask: u32,
    ) -> Done<Flow> {
        let mut out: Row = [0; 32];
        match &inst.op {
            Op::Lanes1 { f, d, a } => {
                f(&mut out, self.row(*a));
                self.put(*d, mask, &out);
            }
            Op::Lanes2 { f, d, a, b } => {
                f(&mut out, self.row(*a), self.row(*b));
                self.put(*d, mask, &out);
            }
            Op::Lanes3 { f, d, a, b, c } => {
                f(&mut out, self.row(*a), self.row(*b), self.row(*c));
                self.put(*d, mask, &out);
            }
            Op::Lanes1By { f, by, d, a } => {
                f(&mut out, self.row(*a), *by);
                self.put(*d, mask, &out);
            }
            Op::Lanes2By { f, by, d, a, b } => {
                f(&mut out, self.row(*a), self.row(*b), *by);
                self.put(*d, mask, &out);
            }
            Op::Lanes3By { f, by, d, a, b, c } => {
                f(&mut out, self.row(*a), self.row(*b), self.row(*c), *by);
                self.put(*d, mask, &out);
            }
            Op::Lanes4 { f, d, sources } => {
                f(&mut out, sources.map(|s| self.row(s)));
                self.put(*d, mask, &out);
            }
            Op::Pack { d, parts, bits } => {
                let keep = if *bits == 64 { u64::MAX } else { (1 << bits) - 1 };
                for (i, part) in parts.iter().enumerate() {
                    let row = self.row(*part);
                    for lane in 0..32 {
                        out[lane] |= (row[lane] & keep) << (i as u32 * bits);
                    }
                }
                self.put(*d, mask, &out);
            }
            Op::Unpack { d, a, bits } => {
                let whole = *self.row(*a);
                let keep = if *bits == 64 { u64::MAX } else { (1 << bits) - 1 };
                for (i, d) in d.iter().enumerate() {
                    for lane in 0..32 {
                        out[lane] = whole[lane] >> (i as u32 * bits) & keep;
                    }
                    self.put(*d, mask, &out);
                }
            }
            Op::Branch { target, meet } => {
                if mask == active {
                    self.jump(*target);
                } else {
                    self.diverge(*meet, &[(pc + 1, active & !mask), (*target, mask)]);
                }
            }
            Op::Switch { targets, index, meet } => {
                let index = *self.row(*index);
                let mut sides: Vec<(u32, u32)> = Vec::new();
                if active != mask {
                    sides.push((pc + 1, active & !mask));
                }
                for lane in lanes(mask) {
                    let Some(t) = targets.get(index[lane] as u32 as usize) else {
                        let what = format!("branch {} of {}", index[lane] as u32, targets.len());
                        return Err(wrong(lane as u32, FaultKind::Operand { what }));
                    };
                    match sides.iter_mut().find(|s| s.0 == *t) {
                        Some(s) => s.1 |= 1 << lane,
                        None => sides.push((*t, 1 << lane)),
                    }
                }
                if let [(only, _)] = sides.as_slice() {
                    self.jump(*only);
                } else {
                    self.diverge(*meet, &sides);
                }
            }
            Op::Exit => {
                self.live &= !mask;
                if self.live == 0 {
                    block.progress += 1;
                    return Ok(Flow::Idle);
                }
            }
            Op::Trap => return Err(wrong(mask.trailing_zeros(), FaultKind::Trap)),
            Op::Nothing => {}
            Op::Clock { d } => self.put(*d, mask, &[block.steps; 32]),
            Op::ActiveMask { d } => self.put(*d, mask, &[mask as u64; 32]),
            Op::Barrier { id, threads, waits, vote } => {
                if mask != self.live {
                    return Err(self.partial("a barrier", self.live, mask));
                }
                let lane = mask.trailing_zeros() as usize;
                let number = self.row(*id)[lane] as u32 as u64;
                let threads = threads.map(|t| self.row(t)[lane] as u32 as u64);
                let vote = vote.map(|v| (v, mask, self.holds(v.p, v.negated, mask)));
                block
                    .arrive(self.id, number, threads, *waits, vote)
                    .map_err(|k| wrong(lane as u32, k))?;
                if *waits {
                    self.waiting = Some(pc);
                    return Ok(Flow::Idle);
                }
            }
            Op::Load { space, ty, d, address, atomic } => {
                self.load(block, *space, *ty, d, *address, *atomic, mask)?;
            }
            Op::Store { space, ty, a, address, atomic } => {
                self.store(block, *space, *ty, a, *address, *atomic, mask)?;
            }
            Op::Atomic { space, ty, how, d, address, b, c } => {
                self.atomic(block, *space, *ty, *how, *d, *address, [*b, *c], mask)?;
            }
            Op::WarpBarrier { .. }
            | Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Reduce { .. }
            | Op::Elect { .. } => self.collective(&inst.op, mask)?,
            Op::LoadMatrix { d, transposed, address } => {
                self.aligned("ldmatrix", mask)?;
                self.load_matrix(block, d, *transposed, *address)?;
            }
            Op::StoreMatrix { a, transposed, address } => {
                self.aligned("stmatrix", mask)?;
                self.store_matrix(block, a, *transposed, *address)?;
            }
            Op::Mma(mma) => {
                self.aligned("mma.sync", mask)?;
                self.mma(mma);
            }
            Op::CopyAsync { to, from, bytes, source_bytes, ignore } => {
                self.copy_async(block, *to, *from, *bytes, *source_bytes, *ignore, mask)?;
            }
            Op::CopyCommit => self.copies.commit(mask),
            Op::CopyWait { groups } => self.copy_wait(block, *groups, mask),
            Op::Mbarrier { op, d, address, value } => {
                return self.mbarrier(block, *op, *d, *address, *value, pc, mask);
            }
            Op::BulkCopy { to, from, bytes, mbarrier } => {
                self.bulk_copy(block, *to, *from, *bytes, *mbarrier, mask)?;
            }
            Op::TensorCopy { to, map, coordinates, mbarrier } => {
                self.tensor_copy(block, *to, *map, coordinates, *mbarrier, mask)?;
            }
            Op::Wgmma(w) => {
                self.aligned("wgmma", mask)?;
                self.wgmma(block, w)?;
            }
            Op::WgmmaCommit => self.products.commit(),
            Op::WgmmaWait { groups } => self.wgmma_wait(block, *groups)?,
        }
        Ok(Flow::Next)
    }

    fn jump(&mut self, target: u32) {
        if let Some(f) = self.frames.last_mut() {
            f.pc = target;
        }
    }

    /// Splits the running lanes; each side runs until `meet`, the last of `sides` first.
    fn diverge(&mut self, meet: u32, sides: &[(u32, u32)]) {
        let Some(frame) = self.frames.pop() else { return };
        let inner = if meet == NONE { frame.meet } else { meet };
        if meet != NONE && meet != frame.meet {
            self.frames.push(Frame { pc: meet, ..frame });
        }
        for (pc, mask) in sides {
            if *pc != inner {
                self.frames.push(Frame { pc: *pc, meet: inner, mask: *mask });
            }
        }
    }

    /// An instruction for the whole warp has all its live lanes.
    fn aligned(&self, what: &str, mask: u32) -> Done<()> {
        if mask == self.live && mask == u32::MAX {
            return Ok(());
        }
        Err(self.partial(what, u32::MAX, mask))
    }

    pub(crate) fn partial(&self, what: &str, expected: u32, mask: u32) -> Box<Wrong> {
        let what = format!(
            "{what} by lanes {mask:#010x} of warp {}; it needs lanes {expected:#010x} together",
            self.id
        );
        wrong(mask.trailing_zeros(), FaultKind::Convergence { what })
    }
}
