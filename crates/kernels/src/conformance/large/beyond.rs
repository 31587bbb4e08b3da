//! Operands whose bytes and whose elements are more than 31 and 32 bits count: rows before, on and after each border, and the last.
//!
//! A few rows are written and the device repeats them; rows that are compared then get numbers of their own places. So an index that wraps
//! around reads, or overwrites, numbers of another place.

use std::collections::BTreeSet;

use super::super::case::Check;
use super::super::{Mismatch, Outcome};
use super::{Scale, asked, indices, number, numbers, poisoned, write};
use crate::reference::Reference;
use crate::{Coef, DType, Device, Mut, Place, Ref, Result, Shape, Tensor};

pub(super) struct Sizes {
    /// Channels of a stream.
    c: usize,
    /// Columns of logits, of which `vocab` count.
    v: usize,
    vocab: usize,
    /// Elements at which something may go wrong, ascending; a tensor has a few rows more than the last.
    borders: &'static [usize],
    /// Rows of logits that are all compared, and rows of a head as large as a GPU takes at a time.
    rows: usize,
    head_rows: usize,
}

/// Borders: 2³¹ and 2³² bytes of F32 and of BF16, and 2³¹ elements.
pub(super) const REAL: Sizes = Sizes {
    c: 1536,
    v: 32_832,
    vocab: 32_768,
    borders: &[1 << 29, 1 << 30, 1 << 31],
    rows: 128,
    head_rows: 8192,
};

pub(super) const SMALL: Sizes =
    Sizes { c: 40, v: 328, vocab: 320, borders: &[1 << 9, 1 << 11], rows: 4, head_rows: 20 };

/// Rows that are written once and repeated take about so many elements.
const PATTERN: usize = 1 << 20;

/// An operand: its type, and its columns where it has rows of some.
#[derive(Clone, Copy)]
struct Kind {
    dtype: DType,
    cols: Option<usize>,
}

/// Rows of an operand that are compared.
struct Rows {
    n: usize,
    marks: Vec<usize>,
}

impl Rows {
    /// So many that `cols` columns go beyond the last border: marked are the first, the last, and those around borders.
    fn beyond(borders: &[usize], cols: usize) -> Self {
        let last = borders.last().copied().unwrap_or(0);
        Self::marked(last / cols + 8, borders, cols)
    }

    fn marked(n: usize, borders: &[usize], cols: usize) -> Self {
        let around = |border: usize| {
            let row = border / cols;
            [row.wrapping_sub(1), row, row + 1]
        };
        let marks: BTreeSet<usize> =
            borders.iter().flat_map(|&border| around(border)).chain([0, 1, n / 2, n - 1]).collect();
        // As far from the end as from the beginning, so that a reversal of rows takes marks to marks.
        let marks: BTreeSet<usize> =
            marks.iter().filter(|&&row| row < n).flat_map(|&row| [row, n - 1 - row]).collect();
        Self { n, marks: marks.into_iter().collect() }
    }

    fn shape(&self, kind: Kind) -> Shape {
        kind.cols.map_or([self.n].into(), |cols| [self.n, cols].into())
    }

    /// A tensor of `f` of each place, in marked rows; elsewhere, of what the first rows would hold.
    fn drawn(&self, dev: &dyn Device, kind: Kind, f: impl Fn(u64) -> f32) -> Result<Tensor> {
        let cols = kind.cols.unwrap_or(1);
        let mut tensor = dev.alloc(kind.dtype, self.shape(kind))?;
        let mut filled = pattern_rows(self.n, cols);
        let row = |row: usize| (row * cols..(row + 1) * cols).map(|place| f(place as u64));
        // Not the numbers of marked rows, which are of the same places.
        let pattern: Vec<f32> = (0..filled).flat_map(|r| row(self.n + r)).collect();
        write(dev, tensor.view_mut().rows(0..filled)?, &pattern)?;
        while filled < self.n {
            let more = filled.min(self.n - filled);
            let (head, mut tail) = tensor.view_mut().split_rows(filled)?;
            dev.copy(tail.reborrow().rows(0..more)?, head.view().rows(0..more)?)?;
            filled += more;
        }
        for &mark in &self.marks {
            write(dev, tensor.view_mut().rows(mark..mark + 1)?, &row(mark).collect::<Vec<_>>())?;
        }
        Ok(tensor)
    }

