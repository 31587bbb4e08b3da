//! `wgmma.mma_async`. A product is computed when its group is waited for. Until then its accumulators hold garbage, and the shared memory that it reads counts as read twice: when the product is
//! issued, and when it is computed.
//!
//! Each warp of a warpgroup computes its own 16 of the 64 rows; the four warps need not meet.

use crate::block::{Block, Done};
use crate::error::FaultKind;
use crate::lanes::Row;
use crate::matrix::{decode16, first_lane, value};
use crate::program::Wgmma;
use crate::shared::Use;
use crate::syntax::Ty;
use crate::tensor_map::Swizzle;
use crate::warp::Warp;
use std::collections::BTreeMap;

/// One product on its way.
struct Product {
    ty: Ty,
    n: u32,
    d: Vec<u32>,
    a: Left,
    b: Descriptor,
    keep: bool,
    negate: [bool; 2],
}

/// Where A comes from.
enum Left {
    Registers(Vec<Row>),
    Shared(Descriptor),
}

/// The products of a warp that nobody has waited for.
#[derive(Default)]
pub(crate) struct Products {
    open: Vec<Product>,
    groups: std::collections::VecDeque<Vec<Product>>,
    /// The accumulators' values while products use them.
    accumulators: BTreeMap<u32, Row>,
}

impl Products {
    pub(crate) fn commit(&mut self) {
        let group = std::mem::take(&mut self.open);
        self.groups.push_back(group);
    }
}

/// A matrix in shared memory, as the "matrix-descriptor" of the PTX manual gives it.
#[derive(Clone, Copy)]
struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: Swizzle,
    transposed: bool,
}

impl Descriptor {
    fn new(bits: u64, transposed: bool) -> Result<Descriptor, FaultKind> {
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::Bytes128,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        };
        if bits >> 49 & 7 != 0 {
            return Err(FaultKind::Operand {
                what: format!("matrix descriptor {bits:#x} with a base offset: not emulated"),
            });
        }
        Ok(Descriptor {
            start: (bits & 0x3fff) << 4,
            leading: (bits >> 16 & 0x3fff) << 4,
            stride: (bits >> 32 & 0x3fff) << 4,
            swizzle,
            transposed,
        })
    }

    /// Address of the 8 elements (16 bytes) that hold element (i, k), before the swizzle, and its place among them. i is
    /// the row of A or the column of B.
    fn chunk(&self, i: u64, k: u64) -> (u64, u32) {
        let row: u64 = match self.swizzle {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        };
        let (offset, place) = if self.transposed {
            // Contiguous along i: rows of `row` bytes, one for each k.
            let wide = row / 2;
            let (groups, within) = (i / wide, i % wide);
            let (across, down) = match self.swizzle {
                Swizzle::None => (self.stride, self.leading),
                _ => (self.leading, self.stride),
            };
            (groups * across + k / 8 * down + k % 8 * row + within / 8 * 16, i % 8)
        } else {
            let within = match self.swizzle {
                Swizzle::None => k / 8 * self.leading,
                _ => k / 8 * 16,
            };
            (i / 8 * self.stride + i % 8 * row + within, k % 8)
        };
        (self.swizzle.apply(self.start + offset), place as u32)
    }

    /// Elements (from .. from + count, 0 .. 16), row by row.
    fn read(
        &self,
        block: &mut Block<'_>,
        me: usize,
        ty: Ty,
        from: u64,
        count: u64,
    ) -> Result<Vec<[f64; 16]>, FaultKind> {
        let mut out = vec![[0.0; 16]; count as usize];
        let mut seen: BTreeMap<u64, u128> = BTreeMap::new();
        for (i, row) in out.iter_mut().enumerate() {
            for (k, x) in row.iter_mut().enumerate() {
                let (at, place) = self.chunk(from + i as u64, k as u64);
                let bits = match seen.get(&at) {
                    Some(b) => *b,
                    None => {
                        let b = block.shared.load(at, 16, Use::Read, me, &block.clocks[me])?;
                        seen.insert(at, b);
                        b
                    }
                };
                *x = decode16(ty, (bits >> (16 * place)) as u16);
            }
        }
        block.counters.shared_load_bytes += count * 32;
        Ok(out)
    }
}

