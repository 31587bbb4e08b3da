//! Copies that run beside the threads: `cp.async` with its groups, and bulk copies with their mbarriers. A copy reads its source when it is issued. Its destination changes only when a thread
//! has waited for it, which exposes kernels that read too early.

use crate::access::Addresses;
use crate::block::{Block, Done, wrong};
use crate::error::FaultKind;
use crate::matrix::shared_address;
use crate::memory::PARAM_WINDOW;
use crate::program::{Address, MbarrierOp};
use crate::shared::{COPIER, Clock, Use};
use crate::tensor_map::TensorMap;
use crate::warp::{Flow, Warp, lanes};

struct Copy {
    lane: u32,
    group: u32,
    to: u64,
    bytes: u32,
    data: [u8; 16],
}

/// The `cp.async` copies of a warp that nobody has waited for.
#[derive(Default)]
pub(crate) struct Copies {
    pending: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

impl Copies {
    pub(crate) fn commit(&mut self, mask: u32) {
        lanes(mask).for_each(|l| self.committed[l] += 1);
    }
}

/// A bulk copy on its way.
pub(crate) struct Bulk {
    mbarrier: u64,
    bytes: u64,
    /// Pieces of the destination.
    pieces: Vec<(u64, Vec<u8>)>,
    /// What its issuer had seen.
    clock: Clock,
}

/// The state of one mbarrier.
pub(crate) struct Mbarrier {
    count: u32,
    pending: u32,
    /// Bytes expected and not arrived; negative if they arrive first.
    bytes: i64,
    phase: u64,
    arrivals: Clock,
    complete: Clock,
}

impl Mbarrier {
    /// Ends the phase if nothing is missing.
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
            self.complete.join(&self.arrivals);
        }
    }
}

impl Block<'_> {
    /// Completes the bulk copies of one mbarrier, or all; true if there were any.
    pub(crate) fn land(&mut self, mbarrier: Option<u64>) -> bool {
        let mut any = false;
        let mut rest = std::collections::VecDeque::new();
        for bulk in std::mem::take(&mut self.bulks) {
            if mbarrier.is_some_and(|m| m != bulk.mbarrier) {
                rest.push_back(bulk);
                continue;
            }
            any = true;
            self.copier.join(&bulk.clock);
            for (to, data) in &bulk.pieces {
                self.shared.arrive(*to, data, COPIER, &self.copier);
            }
            if let Some(m) = self.mbarriers.get_mut(&bulk.mbarrier) {
                m.bytes -= bulk.bytes as i64;
                m.arrivals.join(&self.copier);
                m.settle();
            }
            self.copier.tick(COPIER);
            self.progress += 1;
        }
        self.bulks = rest;
        any
    }

    /// An mbarrier is a word of shared memory that was initialised.
    fn mbarrier(&mut self, address: u64) -> Result<&mut Mbarrier, FaultKind> {
        self.mbarriers.get_mut(&address).ok_or_else(|| FaultKind::Operand {
            what: format!("no mbarrier was initialised at shared address {address:#x}"),
        })
    }
}

