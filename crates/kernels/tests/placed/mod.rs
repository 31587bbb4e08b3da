//! Operations on views that start anywhere in larger tensors, compared with the reference element by element, and the memory
//! around the views compared with what it was.
//!
//! A device's own tensors start at the best of addresses; a slab's or a batch's parts do not. [`everywhere`] makes one call from
//! several starts: each operand's view begins at an element's boundary, in a tensor that is NaN before and after it.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::fmt;

use farthing_kernels::conformance::tolerance;
use farthing_kernels::reference::Reference;
use farthing_kernels::{Bf16, DType, Device, Error, Mut, Ref, Result, Shape, Tensor};

pub(crate) mod bodies;

/// An argument: its values before the call, and its type.
#[derive(Clone)]
pub(crate) struct Operand {
    shape: Shape,
    values: Vec<f64>,
    kind: Kind,
    /// A master output that comes of something rounded to the compute type.
    of_compute: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Compute,
    Master,
    Index,
}

impl Operand {
    pub(crate) fn compute(shape: impl Into<Shape>, values: Vec<f64>) -> Self {
        Self { shape: shape.into(), values, kind: Kind::Compute, of_compute: false }
    }

    pub(crate) fn master(shape: impl Into<Shape>, values: Vec<f64>) -> Self {
        Self { kind: Kind::Master, ..Self::compute(shape, values) }
    }

    pub(crate) fn index(shape: impl Into<Shape>, values: &[i32]) -> Self {
        let values = values.iter().copied().map(f64::from).collect();
        Self { kind: Kind::Index, ..Self::compute(shape, values) }
    }

    /// What a call has to overwrite.
    pub(crate) fn poison(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        Self::compute(shape, vec![f64::NAN; shape.elements()])
    }

    pub(crate) fn poisoned_master(shape: impl Into<Shape>) -> Self {
        Self { kind: Kind::Master, ..Self::poison(shape) }
    }

    pub(crate) fn of_compute(self) -> Self {
        Self { of_compute: true, ..self }
    }

    fn dtype(&self, dev: &dyn Device) -> DType {
        match self.kind {
            Kind::Compute => dev.compute_dtype(),
            Kind::Master => dev.master_dtype(),
            Kind::Index => DType::I32,
        }
    }

    /// The values as `tested` can hold them.
    fn rounded(&self, tested: &dyn Device) -> Vec<f64> {
        let round: fn(f64) -> f64 = match self.dtype(tested) {
            DType::BF16 => |x| f64::from(Bf16::from_f64(x).to_f32()),
            DType::F32 => |x| f64::from(x as f32),
            _ => |x| x,
        };
        self.values.iter().copied().map(round).collect()
    }

    /// The values in the middle of a tensor of NaN (indices: of numbers that no table has a row for).
    fn place(&self, dev: &dyn Device, tested: &dyn Device, at: Place) -> Result<Tensor> {
        let around = if self.kind == Kind::Index { f64::from(i32::MIN) } else { f64::NAN };
        let mut values = vec![around; at.before];
        values.extend(self.rounded(tested));
        values.extend(vec![around; at.after]);
        let mut tensor = dev.alloc(self.dtype(dev), Shape::from([values.len()]))?;
        dev.write_f64(tensor.view_mut(), &values)?;
        Ok(tensor)
    }
}

/// Elements around a view.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    before: usize,
    after: usize,
}

/// Why a call is not what it should be.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(Error),
    Differs(String),
    Touched(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Refused(e)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(e) => write!(f, "refused: {e}"),
            Self::Differs(what) => write!(f, "wrong result: {what}"),
            Self::Touched(what) => write!(f, "touched: {what}"),
        }
    }
}

/// Where `operands` start: all at the start; all in the middle but aligned; each alone off alignment; all off it.
/// Of large operands only the first three, which take every branch.
fn placements(operands: usize, elements: usize) -> Vec<Vec<Place>> {
    let start = Place::default();
    let mut all = vec![
        vec![start; operands],
        vec![Place { before: 8, after: 9 }; operands],
        vec![Place { before: 3, after: 0 }; operands],
    ];
    if elements > 50_000 {
        return all;
    }
    for odd in 0..operands {
        let mut one = vec![Place { before: 16, after: 5 }; operands];
        one[odd].before = 1;
        all.push(one);
    }
    all
}

/// What each output held in each run of a call.
pub(crate) type Outputs = Vec<Vec<f64>>;

