//! `Rounded`: it conforms as a bf16 device does, rounds each stored result once, and refuses what a bf16 device refuses.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]
#![allow(clippy::print_stderr, reason = "errors are worth reading")]

use crate::common;

use common::{Draw, relative, tensor, values};
use farthing_kernels::conformance::run_all;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::reference::Reference;
use farthing_kernels::rounded::Rounded;
use farthing_kernels::{AttentionShape, Bf16, DType, Device, Error, Memory, Shape, Tensor};

fn on_cpu() -> Rounded {
    Rounded::new(Box::new(Cpu::new(2).unwrap())).unwrap()
}

fn on_reference() -> Rounded {
    Rounded::new(Box::new(Reference::new())).unwrap()
}

fn round(x: f64) -> f64 {
    f64::from(Bf16::from_f64(x).to_f32())
}

fn representable(x: &[f64]) -> bool {
    x.iter().all(|&x| round(x) == x)
}

#[test]
fn every_operation_conforms_as_bf16() {
    for dev in [on_cpu(), on_reference()] {
        for (name, outcome) in run_all(&dev) {
            match outcome {
                Ok(error) => eprintln!("{name} on {}: {error:.1e}", dev.name()),
                Err(mismatch) => panic!("{}: {mismatch}", dev.name()),
            }
        }
    }
}

/// On the reference every result is the f64 one, rounded once: nothing else happened.
#[test]
fn a_stored_result_is_the_exact_one_rounded_once() {
    let (rounded, exact) = (on_reference(), Reference::new());
    let mut draw = Draw::new(1);
    let mut normals = |n: usize| -> Vec<f64> { draw.normals(n).into_iter().map(round).collect() };
    let [b, t, h, d] = [2, 9, 2, 8];
    let n = b * t;
    let (x, w, y) = (normals(n * 24), normals(16 * 24), normals(n * 16));
    let (q, k, v) = (normals(n * h * d), normals(n * h * d), normals(n * h * d));
    let at = AttentionShape { window: 4, scale: 0.3 };
    let run = |dev: &dyn Device| -> Vec<Vec<f64>> {
        let of =
            |shape: &[usize], values: &[f64]| tensor(dev, Shape::from_dims(shape).unwrap(), values);
        let mut results = Vec::new();
        let (x, w) = (of(&[n, 24], &x), of(&[16, 24], &w));
        let mut sum = of(&[n, 16], &y);
        dev.linear(sum.view_mut(), x.view(), w.view(), true).unwrap();
        results.push(values(dev, &sum));
        let (mut normed, mut rstd) = (dev.activations([n, 24]).unwrap(), dev.master([n]).unwrap());
        dev.rms_norm(normed.view_mut(), rstd.view_mut(), x.view()).unwrap();
        results.push(values(dev, &normed));
        let shape = [b, t, h, d];
        let (q, k, v) = (of(&shape, &q), of(&shape, &k), of(&shape, &v));
        let mut out = dev.activations(shape).unwrap();
        let mut lse = dev.master([b, h, t]).unwrap();
        let outs = (out.view_mut(), lse.view_mut());
        dev.attention(outs.0, outs.1, q.view(), k.view(), v.view(), at).unwrap();
        results.push(values(dev, &out));
        let (mut dx, mut dgate) = (of(&shape, &values(dev, &v)), dev.activations(shape).unwrap());
        let outs = (dx.view_mut(), dgate.view_mut());
        dev.swiglu_backward(outs.0, outs.1, q.view(), k.view()).unwrap();
        results.extend([values(dev, &dx), values(dev, &dgate)]);
        // Statistics keep the master type, and gradients by weights too.
        let mut dw = dev.master([16, 24]).unwrap();
        dev.linear_dw(dw.view_mut(), x.view(), of(&[n, 16], &y).view(), true).unwrap();
        for kept in [&rstd, &lse, &dw] {
            assert_eq!(kept.dtype(), DType::F64);
            assert!(!representable(&values(dev, kept)));
        }
        results
    };
    for (i, (got, expected)) in run(&rounded).iter().zip(&run(&exact)).enumerate() {
        assert!(!representable(expected), "result {i} shows nothing");
        let expected: Vec<f64> = expected.iter().map(|&x| round(x)).collect();
        assert_eq!(got, &expected, "result {i}");
    }
}

#[test]
fn activations_take_half_the_memory_and_others_are_refused() {
    let rounded = on_cpu();
    let dev: &dyn Device = &rounded;
    assert_eq!((dev.compute_dtype(), dev.master_dtype()), (DType::BF16, DType::F32));
    let (mut y, x) = (dev.activations([4, 3]).unwrap(), dev.activations([4, 3]).unwrap());
    assert_eq!(y.bytes(), 24);
    let wide = dev.master([4, 3]).unwrap();
    let refused = dev.relu2(y.view_mut(), wide.view()).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { op: "relu2", .. }), "{refused}");
    let mut rstd = dev.activations([4]).unwrap();
    let refused = dev.rms_norm(y.view_mut(), rstd.view_mut(), x.view()).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { op: "rms_norm", .. }), "{refused}");
    let twice = Rounded::new(Box::new(on_cpu())).err().unwrap();
    assert!(matches!(twice, Error::Unsupported { op: "Rounded::new", .. }), "{twice}");
}

/// Muon's update is bf16 wherever an operation writes it; what persists between steps is not.
#[test]
fn muons_update_is_rounded_and_its_state_is_not() {
    let steps = [[8.15, -22.48, 15.87], [4.04, -2.8, 0.5], [3.89, -2.77, 0.5], [2.34, -1.7, 0.42]];
    for shape in [[2, 24, 40], [2, 40, 24]] {
        let run = |dev: &dyn Device| {
            let mut draw = Draw::new(3);
            let mut fill = |shape: &[usize]| -> Tensor {
                let mut x = dev.master(Shape::from_dims(shape).unwrap()).unwrap();
                let n = shape.iter().product();
                dev.write_f64(x.view_mut(), &draw.normals(n)).unwrap();
                x
            };
            let (g, mut buf, mut x) = (fill(&shape), fill(&shape), fill(&shape));
            let mut written = Vec::new();
            let mut seen = |x: &Tensor| written.push(values(dev, x));
            dev.nesterov(x.view_mut(), buf.view_mut(), g.view(), 0.9).unwrap();
            seen(&x);
            dev.equilibrate_rows(x.view_mut()).unwrap();
            seen(&x);
            let room = dev.polar_express_scratch(Shape::from(shape));
            let mut scratch = dev.master([room]).unwrap();
            dev.polar_express(x.view_mut(), scratch.view_mut(), 1.01, &steps).unwrap();
            seen(&x);
            dev.renormalize(x.view_mut()).unwrap();
            seen(&x);
            let mut s = dev.master([2, shape[1].max(shape[2])]).unwrap();
            dev.variance_reduce(x.view_mut(), s.view_mut(), 0.9).unwrap();
            seen(&x);
            let kept = [values(dev, &buf), values(dev, &s)];
            (written, kept)
        };
        let (rounded, state) = run(&on_cpu());
        let (exact, _) = run(&Reference::new());
        assert!(rounded.iter().all(|x| representable(x)));
        assert!(!state.iter().any(|x| representable(x)));
        for (i, (rounded, exact)) in rounded.iter().zip(&exact).enumerate() {
            let error = relative(rounded, exact);
            eprintln!("{shape:?}, written {i}: {error:.1e}");
            assert!(error < 0.04, "{shape:?}, written {i}: {error}");
        }
    }
}
