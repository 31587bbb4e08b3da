//! Checks the arguments of an operation against its declaration. All devices use it, and all give the same errors.
//!
//! Places are checked first, then element types, then shapes, operand by operand. A letter stands for the size that the first operand naming it has there. Nothing is allocated unless
//! a check fails.

use super::{Argument, Extent, Kind, Seen};
use crate::{DType, Error, Memory, Place, Result, Shape};

/// What a device holds tensors in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dtypes {
    /// The device's name, for messages.
    pub device: &'static str,
    /// Where its memory is.
    pub place: Place,
    /// The type of activations and of weights as they are multiplied.
    pub compute: DType,
    /// The type of master weights, gradients, statistics and optimizer state.
    pub master: DType,
}

impl Dtypes {
    /// A device's own.
    pub fn of(dev: &(impl Memory + ?Sized)) -> Self {
        Self {
            device: dev.name(),
            place: dev.place(),
            compute: dev.compute_dtype(),
            master: dev.master_dtype(),
        }
    }

    /// Whether an operand of this kind may have this type.
    fn fit(&self, kind: Kind, dtype: DType) -> bool {
        match kind {
            Kind::Compute => dtype == self.compute,
            Kind::Master | Kind::Update => dtype == self.master,
            Kind::Index => dtype == DType::I32,
            Kind::Float => dtype != DType::I32,
            Kind::Any => true,
        }
    }
}

/// What an operation's letters stand for in one call.
#[derive(Clone, Copy)]
pub struct Letters {
    values: [usize; 26],
    bound: u32,
    /// Elements of the operand that was looked at first.
    elements: usize,
}

impl Letters {
    /// The dimension that a letter stands for; 0 for one that no operand names.
    pub(super) fn of(&self, letter: u8) -> usize {
        self.values[usize::from(letter - b'A')]
    }

    /// Elements of the operand that was looked at first.
    pub(super) fn elements(&self) -> usize {
        self.elements
    }

    fn bound(&self, letter: u8) -> bool {
        self.bound & 1 << (letter - b'A') != 0
    }

    fn bind(&mut self, letter: u8, value: usize) {
        if !self.bound(letter) {
            self.bound |= 1 << (letter - b'A');
            self.values[usize::from(letter - b'A')] = value;
        }
    }

    /// What a dimension should be, if that is known: "N", "D/2", "1".
    fn wanted(&self, dim: &str) -> Option<usize> {
        match dim.as_bytes() {
            [digit @ b'0'..=b'9'] => Some(usize::from(digit - b'0')),
            [letter, b'/', digit] if self.bound(*letter) => {
                Some(self.of(*letter) / usize::from(digit - b'0'))
            }
            [letter] if self.bound(*letter) => Some(self.of(*letter)),
            _ => None,
        }
    }
}

/// Checks all operands; those named in `first` bind letters before the others.
pub(super) fn arguments(
    op: &'static str,
    operands: &'static [Argument],
    first: &[&str],
    seen: &[Option<Seen>],
    dtypes: &Dtypes,
) -> Result<Letters> {
    let given =
        || operands.iter().zip(seen).filter_map(|(operand, seen)| Some((operand, (*seen)?)));
    placed(op, dtypes, given().map(|(_, seen)| seen))?;
    if !given().all(|(operand, seen)| dtypes.fit(operand.kind, seen.dtype)) {
        let dtypes_given = given().map(|(_, seen)| seen.dtype).collect();
        return Err(Error::Unsupported { op, device: dtypes.device, dtypes: dtypes_given });
    }
    let named = |name: &str| given().find(|(operand, _)| operand.name == name);
    let mut letters = Letters { values: [0; 26], bound: 0, elements: 0 };
    let begins = first.first().map_or_else(|| given().next(), |name| named(name));
    letters.elements = begins.map_or(0, |(_, seen)| seen.shape.elements());
    let rest = given().filter(|(operand, _)| !first.contains(&operand.name));
    for (operand, seen) in first.iter().filter_map(|name| named(name)).chain(rest) {
        let fault = |expected| Error::Shape { op, arg: operand.name, got: seen.shape, expected };
        match operand.extent {
            Extent::Letters(dims) => {
                extent(&mut letters, dims, &seen.shape).map_err(fault)?;
            }
            Extent::Like(other) => {
                let like = named(other).map_or(seen.shape, |(_, seen)| seen.shape);
                if seen.shape != like {
                    return Err(fault(format!("{like}, the shape of {other}")));
                }
            }
            Extent::One if seen.shape.elements() != 1 => return Err(fault("(1)".into())),
            Extent::One | Extent::Any => {}
        }
    }
    Ok(letters)
}