impl Warp {
    pub(crate) fn wgmma(&mut self, block: &mut Block<'_>, w: &Wgmma) -> Done<()> {
        let me = self.id as usize;
        let b = Descriptor::new(self.row(w.b)[0], w.transposed[1]).map_err(first_lane)?;
        let a = if let [descriptor] = w.a[..] {
            let bits = self.row(descriptor)[0];
            Left::Shared(Descriptor::new(bits, w.transposed[0]).map_err(first_lane)?)
        } else {
            Left::Registers(w.a.iter().map(|r| *self.row(*r)).collect())
        };
        // The read starts now: what it reads must have arrived.
        b.read(block, me, w.ty, 0, w.n as u64).map_err(first_lane)?;
        if let Left::Shared(a) = &a {
            a.read(block, me, w.ty, self.id as u64 % 4 * 16, 16).map_err(first_lane)?;
        }
        let keep = self.row(w.scale_d)[0] & 1 == 1;
        for d in &w.d {
            let row = &mut self.rows[*d as usize];
            self.products.accumulators.entry(*d).or_insert(*row);
            *row = [0x7fff_dead; 32];
        }
        self.products.open.push(Product {
            ty: w.ty,
            n: w.n,
            d: w.d.clone(),
            a,
            b,
            keep,
            negate: w.negate,
        });
        Ok(())
    }

    pub(crate) fn wgmma_wait(&mut self, block: &mut Block<'_>, groups: u32) -> Done<()> {
        while self.products.groups.len() > groups as usize {
            let Some(group) = self.products.groups.pop_front() else { break };
            for product in group {
                self.multiply(block, &product).map_err(first_lane)?;
            }
        }
        // Accumulators that no pending product uses are the registers again.
        let busy: std::collections::BTreeSet<u32> = (self.products.groups.iter().flatten())
            .chain(&self.products.open)
            .flat_map(|p| p.d.iter().copied())
            .collect();
        let all = std::mem::take(&mut self.products.accumulators);
        for (row, values) in all {
            if busy.contains(&row) {
                self.products.accumulators.insert(row, values);
            } else {
                self.rows[row as usize] = values;
            }
        }
        Ok(())
    }

    fn multiply(&mut self, block: &mut Block<'_>, p: &Product) -> Result<(), FaultKind> {
        let me = self.id as usize;
        let b = p.b.read(block, me, p.ty, 0, p.n as u64)?;
        let a = match &p.a {
            Left::Shared(a) => a.read(block, me, p.ty, self.id as u64 % 4 * 16, 16)?,
            Left::Registers(rows) => {
                let mut a = vec![[0.0; 16]; 16];
                for (r, row) in rows.iter().enumerate() {
                    for (lane, v) in row.iter().enumerate() {
                        for e in 0..2 {
                            a[lane / 4 + 8 * (r & 1)][lane % 4 * 2 + 8 * (r >> 1) + e] =
                                value(p.ty, *v, e as u32);
                        }
                    }
                }
                a
            }
        };
        let sign = if p.negate[0] == p.negate[1] { 1.0 } else { -1.0 };
        for (register, d) in p.d.iter().enumerate() {
            let Some(values) = self.products.accumulators.get_mut(d) else { continue };
            for (lane, v) in values.iter_mut().enumerate() {
                let i = lane / 4 + 8 * (register / 2 % 2);
                let j = register / 4 * 8 + lane % 4 * 2 + register % 2;
                let mut sum = if p.keep { f32::from_bits(*v as u32) as f64 } else { 0.0 };
                for (x, y) in a[i].iter().zip(&b[j]) {
                    sum += sign * x * y;
                }
                *v = if sum.is_nan() { 0x7fff_ffff } else { (sum as f32).to_bits() as u64 };
            }
        }
        Ok(())
    }
}
