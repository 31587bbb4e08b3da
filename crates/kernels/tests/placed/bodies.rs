//! One body for each operation, over sizes that reach every branch of its kernels. What they return is nothing or the first failure.

use farthing_kernels::{AdamWHyper, Coef, Device, Mut, Ref, Result as Done};

use super::{Failure, Operand, everywhere};
use crate::common::Draw;

type Outcome = Result<(), Failure>;

/// A body, by the operation's name.
pub(crate) type Body = fn(&dyn Device) -> Outcome;

/// Rows and columns: for a warp each (up to 2048 columns) in its registers, in part of them, element by element; for a block each in
/// its registers (up to 8192), beyond them, element by element; rows that fill no block.
const ROWS: [(usize, usize); 10] = [
    (1, 1),
    (3, 7),
    (9, 8),
    (17, 40),
    (8, 1024),
    (3, 2047),
    (9, 2048),
    (2, 2056),
    (2, 2051),
    (2, 8192 + 2048 + 8),
];

/// Numbers of elements: less than one access, one, a tail, and more than the grid covers at once (64 blocks of 2048).
const FLAT: [usize; 6] = [1, 7, 8, 29, 4096, 64 * 2048 + 2061];

fn draw() -> Draw {
    Draw::new(5)
}

fn normal(draw: &mut Draw, shape: [usize; 2]) -> Operand {
    Operand::compute(shape, draw.normals(shape[0] * shape[1]))
}

fn flat(draw: &mut Draw, n: usize) -> Operand {
    Operand::compute([n], draw.normals(n))
}

pub(crate) fn rms_norm(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, c) in ROWS {
        let (y, rstd) = (Operand::poison([n, c]), Operand::poisoned_master([n]));
        // A row of zeros, where the epsilon counts.
        let mut x = draw.normals(n * c);
        x[..if n > 2 { c } else { 0 }].fill(0.0);
        let x = Operand::compute([n, c], x);
        everywhere(dev, [&y, &rstd], [&x], 0.0, |d, [y, rstd], [x]| d.rms_norm(y, rstd, x))?;
    }
    Ok(())
}

pub(crate) fn rms_norm_backward(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, c) in ROWS {
        for accumulate in [false, true] {
            let (dy, y) = (normal(&mut draw, [n, c]), normal(&mut draw, [n, c]));
            let rstd = draw.normals(n).iter().map(|x| x.abs() + 0.1).collect();
            let rstd = Operand::master([n], rstd);
            let dx = if accumulate { normal(&mut draw, [n, c]) } else { Operand::poison([n, c]) };
            // One column's gradient is what is left of a cancellation.
            everywhere(dev, [&dx], [&dy, &y, &rstd], 1.0, |d, [dx], [dy, y, rstd]| {
                d.rms_norm_backward(dx, dy, y, rstd, accumulate)
            })?;
        }
    }
    Ok(())
}

fn parameter(draw: &mut Draw) -> Operand {
    Operand::master([1], draw.normals(1))
}

pub(crate) fn mix(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let (x, y, out) = (flat(&mut draw, n), flat(&mut draw, n), Operand::poison([n]));
        let (a, b) = (parameter(&mut draw), parameter(&mut draw));
        everywhere(dev, [&out], [&x, &y, &a, &b], 0.0, |d, [out], [x, y, a, b]| {
            d.mix(out, x, Coef::new(a, 0.75), y, Coef::new(b, -2.0))
        })?;
        everywhere(dev, [&out], [&x, &y], 0.0, |d, [out], [x, y]| {
            d.mix(out, x, Coef::ONE, y, Coef { parameter: None, times: -1.5 })
        })?;
    }
    Ok(())
}

pub(crate) fn mix_norm(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, c) in ROWS {
        let (x, y) = (normal(&mut draw, [n, c]), normal(&mut draw, [n, c]));
        let (a, b) = (parameter(&mut draw), parameter(&mut draw));
        let (out, normed) = (Operand::poison([n, c]), Operand::poison([n, c]));
        let outs = [&out, &normed, &Operand::poisoned_master([n]).of_compute()];
        everywhere(dev, outs, [&x, &y, &a, &b], 0.0, |d, [out, normed, rstd], [x, y, a, b]| {
            d.mix_norm(out, normed, rstd, x, Coef::new(a, 0.75), y, Coef::new(b, 2.0))
        })?;
    }
    Ok(())
}

