//! One launch: checks what the host passes, then runs the blocks on all cores.

use crate::block::Block;
use crate::counters::Counters;
use crate::error::{Error, Fault, Result};
use crate::lanes::Row;
use crate::memory::{Memory, Pointer};
use crate::module::{Kernel, line_of};
use crate::program::{Program, RowInit, Special};
use crate::shared::{Checks, SHARED_BASE};
use crate::tensor_map::TensorMap;
use rayon::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// One argument of a kernel. Numbers and pointers convert with `.into()`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Arg {
    /// The parameter's bytes, also for structures passed by value.
    Bytes(Vec<u8>),
    /// A `CUtensorMap`.
    TensorMap(TensorMap),
}

macro_rules! arg {
    ($($t:ty),*) => {$(
        impl From<$t> for Arg {
            fn from(v: $t) -> Arg {
                Arg::Bytes(v.to_le_bytes().to_vec())
            }
        }
    )*};
}
arg!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl From<Pointer> for Arg {
    fn from(p: Pointer) -> Arg {
        p.address().into()
    }
}

impl From<TensorMap> for Arg {
    fn from(m: TensorMap) -> Arg {
        Arg::TensorMap(m)
    }
}

/// What to check while a kernel runs, and when to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches, each with its name")]
pub struct Options {
    /// Refuse reads of global and shared memory that nobody has written. Default: true.
    pub uninitialised: bool,
    /// Refuse uses of shared memory by two warps, one writing, that nothing orders. Default: true.
    pub races: bool,
    /// Refuse uses of global memory by two blocks of a launch, one writing, other than atomics. Costs eight bytes for
    /// each byte of memory, and cannot know when a kernel orders its blocks by atomics. Default: false.
    pub block_races: bool,
    /// Warp instructions that one block may execute. Default: 2^30.
    pub step_limit: u64,
    /// Run blocks on all cores (of the current rayon pool). Without it they run in order, so that even floating-point
    /// atomics give the same bits each time. Default: true.
    pub parallel: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            uninitialised: true,
            races: true,
            block_races: false,
            step_limit: 1 << 30,
            parallel: true,
        }
    }
}

/// Everything that the blocks of a launch share.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Program,
    pub(crate) memory: &'a Memory,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) params: Vec<u8>,
    /// Static and dynamic.
    pub(crate) shared_bytes: u32,
    pub(crate) options: Options,
    /// A warp's registers at its start; the special ones that differ by warp are still to be filled.
    pub(crate) rows: Vec<Row>,
    /// Rows to fill by warp.
    pub(crate) specials: Vec<(u32, Special)>,
}

/// What a register holds before it is written: a NaN, and a large number.
const POISON: u64 = 0xdead_dead_7fff_dead;
/// The most shared memory that a block can have (compute capability 9.0).
const MOST_SHARED: u32 = 227 << 10;
const MOST_LOCAL_BYTES: u64 = 1 << 28;

