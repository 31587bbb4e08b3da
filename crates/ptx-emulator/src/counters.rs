//! What a launch did, counted: instructions by class, bytes asked for and the 32-byte sectors they touch.

use std::ops::AddAssign;

/// What an instruction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Integer arithmetic, logic, shifts, bit fields.
    Integer,
    /// Floating-point add, multiply, fma, min, max.
    Float,
    /// Division, roots, exponentials and the like.
    Special,
    /// `cvt`.
    Convert,
    /// `setp` and its kin.
    Compare,
    /// `mov`, `selp`, `cvta`.
    Move,
    /// `ld`.
    Load,
    /// `st`.
    Store,
    /// `atom` and `red`.
    Atomic,
    /// Branches and exits.
    Control,
    /// Barriers, mbarriers and fences.
    Barrier,
    /// Shuffles, votes, matches, warp reductions.
    Warp,
    /// `mma` and `wgmma`.
    Matrix,
    /// `ldmatrix` and `stmatrix`.
    MatrixMove,
    /// `cp.async` and bulk copies.
    Copy,
    /// Hints, and what belongs to another instruction.
    Other,
}

impl Class {
    const COUNT: usize = Class::Other as usize + 1;
}

/// Accesses to global memory of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Warp instructions that accessed memory.
    pub requests: u64,
    /// Bytes that the lanes asked for.
    pub bytes: u64,
    /// 32-byte sectors that each warp instruction touched, summed. There is no cache here.
    pub sectors: u64,
}

impl Traffic {
    /// Bytes asked for over bytes moved: 1 is fully coalesced. 1 too if nothing was moved.
    pub fn efficiency(&self) -> f64 {
        if self.sectors == 0 { 1.0 } else { self.bytes as f64 / (32 * self.sectors) as f64 }
    }
}

/// The counts of one launch. They depend on the kernel and its data, not on threads or time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Instructions issued, one per warp.
    pub warp_instructions: u64,
    /// Instructions of the warp that issued the most: the chain that no number of multiprocessors makes shorter.
    pub longest_warp: u64,
    /// Instructions executed, one per active lane.
    pub lane_instructions: u64,
    /// Loads from global memory, asynchronous copies included.
    pub global_load: Traffic,
    /// Stores to global memory.
    pub global_store: Traffic,
    /// Atomics on global memory.
    pub global_atomic: Traffic,
    /// Bytes loaded from shared memory.
    pub shared_load_bytes: u64,
    /// Bytes stored to shared memory.
    pub shared_store_bytes: u64,
    /// Passes over the banks of shared memory beyond those that the width of the access needs.
    pub bank_conflicts: u64,
    classes: [u64; Class::COUNT],
}

impl Counters {
    /// Warp instructions of one class.
    pub fn class(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }

    pub(crate) fn issue(&mut self, class: Class, lanes: u32) {
        self.warp_instructions += 1;
        self.lane_instructions += lanes as u64;
        self.classes[class as usize] += 1;
    }
}

impl AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.longest_warp = self.longest_warp.max(other.longest_warp);
        self.lane_instructions += other.lane_instructions;
        self.shared_load_bytes += other.shared_load_bytes;
        self.shared_store_bytes += other.shared_store_bytes;
        self.bank_conflicts += other.bank_conflicts;
        for (a, b) in [
            (&mut self.global_load, other.global_load),
            (&mut self.global_store, other.global_store),
            (&mut self.global_atomic, other.global_atomic),
        ] {
            a.requests += b.requests;
            a.bytes += b.bytes;
            a.sectors += b.sectors;
        }
        for (a, b) in self.classes.iter_mut().zip(other.classes) {
            *a += b;
        }
    }
}

impl Traffic {
    /// One warp instruction: `bytes` at each address.
    pub(crate) fn count(&mut self, addresses: &[u64], bytes: u32) {
        self.requests += 1;
        self.bytes += addresses.len() as u64 * bytes as u64;
        let mut sectors: [u64; 32] = [0; 32];
        let mut n = 0;
        let mut sorted = true;
        for a in addresses {
            let s = a >> 5;
            if n > 0 && sectors[n - 1] == s {
                continue;
            }
            sorted &= n == 0 || sectors[n - 1] < s;
            sectors[n] = s;
            n += 1;
        }
        if !sorted {
            sectors[..n].sort_unstable();
            let mut distinct = 1;
            for i in 1..n {
                distinct += usize::from(sectors[i] != sectors[i - 1]);
            }
            n = distinct;
        }
        self.sectors += n as u64;
    }
}

/// Passes beyond the first that 4-byte banks need for `bytes` at each address; 8- and 16-byte accesses go by half and
/// quarter warps.
pub(crate) fn conflicts(addresses: &[u64], bytes: u32) -> u64 {
    let lanes = (128 / bytes.max(4)) as usize;
    let mut extra = 0;
    for phase in addresses.chunks(lanes) {
        let mut words: [[u64; 32]; 32] = [[0; 32]; 32];
        let mut counts = [0usize; 32];
        let mut most = 1;
        for address in phase {
            for part in 0..bytes.div_ceil(4) as u64 {
                let word = address / 4 + part;
                let bank = (word % 32) as usize;
                let seen = &mut counts[bank];
                if words[bank][..*seen].contains(&word) {
                    continue;
                }
                words[bank][*seen] = word;
                *seen += 1;
                most = most.max(*seen);
            }
        }
        extra += most as u64 - 1;
    }
    extra
}