fn coefs<'a>(a: Ref<'a>, b: Ref<'a>) -> (Coef<'a>, Coef<'a>) {
    (Coef::new(a, 0.75), Coef::new(b, -2.0))
}

pub(crate) fn mix_backward(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let [x, y, dx, dy] = [(); 4].map(|()| flat(&mut draw, n));
        let [a, b, da, db] = [(); 4].map(|()| parameter(&mut draw));
        // Sums of products that cancel: judged by the size of what was summed.
        let floor = (n as f64).sqrt().max(1.0);
        let ins = [&x, &y, &a, &b];
        everywhere(dev, [&da, &db], ins, floor, |d, [da, db], [x, y, a, b]| {
            let (mut dx, mut dy) = (d.activations([n])?, d.activations([n])?);
            d.copy(dx.view_mut(), y)?;
            let (dx, dy, (a, b)) = (dx.view_mut(), dy.view_mut(), coefs(a, b));
            d.mix_backward(dx, dy, Some(da), Some(db), x, a, y, b)
        })?;
        everywhere(dev, [&dx, &dy], ins, 1.0, |d, [dx, dy], [x, y, a, b]| {
            let (mut da, mut db) = (d.master([1])?, d.master([1])?);
            let (da, db, (a, b)) = (da.view_mut(), db.view_mut(), coefs(a, b));
            d.mix_backward(dx, dy, Some(da), Some(db), x, a, y, b)
        })?;
        // One sum alone, or none, in larger tensors than they need.
        everywhere(dev, [&da, &dx, &dy], ins, floor, |d, [da, dx, dy], [x, y, a, b]| {
            let (a, b) = coefs(a, b);
            d.mix_backward(dx, dy, Some(da), None, x, a, y, b)
        })?;
        everywhere(dev, [&db, &dx, &dy], ins, floor, |d, [db, dx, dy], [x, y, a, b]| {
            let (a, b) = coefs(a, b);
            d.mix_backward(dx, dy, None, Some(db), x, a, y, b)
        })?;
        everywhere(dev, [&dx, &dy], ins, 1.0, |d, [dx, dy], [x, y, a, b]| {
            let (a, b) = coefs(a, b);
            d.mix_backward(dx, dy, None, None, x, a, y, b)
        })?;
    }
    Ok(())
}

/// One output from `INS` inputs.
fn from<const INS: usize>(
    dev: &dyn Device,
    call: impl Fn(&dyn Device, Mut<'_>, [Ref<'_>; INS]) -> Done<()>,
) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let ins = [(); INS].map(|()| flat(&mut draw, n));
        let out = Operand::poison([n]);
        everywhere(dev, [&out], ins.each_ref(), 0.0, |d, [out], ins| call(d, out, ins))?;
    }
    Ok(())
}

pub(crate) fn relu2(dev: &dyn Device) -> Outcome {
    from(dev, |d, y, [x]| d.relu2(y, x))
}

pub(crate) fn swiglu(dev: &dyn Device) -> Outcome {
    from(dev, |d, y, [gate, x]| d.swiglu(y, gate, x))
}

pub(crate) fn relu2_backward(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let dx = flat(&mut draw, n);
        let y = Operand::compute([n], draw.normals(n).into_iter().map(f64::abs).collect());
        everywhere(dev, [&dx], [&y], 0.0, |d, [dx], [y]| d.relu2_backward(dx, y))?;
    }
    Ok(())
}

pub(crate) fn swiglu_backward(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let [dx, gate, x] = [(); 3].map(|()| flat(&mut draw, n));
        let dgate = Operand::poison([n]);
        everywhere(dev, [&dx, &dgate], [&gate, &x], 0.0, |d, [dx, dgate], [gate, x]| {
            d.swiglu_backward(dx, dgate, gate, x)
        })?;
    }
    Ok(())
}

