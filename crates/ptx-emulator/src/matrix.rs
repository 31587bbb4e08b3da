//! `mma.sync`, `ldmatrix`, `stmatrix`. Products are exact; a dot product is summed in f64 in the order of k, starting
//! from the accumulator, and rounded once. The hardware keeps fewer bits in between.

use crate::block::{Block, Done, wrong};
use crate::counters::conflicts;
use crate::error::FaultKind;
use crate::float::{BF16, E4M3, E5M2, F16, Rounding, bf16_to_f32, f16_to_f32};
use crate::program::{Address, Mma};
use crate::shared::Use;
use crate::syntax::Ty;
use crate::warp::Warp;

/// One element of a register that holds several.
pub(crate) fn value(ty: Ty, register: u64, index: u32) -> f64 {
    let part = register >> (index * ty.bits());
    match ty {
        Ty::BF16 => bf16_to_f32(part as u16) as f64,
        Ty::F16 => f16_to_f32(part as u16) as f64,
        // tf32 ignores the lower 13 bits.
        Ty::TF32 => f32::from_bits(part as u32 & !0x1fff) as f64,
        Ty::S8 => part as i8 as f64,
        Ty::U8 => part as u8 as f64,
        Ty::E4M3 => E4M3.decode(part & 0xff),
        _ => E5M2.decode(part & 0xff),
    }
}

impl Warp {
    /// D = A · B + C for m16n8: lane l holds rows l / 4 and l / 4 + 8 of A and C and column l / 4 of B.
    pub(crate) fn mma(&mut self, mma: &Mma) {
        let (ta, tb, tc) = (mma.types.a, mma.types.b, mma.types.c);
        let each = 32 / ta.bits(); // elements of a register
        let mut a = [[0f64; 32]; 16]; // [row][k]
        let mut b = [[0f64; 8]; 32]; // [k][column]
        for (r, row) in mma.a.iter().enumerate() {
            let values = self.row(*row);
            for (lane, v) in values.iter().enumerate() {
                let i = lane / 4 + 8 * (r & 1);
                let k = (lane % 4) * each as usize + (r >> 1) * 4 * each as usize;
                for e in 0..each {
                    a[i][k + e as usize] = value(ta, *v, e);
                }
            }
        }
        for (r, row) in mma.b.iter().enumerate() {
            let values = self.row(*row);
            for (lane, v) in values.iter().enumerate() {
                let k = (lane % 4) * each as usize + r * 4 * each as usize;
                for e in 0..each {
                    b[k + e as usize][lane / 4] = value(tb, *v, e);
                }
            }
        }
        let k = mma.k as usize;
        let mut c = [[0f64; 8]; 16];
        // Accumulators: lane l holds columns 2 (l mod 4) and the next, of its two rows.
        let place = |lane: usize, i: usize| (lane / 4 + 8 * (i / 2), (lane % 4) * 2 + i % 2);
        for lane in 0..32 {
            for i in 0..4 {
                let (m, n) = place(lane, i);
                c[m][n] = match tc {
                    Ty::F32 => f32::from_bits(self.row(mma.c[i])[lane] as u32) as f64,
                    Ty::F16 => value(Ty::F16, self.row(mma.c[i / 2])[lane], i as u32 % 2),
                    _ => self.row(mma.c[i])[lane] as i32 as f64,
                };
            }
        }
        for (c, a) in c.iter_mut().zip(&a) {
            let mut sum = *c;
            for (a, b) in a[..k].iter().zip(&b) {
                for n in 0..8 {
                    sum[n] += a * b[n];
                }
            }
            *c = sum;
        }
        let mut out = [[0u64; 32]; 4];
        for lane in 0..32 {
            for i in 0..4 {
                let (m, n) = place(lane, i);
                let x = c[m][n];
                match tc {
                    Ty::F32 => {
                        let bits = if x.is_nan() { 0x7fff_ffff } else { (x as f32).to_bits() };
                        out[i][lane] = bits as u64;
                    }
                    Ty::F16 => {
                        let half = F16.encode(x, Rounding::Nearest, false);
                        out[i / 2][lane] |= half << (16 * (i % 2));
                    }
                    // Sums of int8 products are exact in f64; the accumulator wraps.
                    _ => out[i][lane] = x as i64 as u32 as u64,
                }
            }
        }
        for (d, values) in mma.d.iter().zip(&out) {
            self.put(*d, u32::MAX, values);
        }
    }

