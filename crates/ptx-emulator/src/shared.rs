//! The shared memory of one block, with what is known of each word: which bytes were written, which an asynchronous
//! copy is still writing, and who last wrote and read it, for the detection of races.
//!
//! Races are found as FastTrack does (Flanagan and Freund, PLDI 2009): each warp counts its own synchronisations, and
//! knows how far it has seen the others'. A use is ordered after an earlier one if the earlier warp's count at that time
//! has been seen. Barriers and mbarriers pass the counts on. Of the readers of a word the last two are remembered.

use crate::error::FaultKind;

/// Where shared memory starts; below it is what the hardware keeps for itself.
pub(crate) const SHARED_BASE: u64 = 1024;

/// The pseudo-warp of the bulk copies.
pub(crate) const COPIER: usize = 32;

/// How far one warp has seen the others.
#[derive(Clone, Debug)]
pub(crate) struct Clock([u32; 33]);

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock([0; 33])
    }

    /// Clock of warp `me` at its start: it has seen its own first instruction.
    pub(crate) fn of(me: usize) -> Clock {
        let mut c = Clock::new();
        c.0[me] = 1;
        c
    }

    pub(crate) fn join(&mut self, other: &Clock) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a = (*a).max(b);
        }
    }

    pub(crate) fn tick(&mut self, me: usize) {
        self.0[me] += 1;
    }

    fn stamp(&self, me: usize) -> u32 {
        (me as u32) << 26 | self.0[me] & 0x03ff_ffff
    }

    fn has_seen(&self, stamp: u32) -> bool {
        self.0[(stamp >> 26) as usize] >= stamp & 0x03ff_ffff
    }
}

/// What is known of four bytes.
#[derive(Clone, Copy, Default)]
struct Cell {
    /// Stamp of the last write, 0 for none.
    writer: u32,
    /// The last readers, of different warps.
    readers: [u32; 2],
    /// Bytes of that write, of those reads.
    write_mask: u8,
    read_masks: [u8; 2],
    /// The last write was atomic.
    atomic: bool,
    written: u8,
    in_flight: u8,
}

/// What kind of use an access makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    Read,
    Write,
    /// Atomic, volatile, or a use of an mbarrier: never a race against another of its kind.
    Atomic,
}

/// What to check.
#[derive(Clone, Copy)]
pub(crate) struct Checks {
    pub(crate) initialised: bool,
    pub(crate) races: bool,
}

pub(crate) struct Shared {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    checks: Checks,
}

fn place(address: u64) -> String {
    if address < SHARED_BASE {
        format!("shared address {address:#x}")
    } else {
        format!("shared memory + {}", address - SHARED_BASE)
    }
}

impl Shared {
    pub(crate) fn new(bytes: usize, checks: Checks) -> Shared {
        // 0xff bytes are NaNs in every float format.
        Shared { bytes: vec![0xff; bytes], cells: vec![Cell::default(); bytes.div_ceil(4)], checks }
    }

    pub(crate) fn reset(&mut self) {
        self.bytes.fill(0xff);
        self.cells.fill(Cell::default());
    }

    fn find(&self, address: u64, bytes: u32) -> Result<usize, FaultKind> {
        let end = SHARED_BASE + self.bytes.len() as u64;
        if address < SHARED_BASE || address.saturating_add(bytes as u64) > end {
            return Err(FaultKind::OutOfBounds {
                place: place(address),
                bytes,
                bounds: format!("the block has {} bytes of shared memory", self.bytes.len()),
            });
        }
        if address & (bytes as u64 - 1) != 0 && bytes <= 16 {
            return Err(FaultKind::Misaligned { place: place(address), bytes });
        }
        Ok((address - SHARED_BASE) as usize)
    }

    /// Checks and records a use of up to 16 aligned bytes by warp `me`.
    fn meet(
        &mut self,
        at: usize,
        bytes: u32,
        how: Use,
        me: usize,
        clock: &Clock,
    ) -> Result<(), FaultKind> {
        let mut done = 0;
        while done < bytes as usize {
            let (word, byte) = ((at + done) / 4, (at + done) % 4);
            let count = (4 - byte).min(bytes as usize - done);
            let mask = ((1u16 << count) - 1) as u8 * (1 << byte) as u8;
            let address = SHARED_BASE + (at + done) as u64;
            let cell = &mut self.cells[word];
            if cell.in_flight & mask != 0 {
                return Err(FaultKind::InFlight { place: place(address) });
            }
            if how != Use::Write && self.checks.initialised && cell.written & mask != mask {
                return Err(FaultKind::Uninitialised { place: place(address), bytes });
            }
            if self.checks.races {
                race(cell, mask, how, me, clock, address)?;
            }
            if how != Use::Read {
                cell.written |= mask;
            }
            done += count;
        }
        Ok(())
    }