pub(crate) fn adamw(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        // The first element never had a gradient: only eps keeps it a number.
        let mut master = |f: fn(f64) -> f64| {
            let value = |(i, x): (usize, f64)| if i == 0 { 0.0 } else { f(x) };
            Operand::master([n], draw.normals(n).into_iter().enumerate().map(value).collect())
        };
        let (p, m, g, v) = (master(|x| x), master(|x| x), master(|x| x), master(|x| x * x));
        let hyper = AdamWHyper {
            lr: 0.02,
            beta1: 0.8,
            beta2: 0.95,
            eps: 1e-10,
            weight_decay: 0.1,
            step: 3,
        };
        everywhere(dev, [&p, &m, &v], [&g], 0.0, |d, [p, m, v], [g]| d.adamw(p, m, v, g, hyper))?;
    }
    Ok(())
}

/// Ids, rows, columns: one warp's rows and more than a block's; vectors, and single elements.
const LOOKUPS: [(usize, usize, usize); 6] =
    [(1, 1, 1), (7, 3, 8), (65, 9, 264), (130, 50, 33), (9, 300, 1032), (70, 5, 129)];

pub(crate) fn embed(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, v, c) in LOOKUPS {
        let ids: Vec<i32> = (0..n).map(|_| (draw.uniform() * v as f64) as i32).collect();
        let (table, ids) = (normal(&mut draw, [v, c]), Operand::index([n], &ids));
        let out = Operand::poison([n, c]);
        everywhere(dev, [&out], [&table, &ids], 0.0, |d, [out], [table, ids]| {
            d.embed(out, table, ids)
        })?;
    }
    Ok(())
}

/// 0..N sorted by (id, n).
pub(crate) fn sorted(ids: &[i32]) -> Vec<i32> {
    let mut order: Vec<i32> = (0..ids.len() as i32).collect();
    order.sort_by_key(|&n| (ids[n as usize], n));
    order
}

/// Ids that are all one, all distinct, in runs that begin and end anywhere, in runs that end at and beside every border of 32 and 256
/// places, and drawn.
pub(crate) fn ids(n: usize, v: usize, draw: &mut Draw) -> [Vec<i32>; 5] {
    let below = |x: f64| (x * v as f64) as i32;
    let lengths = [31, 1, 33, 63, 128, 255, 2, 255, 257, 30].into_iter().cycle();
    let runs = lengths.enumerate().flat_map(|(i, length)| vec![i.min(v - 1) as i32; length]);
    [
        vec![v as i32 - 1; n],
        (0..n).map(|i| (i * 7 % v) as i32).collect(),
        (0..n).map(|i| (i / 41 % v) as i32).collect(),
        runs.take(n).collect(),
        (0..n).map(|_| below(draw.uniform() * draw.uniform())).collect(),
    ]
}

pub(crate) fn embed_backward(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, v, c) in [
        (1, 1, 1),
        (33, 40, 4),
        (100, 9, 132),
        (64, 64, 7),
        (200, 3, 129),
        (256, 256, 4),
        (257, 3, 130),
        (1100, 12, 8),
        (800, 800, 5),
    ] {
        for ids in ids(n, v, &mut draw) {
            let order = sorted(&ids);
            let (ids, order) = (Operand::index([n], &ids), Operand::index([n], &order));
            let (dtable, dout) =
                (Operand::master([v, c], draw.normals(v * c)), normal(&mut draw, [n, c]));
            let ins = [&dout, &ids, &order];
            everywhere(dev, [&dtable], ins, 0.0, |d, [dtable], [dout, ids, order]| {
                d.embed_backward(dtable, dout, ids, order)
            })?;
        }
    }
    Ok(())
}

/// Linear layers that are multiplied without a library.
pub(crate) fn product(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, i, o) in [(1, 1, 1), (12, 12, 12), (33, 70, 31), (65, 31, 97)] {
        let (x, w) = (normal(&mut draw, [n, i]), normal(&mut draw, [o, i]));
        for accumulate in [false, true] {
            let y = if accumulate { normal(&mut draw, [n, o]) } else { Operand::poison([n, o]) };
            everywhere(dev, [&y], [&x, &w], 0.0, |d, [y], [x, w]| d.linear(y, x, w, accumulate))?;
        }
    }
    Ok(())
}

