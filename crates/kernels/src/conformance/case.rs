//! One call on two devices, with inputs drawn, outputs poisoned and results compared.

use farthing_base::random::{PHI, mix};

use super::{Mismatch, tolerance};
use crate::reference::Reference;
use crate::{Bf16, DType, Device, Mut, Ref, Result, Shape, Tensor};

/// Rows and channels: one row, one channel, widths on no vector's edge, and one beyond what a GPU's warp keeps in registers.
pub(crate) const ROWS: [(usize, usize); 7] =
    [(1, 7), (5, 64), (3, 1), (33, 100), (130, 129), (257, 1024), (3, 2600)];

/// Matrices, rows, columns: tall, wide, square, vectors, on no block's edge.
pub(crate) const STACKS: [(usize, usize, usize); 7] =
    [(1, 1, 1), (2, 1, 37), (3, 37, 1), (3, 16, 16), (2, 33, 70), (2, 100, 48), (1, 130, 65)];

/// The type that an operand has on a device.
#[derive(Clone, Copy)]
enum Kind {
    Compute,
    Master,
    Of(DType),
}

/// An argument: its values before the call, and its type.
#[derive(Clone)]
pub(crate) struct Operand {
    shape: Shape,
    values: Vec<f64>,
    kind: Kind,
}

impl Operand {
    pub(crate) fn given(shape: impl Into<Shape>, values: Vec<f64>) -> Self {
        Self { shape: shape.into(), values, kind: Kind::Compute }
    }

    /// What a call has to overwrite.
    pub(crate) fn poison(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        Self::given(shape, vec![f64::NAN; shape.elements()])
    }

    pub(crate) fn index(shape: impl Into<Shape>, values: Vec<i32>) -> Self {
        Self::given(shape, values.into_iter().map(f64::from).collect()).of(DType::I32)
    }

    pub(crate) fn master(mut self) -> Self {
        self.kind = Kind::Master;
        self
    }

    pub(crate) fn of(mut self, dtype: DType) -> Self {
        self.kind = Kind::Of(dtype);
        self
    }

    pub(crate) fn edit(mut self, f: impl Fn(usize, f64) -> f64) -> Self {
        for (i, x) in self.values.iter_mut().enumerate() {
            *x = f(i, *x);
        }
        self
    }

    fn dtype(&self, dev: &dyn Device) -> DType {
        match self.kind {
            Kind::Compute => dev.compute_dtype(),
            Kind::Master => dev.master_dtype(),
            Kind::Of(dtype) => dtype,
        }
    }

    /// On `dev`, with the values that the device under test can hold.
    fn tensor(&self, dev: &dyn Device, tested: &dyn Device) -> Result<Tensor> {
        let rounded: Vec<f64> = match self.dtype(tested) {
            DType::F32 => self.values.iter().map(|&x| f64::from(x as f32)).collect(),
            DType::BF16 => {
                self.values.iter().map(|&x| f64::from(Bf16::from_f64(x).to_f32())).collect()
            }
            DType::F64 | DType::I32 => self.values.clone(),
        };
        let mut tensor = dev.alloc(self.dtype(dev), self.shape)?;
        dev.write_f64(tensor.view_mut(), &rounded)?;
        Ok(tensor)
    }
}

/// A body's state: the device, the case at hand, and the largest error so far.
pub(crate) struct Check<'d> {
    dev: &'d dyn Device,
    op: &'static str,
    case: String,
    draws: u64,
    pub(crate) worst: f64,
    /// An output's error is relative to at least this much per element (root mean square); for what may be 0.
    pub(crate) floor: f64,
    /// What the tolerance is multiplied by, for an operation that rounds what it goes on computing with.
    pub(crate) slack: f64,
}

impl<'d> Check<'d> {
    pub(crate) fn new(dev: &'d dyn Device, op: &'static str) -> Self {
        Self { dev, op, case: String::new(), draws: 0, worst: 0.0, floor: 0.0, slack: 1.0 }
    }

