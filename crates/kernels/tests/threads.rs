//! Every operation of the `cpu` device gives the same bits with 1, 2 and 3 threads, on shapes of several blocks of work; and with AVX2 as with AVX-512.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and one of them is read by another"
)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;

use farthing_kernels::cpu::Cpu;
use farthing_kernels::{AdamWHyper, AttentionShape, Coef, Device, Expr, Shape, Tensor};

/// Arguments of an operation: pseudo-random floats, and all tensors so far, to be compared.
struct Case<'a> {
    dev: &'a dyn Device,
    seed: u64,
    results: Vec<u64>,
}

impl Case<'_> {
    fn random(&mut self, n: usize) -> Vec<f64> {
        let mut next = || {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.seed >> 40) as f64 / f64::from(1u32 << 24)
        };
        (0..n).map(|_| 2.0 * next() - 1.0).collect()
    }

    fn floats<const N: usize>(&mut self, dims: [usize; N]) -> Tensor {
        let shape = Shape::from(dims);
        let mut tensor = self.dev.activations(shape).unwrap();
        let values = self.random(shape.elements());
        self.dev.write_f64(tensor.view_mut(), &values).unwrap();
        tensor
    }

    fn positive<const N: usize>(&mut self, dims: [usize; N]) -> Tensor {
        let shape = Shape::from(dims);
        let mut tensor = self.dev.activations(shape).unwrap();
        let values: Vec<f64> = self.random(shape.elements()).iter().map(|x| x.abs()).collect();
        self.dev.write_f64(tensor.view_mut(), &values).unwrap();
        tensor
    }

    fn ints(&self, values: &[i32]) -> Tensor {
        let mut tensor =
            self.dev.alloc(farthing_kernels::DType::I32, [values.len()].into()).unwrap();
        self.dev.write_i32(tensor.view_mut(), values).unwrap();
        tensor
    }

    fn out(&mut self, tensors: &[&Tensor]) {
        for tensor in tensors {
            let values = self.dev.read_f64(tensor.view()).unwrap();
            assert!(values.iter().all(|x| x.is_finite()));
            self.results.extend(values.iter().map(|x| x.to_bits()));
        }
    }
}

/// Asks [`same_bits`] to print a digest of what it saw, after this word.
const PRINT: &str = "FARTHING_TEST_BITS";

/// The instructions are the process's: so the tests of this file run in two more, once with the machine's and once with AVX2's.
#[test]
fn avx2_gives_the_bits_of_wider_vectors() {
    let digests = |vectors: &str| {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.args(["threads::", "--skip", "avx2", "--nocapture", "--test-threads=1"]);
        let output = tests.env(PRINT, "1").env("FARTHING_VECTORS", vectors).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let digest = |line: &str| line.split_once(PRINT).map(|(_, digest)| digest.to_owned());
        text.lines().filter_map(digest).collect::<Vec<_>>()
    };
    let widest = digests("");
    assert!(widest.len() > 10, "{widest:?}");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        assert_eq!(digests("avx2"), widest);
    }
}

#[test]
fn unknown_instructions_are_refused() {
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["threads::memory", "--exact"]).env("FARTHING_VECTORS", "avx3");
    let output = tests.output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("FARTHING_VECTORS is `avx3`"), "{text}");
}