/// Batch, positions, channels, gate channels: rows that fill no block; channels in vectors and not; gates of more than a warp's lanes.
const SMEARS: [(usize, usize, usize, usize); 6] = [
    (1, 1, 3, 1),
    (3, 1, 24, 24),
    (2, 5, 33, 24),
    (1, 130, 264, 12),
    (2, 9, 72, 65),
    (2, 300, 8, 8),
];
/// So many positions that each of 512 blocks has more rows than it keeps at a time (128).
const MANY_POSITIONS: (usize, usize, usize, usize) = (2, 32_900, 8, 8);

fn smear_operands(draw: &mut Draw, b: usize, t: usize, c: usize, g: usize) -> [Operand; 4] {
    let w = draw.normals(g).iter().map(|w| w / (g as f64).sqrt()).collect();
    [
        Operand::compute([b, t, c], draw.normals(b * t * c)),
        Operand::compute([b, c], draw.normals(b * c)),
        Operand::compute([1, g], w),
        parameter(draw),
    ]
}

pub(crate) fn smear(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (b, t, c, g) in SMEARS {
        let [x, prev, w, lambda] = smear_operands(&mut draw, b, t, c, g);
        let outs = [&Operand::poison([b, t, c]), &Operand::poisoned_master([b, t])];
        everywhere(dev, outs, [&x, &w, &lambda], 0.0, |d, [out, gate], [x, w, lambda]| {
            d.smear(out, gate, x, None, w, lambda)
        })?;
        let ins = [&x, &prev, &w, &lambda];
        everywhere(dev, outs, ins, 0.0, |d, [out, gate], [x, prev, w, lambda]| {
            d.smear(out, gate, x, Some(prev), w, lambda)
        })?;
    }
    Ok(())
}

pub(crate) fn smear_backward(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (b, t, c, g) in SMEARS.into_iter().chain([MANY_POSITIONS]) {
        let [x, _, w, lambda] = smear_operands(&mut draw, b, t, c, g);
        let dout = Operand::compute([b, t, c], draw.normals(b * t * c));
        // A gate between 0 and 1 is all that the gradient asks for.
        let gate = Operand::master([b, t], (0..b * t).map(|_| draw.uniform()).collect());
        let dx = Operand::poison([b, t, c]);
        let (dw, dlambda) = (Operand::master([1, g], draw.normals(g)), parameter(&mut draw));
        let ins = [&dout, &x, &gate, &w, &lambda];
        everywhere(dev, [&dx, &dw, &dlambda], ins, 1.0, |d, outs, ins| {
            let ([dx, dw, dlambda], [dout, x, gate, w, lambda]) = (outs, ins);
            d.smear_backward(dx, dw, dlambda, dout, x, gate, w, lambda)
        })?;
    }
    Ok(())
}

/// Matrices, rows, columns: tall, wide, square, vectors; and rows and columns of more than a block's threads.
const STACKS: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (2, 1, 37),
    (3, 37, 1),
    (3, 16, 16),
    (2, 33, 70),
    (2, 100, 48),
    (1, 300, 1032),
    (1, 1032, 300),
];

fn stack(draw: &mut Draw, (k, r, s): (usize, usize, usize)) -> Operand {
    Operand::master([k, r, s], draw.normals(k * r * s))
}

