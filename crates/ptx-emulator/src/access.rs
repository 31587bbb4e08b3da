//! Loads, stores and atomics of a warp, lane by lane, with their traffic.

use crate::block::{Block, Done, wrong};
use crate::counters::conflicts;
use crate::error::FaultKind;
use crate::float::{BF16, F16, Rounding, bf16_to_f32, f16_to_f32, sum_to_odd};
use crate::memory::{Access, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::program::{Address, Atomic};
use crate::shared::Use;
use crate::syntax::{Space, Ty};
use crate::warp::{Warp, lanes};

/// The lanes' addresses in one memory.
pub(crate) struct Addresses {
    all: [u64; 32],
    count: usize,
}

impl Addresses {
    pub(crate) fn new() -> Addresses {
        Addresses { all: [0; 32], count: 0 }
    }

    pub(crate) fn push(&mut self, address: u64) {
        self.all[self.count] = address;
        self.count += 1;
    }

    pub(crate) fn as_slice(&self) -> &[u64] {
        &self.all[..self.count]
    }
}

/// A generic address as one of a space.
fn resolve(space: Space, address: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, address);
    }
    match address >> 40 << 40 {
        SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
        LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
        PARAM_WINDOW => (Space::Param, address - PARAM_WINDOW),
        _ => (Space::Global, address),
    }
}

/// The part of a value that one register takes, extended as the type asks.
fn element(value: u128, index: usize, ty: Ty) -> u64 {
    let bits = ty.bits();
    let v = (value >> (index as u32 * bits)) as u64;
    match (bits, ty.signed()) {
        (8, false) => v as u8 as u64,
        (8, true) => v as i8 as i64 as u64,
        (16, false) => v as u16 as u64,
        (16, true) => v as i16 as i64 as u64,
        (32, false) => v as u32 as u64,
        (32, true) => v as i32 as i64 as u64,
        _ => v,
    }
}

/// What an atomic leaves in memory.
pub(crate) fn apply(how: Atomic, ty: Ty, old: u128, b: u64, c: u64, flush: bool) -> u128 {
    let o = old as u64;
    let half = |bf: bool, x: u64, y: u64| {
        let (x, y) = (x as u16, y as u16);
        if bf {
            let sum = sum_to_odd(bf16_to_f32(x) as f64, bf16_to_f32(y) as f64);
            BF16.encode(sum, Rounding::Nearest, false)
        } else {
            let sum = sum_to_odd(f16_to_f32(x) as f64, f16_to_f32(y) as f64);
            F16.encode(sum, Rounding::Nearest, false)
        }
    };
    let (wide, signed) = (ty.bits() == 64, ty.signed());
    let least = match (wide, signed) {
        (false, false) => (o as u32) < b as u32,
        (false, true) => (o as i32) < b as i32,
        (true, false) => o < b,
        (true, true) => (o as i64) < b as i64,
    };
    let new = match how {
        Atomic::Add => match ty {
            Ty::F32 => {
                let zero = |x: u32| if flush && x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
                let sum = f32::from_bits(zero(o as u32)) + f32::from_bits(zero(b as u32));
                let bits = if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
                zero(bits) as u64
            }
            Ty::F64 => (f64::from_bits(o) + f64::from_bits(b)).to_bits(),
            Ty::F16 => half(false, o, b),
            Ty::BF16 => half(true, o, b),
            Ty::F16x2 => half(false, o, b) | half(false, o >> 16, b >> 16) << 16,
            Ty::BF16x2 => half(true, o, b) | half(true, o >> 16, b >> 16) << 16,
            _ => o.wrapping_add(b),
        },
        Atomic::Min => {
            if least {
                o
            } else {
                b
            }
        }
        Atomic::Max => {
            if least {
                b
            } else {
                o
            }
        }
        Atomic::And => o & b,
        Atomic::Or => o | b,
        Atomic::Xor => o ^ b,
        Atomic::Inc => {
            if o as u32 >= b as u32 {
                0
            } else {
                o + 1
            }
        }
        Atomic::Dec => {
            if o as u32 == 0 || o as u32 > b as u32 {
                b
            } else {
                o - 1
            }
        }
        Atomic::Exchange => b,
        Atomic::CompareSwap => {
            let mask = if wide { u64::MAX } else { (1 << ty.bits()) - 1 };
            if o & mask == b & mask { c } else { o }
        }
    };
    let bits = ty.bits();
    (if bits == 64 { new } else { new & ((1 << bits) - 1) }) as u128
}

impl Block<'_> {
    pub(crate) fn access(&self, atomic: bool) -> Access {
        Access { initialised: self.launch.options.uninitialised, block: self.linear(), atomic }
    }
}

