//! A kernel after decoding: names have become row numbers, mnemonics functions or small enums, and branches know where their lanes meet again. A kernel is decoded once, and running it never looks
//! at text.

use crate::counters::Class;
use crate::lanes::Row;
use crate::syntax::{Space, Ty};

/// Where a row of a warp's register file gets its first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RowInit {
    Register,
    Value(u64),
    /// A variable of the module and what is added to its address.
    Global(u32, i64),
    /// The start of dynamic shared memory, plus this.
    Dynamic(i64),
    Special(Special),
}

/// Registers that the hardware fills. The number is the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Warps,
    LanesBelow { equal: bool },
    LanesAbove { equal: bool },
    LaneBit,
    DynamicSharedBytes,
    TotalSharedBytes,
}

/// An address: a row, cut to 32 bits unless `wide`, plus an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) row: u32,
    pub(crate) offset: i64,
    pub(crate) wide: bool,
}

/// What an atomic operation computes from the old value and one or two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exchange,
    CompareSwap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// A barrier's reduction: where it goes and what it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BarrierVote {
    pub(crate) d: u32,
    pub(crate) p: u32,
    pub(crate) negated: bool,
    pub(crate) how: BarrierReduce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierReduce {
    Count,
    And,
    Or,
}

/// The element types of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixTypes {
    pub(crate) a: Ty,
    pub(crate) b: Ty,
    /// Of the accumulator, both in and out.
    pub(crate) c: Ty,
}

/// `mma.sync` m16n8.
#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub(crate) types: MatrixTypes,
    pub(crate) k: u32,
    pub(crate) d: Vec<u32>,
    pub(crate) a: Vec<u32>,
    pub(crate) b: Vec<u32>,
    pub(crate) c: Vec<u32>,
}

/// `wgmma.mma_async` m64, k16, 16-bit elements, f32 accumulator.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub(crate) ty: Ty,
    pub(crate) n: u32,
    pub(crate) d: Vec<u32>,
    /// Four registers, or one descriptor.
    pub(crate) a: Vec<u32>,
    pub(crate) b: u32,
    pub(crate) scale_d: u32,
    pub(crate) negate: [bool; 2],
    pub(crate) transposed: [bool; 2],
}

/// What is done to an mbarrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierOp {
    Init,
    Invalidate,
    Arrive {
        expect: bool,
    },
    Expect,
    /// Of a phase's token, or of a parity.
    Test {
        parity: bool,
        spins: bool,
    },
}

#[derive(Clone)]
#[rustfmt::skip]
pub(crate) enum Op {
    Lanes1 { f: fn(&mut Row, &Row), d: u32, a: u32 },
    Lanes2 { f: fn(&mut Row, &Row, &Row), d: u32, a: u32, b: u32 },
    Lanes3 { f: fn(&mut Row, &Row, &Row, &Row), d: u32, a: u32, b: u32, c: u32 },
    Lanes1By { f: fn(&mut Row, &Row, u32), by: u32, d: u32, a: u32 },
    Lanes2By { f: fn(&mut Row, &Row, &Row, u32), by: u32, d: u32, a: u32, b: u32 },
    Lanes3By { f: fn(&mut Row, &Row, &Row, &Row, u32), by: u32, d: u32, a: u32, b: u32, c: u32 },
    Lanes4 { f: fn(&mut Row, [&Row; 4]), d: u32, sources: [u32; 4] },
    /// Several registers into one, the first lowest.
    Pack { d: u32, parts: Vec<u32>, bits: u32 },
    Unpack { d: Vec<u32>, a: u32, bits: u32 },
    Load { space: Space, ty: Ty, d: Vec<u32>, address: Address, atomic: bool },
    Store { space: Space, ty: Ty, a: Vec<u32>, address: Address, atomic: bool },
    Atomic { space: Space, ty: Ty, how: Atomic, d: u32, address: Address, b: u32, c: u32 },
    Branch { target: u32, meet: u32 },
    /// `brx.idx`.
    Switch { targets: Vec<u32>, index: u32, meet: u32 },
    Exit,
    Trap,
    Barrier { id: u32, threads: Option<u32>, waits: bool, vote: Option<BarrierVote> },
    WarpBarrier { mask: u32 },
    Shuffle { how: Shuffle, d: u32, p: Option<u32>, a: u32, b: u32, c: u32, mask: u32 },
    Vote { how: Vote, d: u32, p: u32, negated: bool, mask: u32 },
    Match { all: bool, d: u32, p: Option<u32>, a: u32, bits: u32, mask: u32 },
    Reduce { how: Atomic, ty: Ty, d: u32, a: u32, mask: u32 },
    ActiveMask { d: u32 },
    Elect { d: u32, p: u32, mask: u32 },
    Clock { d: u32 },
    CopyAsync { to: Address, from: Address, bytes: u32, source_bytes: Option<u32>, ignore: Option<u32> },
    CopyCommit,
    /// Wait until at most this many groups are pending.
    CopyWait { groups: u32 },
    LoadMatrix { d: Vec<u32>, transposed: bool, address: Address },
    StoreMatrix { a: Vec<u32>, transposed: bool, address: Address },
    Mma(Box<Mma>),
    Mbarrier { op: MbarrierOp, d: u32, address: Address, value: u32 },
    /// Global to shared, completing on an mbarrier.
    BulkCopy { to: Address, from: Address, bytes: u32, mbarrier: Address },
    TensorCopy { to: Address, map: Address, coordinates: Vec<u32>, mbarrier: Address },
    Wgmma(Box<Wgmma>),
    WgmmaCommit,
    WgmmaWait { groups: u32 },
    /// A hint, or an ordering that is always kept here.
    Nothing,
}

/// No row, no meeting point, no guard.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    /// Row of the guard predicate, or NONE.
    pub(crate) guard: u32,
    pub(crate) negated: bool,
    pub(crate) line: u32,
    pub(crate) class: Class,
}

/// One kernel, ready to run.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) code: Vec<Inst>,
    pub(crate) rows: Vec<RowInit>,
    /// Offset and size of each parameter.
    pub(crate) params: Vec<(u32, u32)>,
    pub(crate) param_bytes: u32,
    pub(crate) static_shared: u32,
    /// Alignment that dynamic shared memory asks for.
    pub(crate) dynamic_align: u32,
    pub(crate) local_bytes: u32,
    /// `.maxntid`: the product.
    pub(crate) max_threads: Option<u32>,
    /// `.reqntid`.
    pub(crate) required_threads: Option<[u32; 3]>,
}
