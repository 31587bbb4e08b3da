//! What the argument checks say: the operation, the argument, both shapes.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;

use common::{indices, tensor};
use farthing_base::Hint;
use farthing_kernels::ops::{Dtypes, Fill, Linear, LinearDims};
use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, DType, Device, Error, Expr, Place, Result, Shape, Tensor};

const DEV: &dyn Device = &Reference;

fn zeros(shape: impl Into<Shape>) -> Tensor {
    DEV.activations(shape).unwrap()
}

fn message(result: Result<()>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn leading_axes_are_flattened() {
    let linear = |y: &mut Tensor, x: &Tensor| {
        let (y, x, w) = (y.view_mut(), x.view(), zeros([5, 4]));
        Linear { y, x, w: w.view(), accumulate: false }.check(&Dtypes::of(DEV))
    };
    let (mut y, x) = (zeros([2, 3, 5]), zeros([2, 3, 4]));
    assert_eq!(linear(&mut y, &x).unwrap(), LinearDims { n: 6, i: 4, o: 5 });
    let mut y = zeros([6, 5]);
    assert!(linear(&mut y, &x).is_ok());
    let mut y = zeros([3, 10]);
    assert!(linear(&mut y, &x).is_err());
    // Heads of a row are its channels.
    let by_heads = zeros([2, 3, 2, 2]);
    assert_eq!(linear(&mut zeros([6, 5, 1]), &by_heads).unwrap(), LinearDims { n: 6, i: 4, o: 5 });
    assert!(linear(&mut zeros([6, 5]), &zeros([2, 3, 2, 3])).is_err());
    // One row has to be written as one row.
    let refused = linear(&mut y, &zeros([4])).unwrap_err().to_string();
    assert_eq!(refused, "linear: x has shape (4), expected (N, I): at least 2 dimensions");
}

#[test]
fn shapes_are_named_with_what_was_expected() {
    let (mut y, x, w) = (zeros([2, 6]), zeros([2, 4]), zeros([5, 4]));
    let refused = DEV.linear(y.view_mut(), x.view(), w.view(), false);
    assert_eq!(message(refused), "linear: y has shape (2, 6), expected (N, O) = (2, 5)");
    let refused = DEV.linear_dx(y.view_mut(), x.view(), w.view(), false);
    assert_eq!(message(refused), "linear_dx: dy has shape (2, 4), expected (N, O) = (2, 5)");
    let (mut out, mut lse) = (zeros([1, 2, 4, 8]), zeros([1, 2, 4]));
    let (q, k, v) = (zeros([1, 2, 4, 8]), zeros([1, 2, 2, 8]), zeros([1, 2, 2, 8]));
    let at = AttentionShape { window: 0, scale: 1.0 };
    let refused = DEV.attention(out.view_mut(), lse.view_mut(), q.view(), k.view(), v.view(), at);
    assert_eq!(
        message(refused),
        "attention: lse has shape (1, 2, 4), expected (B, H, T) = (1, 4, 2)"
    );
    let mut moments = zeros([1, 3]);
    let refused = DEV.variance_reduce(zeros([1, 3, 5]).view_mut(), moments.view_mut(), 0.9);
    assert_eq!(message(refused), "variance_reduce: s has shape (1, 3), expected (K, S) = (1, 5)");
    let (mut x, mut scratch) = (zeros([1, 2, 3]), zeros([13]));
    let refused = DEV.polar_express(x.view_mut(), scratch.view_mut(), 1.0, &[]);
    assert_eq!(message(refused), "polar_express: scratch has shape (13), expected at least (14)");
}

#[test]
fn ranges_are_checked() {
    let at = AttentionShape { window: 0, scale: 1.0 };
    let attention = |q: Shape, k: Shape| {
        let [b, t, h, _] = *q else { unreachable!() };
        let (mut out, mut lse) = (zeros(q), zeros([b, h, t]));
        let (q, k, v) = (zeros(q), zeros(k), zeros(k));
        message(DEV.attention(out.view_mut(), lse.view_mut(), q.view(), k.view(), v.view(), at))
    };
    let heads = attention([1, 2, 3, 8].into(), [1, 2, 2, 8].into());
    assert_eq!(heads, "attention: 3 query heads over 2 key/value heads");
    let none = attention([1, 2, 3, 8].into(), [1, 2, 0, 8].into());
    assert_eq!(none, "attention: 3 query heads over 0 key/value heads");
    let keys = attention([1, 3, 2, 8].into(), [1, 2, 2, 8].into());
    assert_eq!(keys, "attention: 3 queries, the last of 2 positions");
    let (mut x, mut rstd, angles) = (zeros([1, 2, 2, 3]), zeros([1, 2, 2]), zeros([2, 1]));
    let odd = DEV.rotary_norm(x.view_mut(), rstd.view_mut(), angles.view(), angles.view(), 1.0);
    assert_eq!(message(odd), "rotary_norm: head dim 3 is odd");
    let dev = DEV;
    let (mut losses, mut logits, targets) = (zeros([2]), zeros([2, 4]), indices(dev, &[0, 1]));
    let mut entropy = |vocab, softcap| {
        let (losses, logits) = (losses.view_mut(), logits.view_mut());
        message(DEV.cross_entropy(losses, logits, targets.view(), vocab, softcap, None))
    };
    assert_eq!(entropy(5, 15.0), "cross_entropy: vocab 5 of 4 columns");
    assert_eq!(entropy(0, 15.0), "cross_entropy: vocab 0 of 4 columns");
    assert_eq!(entropy(4, 0.0), "cross_entropy: softcap 0, expected a positive number");
    assert!(entropy(4, f64::NAN).contains("softcap NaN"));
}

#[test]
fn an_index_is_named_with_its_place() {
    let dev = DEV;
    let (mut out, table) = (zeros([3, 2]), zeros([4, 2]));
    let refused = DEV.embed(out.view_mut(), table.view(), indices(dev, &[0, 3, 4]).view());
    assert_eq!(message(refused), "embed: index 4 at position 2, the table has 4 rows");
    let refused = DEV.embed(out.view_mut(), table.view(), indices(dev, &[0, -1, 3]).view());
    assert_eq!(message(refused), "embed: index -1 at position 1, the table has 4 rows");
    let (mut dtable, dout) = (zeros([4, 2]), zeros([3, 2]));
    let ids = indices(dev, &[2, 0, 2]);
    let mut backward = |order: &[i32]| {
        let order = indices(dev, order);
        DEV.embed_backward(dtable.view_mut(), dout.view(), ids.view(), order.view())
    };
    backward(&[1, 0, 2]).unwrap();
    for unsorted in [[0, 1, 2], [1, 2, 0], [1, 0, 0], [1, 1, 2]] {
        assert!(matches!(backward(&unsorted), Err(Error::Argument { .. })), "{unsorted:?}");
    }
    assert!(matches!(backward(&[1, 0, 3]), Err(Error::Index { index: 3, position: 2, .. })));
}

#[test]
fn types_and_places_are_named() {
    let dev = DEV;
    let (mut y, ids) = (zeros([2]), indices(dev, &[1, 2]));
    let refused = DEV.relu2(y.view_mut(), ids.view()).unwrap_err().with_hint();
    assert!(
        refused.starts_with("relu2: reference does not support [F64, I32]\nhint: "),
        "{refused}"
    );
    let narrow = DEV.alloc(DType::F32, Shape::from([2])).unwrap();
    let refused = DEV.copy(y.view_mut(), narrow.view());
    assert_eq!(message(refused), "copy: elements are F32, asked for as F64");
    let elsewhere = Dtypes { place: Place::Cuda(1), ..Dtypes::of(DEV) };
    let refused = Fill { dst: y.view_mut(), value: 0.0 }.check(&elsewhere).unwrap_err().to_string();
    assert_eq!(refused, "fill: memory is on Host, expected Cuda(1)");
}

#[test]
fn an_expression_names_only_what_is_given() {
    let x = tensor(DEV, [2], &[1.0, 2.0]);
    let mut y = zeros([2]);
    let mut map =
        |expr: Expr, scalars: &[f64]| DEV.map(&[expr], &mut [y.view_mut()], &[x.view()], scalars);
    map(Expr::input(0) * Expr::scalar(0) + Expr::old(0), &[2.0]).unwrap();
    assert_eq!(message(map(Expr::input(1), &[])), "map: the expression names input 1 of 1");
    let nested = Expr::Const(1.0).select(-Expr::old(3), 0.0);
    assert_eq!(message(map(nested, &[])), "map: the expression names output 3 of 1");
    let scalar = message(map(Expr::input(0).min(Expr::scalar(0)), &[]));
    assert_eq!(scalar, "map: the expression names scalar 0 of 0");
    assert_eq!(
        message(DEV.map(&[], &mut [y.view_mut()], &[], &[])),
        "map: 0 expressions for 1 outputs"
    );
    let longer = zeros([3]);
    assert_eq!(
        message(DEV.map(&[Expr::input(0)], &mut [y.view_mut()], &[longer.view()], &[])),
        "map: ins has shape (3), expected 2 elements, as the first output"
    );
}