impl Warp {
    pub(crate) fn copy_async(
        &mut self,
        block: &mut Block<'_>,
        to: Address,
        from: Address,
        bytes: u32,
        source_bytes: Option<u32>,
        ignore: Option<u32>,
        mask: u32,
    ) -> Done<()> {
        let me = self.id as usize;
        let how = block.access(false);
        let mut read = Addresses::new();
        let mut asked = 0;
        for lane in lanes(mask) {
            let fail = |k| wrong(lane as u32, k);
            let to = shared_address(self.address(to, lane));
            let from = self.address(from, lane);
            let mut count = source_bytes.map_or(bytes, |row| self.row(row)[lane] as u32);
            if count > bytes {
                let what = format!("{count} source bytes for a copy of {bytes}");
                return Err(fail(FaultKind::Operand { what }));
            }
            if ignore.is_some_and(|row| self.row(row)[lane] & 1 == 1) {
                count = 0;
            }
            let mut data = [0; 16];
            if count > 0 && from & (bytes as u64 - 1) != 0 {
                let place = block.launch.memory.place(from);
                return Err(fail(FaultKind::Misaligned { place, bytes }));
            }
            if count == bytes {
                let value = block.launch.memory.load(from, bytes, how).map_err(fail)?;
                data = value.to_le_bytes();
            } else {
                for (i, b) in data[..count as usize].iter_mut().enumerate() {
                    *b = block.launch.memory.load(from + i as u64, 1, how).map_err(fail)? as u8;
                }
            }
            if count > 0 {
                read.push(from);
                asked += count as u64;
            }
            block.shared.depart(to, bytes, me, &block.clocks[me]).map_err(fail)?;
            let group = self.copies.committed[lane];
            self.copies.pending.push(Copy { lane: lane as u32, group, to, bytes, data });
        }
        if !read.as_slice().is_empty() {
            let before = block.counters.global_load.bytes;
            block.counters.global_load.count(read.as_slice(), bytes);
            block.counters.global_load.bytes = before + asked;
        }
        block.counters.shared_store_bytes += mask.count_ones() as u64 * bytes as u64;
        Ok(())
    }

    /// Completes the groups of the lanes in `mask` but for the last `groups`.
    pub(crate) fn copy_wait(&mut self, block: &mut Block<'_>, groups: u32, mask: u32) {
        let me = self.id as usize;
        let committed = self.copies.committed;
        self.copies.pending.retain(|c| {
            let lane = c.lane as usize;
            let wait = mask >> lane & 1 == 1 && c.group < committed[lane].saturating_sub(groups);
            if wait {
                block.shared.arrive(c.to, &c.data[..c.bytes as usize], me, &block.clocks[me]);
            }
            !wait
        });
    }

    pub(crate) fn mbarrier(
        &mut self,
        block: &mut Block<'_>,
        op: MbarrierOp,
        d: u32,
        address: Address,
        value: u32,
        pc: u32,
        mask: u32,
    ) -> Done<Flow> {
        let me = self.id as usize;
        let mut out = *self.row(d);
        let mut failed = false;
        for lane in lanes(mask) {
            let fail = |k| wrong(lane as u32, k);
            let at = shared_address(self.address(address, lane));
            let value = self.row(value)[lane];
            let clock = &block.clocks[me];
            let touched = if op == MbarrierOp::Init {
                block.shared.store(at, 8, 0, Use::Write, me, clock)
            } else {
                block.shared.load(at, 8, Use::Atomic, me, clock).map(|_| ())
            };
            if op == MbarrierOp::Init {
                touched.map_err(fail)?;
                let count = value as u32;
                if count == 0 || count >= 1 << 20 {
                    let what = format!("an mbarrier for {count} arrivals");
                    return Err(fail(FaultKind::Operand { what }));
                }
                block.mbarriers.insert(
                    at,
                    Mbarrier {
                        count,
                        pending: count,
                        bytes: 0,
                        phase: 0,
                        arrivals: Clock::new(),
                        complete: Clock::new(),
                    },
                );
                block.progress += 1;
                continue;
            }
            block.mbarrier(at).map_err(fail)?;
            touched.map_err(fail)?;
            match op {
                MbarrierOp::Invalidate => {
                    block.mbarriers.remove(&at);
                }
                MbarrierOp::Expect => {
                    block.mbarrier(at).map_err(fail)?.bytes += value as u32 as i64;
                    block.progress += 1;
                }
                MbarrierOp::Arrive { expect } => {
                    let clock = block.clocks[me].clone();
                    block.clocks[me].tick(me);
                    let m = block.mbarrier(at).map_err(fail)?;
                    let count = if expect { 1 } else { value as u32 };
                    if expect {
                        m.bytes += value as u32 as i64;
                    }
                    out[lane] = m.phase;
                    let Some(left) = m.pending.checked_sub(count) else {
                        let what = format!(
                            "{count} arrivals at an mbarrier that waits for {} of {}",
                            m.pending, m.count
                        );
                        return Err(fail(FaultKind::Operand { what }));
                    };
                    m.pending = left;
                    m.arrivals.join(&clock);
                    m.settle();
                    block.progress += 1;
                }
                MbarrierOp::Test { parity, .. } => {
                    let done = |m: &Mbarrier| {
                        if parity { m.phase & 1 != value & 1 } else { m.phase > value }
                    };
                    if !done(block.mbarrier(at).map_err(fail)?) {
                        block.land(Some(at));
                    }
                    let m = block.mbarrier(at).map_err(fail)?;
                    let yes = done(m);
                    let seen = m.complete.clone();
                    out[lane] = u64::from(yes);
                    if yes {
                        block.clocks[me].join(&seen);
                    } else {
                        failed = true;
                    }
                }
                MbarrierOp::Init => {}
            }
        }
        self.put(d, mask, &out);
        if failed {
            self.spins_at = pc;
            return Ok(Flow::Idle);
        }
        Ok(Flow::Next)
    }