impl Kernel<'_> {
    /// Runs the kernel to its end with `shared_bytes` of dynamic shared memory.
    ///
    /// # Errors
    /// [`Error::Launch`] if sizes or arguments do not fit; [`Error::Fault`] with block, thread and line for the first
    /// thing that goes wrong in the block of the lowest index. Memory then holds whatever was written before.
    ///
    /// # Cost
    /// About 10 ns for each instruction of a warp and check; memory for the registers and shared memory of one block
    /// on each core.
    pub fn launch(
        &self,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        args: &[Arg],
        memory: &mut Memory,
        options: &Options,
    ) -> Result<Counters> {
        let p = self.program;
        let fail = |what: String| Err(Error::Launch { kernel: p.name.clone(), what });
        let [gx, gy, gz] = grid.map(u64::from);
        if gx.min(gy).min(gz) == 0 || gx >= 1 << 31 || gy > 65_535 || gz > 65_535 {
            return fail(format!("a grid of {gx} x {gy} x {gz} blocks"));
        }
        let [bx, by, bz] = block.map(u64::from);
        let threads = bx.saturating_mul(by).saturating_mul(bz);
        if threads == 0 || threads > 1024 || bz > 64 {
            return fail(format!("a block of {bx} x {by} x {bz} threads; the limit is 1024"));
        }
        if let Some(most) = p.max_threads.filter(|m| threads > *m as u64) {
            return fail(format!("{threads} threads for `.maxntid` {most}"));
        }
        if let Some(r) = p.required_threads.filter(|r| *r != block) {
            return fail(format!("{block:?} threads for `.reqntid` {r:?}"));
        }
        if p.local_bytes as u64 * threads > MOST_LOCAL_BYTES {
            return fail(format!("{} bytes of local memory for {threads} threads", p.local_bytes));
        }
        let dynamic = p.static_shared.next_multiple_of(p.dynamic_align.max(16));
        let total = dynamic.saturating_add(shared_bytes);
        let total = if shared_bytes == 0 { p.static_shared } else { total };
        if total > MOST_SHARED {
            return fail(format!(
                "{} bytes of static and {shared_bytes} of dynamic shared memory; the limit is {MOST_SHARED}",
                p.static_shared
            ));
        }
        let params = self.pack(args)?;
        let globals = self.module.variables(memory)?;
        if options.block_races {
            memory.record_users(true);
        }
        let launch_value = |s: Special| match s {
            Special::Ntid(a) => Some(block[a as usize] as u64),
            Special::Nctaid(a) => Some(grid[a as usize] as u64),
            Special::Warps => Some(threads.div_ceil(32)),
            Special::DynamicSharedBytes => Some(shared_bytes as u64),
            Special::TotalSharedBytes => Some(total as u64),
            _ => None,
        };
        let mut specials = Vec::new();
        let rows = p.rows.iter().enumerate().map(|(i, init)| {
            let value = match *init {
                RowInit::Register => POISON,
                RowInit::Value(v) => v,
                RowInit::Global(g, offset) => globals[g as usize].0.wrapping_add_signed(offset),
                RowInit::Dynamic(offset) => {
                    (SHARED_BASE + dynamic as u64).wrapping_add_signed(offset)
                }
                RowInit::Special(s) => launch_value(s).unwrap_or_else(|| {
                    specials.push((i as u32, s));
                    0
                }),
            };
            [value; 32]
        });
        let rows = rows.collect();
        let launch = Launch {
            program: p,
            memory,
            grid,
            block,
            params,
            shared_bytes: total,
            options: *options,
            rows,
            specials,
        };
        let result = self.run(&launch, gx * gy * gz);
        if options.block_races {
            memory.record_users(false);
        }
        result
    }

    fn run(&self, launch: &Launch<'_>, blocks: u64) -> Result<Counters> {
        let lowest = AtomicU64::new(u64::MAX);
        let fault: Mutex<Option<(u64, Fault)>> = Mutex::new(None);
        let one = |state: &mut Block<'_>, i: u64| {
            if i > lowest.load(Ordering::Relaxed) {
                return;
            }
            if let Err(wrong) = state.run(i) {
                lowest.fetch_min(i, Ordering::Relaxed);
                let mut slot = fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if slot.as_ref().is_none_or(|(j, _)| i < *j) {
                    let p = launch.program;
                    let line = p.code.get(wrong.pc as usize).map_or(0, |c| c.line);
                    *slot = Some((
                        i,
                        Fault {
                            kernel: p.name.clone(),
                            block: state.id(),
                            thread: state.thread(wrong.warp, wrong.lane),
                            line,
                            text: line_of(&self.module.source, line),
                            kind: wrong.kind,
                        },
                    ));
                }
            }
        };
        let checks =
            Checks { initialised: launch.options.uninitialised, races: launch.options.races };
        let start = || Block::new(launch, checks);
        let counters = if launch.options.parallel && blocks > 1 {
            (0..blocks)
                .into_par_iter()
                .fold(start, |mut state, i| {
                    one(&mut state, i);
                    state
                })
                .map(Block::into_counters)
                .reduce(Counters::default, |mut a, b| {
                    a += &b;
                    a
                })
        } else {
            let mut state = start();
            (0..blocks).for_each(|i| one(&mut state, i));
            state.into_counters()
        };
        match fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some((_, f)) => Err(Error::Fault(Box::new(f))),
            None => Ok(counters),
        }
    }

    fn pack(&self, args: &[Arg]) -> Result<Vec<u8>> {
        let p = self.program;
        let fail = |what: String| Err(Error::Launch { kernel: p.name.clone(), what });
        if args.len() != p.params.len() {
            return fail(format!("{} arguments for {} parameters", args.len(), p.params.len()));
        }
        let mut out = vec![0; p.param_bytes as usize];
        for (i, (arg, (at, size))) in args.iter().zip(&p.params).enumerate() {
            let bytes = match arg {
                Arg::Bytes(b) => b.clone(),
                Arg::TensorMap(m) => m.to_bytes().to_vec(),
            };
            if bytes.len() != *size as usize {
                return fail(format!(
                    "argument {i} has {} bytes, its parameter {size}",
                    bytes.len()
                ));
            }
            out[*at as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(out)
    }
}
