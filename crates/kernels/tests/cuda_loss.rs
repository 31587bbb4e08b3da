//! The `cuda` device's loss, reductions and Muon kernels, emulated, beyond what conformance asks: views that start anywhere, whose
//! neighbours must stay as they were; stacks larger than the scratch for their sums; targets that are no column.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common;
use crate::placed;

use common::Draw;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::{Device, Expr};
use placed::{Operand, everywhere};

fn emulated() -> Cuda {
    Cuda::emulated().unwrap()
}

fn master(draw: &mut Draw, shape: [usize; 3]) -> Operand {
    Operand::master(shape, draw.normals(shape.iter().product()))
}

/// Rows and columns: less than a head, a head and a tail alone, chunks, more than one chunk to a thread.
const LOGITS: [(usize, usize); 5] = [(1, 1), (3, 7), (4, 13), (5, 61), (2, 4500)];

#[test]
fn cross_entropy_and_argmax_from_anywhere() {
    let (dev, mut draw) = (emulated(), Draw::new(1));
    for (n, v) in LOGITS {
        let vocab = v.div_ceil(2);
        let logits = Operand::compute([n, v], draw.normals(n * v));
        let targets: Vec<i32> =
            (0..n).map(|i| if i % 3 == 2 { -1 } else { (i * 5 % vocab) as i32 }).collect();
        let targets = Operand::index([n], &targets);
        let losses = Operand::poisoned_master([n]);
        for grad in [None, Some(0.5)] {
            let floor = if vocab == 1 { 1.0 } else { 0.0 };
            everywhere(
                &dev,
                [&losses, &logits],
                [&targets],
                floor,
                |d, [losses, logits], [targets]| {
                    d.cross_entropy(losses, logits, targets, vocab, 15.0, grad)
                },
            )
            .unwrap_or_else(|failure| panic!("{failure}"));
        }
        let out = Operand::index([n], &vec![-7; n]);
        everywhere(&dev, [&out], [&logits], 0.0, |d, [out], [logits]| d.argmax(out, logits, vocab))
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn sums_from_anywhere() {
    let (dev, mut draw) = (emulated(), Draw::new(2));
    for n in [1, 3, 4, 4097, 70_001] {
        let x = Operand::master([n], draw.normals(n).iter().map(|x| x + 0.5).collect());
        let out = Operand::poisoned_master([1]);
        for squares in [false, true] {
            everywhere(&dev, [&out], [&x], 1.0, |d, [out], [x]| {
                if squares { d.sum_squares(out, x) } else { d.sum(out, x) }
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}

#[test]
fn muons_steps_from_anywhere() {
    let (dev, mut draw) = (emulated(), Draw::new(3));
    for shape in [[1, 1, 1], [2, 3, 8], [2, 5, 37], [3, 40, 12], [1, 7, 1100]] {
        let [k, r, s] = shape;
        let (x, y, g) =
            (master(&mut draw, shape), master(&mut draw, shape), master(&mut draw, shape));
        let out = Operand::poisoned_master(shape);
        let moments: Vec<f64> = draw.normals(k * r.max(s)).iter().map(|x| x * x).collect();
        let moments = Operand::master([k, r.max(s)], moments);
        let check = |outcome: Result<placed::Outputs, placed::Failure>| {
            if let Err(failure) = outcome {
                panic!("{shape:?}: {failure}");
            }
        };
        check(everywhere(&dev, [&out, &y], [&g], 0.0, |d, [out, buf], [g]| {
            d.nesterov(out, buf, g, 0.95)
        }));
        check(everywhere(&dev, [&x], [&g], 0.0, |d, [p], [x]| d.cautious_update(p, x, 0.1, 0.5)));
        check(everywhere(&dev, [&x], [], 0.0, |d, [x], []| d.equilibrate_rows(x)));
        check(everywhere(&dev, [&x], [], 0.0, |d, [x], []| d.renormalize(x)));
        check(everywhere(&dev, [&x, &moments], [], 0.0, |d, [x, s], []| {
            d.variance_reduce(x, s, 0.9)
        }));
        check(everywhere(&dev, [&y], [&g], 0.0, |d, [p], [g]| {
            d.map(&[Expr::old(0) - Expr::input(0) * Expr::scalar(0)], &mut [p], &[g], &[0.3])
        }));
    }
}

/// Sums of 3 · 100,000 columns in scratch for 262,144: two matrices, then one.
#[test]
fn a_stack_larger_than_the_scratch_goes_in_parts() {
    let (dev, mut draw) = (emulated(), Draw::new(4));
    let (k, s) = (3, 100_000);
    let x = master(&mut draw, [k, 1, s]);
    let moments = Operand::master([k, s], vec![0.1; k * s]);
    everywhere(&dev, [&x, &moments], [], 0.0, |d, [x, s], []| d.variance_reduce(x, s, 0.9))
        .unwrap_or_else(|failure| panic!("{failure}"));
    let dev: &dyn Device = &dev;
    let mut x = dev.master([1, 1, 1 << 18]).unwrap();
    let mut moments = dev.master([1, 1 << 18]).unwrap();
    let refused = dev.variance_reduce(x.view_mut(), moments.view_mut(), 0.9).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "variance_reduce: 262144 rows or columns, at most 262143 on this device"
    );
}

/// A kernel cannot refuse: the row's loss is no number, and nothing but the row is touched.
#[test]
fn a_target_outside_the_vocabulary_shows_in_its_loss() {
    let cuda = emulated();
    let dev: &dyn Device = &cuda;
    let values = [0.5; 3 * 24];
    for grad in [None, Some(1.0)] {
        let mut logits = common::tensor(dev, [3, 24], &values);
        let targets = common::indices(dev, &[3, 20, 5]);
        let mut losses = dev.master([3]).unwrap();
        let (losses_view, logits_view) = (losses.view_mut(), logits.view_mut());
        dev.cross_entropy(losses_view, logits_view, targets.view(), 20, 15.0, grad).unwrap();
        let losses = dev.read_f64(losses.view()).unwrap();
        assert!(losses[1].is_nan() && (losses[0] - 20f64.ln()).abs() < 1e-5, "{losses:?}");
        assert_eq!(losses[0], losses[2]);
    }
}
