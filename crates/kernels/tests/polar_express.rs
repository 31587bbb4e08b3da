//! Polar Express maps each singular value by the composed polynomial, and leaves singular vectors alone.
//!
//! Singular values come from Gram–Schmidt on the smaller side and one-sided Jacobi rotations, both here.
#![allow(clippy::needless_range_loop, reason = "loops are over the formula's letters")]
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;

use std::slice::from_ref;

use common::{Draw, dot, norm};
use farthing_kernels::{Device, DeviceKind, Shape, open};

/// Coefficients of arXiv 2505.16932.
const STEPS: [[f64; 3]; 5] = [
    [8.156_554_524_902_461, -22.483_292_925_577_95, 15.878_769_915_207_462],
    [4.042_929_935_166_739, -2.808_917_465_908_714, 0.500_017_845_105_131_6],
    [3.891_667_802_292_660_7, -2.772_484_153_217_685, 0.506_064_817_850_339_3],
    [3.285_753_657_755_655, -2.368_129_493_342_537_6, 0.464_490_242_330_031_06],
    [2.346_541_325_859_637_7, -1.709_782_838_268_708_1, 0.423_235_511_693_053_93],
];
const SAFETY: f64 = 1.01;

/// A matrix as its rows.
type Rows = Vec<Vec<f64>>;

fn transposed(x: &Rows) -> Rows {
    (0..x[0].len()).map(|j| x.iter().map(|row| row[j]).collect()).collect()
}

/// x += a·y.
fn add(x: &mut [f64], a: f64, y: &[f64]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += a * y;
    }
}

/// Rows made orthonormal, twice for good measure, and the triangle L with x = L·q.
fn gram_schmidt(x: &Rows) -> (Rows, Rows) {
    let (mut q, mut l) = (x.clone(), vec![vec![0.0; x.len()]; x.len()]);
    for i in 0..q.len() {
        let (done, rest) = q.split_at_mut(i);
        for _ in 0..2 {
            for (j, before) in done.iter().enumerate() {
                let a = dot(&rest[0], before);
                l[i][j] += a;
                add(&mut rest[0], -a, before);
            }
        }
        l[i][i] = norm(&rest[0]);
        for x in &mut rest[0] {
            *x /= l[i][i];
        }
    }
    (q, l)
}

/// Singular values, ascending: rows of the small side's triangle are rotated in pairs until all are orthogonal.
fn singular_values(x: &Rows) -> Vec<f64> {
    let small = if x.len() <= x[0].len() { x.clone() } else { transposed(x) };
    let (_, mut rows) = gram_schmidt(&small);
    for _ in 0..60 {
        let mut rotated = false;
        for i in 0..rows.len() {
            for j in i + 1..rows.len() {
                let (head, tail) = rows.split_at_mut(j);
                rotated |= orthogonalise(&mut head[i], &mut tail[0]);
            }
        }
        if !rotated {
            let mut values: Vec<f64> = rows.iter().map(|row| norm(row)).collect();
            values.sort_by(f64::total_cmp);
            return values;
        }
    }
    panic!("one-sided Jacobi did not converge");
}