    /// What [`Rows::drawn`] has in the marked rows.
    fn marked_numbers(&self, kind: Kind, f: impl Fn(u64) -> f32) -> Vec<f64> {
        let cols = kind.cols.unwrap_or(1);
        let row =
            |&row: &usize| (row * cols..(row + 1) * cols).map(|place| f64::from(f(place as u64)));
        self.marks.iter().flat_map(row).collect()
    }

    /// The marked rows of a tensor.
    fn read(&self, dev: &dyn Device, tensor: &Tensor) -> Result<Vec<f64>> {
        let mut values = Vec::new();
        for &mark in &self.marks {
            values.extend(dev.read_f64(tensor.view().rows(mark..mark + 1)?)?);
        }
        Ok(values)
    }
}

/// Rows that are written before the device repeats them.
fn pattern_rows(n: usize, cols: usize) -> usize {
    (PATTERN / cols).clamp(1, n)
}

/// An operand of a call: numbers of a salt, or an output, which holds NaN or numbers.
#[derive(Clone, Copy)]
enum Operand {
    Compute(usize, u64),
    /// The same without their signs.
    Positive(usize, u64),
    Master(Option<usize>, u64),
    Poison(usize),
    PoisonMaster,
}

impl Operand {
    fn kind(self, dev: &dyn Device) -> Kind {
        match self {
            Self::Compute(cols, _) | Self::Positive(cols, _) | Self::Poison(cols) => {
                Kind { dtype: dev.compute_dtype(), cols: Some(cols) }
            }
            Self::Master(cols, _) => Kind { dtype: dev.master_dtype(), cols },
            Self::PoisonMaster => Kind { dtype: dev.master_dtype(), cols: None },
        }
    }

    fn salt(self) -> Option<u64> {
        match self {
            Self::Compute(_, salt) | Self::Positive(_, salt) | Self::Master(_, salt) => Some(salt),
            Self::Poison(_) | Self::PoisonMaster => None,
        }
    }

    fn number(self, salt: u64, place: u64) -> f32 {
        let number = number(salt, place);
        if let Self::Positive(..) = self { number.abs() } else { number }
    }

    fn on(self, dev: &dyn Device, rows: &Rows) -> Result<Tensor> {
        let kind = self.kind(dev);
        match self.salt() {
            Some(salt) => rows.drawn(dev, kind, |place| self.number(salt, place)),
            None => poisoned(dev, kind.dtype, rows.shape(kind)),
        }
    }

    /// The marked rows alone, on the reference device.
    fn marked(self, rows: &Rows) -> Result<Tensor> {
        let dev: &dyn Device = &Reference::new();
        let kind = self.kind(dev);
        let only = Rows { n: rows.marks.len(), marks: Vec::new() };
        let mut tensor = poisoned(dev, kind.dtype, only.shape(kind))?;
        if let Some(salt) = self.salt() {
            let values = rows.marked_numbers(kind, |place| self.number(salt, place));
            dev.write_f64(tensor.view_mut(), &values)?;
        }
        Ok(tensor)
    }
}

/// The most memory that an operand may take on the host, which promises more than it has and then ends whoever uses it.
const HOST_BYTES: usize = 1 << 31;

/// Whether an operand of these sizes may be asked for.
fn fits(check: &Check<'_>, dev: &dyn Device, rows: &Rows, cols: usize) -> Result<(), Mismatch> {
    let bytes = rows.n * cols * dev.compute_dtype().bytes();
    if dev.place() != Place::Host || bytes < HOST_BYTES {
        return Ok(());
    }
    let why = format!("operands of {bytes} bytes each are for a device whose memory is its own");
    Err(check.not_run(why))
}

