//! One block: its warps in turn, its barriers, and the end when none can go on.

use crate::asynchronous::{Bulk, Mbarrier};
use crate::counters::Counters;
use crate::error::FaultKind;
use crate::launch::Launch;
use crate::program::{BarrierReduce, BarrierVote, Op};
use crate::shared::{COPIER, Checks, Clock, Shared};
use crate::warp::{Flow, Warp};
use std::collections::{BTreeMap, VecDeque};

/// What went wrong, and in which lane of the running warp.
pub(crate) struct Wrong {
    pub(crate) lane: u32,
    pub(crate) kind: FaultKind,
}

pub(crate) type Done<T> = Result<T, Box<Wrong>>;

pub(crate) fn wrong(lane: u32, kind: FaultKind) -> Box<Wrong> {
    Box::new(Wrong { lane, kind })
}

/// What went wrong, and where in the block.
pub(crate) struct WrongAt {
    pub(crate) warp: u32,
    pub(crate) lane: u32,
    pub(crate) pc: u32,
    pub(crate) kind: FaultKind,
}

/// One of the sixteen named barriers.
#[derive(Clone)]
pub(crate) struct Barrier {
    /// Warps that wait here, with the vote each makes and for which lanes.
    waiting: Vec<(u32, Option<(BarrierVote, u32)>)>,
    /// Warps that have arrived, waiting or not.
    arrived: u32,
    /// The number of warps that the first arrival named; all live ones if it did not.
    expected: Option<u32>,
    clock: Clock,
    votes: u32,
    all: bool,
}

impl Barrier {
    fn new() -> Barrier {
        Barrier {
            waiting: Vec::new(),
            arrived: 0,
            expected: None,
            clock: Clock::new(),
            votes: 0,
            all: true,
        }
    }
}

pub(crate) struct Block<'a> {
    pub(crate) launch: &'a Launch<'a>,
    linear: u64,
    pub(crate) shared: Shared,
    barriers: Vec<Barrier>,
    pub(crate) mbarriers: BTreeMap<u64, Mbarrier>,
    pub(crate) clocks: Vec<Clock>,
    pub(crate) copier: Clock,
    pub(crate) bulks: VecDeque<Bulk>,
    pub(crate) counters: Counters,
    /// Counts what may let another warp go on.
    pub(crate) progress: u64,
    pub(crate) steps: u64,
    warps: Vec<Warp>,
}

/// Instructions of one warp before the next has its turn.
const TURN: u64 = 50_000;