/// Rotates a pair of rows until they are orthogonal; whether that took a rotation.
fn orthogonalise(x: &mut [f64], y: &mut [f64]) -> bool {
    let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
    if xy.abs() <= 1e-12 * (xx * yy).sqrt() {
        return false;
    }
    let zeta = (yy - xx) / (2.0 * xy);
    let tan = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let cos = 1.0 / (1.0 + tan * tan).sqrt();
    let sin = cos * tan;
    for (x, y) in x.iter_mut().zip(y) {
        (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
    }
    true
}

/// What Polar Express makes of a singular value, by the formula.
fn composed(sigma: f64, norm: f64) -> f64 {
    let first = sigma / (norm * SAFETY + 1e-6);
    STEPS.iter().fold(first, |x, [a, b, c]| a * x + b * x.powi(3) + c * x.powi(5))
}

fn polar_express(dev: &dyn Device, matrices: &[Rows]) -> Vec<Rows> {
    let (r, s) = (matrices[0].len(), matrices[0][0].len());
    let shape = Shape::from([matrices.len(), r, s]);
    let mut x = dev.master(shape).unwrap();
    let flat: Vec<f64> = matrices.iter().flatten().flatten().copied().collect();
    dev.write_f64(x.view_mut(), &flat).unwrap();
    let mut scratch = dev.master([dev.polar_express_scratch(shape)]).unwrap();
    dev.polar_express(x.view_mut(), scratch.view_mut(), SAFETY, &STEPS).unwrap();
    let out = dev.read_f64(x.view()).unwrap();
    out.chunks(r * s).map(|x| x.chunks(s).map(<[f64]>::to_vec).collect()).collect()
}

fn random(draw: &mut Draw, r: usize, s: usize) -> Rows {
    (0..r).map(|_| draw.normals(s)).collect()
}

fn devices() -> [Box<dyn Device>; 2] {
    [open(DeviceKind::Reference, 1).unwrap(), open(DeviceKind::Cpu, 2).unwrap()]
}

fn check(dev: &dyn Device, x: &Rows, y: &Rows, sigma: &[f64]) {
    let size = norm(&x.concat());
    let mut expected: Vec<f64> = sigma.iter().map(|&sigma| composed(sigma, size)).collect();
    expected.sort_by(f64::total_cmp);
    for (got, expected) in singular_values(y).iter().zip(&expected) {
        let place = format!("{}, {} × {}", dev.name(), x.len(), x[0].len());
        assert!((got - expected).abs() <= 1e-4, "{place}: {got} for {expected}");
    }
    for &sigma in sigma.iter().filter(|&&sigma| sigma / size >= 1e-3) {
        let mapped = composed(sigma, size);
        assert!((0.85..=1.15).contains(&mapped), "{sigma} of {size} went to {mapped}");
    }
}

#[test]
fn singular_values_follow_the_polynomial() {
    let mut draw = Draw::new(21);
    for (k, r, s) in
        [(3, 16, 16), (2, 16, 64), (2, 64, 16), (1, 48, 40), (1, 33, 100), (1, 128, 128)]
    {
        let x: Vec<Rows> = (0..k).map(|_| random(&mut draw, r, s)).collect();
        for dev in devices() {
            for (x, y) in x.iter().zip(polar_express(&*dev, &x)) {
                check(&*dev, x, &y, &singular_values(x));
            }
        }
    }
}

#[test]
fn a_wide_and_a_tall_matrix_of_256_by_1024() {
    let wide = random(&mut Draw::new(22), 256, 1024);
    let sigma = singular_values(&wide);
    for dev in devices() {
        check(&*dev, &wide, &polar_express(&*dev, from_ref(&wide))[0], &sigma);
    }
    // The reference takes its plain time: once is enough for the tall side.
    let cpu = open(DeviceKind::Cpu, 2).unwrap();
    let tall = transposed(&wide);
    check(&*cpu, &tall, &polar_express(&*cpu, from_ref(&tall))[0], &sigma);
}

#[test]
fn small_singular_values_land_near_one() {
    let mut draw = Draw::new(23);
    for (r, s) in [(24, 40), (40, 24), (24, 24)] {
        let m = r.min(s);
        // U · diag(σ) · V with σ/‖G‖ from 1e-3 up, geometrically.
        let (u, _) = gram_schmidt(&random(&mut draw, m, r));
        let (v, _) = gram_schmidt(&random(&mut draw, m, s));
        let sigma: Vec<f64> = (0..m).map(|i| 1.3f64.powi(i as i32)).collect();
        let floor = 1.0001e-3 * norm(&sigma);
        let sigma: Vec<f64> = sigma.iter().map(|sigma| sigma.max(floor)).collect();
        assert!(sigma[0] / norm(&sigma) < 2e-3, "the spectrum must reach down");
        let mut x = vec![vec![0.0; s]; r];
        for i in 0..r {
            for (j, sigma) in sigma.iter().enumerate() {
                add(&mut x[i], u[j][i] * sigma, &v[j]);
            }
        }
        for dev in devices() {
            let y = &polar_express(&*dev, from_ref(&x))[0];
            check(&*dev, &x, y, &sigma);
            for value in singular_values(y) {
                assert!((0.85..=1.15).contains(&value), "{}: {value}", dev.name());
            }
        }
    }
}

#[test]
fn the_singular_values_here_are_right() {
    let mut draw = Draw::new(24);
    let (u, _) = gram_schmidt(&random(&mut draw, 3, 7));
    let (v, _) = gram_schmidt(&random(&mut draw, 3, 5));
    let mut x = vec![vec![0.0; 5]; 7];
    for i in 0..7 {
        for j in 0..3 {
            add(&mut x[i], u[j][i] * [3.0, 0.01, 2.0][j], &v[j]);
        }
    }
    // Rank 3 of 5: keep what is left of the triangle away from 0/0.
    for (i, row) in x.iter_mut().enumerate() {
        row[i % 5] += 1e-9 * (i + 1) as f64;
    }
    let values = singular_values(&x);
    for (got, expected) in values[2..].iter().zip([0.01, 2.0, 3.0]) {
        assert!((got - expected).abs() < 1e-7, "{values:?}");
    }
}