/// Calls the device with everything, the reference with the marked rows, and compares those. For operations on rows.
fn by_rows<const O: usize, const I: usize>(
    check: &mut Check<'_>,
    dev: &dyn Device,
    rows: &Rows,
    outs: [Operand; O],
    ins: [Operand; I],
    call: impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
) -> Result<(), Mismatch> {
    let run = |on: &dyn Device, make: &dyn Fn(Operand) -> Result<Tensor>| -> Result<Vec<Tensor>> {
        let tensors = |operands: &[Operand]| -> Result<Vec<Tensor>> {
            operands.iter().map(|&operand| make(operand)).collect()
        };
        let (mut outs, ins) = (tensors(&outs)?, tensors(&ins)?);
        let (mut muts, mut refs) =
            (outs.iter_mut().map(Tensor::view_mut), ins.iter().map(Tensor::view));
        let muts = std::array::from_fn(|_| muts.next().unwrap_or_else(|| unreachable!()));
        let refs = std::array::from_fn(|_| refs.next().unwrap_or_else(|| unreachable!()));
        call(on, muts, refs)?;
        Ok(outs)
    };
    let reference = Reference::new();
    let (expected, got) = asked(check, || {
        let expected = run(&reference, &|operand| operand.marked(rows))?;
        let on: &dyn Device = &reference;
        let expected: Vec<Vec<f64>> =
            expected.iter().map(|out| on.read_f64(out.view())).collect::<Result<_>>()?;
        let got = run(dev, &|operand| operand.on(dev, rows))?;
        let got: Vec<Vec<f64>> =
            got.iter().map(|out| rows.read(dev, out)).collect::<Result<_>>()?;
        Ok((expected, got))
    })?;
    for (output, (expected, got)) in expected.iter().zip(&got).enumerate() {
        let Kind { dtype, cols } = outs[output].kind(dev);
        let cols = cols.unwrap_or(1);
        for ((mark, expected), got) in
            rows.marks.iter().zip(expected.chunks(cols)).zip(got.chunks(cols))
        {
            check.compare(output, dtype, got, expected, &format!(", row {mark}"))?;
        }
    }
    Ok(())
}

use Operand::{Compute, Master, Poison, PoisonMaster, Positive};

/// Operations on elements, and [`Cast`](crate::ops::Cast).
pub(super) fn elementwise(dev: &dyn Device, scale: &Scale) -> Outcome {
    let &Sizes { c, borders, .. } = &scale.beyond;
    let rows = Rows::beyond(borders, c);
    let mut check = Check::new(dev, "elementwise");
    fits(&check, dev, &rows, c)?;
    let case = |op: &str| format!("{op}, ({}, {c})", rows.n);
    let [x, y, dy] = [Compute(c, 1), Compute(c, 2), Compute(c, 3)];

    check.case(case("relu2"));
    by_rows(&mut check, dev, &rows, [Poison(c)], [x], |d, [y], [x]| d.relu2(y, x))?;
    check.case(case("relu2_backward"));
    let squares = Positive(c, 1);
    by_rows(&mut check, dev, &rows, [dy], [squares], |d, [dx], [y]| d.relu2_backward(dx, y))?;
    check.case(case("swiglu"));
    by_rows(&mut check, dev, &rows, [Poison(c)], [x, y], |d, [out], [x, y]| d.swiglu(out, x, y))?;
    check.case(case("mix"));
    by_rows(&mut check, dev, &rows, [Poison(c)], [x, y], |d, [out], [x, y]| {
        let [a, b] = [0.5, 2.0].map(|times| Coef { parameter: None, times });
        d.mix(out, x, a, y, b)
    })?;
    check.case(case("cast"));
    let wide = Master(Some(c), 4);
    by_rows(&mut check, dev, &rows, [Poison(c)], [wide], |d, [out], [x]| d.cast(out, x))?;
    Ok(check.worst)
}