    pub(crate) fn bulk_copy(
        &mut self,
        block: &mut Block<'_>,
        to: Address,
        from: Address,
        bytes: u32,
        mbarrier: Address,
        mask: u32,
    ) -> Done<()> {
        for lane in lanes(mask) {
            let fail = |k| wrong(lane as u32, k);
            let to = shared_address(self.address(to, lane));
            let from = self.address(from, lane);
            let count = self.row(bytes)[lane] as u32;
            if !count.is_multiple_of(16) || !from.is_multiple_of(16) || !to.is_multiple_of(16) {
                let what = format!(
                    "a bulk copy of {count} bytes from {from:#x} to {to:#x}: not all multiples of 16"
                );
                return Err(fail(FaultKind::Operand { what }));
            }
            let how = block.access(false);
            let mut data = Vec::new();
            for i in (0..count as u64).step_by(16) {
                let part = block.launch.memory.load(from + i, 16, how).map_err(fail)?;
                data.extend_from_slice(&part.to_le_bytes());
            }
            let traffic = &mut block.counters.global_load;
            traffic.requests += 1;
            traffic.bytes += count as u64;
            traffic.sectors += ((from + count as u64).div_ceil(32)) - from / 32;
            let mbarrier = shared_address(self.address(mbarrier, lane));
            self.issue(block, mbarrier, count as u64, vec![(to, data)], lane as u32)?;
        }
        Ok(())
    }

    /// Hands pieces to the copier.
    fn issue(
        &mut self,
        block: &mut Block<'_>,
        mbarrier: u64,
        bytes: u64,
        pieces: Vec<(u64, Vec<u8>)>,
        lane: u32,
    ) -> Done<()> {
        let fail = |k| wrong(lane, k);
        let me = self.id as usize;
        block.mbarrier(mbarrier).map_err(fail)?;
        let clock = block.clocks[me].clone();
        for (to, data) in &pieces {
            for i in (0..data.len()).step_by(16) {
                block.shared.depart(to + i as u64, 16, me, &clock).map_err(fail)?;
            }
        }
        block.counters.shared_store_bytes += bytes;
        block.bulks.push_back(Bulk { mbarrier, bytes, pieces, clock });
        block.progress += 1;
        Ok(())
    }

    pub(crate) fn tensor_copy(
        &mut self,
        block: &mut Block<'_>,
        to: Address,
        map: Address,
        coordinates: &[u32],
        mbarrier: Address,
        mask: u32,
    ) -> Done<()> {
        for lane in lanes(mask) {
            let fail = |k| wrong(lane as u32, k);
            let map = Warp::tensor_map(block, self.address(map, lane)).map_err(fail)?;
            if map.shape.len() != coordinates.len() {
                let what = format!(
                    "{} coordinates for a tensor map of {} axes",
                    coordinates.len(),
                    map.shape.len()
                );
                return Err(fail(FaultKind::Operand { what }));
            }
            let start: Vec<i64> =
                coordinates.iter().map(|c| self.row(*c)[lane] as i32 as i64).collect();
            let to = shared_address(self.address(to, lane));
            if !to.is_multiple_of(128) {
                let place = format!("shared address {to:#x} of a tensor copy");
                return Err(fail(FaultKind::Misaligned { place, bytes: 128 }));
            }
            let pieces = gather(block, &map, &start, to).map_err(fail)?;
            let mbarrier = shared_address(self.address(mbarrier, lane));
            self.issue(block, mbarrier, map.bytes(), pieces, lane as u32)?;
        }
        Ok(())
    }

