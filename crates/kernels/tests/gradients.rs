//! Every backward against central differences in f64, on the reference device.
//!
//! An operation's outputs are contracted with fixed random numbers into one loss, so that its backward, given those
//! numbers, has to return the loss's gradient. Step 1e-4, relative error below 1e-5.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;

use common::{Draw, dot, indices, relative, tensor, values};
use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, Coef, Device, Shape, Tensor};

/// Compares `gradient` with the central differences of `loss` at `at`.
fn check(name: &str, gradient: &[f64], at: &[f64], mut loss: impl FnMut(&[f64]) -> f64) {
    const STEP: f64 = 1e-4;
    let mut x = at.to_vec();
    let differences: Vec<f64> = (0..x.len())
        .map(|i| {
            x[i] = at[i] + STEP;
            let above = loss(&x);
            x[i] = at[i] - STEP;
            let below = loss(&x);
            x[i] = at[i];
            (above - below) / (2.0 * STEP)
        })
        .collect();
    let error = relative(gradient, &differences);
    assert!(error < 1e-5, "{name}: relative error {error:e}");
}

/// The reference device, seeded draws, and shorthand.
struct Bench {
    device: Reference,
    draw: Draw,
}

impl Bench {
    fn new(seed: u64) -> Self {
        Self { device: Reference::new(), draw: Draw::new(seed) }
    }
    fn dev(&self) -> &dyn Device {
        &self.device
    }
    fn normals(&mut self, shape: impl Into<Shape>) -> Vec<f64> {
        self.draw.normals(shape.into().elements())
    }
    fn tensor(&self, shape: impl Into<Shape>, x: &[f64]) -> Tensor {
        tensor(self.dev(), shape, x)
    }
    fn zeros(&self, shape: impl Into<Shape>) -> Tensor {
        self.dev().activations(shape).unwrap()
    }
    fn values(&self, x: &Tensor) -> Vec<f64> {
        values(self.dev(), x)
    }
}

#[test]
fn linear() {
    let mut bench = Bench::new(1);
    let (n, i, o) = (3, 5, 4);
    let (x, w, r) = (bench.normals([n, i]), bench.normals([o, i]), bench.normals([n, o]));
    let bench = &bench;
    let loss = |x: &[f64], w: &[f64]| {
        let (x, w, mut y) = (bench.tensor([n, i], x), bench.tensor([o, i], w), bench.zeros([n, o]));
        bench.dev().linear(y.view_mut(), x.view(), w.view(), false).unwrap();
        dot(&bench.values(&y), &r)
    };
    let (tx, tw, dy) =
        (bench.tensor([n, i], &x), bench.tensor([o, i], &w), bench.tensor([n, o], &r));
    let (mut dx, mut dw) = (bench.zeros([n, i]), bench.zeros([o, i]));
    bench.dev().linear_dx(dx.view_mut(), dy.view(), tw.view(), false).unwrap();
    bench.dev().linear_dw(dw.view_mut(), tx.view(), dy.view(), false).unwrap();
    check("linear dx", &bench.values(&dx), &x, |x| loss(x, &w));
    check("linear dw", &bench.values(&dw), &w, |w| loss(&x, w));
}

#[test]
fn embed() {
    let mut bench = Bench::new(2);
    let (v, c) = (5, 3);
    let ids = [3, 0, 3, 4, 0, 3];
    let order = [1, 4, 0, 2, 5, 3];
    let (table, r) = (bench.normals([v, c]), bench.normals([ids.len(), c]));
    let bench = &bench;
    let (ids, order) = (indices(bench.dev(), &ids), indices(bench.dev(), &order));
    let (mut dtable, dout) = (bench.zeros([v, c]), bench.tensor([6, c], &r));
    bench.dev().embed_backward(dtable.view_mut(), dout.view(), ids.view(), order.view()).unwrap();
    check("embed dtable", &bench.values(&dtable), &table, |table| {
        let (table, mut out) = (bench.tensor([v, c], table), bench.zeros([6, c]));
        bench.dev().embed(out.view_mut(), table.view(), ids.view()).unwrap();
        dot(&bench.values(&out), &r)
    });
}