/// Norms.
pub(super) fn norms(dev: &dyn Device, scale: &Scale) -> Outcome {
    let &Sizes { c, borders, .. } = &scale.beyond;
    let rows = Rows::beyond(borders, c);
    let mut check = Check::new(dev, "norms");
    fits(&check, dev, &rows, c)?;
    let case = |op: &str| format!("{op}, ({}, {c})", rows.n);
    let [x, y, dy] = [Compute(c, 1), Compute(c, 2), Compute(c, 3)];

    check.case(case("rms_norm"));
    by_rows(&mut check, dev, &rows, [Poison(c), PoisonMaster], [x], |d, [y, rstd], [x]| {
        d.rms_norm(y, rstd, x)
    })?;
    check.case(case("rms_norm_backward"));
    let rstd = Master(None, 4);
    by_rows(&mut check, dev, &rows, [Poison(c)], [dy, y, rstd], |d, [dx], [dy, y, rstd]| {
        d.rms_norm_backward(dx, dy, y, rstd, false)
    })?;
    check.case(case("mix_norm"));
    let outs = [Poison(c), Poison(c), PoisonMaster];
    by_rows(&mut check, dev, &rows, outs, [x, y], |d, [out, normed, rstd], [x, y]| {
        let [a, b] = [0.5, 2.0].map(|times| Coef { parameter: None, times });
        d.mix_norm(out, normed, rstd, x, a, y, b)
    })?;
    Ok(check.worst)
}

/// [`Embed`](crate::ops::Embed) and its backward, from a table as large as what is looked up.
pub(super) fn embedding(dev: &dyn Device, scale: &Scale) -> Outcome {
    let &Sizes { c, borders, .. } = &scale.beyond;
    let rows = Rows::beyond(borders, c);
    let mut check = Check::new(dev, "embedding");
    fits(&check, dev, &rows, c)?;
    // Row n is looked up by the n-th from the end, so that each id is there once.
    let reversed: Vec<i32> = (0..rows.n as i32).rev().collect();
    let expected = |salt| -> Vec<(usize, Vec<f64>)> {
        let from = |&mark: &usize| {
            let place = (rows.n - 1 - mark) * c;
            (mark, numbers(salt, place..place + c).into_iter().map(f64::from).collect())
        };
        rows.marks.iter().map(from).collect()
    };
    let (compute, master) = (dev.compute_dtype(), dev.master_dtype());

    check.case(format!("embed, N and V {}, C {c}", rows.n));
    let ids = asked(&check, || indices(dev, &reversed))?;
    let got = asked(&check, || {
        let table = Compute(c, 1).on(dev, &rows)?;
        let mut out = poisoned(dev, compute, [rows.n, c])?;
        dev.embed(out.view_mut(), table.view(), ids.view())?;
        rows.read(dev, &out)
    })?;
    for ((mark, expected), got) in expected(1).iter().zip(got.chunks(c)) {
        check.compare(0, compute, got, expected, &format!(", row {mark}"))?;
    }

    check.case(format!("embed_backward, N and V {}, C {c}", rows.n));
    let got = asked(&check, || {
        let dout = Compute(c, 2).on(dev, &rows)?;
        // Sorted by id, which is to say by n from the end.
        let (mut dtable, order) = (dev.master([rows.n, c])?, indices(dev, &reversed)?);
        dev.embed_backward(dtable.view_mut(), dout.view(), ids.view(), order.view())?;
        rows.read(dev, &dtable)
    })?;
    for ((mark, expected), got) in expected(2).iter().zip(got.chunks(c)) {
        check.compare(0, master, got, expected, &format!(", row {mark}"))?;
    }
    Ok(check.worst)
}

/// [`CrossEntropy`](crate::ops::CrossEntropy) and [`Argmax`](crate::ops::Argmax) over so many logits that row and
/// column need more than 32 bits.
pub(super) fn logits(dev: &dyn Device, scale: &Scale) -> Outcome {
    let &Sizes { v, vocab, borders, .. } = &scale.beyond;
    let mut check = Check::new(dev, "logits");
    let rows = Rows::beyond(borders, v);
    fits(&check, dev, &rows, v)?;
    losses(&mut check, dev, &rows, [v, vocab])?;
    Ok(check.worst)
}

/// The same over a vocabulary of real size: a few rows, all compared, and as many as a head has at a time.
pub(super) fn logits_wide(dev: &dyn Device, scale: &Scale) -> Outcome {
    let &Sizes { v, vocab, rows, head_rows, .. } = &scale.beyond;
    let mut check = Check::new(dev, "logits");
    // With padding, and without.
    for v in [v, vocab] {
        losses(&mut check, dev, &Rows { n: rows, marks: (0..rows).collect() }, [v, vocab])?;
        losses(&mut check, dev, &Rows::marked(head_rows, &[], v), [v, vocab])?;
    }
    Ok(check.worst)
}