    pub(crate) fn load(
        &mut self,
        address: u64,
        bytes: u32,
        how: Use,
        me: usize,
        clock: &Clock,
    ) -> Result<u128, FaultKind> {
        let at = self.find(address, bytes)?;
        self.meet(at, bytes, how, me, clock)?;
        Ok(self.value(at, bytes))
    }

    fn value(&self, at: usize, bytes: u32) -> u128 {
        let mut value = [0; 16];
        value[..bytes as usize].copy_from_slice(&self.bytes[at..at + bytes as usize]);
        u128::from_le_bytes(value)
    }

    pub(crate) fn store(
        &mut self,
        address: u64,
        bytes: u32,
        value: u128,
        how: Use,
        me: usize,
        clock: &Clock,
    ) -> Result<(), FaultKind> {
        let at = self.find(address, bytes)?;
        self.meet(at, bytes, how, me, clock)?;
        self.bytes[at..at + bytes as usize].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
        Ok(())
    }

    /// A copy into `bytes` from `address` on starts: from now until `arrive` nobody may touch them.
    pub(crate) fn depart(
        &mut self,
        address: u64,
        bytes: u32,
        me: usize,
        clock: &Clock,
    ) -> Result<(), FaultKind> {
        let at = self.find(address, bytes)?;
        for from in (0..bytes).step_by(16) {
            let part = (bytes - from).min(16);
            self.meet(at + from as usize, part, Use::Write, me, clock)?;
        }
        for i in at..at + bytes as usize {
            self.cells[i / 4].in_flight |= 1 << (i % 4);
        }
        Ok(())
    }

    /// The copy is complete, as if warp `me` had written it now.
    pub(crate) fn arrive(&mut self, address: u64, data: &[u8], me: usize, clock: &Clock) {
        let at = (address - SHARED_BASE) as usize;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        let stamp = clock.stamp(me);
        for i in at..at + data.len() {
            let cell = &mut self.cells[i / 4];
            let bit = 1 << (i % 4);
            cell.in_flight &= !bit;
            cell.written |= bit;
            if cell.writer != stamp {
                (cell.writer, cell.write_mask, cell.atomic) = (stamp, 0, false);
            }
            cell.write_mask |= bit;
        }
    }
}

fn race(
    cell: &mut Cell,
    mask: u8,
    how: Use,
    me: usize,
    clock: &Clock,
    address: u64,
) -> Result<(), FaultKind> {
    let mine = clock.stamp(me);
    let other = |stamp: u32, what: &str, verb: &str| {
        let who = match (stamp >> 26) as usize {
            COPIER => "a bulk copy".to_owned(),
            w => format!("warp {w}"),
        };
        Err(FaultKind::Race {
            what: format!("warp {me} {what} what {who} {verb},"),
            place: place(address),
        })
    };
    let against_write = cell.writer != 0
        && cell.write_mask & mask != 0
        && !(how == Use::Atomic && cell.atomic)
        && !clock.has_seen(cell.writer);
    if against_write {
        let what = if how == Use::Read { "reads" } else { "writes" };
        return other(cell.writer, what, "wrote");
    }
    if how == Use::Read {
        let slot = match cell.readers {
            [r, _] if r == 0 || r >> 26 == me as u32 => 0,
            [_, r] if r == 0 || r >> 26 == me as u32 => 1,
            [r, _] if clock.has_seen(r) => 0,
            _ => 1,
        };
        if cell.readers[slot] == mine {
            cell.read_masks[slot] |= mask;
        } else {
            cell.readers[slot] = mine;
            cell.read_masks[slot] = mask;
        }
        return Ok(());
    }
    for (reader, read) in cell.readers.into_iter().zip(cell.read_masks) {
        if reader != 0 && read & mask != 0 && !clock.has_seen(reader) {
            return other(reader, "writes", "read");
        }
    }
    if cell.writer == mine {
        cell.write_mask |= mask;
    } else {
        (cell.writer, cell.write_mask) = (mine, mask);
    }
    cell.atomic = how == Use::Atomic;
    Ok(())
}