#[test]
fn rotary_norm() {
    let mut bench = Bench::new(3);
    let (b, t, h, d) = (2, 3, 2, 6);
    let (x, r) = (bench.normals([b, t, h, d]), bench.normals([b, t, h, d]));
    let angles = bench.normals([t, d / 2]);
    let bench = &bench;
    let table = |f: fn(f64) -> f64| {
        bench.tensor([t, d / 2], &angles.iter().map(|&angle| f(angle)).collect::<Vec<_>>())
    };
    let (cos, sin) = (table(f64::cos), table(f64::sin));
    for gain in [1.0, 1.2] {
        let forward = |x: &[f64]| {
            let (mut y, mut rstd) = (bench.tensor([b, t, h, d], x), bench.zeros([b, t, h]));
            let stat = rstd.view_mut();
            bench.dev().rotary_norm(y.view_mut(), stat, cos.view(), sin.view(), gain).unwrap();
            (y, rstd)
        };
        let (y, rstd) = forward(&x);
        let mut dx = bench.tensor([b, t, h, d], &r);
        let (dy, stat) = (y.view(), rstd.view());
        bench
            .dev()
            .rotary_norm_backward(dx.view_mut(), dy, stat, cos.view(), sin.view(), gain)
            .unwrap();
        check("rotary_norm dx", &bench.values(&dx), &x, |x| dot(&bench.values(&forward(x).0), &r));
    }
}

#[test]
fn value_gate() {
    let mut bench = Bench::new(4);
    let (n, k, d, c, g, max) = (4, 2, 3, 6, 5, 3.0);
    let (v, ve, r) = (bench.normals([n, k, d]), bench.normals([n, k, d]), bench.normals([n, k, d]));
    let (x, w) = (bench.normals([n, c]), bench.normals([k, g]));
    let bench = &bench;
    let forward = |v: &[f64], ve: &[f64], x: &[f64], w: &[f64]| {
        let (mut v, mut gate) = (bench.tensor([n, k, d], v), bench.zeros([n, k]));
        let (ve, x, w) =
            (bench.tensor([n, k, d], ve), bench.tensor([n, c], x), bench.tensor([k, g], w));
        let out = (v.view_mut(), gate.view_mut());
        bench.dev().value_gate(out.0, out.1, ve.view(), x.view(), w.view(), max).unwrap();
        (bench.values(&v), gate)
    };
    let (_, gate) = forward(&v, &ve, &x, &w);
    let (mut dve, mut dw, mut dx) =
        (bench.zeros([n, k, d]), bench.zeros([k, g]), bench.zeros([n, c]));
    let (dv, tve) = (bench.tensor([n, k, d], &r), bench.tensor([n, k, d], &ve));
    let (tx, tw) = (bench.tensor([n, c], &x), bench.tensor([k, g], &w));
    bench
        .dev()
        .value_gate_backward(
            dve.view_mut(),
            dw.view_mut(),
            dx.view_mut(),
            dv.view(),
            tve.view(),
            gate.view(),
            tx.view(),
            tw.view(),
            max,
        )
        .unwrap();
    let loss = |out: (Vec<f64>, Tensor)| dot(&out.0, &r);
    check("value_gate dve", &bench.values(&dve), &ve, |ve| loss(forward(&v, ve, &x, &w)));
    check("value_gate dx", &bench.values(&dx), &x, |x| loss(forward(&v, &ve, x, &w)));
    check("value_gate dw", &bench.values(&dw), &w, |w| loss(forward(&v, &ve, &x, w)));
}

