//! Table look-ups, and their gradient in an order that shapes and ids give.

use super::driver::{Arg, Kernel, Module};
use super::{Cuda, OnDevice, PARTIALS, columns};
use crate::ops::{Embed, EmbedBackward, EmbedDims};
use crate::{Error, Result};

static EMBEDDING: Module =
    Module { name: "embedding", ptx: include_str!("../../ptx/sm80/embedding.ptx") };
static EMBED: Kernel = look_up("embed");
static EMBED_BACKWARD: Kernel = look_up("embed_backward");
static EMBED_BACKWARD_HEADS: Kernel = look_up("embed_backward_heads");

const WARPS: usize = 8;
/// Rows that a warp of `embed` copies.
const EMBED_ROWS: usize = 8;
/// Places of the order that a block of `embed_backward` adds up, and columns of it.
const PIECE: usize = 32 * WARPS;
const COLUMNS: usize = 128;
/// Places whose pieces have room for the sums that they begin with.
const MOST_PLACES: usize = PARTIALS / COLUMNS * PIECE;

const fn look_up(name: &'static str) -> Kernel {
    Kernel { module: &EMBEDDING, name, threads: 32 * WARPS as u32, shared_bytes: 0 }
}

/// N, V and C. A table without rows has nothing to clamp an id to.
fn table_args(op: &'static str, n: usize, v: usize, c: usize) -> Result<[Arg; 3]> {
    let rows = i32::try_from(v).ok().filter(|_| v > 0 || n == 0).ok_or_else(|| {
        Error::Argument { op, what: format!("a table of {v} rows, expected 1 to {}", i32::MAX) }
    })?;
    if i32::try_from(n).is_err() {
        let what = format!("{n} ids, at most {}", i32::MAX);
        return Err(Error::Argument { op, what });
    }
    Ok([Arg::I64(n as i64), Arg::I32(rows), columns(op, c)?])
}

/// What two launches of `embed_backward` do: places of the order, in pieces, and slices of the columns.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    places: usize,
    pieces: usize,
    first_slice: usize,
    slots: usize,
}

/// N places and C columns, as many places at a time as one slice has room for, then as many slices as those leave room for.
fn parts(n: usize, c: usize) -> impl Iterator<Item = Part> {
    (0..n).step_by(MOST_PLACES).flat_map(move |start| {
        let (places, slices) = (MOST_PLACES.min(n - start), c.div_ceil(COLUMNS));
        let pieces = places.div_ceil(PIECE);
        let most = PARTIALS / (pieces * COLUMNS);
        (0..slices).step_by(most).map(move |first_slice| {
            let slots = most.min(slices - first_slice);
            Part { start, places, pieces, first_slice, slots }
        })
    })
}

impl Cuda {
    /// An id outside of the table is clamped into it.
    ///
    /// Per row: reads 2·C + 4 bytes, writes 2·C.
    pub(super) fn embed(&self, op: Embed<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = op.check(&self.dtypes)?;
        let Embed { out, table, ids } = op;
        if c == 0 {
            return Ok(());
        }
        let [n_arg, v, c] = table_args("embed", n, v, c)?;
        let args = [out.arg(), table.arg(), ids.arg(), n_arg, v, c];
        self.launch(&EMBED, n.div_ceil(WARPS * EMBED_ROWS), &args)
    }

    /// An id outside of the table is clamped into it, and so is a place outside of the order.
    ///
    /// Reads 2·C bytes for each id, 4·C for each distinct id and each border of 256 places that its rows cross, and 8 to 9 for each id and
    /// 128 columns; writes as much f32. No warp adds more than 32 rows, however frequent an id is.
    pub(super) fn embed_backward(&self, op: EmbedBackward<'_>) -> Result<()> {
        let dims = op.check(&self.dtypes)?;
        let EmbedBackward { dtable, dout, ids, order } = op;
        let EmbedDims { n, v, c } = dims;
        let [_, v, c_arg] = table_args("embed_backward", n, v, c)?;
        for Part { start, places, pieces, first_slice, slots } in parts(n, c) {
            let args = [
                dtable.arg(),
                Arg::Address(self.partials.address),
                dout.arg(),
                ids.arg(),
                Arg::Address(order.device_address() + 4 * start as u64),
                Arg::I32(n as i32),
                Arg::I32(places as i32),
                v,
                c_arg,
                Arg::I32(first_slice as i32),
                Arg::I32(slots as i32),
            ];
            self.launch(&EMBED_BACKWARD, pieces * slots, &args)?;
            self.launch(&EMBED_BACKWARD_HEADS, (pieces - 1) * slots, &args)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_place_and_column_once_and_have_room() {
        for (n, c, launches) in [
            (1, 1, 1),
            (256, 128, 1),
            (32_768, 1536, 1),
            (32_768, 2049, 2),
            (131_072, 1536, 3),
            (MOST_PLACES, 128, 1),
            (MOST_PLACES, 129, 2),
            (MOST_PLACES + 1, 128, 2),
            (3 * MOST_PLACES - 255, 500, 12),
            (0, 128, 0),
            (128, 0, 0),
        ] {
            let parts: Vec<Part> = parts(n, c).collect();
            let mut covered = 0;
            for &Part { start, places, pieces, first_slice, slots } in &parts {
                assert!(places > 0 && start + places <= n && places <= pieces * PIECE);
                assert!(slots > 0 && pieces * slots * COLUMNS <= PARTIALS, "{n}, {c}: no room");
                assert!((first_slice + slots - 1) * COLUMNS < c);
                covered += places * slots;
            }
            // Starts and slices ascend without overlap, so that this many are all.
            let ascends = |a: &Part, b: &Part| {
                (a.start, a.first_slice + a.slots) == (b.start, b.first_slice)
                    || (a.start + a.places, 0) == (b.start, b.first_slice)
            };
            assert!(parts.windows(2).all(|pair| ascends(&pair[0], &pair[1])), "{parts:?}");
            assert_eq!((covered, parts.len()), (n * c.div_ceil(COLUMNS), launches), "{n}, {c}");
        }
    }
}