    /// Names the next case; what it draws depends on the name.
    pub(crate) fn case(&mut self, case: String) {
        let fnv = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let seed = self.op.bytes().chain(case.bytes()).fold(0xcbf2_9ce4_8422_2325, fnv);
        self.draws = seed;
        self.case = case;
        self.floor = 0.0;
    }

    /// Uniform in 0..1, never 0. SplitMix64 of a counter.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.draws = self.draws.wrapping_add(PHI);
        ((mix(self.draws) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal values.
    pub(crate) fn normal(&mut self, shape: impl Into<Shape>) -> Operand {
        let shape = shape.into();
        let mut draw = || {
            let (u, v) = (self.uniform(), self.uniform());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        Operand::given(shape, (0..shape.elements()).map(|_| draw()).collect())
    }

    /// Integers in `low..high`.
    pub(crate) fn integers(&mut self, shape: impl Into<Shape>, low: i32, high: i32) -> Operand {
        let shape = shape.into();
        let mut draw = || low + (self.uniform() * f64::from(high - low)) as i32;
        Operand::index(shape, (0..shape.elements()).map(|_| draw()).collect())
    }

    /// Values to add to, or poison to overwrite.
    pub(crate) fn out(&mut self, shape: impl Into<Shape>, accumulate: bool) -> Operand {
        if accumulate { self.normal(shape) } else { Operand::poison(shape) }
    }

    pub(crate) fn refused(&self, source: crate::Error) -> Mismatch {
        Mismatch::Refused { op: self.op, case: self.case.clone(), source: Box::new(source) }
    }

    pub(crate) fn wrong(&self, what: impl Into<String>) -> Mismatch {
        Mismatch::Wrong { op: self.op, case: self.case.clone(), what: what.into() }
    }

    pub(crate) fn not_run(&self, why: String) -> Mismatch {
        Mismatch::NotRun { op: self.op, case: self.case.clone(), why }
    }

    /// What the reference makes of a call: operands for the next.
    pub(crate) fn reference<const O: usize, const I: usize>(
        &self,
        outs: [&Operand; O],
        ins: [&Operand; I],
        call: impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
    ) -> Result<[Operand; O], Mismatch> {
        let results = self.call(&Reference::new(), outs, ins, &call)?;
        let mut results = results.into_iter();
        Ok(outs.map(|out| Operand { values: results.next().unwrap_or_default(), ..out.clone() }))
    }

    fn call<const O: usize, const I: usize>(
        &self,
        dev: &dyn Device,
        outs: [&Operand; O],
        ins: [&Operand; I],
        call: &impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
    ) -> Result<Vec<Vec<f64>>, Mismatch> {
        let run = || -> Result<Vec<Vec<f64>>> {
            let tensors = |operands: &[&Operand]| -> Result<Vec<Tensor>> {
                operands.iter().map(|operand| operand.tensor(dev, self.dev)).collect()
            };
            let (mut outs, ins) = (tensors(&outs)?, tensors(&ins)?);
            let (mut muts, mut refs) =
                (outs.iter_mut().map(Tensor::view_mut), ins.iter().map(Tensor::view));
            let muts = std::array::from_fn(|_| muts.next().unwrap_or_else(|| unreachable!()));
            let refs = std::array::from_fn(|_| refs.next().unwrap_or_else(|| unreachable!()));
            call(dev, muts, refs)?;
            outs.iter().map(|out| dev.read_f64(out.view())).collect()
        };
        run().map_err(|source| self.refused(source))
    }

    /// Calls both devices and compares every output.
    pub(crate) fn run<const O: usize, const I: usize>(
        &mut self,
        outs: [&Operand; O],
        ins: [&Operand; I],
        call: impl Fn(&dyn Device, [Mut<'_>; O], [Ref<'_>; I]) -> Result<()>,
    ) -> Result<(), Mismatch> {
        let expected = self.call(&Reference::new(), outs, ins, &call)?;
        let got = self.call(self.dev, outs, ins, &call)?;
        for (output, (expected, got)) in expected.iter().zip(&got).enumerate() {
            self.compare(output, outs[output].dtype(self.dev), got, expected, "")?;
        }
        Ok(())
    }

    /// Judges what the device made of an output, or of the part of it that `part` says.
    pub(crate) fn compare(
        &mut self,
        output: usize,
        dtype: DType,
        got: &[f64],
        expected: &[f64],
        part: &str,
    ) -> Result<(), Mismatch> {
        let error = relative_error(got, expected, self.floor);
        let tolerance = self.slack * tolerance(self.dev.compute_dtype(), dtype);
        if error > tolerance {
            let (op, first) = (self.op, furthest(got, expected));
            let case = format!("{}{part}", self.case);
            return Err(Mismatch::Differs { op, case, output, error, tolerance, first });
        }
        self.worst = self.worst.max(error);
        Ok(())
    }
}

/// ‖got − expected‖ / ‖expected‖, the divisor being at least `floor`·√n; infinite where either is not finite or where the
/// divisor is 0.
fn relative_error(got: &[f64], expected: &[f64], floor: f64) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(expected).map(|(g, e)| square(g - e)).sum();
    if difference == 0.0 {
        return 0.0;
    }
    let size: f64 = expected.iter().copied().map(square).sum();
    let error = (difference / size.max(square(floor) * expected.len() as f64)).sqrt();
    if size.is_nan() || error.is_nan() { f64::INFINITY } else { error }
}

fn furthest(got: &[f64], expected: &[f64]) -> String {
    let distance = |i: usize| {
        let d = (got[i] - expected[i]).abs();
        if d.is_nan() { f64::INFINITY } else { d }
    };
    let at = (0..got.len()).max_by(|&i, &j| distance(i).total_cmp(&distance(j)));
    at.map_or(String::new(), |i| format!("; most at element {i}: {} for {}", got[i], expected[i]))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A call that does `f` on the second device only, the one under test.
    fn run_with(f: impl Fn(&dyn Device, Mut<'_>)) -> Result<(), Mismatch> {
        let dev = Reference::new();
        let mut check = Check::new(&dev, "mix");
        check.case("broken".into());
        let x = check.normal([3, 5]);
        let calls = Cell::new(0);
        check.run([&Operand::poison([3, 5])], [&x], |d, [mut out], [x]| {
            d.copy(out.reborrow(), x)?;
            calls.set(calls.get() + 1);
            if calls.get() == 2 {
                f(d, out);
            }
            Ok(())
        })
    }

    #[test]
    fn what_is_right_passes() {
        run_with(|_, _| ()).unwrap();
    }

    #[test]
    fn poison_left_over_is_found() {
        let failure = run_with(|d, out| {
            d.fill(out.rows(2..3).unwrap(), f64::NAN).unwrap();
        });
        let Err(Mismatch::Differs { error, .. }) = failure else { panic!("{failure:?}") };
        assert_eq!(error, f64::INFINITY);
    }

    #[test]
    fn one_wrong_element_is_found() {
        let failure = run_with(|d, out| d.fill(out.at(1).unwrap(), 1e-3).unwrap());
        assert!(matches!(failure, Err(Mismatch::Differs { error, .. }) if error > 0.1));
    }

    #[test]
    fn the_relative_error_of_zeros() {
        assert_eq!(relative_error(&[0.0], &[0.0], 0.0), 0.0);
        assert_eq!(relative_error(&[1e-9], &[0.0], 0.0), f64::INFINITY);
        assert_eq!(relative_error(&[3.0, 4.0], &[0.0, 4.0], 0.0), 0.75);
        assert_eq!(relative_error(&[1e-9], &[0.0], 1.0), 1e-9);
        assert_eq!(relative_error(&[f64::NAN], &[f64::NAN], 1.0), f64::INFINITY);
    }

    #[test]
    fn draws_are_normal() {
        let dev = Reference::new();
        let mut check = Check::new(&dev, "draws");
        check.case("normal".into());
        let x = check.normal([10_000]).values;
        let mean = x.iter().sum::<f64>() / 1e4;
        let variance = x.iter().map(|x| x * x).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