fn attention(b: usize, t: usize, h: usize, k: usize, d: usize, window: usize) {
    let mut bench = Bench::new(5);
    let (queries, keys) = (Shape::from([b, t, h, d]), Shape::from([b, t, k, d]));
    let at = AttentionShape { window, scale: 1.0 / (d as f64).sqrt() };
    let (q, key, v, r) =
        (bench.normals(queries), bench.normals(keys), bench.normals(keys), bench.normals(queries));
    let bench = &bench;
    let forward = |q: &[f64], key: &[f64], v: &[f64]| {
        let (q, key, v) =
            (bench.tensor(queries, q), bench.tensor(keys, key), bench.tensor(keys, v));
        let (mut out, mut lse) = (bench.zeros(queries), bench.zeros([b, h, t]));
        let outs = (out.view_mut(), lse.view_mut());
        bench.dev().attention(outs.0, outs.1, q.view(), key.view(), v.view(), at).unwrap();
        (out, lse)
    };
    let (out, lse) = forward(&q, &key, &v);
    let (mut dq, mut dk, mut dv) = (bench.zeros(queries), bench.zeros(keys), bench.zeros(keys));
    let mut delta = bench.zeros([b, h, t]);
    bench
        .dev()
        .attention_backward(
            dq.view_mut(),
            dk.view_mut(),
            dv.view_mut(),
            delta.view_mut(),
            bench.tensor(queries, &r).view(),
            out.view(),
            lse.view(),
            bench.tensor(queries, &q).view(),
            bench.tensor(keys, &key).view(),
            bench.tensor(keys, &v).view(),
            at,
        )
        .unwrap();
    let loss = |(out, _): (Tensor, Tensor)| dot(&bench.values(&out), &r);
    check("attention dq", &bench.values(&dq), &q, |q| loss(forward(q, &key, &v)));
    check("attention dk", &bench.values(&dk), &key, |key| loss(forward(&q, key, &v)));
    check("attention dv", &bench.values(&dv), &v, |v| loss(forward(&q, &key, v)));
}

#[test]
fn attention_full() {
    attention(2, 5, 2, 2, 4, 100);
}

#[test]
fn attention_windowed_with_grouped_queries() {
    attention(1, 9, 4, 2, 4, 3);
    attention(2, 6, 3, 1, 2, 1);
}

#[test]
fn cross_entropy() {
    let mut bench = Bench::new(6);
    let (n, v, vocab, softcap, g) = (5, 9, 7, 3.0, 0.2);
    let targets = indices(bench.dev(), &[6, -1, 0, 2, 2]);
    let logits: Vec<f64> = bench.normals([n, v]).iter().map(|x| 3.0 * x).collect();
    let bench = &bench;
    let run = |logits: &[f64], grad| {
        let (mut logits, mut losses) = (bench.tensor([n, v], logits), bench.zeros([n]));
        bench
            .dev()
            .cross_entropy(
                losses.view_mut(),
                logits.view_mut(),
                targets.view(),
                vocab,
                softcap,
                grad,
            )
            .unwrap();
        (bench.values(&losses), bench.values(&logits))
    };
    let (losses, gradient) = run(&logits, Some(g));
    assert_eq!(losses, run(&logits, None).0);
    assert_eq!(losses[1], 0.0);
    check("cross_entropy dlogits", &gradient, &logits, |logits| {
        g * run(logits, None).0.iter().sum::<f64>()
    });
}

#[test]
fn rms_norm() {
    let mut bench = Bench::new(7);
    let (n, c) = (4, 6);
    let (x, r) = (bench.normals([n, c]), bench.normals([n, c]));
    let bench = &bench;
    let forward = |x: &[f64]| {
        let (x, mut y, mut rstd) = (bench.tensor([n, c], x), bench.zeros([n, c]), bench.zeros([n]));
        bench.dev().rms_norm(y.view_mut(), rstd.view_mut(), x.view()).unwrap();
        (y, rstd)
    };
    let (y, rstd) = forward(&x);
    let (mut dx, dy) = (bench.tensor([n, c], &x), bench.tensor([n, c], &r));
    let backward = |dx: &mut Tensor, accumulate| {
        let dx = dx.view_mut();
        bench.dev().rms_norm_backward(dx, dy.view(), y.view(), rstd.view(), accumulate).unwrap();
    };
    backward(&mut dx, false);
    let gradient = bench.values(&dx);
    check("rms_norm dx", &gradient, &x, |x| dot(&bench.values(&forward(x).0), &r));
    backward(&mut dx, true);
    let twice: Vec<f64> = gradient.iter().map(|x| 2.0 * x).collect();
    assert!(relative(&bench.values(&dx), &twice) < 1e-15);
}