    fn tensor_map(block: &Block<'_>, address: u64) -> Result<TensorMap, FaultKind> {
        let mut bytes = [0; 128];
        // A map is a parameter (by generic or parameter address), or lies in global memory.
        let size = block.launch.params.len() as u64;
        let offset =
            if address >> 40 == PARAM_WINDOW >> 40 { address - PARAM_WINDOW } else { address };
        if offset < size {
            let Some(from) = block.launch.params.get(offset as usize..offset as usize + 128) else {
                return Err(FaultKind::OutOfBounds {
                    place: format!("parameters + {offset}"),
                    bytes: 128,
                    bounds: format!("the parameters have {size} bytes"),
                });
            };
            bytes.copy_from_slice(from);
        } else {
            for (i, b) in bytes.iter_mut().enumerate() {
                *b = block.launch.memory.load(
                    address.wrapping_add(i as u64),
                    1,
                    block.access(false),
                )? as u8;
            }
        }
        TensorMap::from_bytes(&bytes)
            .ok_or_else(|| FaultKind::Operand { what: format!("no tensor map is at {address:#x}") })
    }
}

/// The bytes of a box, in 16-byte pieces at their places in shared memory; zeros outside of the tensor.
fn gather(
    block: &mut Block<'_>,
    map: &TensorMap,
    start: &[i64],
    to: u64,
) -> Result<Vec<(u64, Vec<u8>)>, FaultKind> {
    let how = block.access(false);
    let inner = map.extent[0] as usize * map.element_bytes as usize;
    let rows: usize = map.extent[1..].iter().map(|n| *n as usize).product();
    let mut pieces = Vec::with_capacity(rows * inner / 16);
    let (mut sectors, mut fetched) = (0, 0);
    for r in 0..rows {
        let (mut index, mut base, mut inside) = (r, map.base, true);
        for axis in 1..map.shape.len() {
            let n = map.extent[axis] as usize;
            let at = start[axis] + (index % n) as i64;
            index /= n;
            inside &= at >= 0 && (at as u64) < map.shape[axis];
            base = base.wrapping_add((at as u64).wrapping_mul(map.strides[axis]));
        }
        let mut row = vec![0; inner];
        if inside {
            // The elements of the row that the tensor has.
            let from = (-start[0]).clamp(0, map.extent[0] as i64);
            let end = (map.shape[0] as i64 - start[0]).clamp(from, map.extent[0] as i64);
            let e = map.element_bytes as i64;
            let first = base.wrapping_add_signed((start[0] + from) * e);
            let count = ((end - from) * e) as usize;
            let target = (from * e) as usize;
            let mut done = 0;
            while done < count {
                let at = first + done as u64;
                // The widest aligned piece.
                let mut size = 16u32;
                while !at.is_multiple_of(size as u64) || size as usize > count - done {
                    size /= 2;
                }
                let v = block.launch.memory.load(at, size, how)?.to_le_bytes();
                row[target + done..][..size as usize].copy_from_slice(&v[..size as usize]);
                done += size as usize;
            }
            if count > 0 {
                sectors += (first + count as u64).div_ceil(32) - first / 32;
                fetched += count as u64;
            }
        }
        for (i, chunk) in row.chunks(16).enumerate() {
            let at = to + (r * inner + i * 16) as u64;
            pieces.push((map.swizzle.apply(at), chunk.to_vec()));
        }
    }
    let traffic = &mut block.counters.global_load;
    traffic.requests += 1;
    traffic.bytes += fetched;
    traffic.sectors += sectors;
    Ok(pieces)
}