/// What both sides know of a row's target: the last of the vocabulary, none, or any.
fn target(row: usize, vocab: usize) -> i32 {
    match row % 5 {
        0 => vocab as i32 - 1,
        1 => -1,
        _ => (row * 31 % vocab) as i32,
    }
}

fn losses(
    check: &mut Check<'_>,
    dev: &dyn Device,
    rows: &Rows,
    [v, vocab]: [usize; 2],
) -> Result<(), Mismatch> {
    let targets: Vec<i32> = (0..rows.n).map(|row| target(row, vocab)).collect();
    let marked: Vec<i32> = rows.marks.iter().map(|&row| target(row, vocab)).collect();
    // Only the reference has as few rows as are marked, unless all are.
    let call = |d: &dyn Device, losses: Mut<'_>, logits: Mut<'_>, grad| {
        let these = if losses.shape()[0] == rows.n { &targets } else { &marked };
        let targets = indices(d, these)?;
        d.cross_entropy(losses, logits, targets.view(), vocab, 15.0, grad)
    };
    let x = Compute(v, 1);
    for grad in [Some(1.0), None] {
        check.case(format!("cross_entropy, N {}, V {v}, vocab {vocab}, grad {grad:?}", rows.n));
        by_rows(check, dev, rows, [PoisonMaster, x], [], |d, [losses, logits], []| {
            call(d, losses, logits, grad)
        })?;
    }
    check.case(format!("argmax, N {}, V {v}, vocab {vocab}", rows.n));
    let got = asked(check, || {
        let logits = x.on(dev, rows)?;
        let mut out = indices(dev, &vec![-7; rows.n])?;
        dev.argmax(out.view_mut(), logits.view(), vocab)?;
        rows.read(dev, &out)
    })?;
    for (&row, got) in rows.marks.iter().zip(got) {
        let values = numbers(1, row * v..row * v + vocab);
        let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = values.iter().position(|&x| x == largest).unwrap_or(0);
        check.compare(0, DType::I32, &[got], &[first as f64], &format!(", row {row}"))?;
    }
    Ok(())
}

/// How much larger the numbers of marked rows are, so that to miss one, or to take one twice, changes a sum.
const HEAVY: f32 = 8192.0;

/// [`Sum`](crate::ops::Sum) and [`SumSquares`](crate::ops::SumSquares).
pub(super) fn sums(dev: &dyn Device, scale: &Scale) -> Outcome {
    let &Sizes { c, borders, .. } = &scale.beyond;
    let rows = Rows::beyond(borders, c);
    let kind = Kind { dtype: dev.master_dtype(), cols: Some(c) };
    let marked = (rows.n * c) as u64;
    let f = |place: u64| number(1, place).abs() * if place < marked { HEAVY } else { 1.0 };
    let mut check = Check::new(dev, "sums");
    fits(&check, dev, &rows, c)?;
    check.case(format!("({}, {c})", rows.n));
    let x = asked(&check, || rows.drawn(dev, kind, f))?;
    // Of a row, given the first place of what it holds.
    let of_row = |place: usize, power: i32| -> f64 {
        (place..place + c).map(|place| f64::from(f(place as u64)).powi(power)).sum()
    };
    for (op, power) in [("sum", 1), ("sum_squares", 2)] {
        check.case(format!("{op}, ({}, {c})", rows.n));
        let pattern: Vec<f64> =
            (0..pattern_rows(rows.n, c)).map(|row| of_row((rows.n + row) * c, power)).collect();
        let marks: BTreeSet<usize> = rows.marks.iter().copied().collect();
        let of = |row: usize| {
            if marks.contains(&row) { of_row(row * c, power) } else { pattern[row % pattern.len()] }
        };
        let expected: f64 = (0..rows.n).map(of).sum();
        let got = asked(&check, || {
            let mut out = poisoned(dev, kind.dtype, [1])?;
            if power == 1 {
                dev.sum(out.view_mut(), x.view())?;
            } else {
                dev.sum_squares(out.view_mut(), x.view())?;
            }
            dev.read_f64(out.view())
        })?;
        check.compare(0, kind.dtype, &got, &[expected], "")?;
    }
    Ok(check.worst)
}