impl<'a> Block<'a> {
    pub(crate) fn new(launch: &'a Launch<'a>, checks: Checks) -> Block<'a> {
        Block {
            launch,
            linear: 0,
            shared: Shared::new(launch.shared_bytes as usize, checks),
            barriers: vec![Barrier::new(); 16],
            mbarriers: BTreeMap::new(),
            clocks: Vec::new(),
            copier: Clock::of(COPIER),
            bulks: VecDeque::new(),
            counters: Counters::default(),
            progress: 0,
            steps: 0,
            warps: Vec::new(),
        }
    }

    pub(crate) fn into_counters(self) -> Counters {
        self.counters
    }

    pub(crate) fn linear(&self) -> u32 {
        self.linear as u32
    }

    pub(crate) fn id(&self) -> [u32; 3] {
        let [x, y, _] = self.launch.grid.map(u64::from);
        let i = self.linear;
        [(i % x) as u32, (i / x % y) as u32, (i / (x * y)) as u32]
    }

    pub(crate) fn thread(&self, warp: u32, lane: u32) -> [u32; 3] {
        let [x, y, _] = self.launch.block;
        let t = warp * 32 + lane;
        [t % x, t / x % y, t / (x * y)]
    }

    /// Runs block `linear` to its end.
    pub(crate) fn run(&mut self, linear: u64) -> Result<(), WrongAt> {
        self.linear = linear;
        self.steps = 0;
        self.shared.reset();
        self.barriers.fill(Barrier::new());
        self.mbarriers.clear();
        self.bulks.clear();
        self.copier = Clock::of(COPIER);
        let threads: u32 = self.launch.block.iter().product();
        let count = threads.div_ceil(32);
        self.clocks = (0..count as usize).map(Clock::of).collect();
        let mut warps = std::mem::take(&mut self.warps);
        warps.resize_with(count as usize, Warp::default);
        for (i, w) in warps.iter_mut().enumerate() {
            let lanes = (threads - i as u32 * 32).min(32);
            w.start(self, i as u32, lanes);
        }
        let result = self.turns(&mut warps);
        self.warps = warps;
        result
    }

    fn turns(&mut self, warps: &mut [Warp]) -> Result<(), WrongAt> {
        let mut idle_rounds = 0;
        let mut issued = vec![0; warps.len()];
        loop {
            let before = self.progress;
            let mut ran = false;
            for i in 0..warps.len() {
                if warps[i].live == 0 || warps[i].waiting.is_some() {
                    continue;
                }
                let earlier = self.counters.warp_instructions;
                let flow = warps[i].run(self, TURN)?;
                issued[i] += self.counters.warp_instructions - earlier;
                ran |= flow == Flow::TurnOver;
                self.release(warps);
            }
            if warps.iter().all(|w| w.live == 0) {
                let longest = issued.into_iter().max().unwrap_or(0);
                self.counters.longest_warp = self.counters.longest_warp.max(longest);
                return Ok(());
            }
            // A warp that spins on an mbarrier has yielded; if all others wait too, nothing can change.
            if ran || self.progress != before {
                idle_rounds = 0;
            } else if !self.land(None) {
                idle_rounds += 1;
                if idle_rounds > 2 {
                    return Err(self.deadlock(warps));
                }
            }
        }
    }

    fn deadlock(&self, warps: &[Warp]) -> WrongAt {
        let mut waiting = Vec::new();
        let mut first = None;
        for w in warps.iter().filter(|w| w.live != 0) {
            let pc = w.waiting.unwrap_or(w.spins_at);
            let lane = w.live.trailing_zeros();
            first.get_or_insert((w.id, lane, pc));
            let inst = &self.launch.program.code[pc as usize];
            let what = match inst.op {
                Op::Barrier { .. } => "a barrier",
                _ => "an mbarrier",
            };
            waiting.push(format!("warp {} waits for {what} at line {}", w.id, inst.line));
        }
        let (warp, lane, pc) = first.unwrap_or_default();
        let shown = waiting.len().min(12);
        let mut text = waiting[..shown].join(", ");
        if shown < waiting.len() {
            text += " and more";
        }
        WrongAt { warp, lane, pc, kind: FaultKind::Deadlock { waiting: text } }
    }

    /// A warp reaches barrier `id`; true if it has to wait.
    pub(crate) fn arrive(
        &mut self,
        warp: u32,
        id: u64,
        threads: Option<u64>,
        waits: bool,
        vote: Option<(BarrierVote, u32, u32)>,
    ) -> Result<(), FaultKind> {
        let Some(b) = self.barriers.get_mut(id as usize) else {
            return Err(FaultKind::Operand { what: format!("barrier {id}; there are 16") });
        };
        let named = match threads {
            None => None,
            Some(n) if n > 0 && n % 32 == 0 && n <= 1024 => Some(n as u32 / 32),
            Some(n) => {
                return Err(FaultKind::Operand {
                    what: format!("a barrier for {n} threads; it must be a multiple of 32"),
                });
            }
        };
        if b.arrived > 0 && b.expected != named {
            return Err(FaultKind::Operand {
                what: format!(
                    "barrier {id} for {} by this warp and for {} by an earlier one",
                    show(named),
                    show(b.expected)
                ),
            });
        }
        b.expected = named;
        b.arrived += 1;
        b.clock.join(&self.clocks[warp as usize]);
        let vote = vote.map(|(v, lanes, yes)| {
            b.votes += yes.count_ones();
            b.all &= yes == lanes;
            (v, lanes)
        });
        if waits {
            b.waiting.push((warp, vote));
        } else {
            self.clocks[warp as usize].tick(warp as usize);
        }
        self.progress += 1;
        Ok(())
    }

    /// Opens the barriers that are complete.
    fn release(&mut self, warps: &mut [Warp]) {
        let live = warps.iter().filter(|w| w.live != 0).count() as u32;
        for b in &mut self.barriers {
            if b.arrived == 0 || b.arrived < b.expected.unwrap_or(live) {
                continue;
            }
            let done = std::mem::replace(b, Barrier::new());
            for (warp, vote) in done.waiting {
                let i = warp as usize;
                self.clocks[i].join(&done.clock);
                self.clocks[i].tick(i);
                warps[i].waiting = None;
                if let Some((vote, lanes)) = vote {
                    let value = match vote.how {
                        BarrierReduce::Count => done.votes as u64,
                        BarrierReduce::And => done.all as u64,
                        BarrierReduce::Or => (done.votes > 0) as u64,
                    };
                    warps[i].put(vote.d, lanes, &[value; 32]);
                }
            }
            self.progress += 1;
        }
    }
}

fn show(warps: Option<u32>) -> String {
    warps.map_or("all threads".to_owned(), |w| format!("{} threads", w * 32))
}