/// Checks that memory is on the device.
pub(super) fn placed(
    op: &'static str,
    dtypes: &Dtypes,
    mut seen: impl Iterator<Item = Seen>,
) -> Result<()> {
    match seen.find(|seen| seen.place != dtypes.place) {
        Some(Seen { place: got, .. }) => Err(Error::Place { op, got, expected: dtypes.place }),
        None => Ok(()),
    }
}

/// Checks a shape against "(B, T, C)", binding letters that are new. Where the first is N, all leading axes are flattened into it; and where
/// one letter that is known follows, as many trailing axes as make it up are one: (B, T, H, D) is (N, C) of C = H·D.
fn extent(letters: &mut Letters, dims: &'static str, shape: &Shape) -> Result<(), String> {
    let names = || dims.trim_matches(['(', ')']).split(", ");
    let (rank, flat) = (names().count(), names().next() == Some("N"));
    let fits = if flat { shape.len() >= rank } else { shape.len() == rank };
    // Axes that are N, and those that are each of the others.
    let leading = match names().nth(1).and_then(|name| letters.wanted(name)) {
        Some(wanted) if flat && rank == 2 => made_up(shape, wanted),
        _ => None,
    };
    let leading = leading.unwrap_or((1 + shape.len()).saturating_sub(rank));
    let got = |i: usize| match (flat, i) {
        (true, 0) => shape[..leading].iter().product(),
        (true, i) if i + 1 == rank => shape[leading + i - 1..].iter().product(),
        (true, i) => shape[leading + i - 1],
        (false, i) => shape[i],
    };
    if fits {
        for (i, name) in names().enumerate() {
            if let [letter @ b'A'..=b'Z'] = name.as_bytes() {
                letters.bind(*letter, got(i));
            }
        }
        if names().enumerate().all(|(i, name)| letters.wanted(name) == Some(got(i))) {
            return Ok(());
        }
    } else if names().any(|name| letters.wanted(name).is_none()) {
        let least = if flat { "at least " } else { "" };
        return Err(format!("{dims}: {least}{rank} dimensions"));
    }
    let wanted: Vec<String> =
        names().map(|name| letters.wanted(name).unwrap_or(0).to_string()).collect();
    Err(format!("{dims} = ({})", wanted.join(", ")))
}

/// The axis from which on all make up `wanted` together: the last such, and never the first of all.
fn made_up(shape: &Shape, wanted: usize) -> Option<usize> {
    (1..shape.len()).rev().find(|&axis| shape[axis..].iter().product::<usize>() == wanted)
}

/// Checks that every index is in `lowest..rows`. Host devices call it before they write; a GPU clamps.
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

/// Checks what a copy between host and device asks for: the place, and as many bytes on both sides.
///
/// # Errors
/// [`Error::Place`]; [`Error::Argument`] when the bytes differ in number.
pub fn host_copy(op: &'static str, dtypes: &Dtypes, view: Seen, host: usize) -> Result<()> {
    placed(op, dtypes, std::iter::once(view))?;
    let tensor = view.bytes() as usize;
    if tensor == host {
        return Ok(());
    }
    let what = format!("{host} bytes on the host for a tensor of {tensor} bytes");
    Err(Error::Argument { op, what })
}

/// An [`Error::Argument`] unless `holds`.
pub(super) fn require(op: &'static str, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Argument { op, what: what() }) }
}