/// Makes the call from every placement and compares each output with the reference's, each element within the output
/// type's tolerance of its own size plus the outputs' root mean square (at least `floor`), and what is around the views with
/// what it was. Returns the outputs of the last placement.
pub(crate) fn everywhere<const O: usize, const I: usize>(
    dev: &dyn Device,
    outs: [&Operand; O],
    ins: [&Operand; I],
    floor: f64,
    call: impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
) -> std::result::Result<Outputs, Failure> {
    let expected = at(&Reference::new(), dev, outs, ins, &vec![Place::default(); O + I], &call)?;
    let mut got = Vec::new();
    let elements = outs.iter().chain(&ins).map(|o| o.values.len()).max().unwrap_or(0);
    for places in placements(O + I, elements) {
        got = at(dev, dev, outs, ins, &places, &call)?;
        for (o, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let dtype = outs[o].dtype(dev);
            let compute = if outs[o].of_compute { dev.compute_dtype() } else { dtype };
            let allowed = tolerance(compute, dtype);
            let mean = expected.iter().map(|x| x * x).sum::<f64>() / expected.len().max(1) as f64;
            let size = mean.sqrt().max(floor);
            let differs = |(&g, &e): (&f64, &f64)| {
                let close = (g - e).abs() <= allowed * (e.abs() + size);
                !close && g.to_bits() != e.to_bits()
            };
            if let Some(i) = got.iter().zip(expected).position(differs) {
                let (got, expected, shape) = (got[i], expected[i], outs[o].shape);
                return Err(Failure::Differs(format!(
                    "element {i} of output {o}, {shape}, is {got}, expected {expected}, with {places:?}"
                )));
            }
        }
    }
    Ok(got)
}

/// The call from one placement.
fn at<const O: usize, const I: usize>(
    dev: &dyn Device,
    tested: &dyn Device,
    outs: [&Operand; O],
    ins: [&Operand; I],
    places: &[Place],
    call: &impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
) -> std::result::Result<Outputs, Failure> {
    let place = |operands: &[&Operand], places: &[Place]| -> Result<Vec<Tensor>> {
        operands.iter().zip(places).map(|(o, &at)| o.place(dev, tested, at)).collect()
    };
    let mut out_tensors = place(&outs, &places[..O])?;
    let in_tensors = place(&ins, &places[O..])?;
    let bytes = |tensor: &Tensor| -> Result<Vec<u8>> {
        let mut bytes = vec![0; tensor.bytes()];
        dev.read(&mut bytes, tensor.view())?;
        Ok(bytes)
    };
    let all =
        |outs: &[Tensor]| outs.iter().chain(&in_tensors).map(bytes).collect::<Result<Vec<_>>>();
    let before = all(&out_tensors)?;
    let window =
        |i: usize, operand: &Operand| places[i].before..places[i].before + operand.shape.elements();
    {
        let mut muts = Vec::new();
        for (i, tensor) in out_tensors.iter_mut().enumerate() {
            muts.push(tensor.view_mut().rows(window(i, outs[i]))?.reshape(outs[i].shape)?);
        }
        let mut refs = Vec::new();
        for (i, tensor) in in_tensors.iter().enumerate() {
            refs.push(tensor.view().rows(window(O + i, ins[i]))?.reshape(ins[i].shape)?);
        }
        let (mut muts, mut refs) = (muts.into_iter(), refs.into_iter());
        let muts = std::array::from_fn(|_| muts.next().unwrap());
        let refs = std::array::from_fn(|_| refs.next().unwrap());
        call(dev, muts, refs)?;
    }
    let after = all(&out_tensors)?;
    for (i, (before, after)) in before.iter().zip(&after).enumerate() {
        let operand = if i < O { outs[i] } else { ins[i - O] };
        let size = operand.dtype(dev).bytes();
        let written = window(i, operand);
        let inside = |byte: usize| i < O && written.contains(&(byte / size));
        if let Some(byte) = (0..before.len()).find(|&b| before[b] != after[b] && !inside(b)) {
            return Err(Failure::Touched(format!(
                "element {} of operand {i}, whose view is {written:?}, has changed",
                byte / size
            )));
        }
    }
    let mut results = Vec::new();
    for (i, tensor) in out_tensors.iter().enumerate() {
        results.push(dev.read_f64(tensor.view().rows(window(i, outs[i]))?)?);
    }
    Ok(results)
}