    /// Lane 8 m + r holds the address of row r of matrix m; lane l gets elements 2 (l mod 4) and the next of row l / 4, or
    /// of column l / 4 if transposed.
    pub(crate) fn load_matrix(
        &mut self,
        block: &mut Block<'_>,
        d: &[u32],
        transposed: bool,
        address: Address,
    ) -> Done<()> {
        let me = self.id as usize;
        for (m, row) in d.iter().enumerate() {
            let mut rows = [0u128; 8];
            let mut addresses = [0; 8];
            for (r, bits) in rows.iter_mut().enumerate() {
                let lane = 8 * m + r;
                addresses[r] = shared_address(self.address(address, lane));
                *bits = block
                    .shared
                    .load(addresses[r], 16, Use::Read, me, &block.clocks[me])
                    .map_err(|k| wrong(lane as u32, k))?;
            }
            let half = |i: usize, j: usize| (rows[i] >> (16 * j)) as u16 as u64;
            let out = std::array::from_fn(|lane| {
                let (i, j) = (lane / 4, lane % 4 * 2);
                if transposed {
                    half(j, i) | half(j + 1, i) << 16
                } else {
                    half(i, j) | half(i, j + 1) << 16
                }
            });
            self.put(*row, u32::MAX, &out);
            block.counters.shared_load_bytes += 128;
            block.counters.bank_conflicts += conflicts(&addresses, 16);
        }
        Ok(())
    }

    pub(crate) fn store_matrix(
        &mut self,
        block: &mut Block<'_>,
        a: &[u32],
        transposed: bool,
        address: Address,
    ) -> Done<()> {
        let me = self.id as usize;
        for (m, row) in a.iter().enumerate() {
            let values = *self.row(*row);
            let mut rows = [0u128; 8];
            for (lane, v) in values.iter().enumerate() {
                let (i, j) = (lane / 4, lane % 4 * 2);
                for e in 0..2 {
                    let half = (v >> (16 * e)) as u16 as u128;
                    if transposed {
                        rows[j + e] |= half << (16 * i);
                    } else {
                        rows[i] |= half << (16 * (j + e));
                    }
                }
            }
            let mut addresses = [0; 8];
            for (r, bits) in rows.iter().enumerate() {
                let lane = 8 * m + r;
                addresses[r] = shared_address(self.address(address, lane));
                block
                    .shared
                    .store(addresses[r], 16, *bits, Use::Write, me, &block.clocks[me])
                    .map_err(|k| wrong(lane as u32, k))?;
            }
            block.counters.shared_store_bytes += 128;
            block.counters.bank_conflicts += conflicts(&addresses, 16);
        }
        Ok(())
    }
}

/// An address of shared memory that may have come as a generic one.
pub(crate) fn shared_address(address: u64) -> u64 {
    if address >> 40 == crate::memory::SHARED_WINDOW >> 40 {
        address - crate::memory::SHARED_WINDOW
    } else {
        address
    }
}

/// A format by its type, for `wgmma`.
pub(crate) fn decode16(ty: Ty, bits: u16) -> f64 {
    if ty == Ty::BF16 { BF16.decode(bits as u64) } else { f16_to_f32(bits) as f64 }
}

/// A fault of the first lane.
pub(crate) fn first_lane(kind: FaultKind) -> Box<crate::block::Wrong> {
    wrong(0, kind)
}
