//! Arguments of [`Dense`](crate::Dense)'s operations.

use super::{Compute, Dtypes, Index, Master};
use crate::{Error, Mut, Ref, Result};

/// A matrix product's dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinearDims {
    /// Rows.
    pub n: usize,
    /// Channels in.
    pub i: usize,
    /// Channels out.
    pub o: usize,
}

/// Checks [`Dense::linear`](crate::Dense::linear).
///
/// # Errors
/// [`Error::Place`], [`Error::Unsupported`], [`Error::Shape`].
pub fn linear(d: &Dtypes, y: &Mut<'_>, x: &Ref<'_>, w: &Ref<'_>) -> Result<LinearDims> {
    let op = d.op("linear", &[(y, Compute), (x, Compute), (w, Compute)])?;
    let [o, i] = op.dims("w", w, "(O, I)")?;
    let (n, _) = op.leading::<1>("x", x, "(N, I)")?;
    op.rows("x", x, "(N, I)", n, &[i])?;
    op.rows("y", y, "(N, O)", n, &[o])?;
    Ok(LinearDims { n, i, o })
}

/// Checks [`Dense::linear_dx`](crate::Dense::linear_dx).
///
/// # Errors
/// [`Error::Place`], [`Error::Unsupported`], [`Error::Shape`].
pub fn linear_dx(d: &Dtypes, dx: &Mut<'_>, dy: &Ref<'_>, w: &Ref<'_>) -> Result<LinearDims> {
    let op = d.op("linear_dx", &[(dx, Compute), (dy, Compute), (w, Compute)])?;
    let [o, i] = op.dims("w", w, "(O, I)")?;
    let (n, _) = op.leading::<1>("dy", dy, "(N, O)")?;
    op.rows("dy", dy, "(N, O)", n, &[o])?;
    op.rows("dx", dx, "(N, I)", n, &[i])?;
    Ok(LinearDims { n, i, o })
}

/// Checks [`Dense::linear_dw`](crate::Dense::linear_dw).
///
/// # Errors
/// [`Error::Place`], [`Error::Unsupported`], [`Error::Shape`].
pub fn linear_dw(d: &Dtypes, dw: &Mut<'_>, x: &Ref<'_>, dy: &Ref<'_>) -> Result<LinearDims> {
    let op = d.op("linear_dw", &[(dw, Master), (x, Compute), (dy, Compute)])?;
    let [o, i] = op.dims("dw", dw, "(O, I)")?;
    let (n, _) = op.leading::<1>("x", x, "(N, I)")?;
    op.rows("x", x, "(N, I)", n, &[i])?;
    op.rows("dy", dy, "(N, O)", n, &[o])?;
    Ok(LinearDims { n, i, o })
}

/// A look-up's dimensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EmbedDims {
    /// Ids.
    pub n: usize,
    /// Rows of the table.
    pub v: usize,
    /// Columns of the table.
    pub c: usize,
}

/// Checks [`Dense::embed`](crate::Dense::embed), all but the ids' range.
///
/// # Errors
/// [`Error::Place`], [`Error::Unsupported`], [`Error::Shape`].
pub fn embed(d: &Dtypes, out: &Mut<'_>, table: &Ref<'_>, ids: &Ref<'_>) -> Result<EmbedDims> {
    let op = d.op("embed", &[(out, Compute), (table, Compute), (ids, Index)])?;
    let [v, c] = op.dims("table", table, "(V, C)")?;
    let n = ids.shape().elements();
    op.rows("out", out, "(N, C)", n, &[c])?;
    Ok(EmbedDims { n, v, c })
}

/// Checks [`Dense::embed_backward`](crate::Dense::embed_backward), all but ids and order.
///
/// # Errors
/// [`Error::Place`], [`Error::Unsupported`], [`Error::Shape`].
pub fn embed_backward(
    d: &Dtypes,
    dtable: &Mut<'_>,
    dout: &Ref<'_>,
    ids: &Ref<'_>,
    order: &Ref<'_>,
) -> Result<EmbedDims> {
    let kinds: [(&dyn super::View, _); 4] =
        [(dtable, Master), (dout, Compute), (ids, Index), (order, Index)];
    let op = d.op("embed_backward", &kinds)?;
    let [v, c] = op.dims("dtable", dtable, "(V, C)")?;
    let n = ids.shape().elements();
    op.rows("dout", dout, "(N, C)", n, &[c])?;
    op.rows("order", order, "(N)", n, &[])?;
    Ok(EmbedDims { n, v, c })
}

/// Checks that every index is in `lowest..rows`.
///
/// # Errors
/// [`Error::Index`] for the first that is not.
pub fn indices(op: &'static str, ids: &[i32], lowest: i32, rows: usize) -> Result<()> {
    let bad = ids.iter().position(|&id| id < lowest || i64::from(id) >= rows as i64);
    match bad {
        None => Ok(()),
        Some(position) => Err(Error::Index { op, index: i64::from(ids[position]), position, rows }),
    }
}

/// Checks that `order` lists 0..N sorted by (id, n).
///
/// # Errors
/// [`Error::Index`] for an entry outside 0..N; [`Error::Argument`] when two entries are out of order.
pub fn order(op: &'static str, ids: &[i32], order: &[i32]) -> Result<()> {
    indices(op, order, 0, ids.len())?;
    let key = |n: i32| (ids[n as usize], n);
    // Strictly ascending keys are distinct, so N of them are all of 0..N.
    match order.windows(2).position(|pair| key(pair[0]) >= key(pair[1])) {
        None => Ok(()),
        Some(i) => {
            let what =
                format!("order is not sorted by (id, position) at entries {i} and {}", i + 1);
            Err(Error::Argument { op, what })
        }
    }
}