fn in_place(dev: &dyn Device, call: impl Fn(&dyn Device, Mut<'_>) -> Done<()>) -> Outcome {
    let mut draw = draw();
    for dims in STACKS {
        let x = stack(&mut draw, dims);
        everywhere(dev, [&x], [], 0.0, |d, [x], []| call(d, x))?;
    }
    Ok(())
}

pub(crate) fn equilibrate_rows(dev: &dyn Device) -> Outcome {
    in_place(dev, |d, x| d.equilibrate_rows(x))
}

pub(crate) fn renormalize(dev: &dyn Device) -> Outcome {
    in_place(dev, |d, x| d.renormalize(x))
}

pub(crate) fn variance_reduce(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (k, r, s) in STACKS {
        let x = stack(&mut draw, (k, r, s));
        let moments = draw.normals(k * r.max(s)).iter().map(|x| x * x).collect();
        let moments = Operand::master([k, r.max(s)], moments);
        everywhere(dev, [&x, &moments], [], 0.0, |d, [x, moments], []| {
            d.variance_reduce(x, moments, 0.9)
        })?;
    }
    Ok(())
}

pub(crate) fn nesterov(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let mut master = || Operand::master([n], draw.normals(n));
        let (buf, g, out) = (master(), master(), Operand::poisoned_master([n]));
        everywhere(dev, [&out, &buf], [&g], 0.0, |d, [out, buf], [g]| {
            d.nesterov(out, buf, g, 0.95)
        })?;
    }
    Ok(())
}

pub(crate) fn cautious_update(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let p = Operand::master([n], draw.normals(n));
        let x = draw.normals(n).into_iter().enumerate();
        let x = Operand::master([n], x.map(|(i, x)| if i % 5 == 2 { 0.0 } else { x }).collect());
        everywhere(dev, [&p], [&x], 0.0, |d, [p], [x]| d.cautious_update(p, x, 0.1, 0.5))?;
    }
    Ok(())
}

fn reduction(
    dev: &dyn Device,
    call: impl Fn(&dyn Device, Mut<'_>, Ref<'_>) -> Done<()>,
) -> Outcome {
    let mut draw = draw();
    for n in FLAT {
        let x = Operand::master([n], draw.normals(n).iter().map(|x| 0.5 + x.abs()).collect());
        let out = Operand::poisoned_master([1]);
        everywhere(dev, [&out], [&x], 0.0, |d, [out], [x]| call(d, out, x))?;
    }
    Ok(())
}

pub(crate) fn sum(dev: &dyn Device) -> Outcome {
    reduction(dev, |d, out, x| d.sum(out, x))
}

pub(crate) fn sum_squares(dev: &dyn Device) -> Outcome {
    reduction(dev, |d, out, x| d.sum_squares(out, x))
}

/// Rows, columns, vocabulary: fewer than a block's threads, more than it takes at once, with padding and without.
const LOGITS: [(usize, usize, usize); 6] =
    [(1, 1, 1), (2, 64, 50), (7, 33, 33), (3, 1024, 1000), (2, 9000, 8999), (2, 4099, 4099)];

pub(crate) fn cross_entropy(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, v, vocab) in LOGITS {
        for grad in [None, Some(0.25)] {
            let spread = draw.normals(n * v).into_iter().enumerate();
            let pad = |(i, x)| if i % v < vocab { 4.0 * x } else { f64::NAN };
            let logits = Operand::compute([n, v], spread.map(pad).collect());
            let target = |i| if i % 3 == 1 { -1 } else { (i * 7919 % vocab) as i32 };
            let targets = Operand::index([n], &(0..n).map(target).collect::<Vec<_>>());
            let losses = Operand::poisoned_master([n]).of_compute();
            // A gradient is what is left of a cancellation where there is one column.
            let floor = if vocab == 1 { 1.0 } else { 0.0 };
            everywhere(dev, [&losses, &logits], [&targets], floor, |d, [losses, logits], [t]| {
                d.cross_entropy(losses, logits, t, vocab, 15.0, grad)
            })?;
        }
    }
    Ok(())
}

pub(crate) fn argmax(dev: &dyn Device) -> Outcome {
    let mut draw = draw();
    for (n, v, vocab) in LOGITS {
        let spread = draw.normals(n * v).into_iter().enumerate();
        let pad = |(i, x): (usize, f64)| if i % v < vocab { (4.0 * x).round() } else { 100.0 };
        let logits = Operand::compute([n, v], spread.map(pad).collect());
        let out = Operand::index([n], &vec![-7; n]);
        everywhere(dev, [&out], [&logits], 0.0, |d, [out], [logits]| d.argmax(out, logits, vocab))?;
    }
    Ok(())
}