impl Warp {
    fn window<'a>(
        block: &'a Block<'_>,
        space: Space,
        address: u64,
        bytes: u32,
        lane: usize,
    ) -> Done<(&'a [u8], usize)> {
        let (name, size) = match space {
            Space::Local => ("local memory", block.launch.program.local_bytes as u64),
            _ => ("the parameters", block.launch.params.len() as u64),
        };
        let place = || format!("{name} + {}", address as i64);
        if address.checked_add(bytes as u64).is_none_or(|end| end > size) {
            let bounds = format!("{name} has {size} bytes");
            return Err(wrong(
                lane as u32,
                FaultKind::OutOfBounds { place: place(), bytes, bounds },
            ));
        }
        if address & (bytes as u64 - 1) != 0 {
            return Err(wrong(lane as u32, FaultKind::Misaligned { place: place(), bytes }));
        }
        Ok((&block.launch.params, address as usize))
    }

    pub(crate) fn load(
        &mut self,
        block: &mut Block<'_>,
        space: Space,
        ty: Ty,
        d: &[u32],
        address: Address,
        atomic: bool,
        mask: u32,
    ) -> Done<()> {
        let bytes = ty.bytes() as u32 * d.len() as u32;
        let (mut global, mut shared) = (Addresses::new(), Addresses::new());
        let me = self.id as usize;
        let how = block.access(atomic);
        let mut values = [0u128; 32];
        let launch = block.launch;
        for lane in lanes(mask) {
            let (space, a) = resolve(space, self.address(address, lane));
            values[lane] = match space {
                Space::Shared => {
                    shared.push(a);
                    let how = if atomic { Use::Atomic } else { Use::Read };
                    block.shared.load(a, bytes, how, me, &block.clocks[me])
                }
                Space::Local | Space::Param => {
                    let (params, at) = Warp::window(block, space, a, bytes, lane)?;
                    let from = if space == Space::Local {
                        &self.local[lane * launch.program.local_bytes as usize..]
                    } else {
                        params
                    };
                    let mut v = [0; 16];
                    v[..bytes as usize].copy_from_slice(&from[at..at + bytes as usize]);
                    Ok(u128::from_le_bytes(v))
                }
                _ => {
                    global.push(a);
                    launch.memory.load(a, bytes, how)
                }
            }
            .map_err(|k| wrong(lane as u32, k))?;
        }
        for (i, row) in d.iter().enumerate() {
            let row = &mut self.rows[*row as usize];
            for lane in lanes(mask) {
                row[lane] = element(values[lane], i, ty);
            }
        }
        if global.count > 0 {
            block.counters.global_load.count(global.as_slice(), bytes);
        }
        if shared.count > 0 {
            block.counters.shared_load_bytes += shared.count as u64 * bytes as u64;
            block.counters.bank_conflicts += conflicts(shared.as_slice(), bytes);
        }
        Ok(())
    }

    pub(crate) fn store(
        &mut self,
        block: &mut Block<'_>,
        space: Space,
        ty: Ty,
        sources: &[u32],
        address: Address,
        atomic: bool,
        mask: u32,
    ) -> Done<()> {
        let bits = ty.bits();
        let bytes = bits / 8 * sources.len() as u32;
        let keep = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        let (mut global, mut shared) = (Addresses::new(), Addresses::new());
        let me = self.id as usize;
        let how = block.access(atomic);
        for lane in lanes(mask) {
            let mut value = 0u128;
            for (i, row) in sources.iter().enumerate() {
                value |= ((self.row(*row)[lane] & keep) as u128) << (i as u32 * bits);
            }
            let (space, a) = resolve(space, self.address(address, lane));
            match space {
                Space::Shared => {
                    shared.push(a);
                    let how = if atomic { Use::Atomic } else { Use::Write };
                    block.shared.store(a, bytes, value, how, me, &block.clocks[me])
                }
                Space::Local => {
                    let (_, at) = Warp::window(block, space, a, bytes, lane)?;
                    let from = lane * block.launch.program.local_bytes as usize + at;
                    self.local[from..from + bytes as usize]
                        .copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
                    Ok(())
                }
                Space::Param => Err(FaultKind::Operand { what: "a store to a parameter".into() }),
                _ => {
                    global.push(a);
                    block.launch.memory.store(a, bytes, value, how)
                }
            }
            .map_err(|k| wrong(lane as u32, k))?;
        }
        if atomic {
            block.progress += 1;
        }
        if global.count > 0 {
            block.counters.global_store.count(global.as_slice(), bytes);
        }
        if shared.count > 0 {
            block.counters.shared_store_bytes += shared.count as u64 * bytes as u64;
            block.counters.bank_conflicts += conflicts(shared.as_slice(), bytes);
        }
        Ok(())
    }

    pub(crate) fn atomic(
        &mut self,
        block: &mut Block<'_>,
        space: Space,
        ty: Ty,
        how: Atomic,
        d: u32,
        address: Address,
        [b, c]: [u32; 2],
        mask: u32,
    ) -> Done<()> {
        let bytes = ty.bytes() as u32;
        let mut global = Addresses::new();
        let me = self.id as usize;
        let access = block.access(true);
        let mut out = *self.row(d);
        for lane in lanes(mask) {
            let (b, c) = (self.row(b)[lane], self.row(c)[lane]);
            let (space, a) = resolve(space, self.address(address, lane));
            let old = match space {
                Space::Shared => {
                    let clock = &block.clocks[me];
                    block.shared.load(a, bytes, Use::Atomic, me, clock).and_then(|old| {
                        let new = apply(how, ty, old, b, c, false);
                        block.shared.store(a, bytes, new, Use::Atomic, me, clock)?;
                        Ok(old)
                    })
                }
                Space::Global | Space::Generic | Space::Const => {
                    global.push(a);
                    let f = |old| apply(how, ty, old, b, c, true);
                    block.launch.memory.update(a, bytes, access, &f)
                }
                _ => Err(FaultKind::Operand { what: "an atomic in this space".into() }),
            };
            out[lane] = old.map_err(|k| wrong(lane as u32, k))? as u64;
        }
        block.progress += 1;
        self.put(d, mask, &out);
        if global.count > 0 {
            block.counters.global_atomic.count(global.as_slice(), bytes);
        }
        Ok(())
    }
}