#[test]
fn mix() {
    let mut bench = Bench::new(8);
    let shape = [3, 4];
    let (x, y, r) = (bench.normals(shape), bench.normals(shape), bench.normals(shape));
    let (a, b) = (bench.normals([1]), bench.normals([1]));
    let (by_a, by_b) = (0.7, -1.3);
    let bench = &bench;
    let loss = |x: &[f64], y: &[f64], a: &[f64], b: &[f64]| {
        let (x, y, mut out) = (bench.tensor(shape, x), bench.tensor(shape, y), bench.zeros(shape));
        let (a, b) = (bench.tensor([1], a), bench.tensor([1], b));
        let (a, b) = (Coef::new(a.view(), by_a), Coef::new(b.view(), by_b));
        bench.dev().mix(out.view_mut(), x.view(), a, y.view(), b).unwrap();
        dot(&bench.values(&out), &r)
    };
    let (mut dx, mut dy) = (bench.tensor(shape, &r), bench.zeros(shape));
    let (mut da, mut db) = (bench.zeros([1]), bench.zeros([1]));
    let (tx, ty) = (bench.tensor(shape, &x), bench.tensor(shape, &y));
    let (ta, tb) = (bench.tensor([1], &a), bench.tensor([1], &b));
    bench
        .dev()
        .mix_backward(
            dx.view_mut(),
            dy.view_mut(),
            Some(da.view_mut()),
            Some(db.view_mut()),
            tx.view(),
            Coef::new(ta.view(), by_a),
            ty.view(),
            Coef::new(tb.view(), by_b),
        )
        .unwrap();
    check("mix dx", &bench.values(&dx), &x, |x| loss(x, &y, &a, &b));
    check("mix dy", &bench.values(&dy), &y, |y| loss(&x, y, &a, &b));
    check("mix da", &bench.values(&da), &a, |a| loss(&x, &y, a, &b));
    check("mix db", &bench.values(&db), &b, |b| loss(&x, &y, &a, b));
}

#[test]
fn smear() {
    let mut bench = Bench::new(9);
    let (b, t, c, g) = (2, 4, 5, 3);
    let (x, r) = (bench.normals([b, t, c]), bench.normals([b, t, c]));
    let (w, lambda) = (bench.normals([1, g]), vec![0.6]);
    let bench = &bench;
    let forward = |x: &[f64], w: &[f64], lambda: &[f64]| {
        let (x, w) = (bench.tensor([b, t, c], x), bench.tensor([1, g], w));
        let lambda = bench.tensor([1], lambda);
        let (mut out, mut gate) = (bench.zeros([b, t, c]), bench.zeros([b, t]));
        let outs = (out.view_mut(), gate.view_mut());
        bench.dev().smear(outs.0, outs.1, x.view(), None, w.view(), lambda.view()).unwrap();
        (bench.values(&out), gate)
    };
    let (_, gate) = forward(&x, &w, &lambda);
    let (mut dx, mut dw, mut dlambda) =
        (bench.tensor([b, t, c], &r), bench.zeros([1, g]), bench.zeros([1]));
    bench
        .dev()
        .smear_backward(
            dx.view_mut(),
            dw.view_mut(),
            dlambda.view_mut(),
            bench.tensor([b, t, c], &r).view(),
            bench.tensor([b, t, c], &x).view(),
            gate.view(),
            bench.tensor([1, g], &w).view(),
            bench.tensor([1], &lambda).view(),
        )
        .unwrap();
    let loss = |out: (Vec<f64>, Tensor)| dot(&out.0, &r);
    check("smear dx", &bench.values(&dx), &x, |x| loss(forward(x, &w, &lambda)));
    check("smear dw", &bench.values(&dw), &w, |w| loss(forward(&x, w, &lambda)));
    check("smear dlambda", &bench.values(&dlambda), &lambda, |l| loss(forward(&x, &w, l)));
}

