//! Table look-ups by id, and their gradient.

use super::indices;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::{DTYPES, add_scaled};
use crate::{Device, Result};

dims! {
    /// A look-up's dimensions.
    EmbedDims {
        /// Ids.
        n: b'N',
        /// Rows of the table.
        v: b'V',
        /// Columns of the table.
        c: b'C',
    }
}

operation! {
    /// out\[n\] = table\[ids\[n\]\].
    ///
    /// # Shapes
    /// out (N, C), table (V, C), ids (N) I32 in 0..V.
    /// # Errors
    /// [`Error::Index`](crate::Error::Index) for an id outside the table (host devices; a GPU clamps).
    Embed = fn embed(
        out: write Compute "(N, C)",
        table: read Compute "(V, C)",
        ids: read Index "(N)",
    ) -> EmbedDims, first [table, ids]
}

operation! {
    /// dtable\[ids\[n\]\] += dout\[n\] for all n: the gradient of [`Embed`]. Each id's rows are added in an order that shapes and ids
    /// give: ascending n on host devices.
    ///
    /// `order` lists 0..N sorted by (id, n), so that each id's rows are one run: the sum is deterministic without atomics.
    ///
    /// # Shapes
    /// dtable (V, C) master dtype, dout (N, C), ids (N) I32, order (N) I32.
    EmbedBackward = fn embed_backward(
        dtable: update Master "(V, C)",
        dout: read Compute "(N, C)",
        ids: read Index "(N)",
        order: read Index "(N)",
    ) -> EmbedDims, first [dtable, ids]
}

impl Embed<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let EmbedDims { n, v, c } = self.check(&DTYPES)?;
        let Self { out, table, ids } = self;
        let (out, table, ids) = (out.slice::<f64>()?, table.slice::<f64>()?, ids.slice::<i32>()?);
        indices("embed", ids, 0, v)?;
        for n in 0..n {
            let id = ids[n] as usize;
            out[n * c..(n + 1) * c].copy_from_slice(&table[id * c..(id + 1) * c]);
        }
        Ok(())
    }
}

impl EmbedBackward<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let EmbedDims { v, c, .. } = self.check(&DTYPES)?;
        let Self { dtable, dout, ids, order } = self;
        let (dtable, dout) = (dtable.slice::<f64>()?, dout.slice::<f64>()?);
        let (ids, order) = (ids.slice::<i32>()?, order.slice::<i32>()?);
        indices("embed_backward", ids, 0, v)?;
        super::order("embed_backward", ids, order)?;
        for &n in order {
            let (n, id) = (n as usize, ids[n as usize] as usize);
            add_scaled(&mut dtable[id * c..(id + 1) * c], 1.0, &dout[n * c..(n + 1) * c]);
        }
        Ok(())
    }
}

/// Ids, rows, columns.
const LOOKUPS: [(usize, usize, usize); 4] = [(1, 1, 1), (5, 11, 7), (64, 9, 48), (300, 130, 33)];

/// [`Embed`].
pub fn embed(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "embed");
    for (n, v, c) in LOOKUPS {
        check.case(format!("N {n}, V {v}, C {c}"));
        let (table, ids) = (check.normal([v, c]), check.integers([n], 0, v as i32));
        let call = Operand::poison([n, c]);
        check.run([&call], [&table, &ids], |d, [out], [table, ids]| d.embed(out, table, ids))?;
    }
    Ok(check.worst)
}

/// [`EmbedBackward`], with ids that occur once, often and never.
pub fn embed_backward(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "embed_backward");
    for (n, v, c) in LOOKUPS {
        check.case(format!("N {n}, V {v}, C {c}"));
        let draw: Vec<i32> =
            (0..n).map(|_| (check.uniform() * check.uniform() * v as f64) as i32).collect();
        let mut order: Vec<i32> = (0..n as i32).collect();
        order.sort_by_key(|&n| (draw[n as usize], n));
        let (ids, order) = (Operand::index([n], draw), Operand::index([n], order));
        let (dout, dtable) = (check.normal([n, c]), check.normal([v, c]).master());
        check.run([&dtable], [&dout, &ids, &order], |d, [dtable], [dout, ids, order]| {
            d.embed_backward(dtable, dout, ids, order)
        })?;
    }
    Ok(check.worst)
}