/// Runs `body` with 1, 2 and 3 threads, and again on the same device with its scratch used.
fn same_bits(body: fn(&mut Case<'_>)) {
    let run = |dev: &Cpu| {
        let mut case = Case { dev, seed: 7, results: Vec::new() };
        body(&mut case);
        assert!(!case.results.is_empty());
        case.results
    };
    let expected = run(&Cpu::new(1).unwrap());
    if std::env::var_os(PRINT).is_some() {
        let mut digest = DefaultHasher::new();
        expected.hash(&mut digest);
        println!("{PRINT} {} {:x}", expected.len(), digest.finish());
    }
    for threads in [2, 3] {
        let dev = Cpu::new(threads).unwrap();
        for repeat in 0..3 {
            assert!(run(&dev) == expected, "{threads} threads, repeat {repeat}");
        }
    }
}

#[test]
fn memory() {
    same_bits(|case| {
        let x = case.floats([300, 301]);
        let mut y = case.floats([300, 301]);
        case.dev.copy(y.view_mut(), x.view()).unwrap();
        case.out(&[&y]);
        let mut half = case.dev.alloc(farthing_kernels::DType::BF16, x.shape()).unwrap();
        case.dev.cast(half.view_mut(), x.view()).unwrap();
        case.dev.fill(y.view_mut(), 0.1).unwrap();
        case.out(&[&half, &y]);
    });
}

#[test]
fn linear() {
    same_bits(|case| {
        for (n, i, o) in [(700, 96, 200), (1000, 260, 70), (1, 64, 500), (530, 33, 65)] {
            let (x, w) = (case.floats([n, i]), case.floats([o, i]));
            let (mut y, mut dx, mut dw) =
                (case.floats([n, o]), case.floats([n, i]), case.floats([o, i]));
            case.dev.linear(y.view_mut(), x.view(), w.view(), false).unwrap();
            case.dev.linear_dx(dx.view_mut(), y.view(), w.view(), true).unwrap();
            case.dev.linear_dw(dw.view_mut(), x.view(), y.view(), true).unwrap();
            case.out(&[&y, &dx, &dw]);
            // Of (n, i) results of relu², (o, i) weights and (n, o) gradients.
            let mut act = case.floats([n, i]);
            let (z, inner) = (case.floats([n, i]), case.floats([i, i]));
            case.dev.linear_relu2(act.view_mut(), z.view(), inner.view()).unwrap();
            case.dev.linear_dx_relu2(dx.view_mut(), y.view(), w.view(), act.view()).unwrap();
            case.out(&[&act, &dx]);
        }
    });
}

#[test]
fn embed() {
    same_bits(|case| {
        let (n, c) = (2000, 96);
        let values: Vec<i32> =
            case.random(n).iter().map(|x| if *x < 0.0 { 3 } else { (x * 150.0) as i32 }).collect();
        let mut sorted: Vec<i32> = (0..n as i32).collect();
        sorted.sort_by_key(|&i| (values[i as usize], i));
        let (ids, order) = (case.ints(&values), case.ints(&sorted));
        let (table, mut out) = (case.floats([150, c]), case.floats([n, c]));
        let mut dtable = case.floats([150, c]);
        case.dev.embed(out.view_mut(), table.view(), ids.view()).unwrap();
        case.dev.embed_backward(dtable.view_mut(), out.view(), ids.view(), order.view()).unwrap();
        case.out(&[&out, &dtable]);
    });
}

#[test]
fn rotary_norm() {
    same_bits(|case| {
        let (b, t, h, d) = (3, 200, 4, 32);
        let (cos, sin) = (case.floats([t, d / 2]), case.floats([t, d / 2]));
        let (mut x, mut rstd) = (case.floats([b, t, h, d]), case.floats([b, t, h]));
        let mut dx = case.floats([b, t, h, d]);
        let (x_, rstd_) = (x.view_mut(), rstd.view_mut());
        case.dev.rotary_norm(x_, rstd_, cos.view(), sin.view(), 1.2).unwrap();
        case.dev
            .rotary_norm_backward(dx.view_mut(), x.view(), rstd.view(), cos.view(), sin.view(), 1.2)
            .unwrap();
        case.out(&[&x, &rstd, &dx]);
    });
}

#[test]
fn value_gate() {
    same_bits(|case| {
        let (n, k, d, c, g) = (700, 3, 32, 96, 12);
        let (ve, x, w) = (case.floats([n, k, d]), case.floats([n, c]), case.floats([k, g]));
        let (mut v, mut gate) = (case.floats([n, k, d]), case.floats([n, k]));
        case.dev
            .value_gate(v.view_mut(), gate.view_mut(), ve.view(), x.view(), w.view(), 3.0)
            .unwrap();
        let (mut dve, mut dw, mut dx) =
            (case.floats([n, k, d]), case.floats([k, g]), case.floats([n, c]));
        case.dev
            .value_gate_backward(
                dve.view_mut(),
                dw.view_mut(),
                dx.view_mut(),
                v.view(),
                ve.view(),
                gate.view(),
                x.view(),
                w.view(),
                3.0,
            )
            .unwrap();
        case.out(&[&v, &gate, &dve, &dw, &dx]);
    });
}

#[test]
fn attention() {
    same_bits(|case| {
        for (window, kv_heads) in [(20, 4), (130, 2), (1000, 1)] {
            let (b, t, h, d) = (2, 330, 4, 16);
            let at = AttentionShape { window, scale: 0.25 };
            let (q, dout) = (case.floats([b, t, h, d]), case.floats([b, t, h, d]));
            let (k, v) = (case.floats([b, t, kv_heads, d]), case.floats([b, t, kv_heads, d]));
            let (mut out, mut lse) = (case.floats([b, t, h, d]), case.floats([b, h, t]));
            case.dev
                .attention(out.view_mut(), lse.view_mut(), q.view(), k.view(), v.view(), at)
                .unwrap();
            let (mut dq, mut delta) = (case.floats([b, t, h, d]), case.floats([b, h, t]));
            let (mut dk, mut dv) =
                (case.floats([b, t, kv_heads, d]), case.floats([b, t, kv_heads, d]));
            case.dev
                .attention_backward(
                    dq.view_mut(),
                    dk.view_mut(),
                    dv.view_mut(),
                    delta.view_mut(),
                    dout.view(),
                    out.view(),
                    lse.view(),
                    q.view(),
                    k.view(),
                    v.view(),
                    at,
                )
                .unwrap();
            case.out(&[&out, &lse, &dq, &dk, &dv, &delta]);
        }
    });
}

#[test]
fn cross_entropy() {
    same_bits(|case| {
        let (n, v, vocab) = (301, 200, 190);
        let targets: Vec<i32> =
            case.random(n).iter().map(|x| (x.abs() * 191.0) as i32 - 1).collect();
        let targets = case.ints(&targets);
        for grad in [None, Some(0.01)] {
            let (mut logits, mut losses) = (case.floats([n, v]), case.floats([n]));
            case.dev
                .cross_entropy(
                    losses.view_mut(),
                    logits.view_mut(),
                    targets.view(),
                    vocab,
                    15.0,
                    grad,
                )
                .unwrap();
            case.out(&[&logits, &losses]);
        }
    });
}

#[test]
fn reductions() {
    same_bits(|case| {
        let x = case.floats([700, 101]);
        let (mut sum, mut squares) = (case.floats([1]), case.floats([1]));
        let mut best = case.ints(&[0; 700]);
        case.dev.sum(sum.view_mut(), x.view()).unwrap();
        case.dev.sum_squares(squares.view_mut(), x.view()).unwrap();
        case.dev.argmax(best.view_mut(), x.view(), 90).unwrap();
        case.out(&[&sum, &squares, &best]);
    });
}

#[test]
fn norms() {
    same_bits(|case| {
        let dims = [700, 101];
        let x = case.floats(dims);
        let (mut y, mut rstd, mut dx) = (case.floats(dims), case.floats([700]), case.floats(dims));
        case.dev.rms_norm(y.view_mut(), rstd.view_mut(), x.view()).unwrap();
        case.dev.rms_norm_backward(dx.view_mut(), x.view(), y.view(), rstd.view(), true).unwrap();
        case.out(&[&y, &rstd, &dx]);
    });
}

#[test]
fn mixes() {
    same_bits(|case| {
        let dims = [700, 101];
        let (x, y, parameter) = (case.floats(dims), case.floats(dims), case.floats([1]));
        let (a, b) = (Coef::new(parameter.view(), 0.5), Coef::ONE);
        let (mut out, mut normed, mut rstd) =
            (case.floats(dims), case.floats(dims), case.floats([700]));
        case.dev.mix(out.view_mut(), x.view(), a, y.view(), b).unwrap();
        case.out(&[&out]);
        case.dev
            .mix_norm(out.view_mut(), normed.view_mut(), rstd.view_mut(), x.view(), a, y.view(), b)
            .unwrap();
        let (mut da, mut db) = (case.floats([1]), case.floats([1]));
        let (mut dx, mut dy) = (case.floats(dims), case.floats(dims));
        case.dev
            .mix_backward(
                dx.view_mut(),
                dy.view_mut(),
                Some(da.view_mut()),
                Some(db.view_mut()),
                x.view(),
                a,
                y.view(),
                b,
            )
            .unwrap();
        case.out(&[&out, &normed, &rstd, &dx, &dy, &da, &db]);
    });
}

#[test]
fn smear() {
    same_bits(|case| {
        let (b, t, c, g) = (3, 301, 96, 24);
        let (x, dout) = (case.floats([b, t, c]), case.floats([b, t, c]));
        let (w, lambda) = (case.floats([1, g]), case.floats([1]));
        let (mut out, mut gate) = (case.floats([b, t, c]), case.floats([b, t]));
        case.dev
            .smear(out.view_mut(), gate.view_mut(), x.view(), None, w.view(), lambda.view())
            .unwrap();
        let (mut dx, mut dw, mut dlambda) =
            (case.floats([b, t, c]), case.floats([1, g]), case.floats([1]));
        case.dev
            .smear_backward(
                dx.view_mut(),
                dw.view_mut(),
                dlambda.view_mut(),
                dout.view(),
                x.view(),
                gate.view(),
                w.view(),
                lambda.view(),
            )
            .unwrap();
        case.out(&[&out, &gate, &dx, &dw, &dlambda]);
    });
}

#[test]
fn elementwise() {
    same_bits(|case| {
        let dims = [300, 201];
        let x = case.floats(dims);
        let (mut y, mut dx) = (case.floats(dims), case.floats(dims));
        case.dev.relu2(y.view_mut(), x.view()).unwrap();
        case.dev.relu2_backward(dx.view_mut(), y.view()).unwrap();
        case.out(&[&y, &dx]);
        let exprs = [
            (Expr::input(0).tanh() * Expr::scalar(0) + Expr::old(1)).exp(),
            Expr::old(0).select(Expr::input(0).abs().sqrt(), Expr::from(2.0) / Expr::old(1).abs()),
        ];
        let mut outs = [y.view_mut(), dx.view_mut()];
        case.dev.map(&exprs, &mut outs, &[x.view()], &[0.3]).unwrap();
        case.out(&[&y, &dx]);
    });
}

#[test]
fn swiglu() {
    same_bits(|case| {
        let dims = [300, 201];
        let (gate, x) = (case.floats(dims), case.floats(dims));
        let (mut y, mut dx, mut dgate) = (case.floats(dims), case.floats(dims), case.floats(dims));
        case.dev.swiglu(y.view_mut(), gate.view(), x.view()).unwrap();
        let outs = (dx.view_mut(), dgate.view_mut());
        case.dev.swiglu_backward(outs.0, outs.1, gate.view(), x.view()).unwrap();
        case.out(&[&y, &dx, &dgate]);
    });
}

#[test]
fn elementwise_updates() {
    same_bits(|case| {
        let dims = [3, 100, 201];
        let hyper =
            AdamWHyper { lr: 0.1, beta1: 0.8, beta2: 0.95, eps: 1e-10, weight_decay: 0.1, step: 3 };
        let (mut p, mut m, mut v) = (case.floats(dims), case.floats(dims), case.positive(dims));
        let g = case.floats(dims);
        case.dev.adamw(p.view_mut(), m.view_mut(), v.view_mut(), g.view(), hyper).unwrap();
        case.out(&[&p, &m, &v]);
        case.dev.nesterov(m.view_mut(), v.view_mut(), g.view(), 0.95).unwrap();
        case.dev.cautious_update(p.view_mut(), g.view(), 0.02, 0.2).unwrap();
        case.out(&[&p, &m, &v]);
    });
}

#[test]
fn slab_updates() {
    same_bits(|case| {
        for dims @ [k, r, s] in [[3, 100, 201], [2, 150, 130], [1, 257, 300]] {
            let mut x = case.floats(dims);
            let mut moment = case.positive([k, if r >= s { r } else { s }]);
            case.dev.equilibrate_rows(x.view_mut()).unwrap();
            case.out(&[&x]);
            let len = case.dev.polar_express_scratch(dims.into());
            let mut scratch = case.dev.master([len]).unwrap();
            let steps = [[8.2, -23.0, 17.0], [4.0, -2.9, 0.5], [3.9, -2.8, 0.5]];
            case.dev.polar_express(x.view_mut(), scratch.view_mut(), 1.05, &steps).unwrap();
            case.out(&[&x]);
            case.dev.variance_reduce(x.view_mut(), moment.view_mut(), 0.9).unwrap();
            case.out(&[&x, &moment]);
            case.dev.renormalize(x.view_mut()).unwrap();
            case.out(&[&x]);
        }
    });
}