#[test]
fn relu2() {
    let mut bench = Bench::new(10);
    // Away from the kink by more than the step.
    let x: Vec<f64> = bench.normals([4, 6]).iter().map(|x| x + 0.1 * x.signum()).collect();
    let r = bench.normals([4, 6]);
    let bench = &bench;
    let of = |x: &[f64]| {
        let (x, mut y) = (bench.tensor([4, 6], x), bench.zeros([4, 6]));
        bench.dev().relu2(y.view_mut(), x.view()).unwrap();
        y
    };
    let (y, mut dx) = (of(&x), bench.tensor([4, 6], &r));
    bench.dev().relu2_backward(dx.view_mut(), y.view()).unwrap();
    check("relu2 dx", &bench.values(&dx), &x, |x| dot(&bench.values(&of(x)), &r));
}

#[test]
fn linear_relu2() {
    let mut bench = Bench::new(13);
    let [n, i, m, o] = [3, 5, 4, 2];
    let (x, w) = (bench.normals([n, i]), bench.normals([m, i]));
    let (v, r) = (bench.normals([o, m]), bench.normals([n, o]));
    let bench = &bench;
    let inside = |x: &[f64], w: &[f64]| {
        let mut y = bench.zeros([n, m]);
        let (x, w) = (bench.tensor([n, i], x), bench.tensor([m, i], w));
        bench.dev().linear_relu2(y.view_mut(), x.view(), w.view()).unwrap();
        y
    };
    let loss = |x: &[f64], w: &[f64]| {
        let (mut z, v) = (bench.zeros([n, o]), bench.tensor([o, m], &v));
        bench.dev().linear(z.view_mut(), inside(x, w).view(), v.view(), false).unwrap();
        dot(&bench.values(&z), &r)
    };
    let (y, mut dh) = (inside(&x, &w), bench.zeros([n, m]));
    let (dz, tv) = (bench.tensor([n, o], &r), bench.tensor([o, m], &v));
    bench.dev().linear_dx_relu2(dh.view_mut(), dz.view(), tv.view(), y.view()).unwrap();
    let (mut dx, mut dw) = (bench.zeros([n, i]), bench.zeros([m, i]));
    let (tx, tw) = (bench.tensor([n, i], &x), bench.tensor([m, i], &w));
    bench.dev().linear_dx(dx.view_mut(), dh.view(), tw.view(), false).unwrap();
    bench.dev().linear_dw(dw.view_mut(), tx.view(), dh.view(), false).unwrap();
    check("linear_relu2 dx", &bench.values(&dx), &x, |x| loss(x, &w));
    check("linear_relu2 dw", &bench.values(&dw), &w, |w| loss(&x, w));
}

#[test]
fn swiglu() {
    let mut bench = Bench::new(11);
    let shape = [4, 6];
    let (gate, x, r) = (bench.normals(shape), bench.normals(shape), bench.normals(shape));
    let bench = &bench;
    let loss = |gate: &[f64], x: &[f64]| {
        let (gate, x, mut y) =
            (bench.tensor(shape, gate), bench.tensor(shape, x), bench.zeros(shape));
        bench.dev().swiglu(y.view_mut(), gate.view(), x.view()).unwrap();
        dot(&bench.values(&y), &r)
    };
    let (tgate, tx) = (bench.tensor(shape, &gate), bench.tensor(shape, &x));
    let (mut dx, mut dgate) = (bench.tensor(shape, &r), bench.zeros(shape));
    let outs = (dx.view_mut(), dgate.view_mut());
    bench.dev().swiglu_backward(outs.0, outs.1, tgate.view(), tx.view()).unwrap();
    check("swiglu dx", &bench.values(&dx), &x, |x| loss(&gate, x));
    check("swiglu dgate", &bench.values(&dgate), &gate, |gate| loss(gate, &x));
}
