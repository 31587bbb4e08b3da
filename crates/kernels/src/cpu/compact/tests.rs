//! Errors of compact matrices against f32 and f64, and bits.

use super::*;
use crate::cpu::gemm::Kernel;
use crate::cpu::simd::Lanes;

fn random(len: usize, seed: u64) -> Vec<f64> {
    let mut draws = farthing_base::random::Draws::new(seed, "compact", 0);
    (0..len).map(|_| f64::from(draws.unit() as f32 - 0.5)).collect()
}

fn tensor(dev: &dyn Device, shape: [usize; 2], values: &[f64]) -> Tensor {
    let mut made = dev.activations(shape).unwrap();
    dev.write_f64(made.view_mut(), values).unwrap();
    made
}

fn product(dev: &dyn Device, x: &Tensor, w: &Tensor, old: Option<&[f64]>) -> Vec<f64> {
    let (n, o) = (x.shape()[0], w.shape()[0]);
    let mut y = tensor(dev, [n, o], old.unwrap_or(&vec![7.0; n * o]));
    dev.linear(y.view_mut(), x.view(), w.view(), old.is_some()).unwrap();
    dev.read_f64(y.view()).unwrap()
}

/// Single rows and columns, one more than a batch of rows, an odd number of channels, several tasks.
const SIZES: [[usize; 3]; 5] =
    [[1, 1, 1], [1, 300, 257], [8, 40, 1_024], [13, 33, 100], [30, 5, 2_049]];

#[test]
fn results_are_as_near_to_those_of_f32_as_is_said() {
    for [n, o, i] in SIZES {
        let (x, mut w) = (random(n * i, 1), random(o * i, 2));
        // A row of zeros, and one with a weight that is far larger than the others.
        w[..i].fill(0.0);
        w[o * i - 1] = 40.0;
        for kind in [Compact::Bf16, Compact::Int8] {
            let mut dev = CompactCpu::new(Cpu::new(2).unwrap());
            let (xs, ws) = (tensor(&dev, [n, i], &x), tensor(&dev, [o, i], &w));
            let exact = product(&dev, &xs, &ws, None);
            dev.keep(kind, ws.view()).unwrap();
            let k = i.next_multiple_of(PAD);
            let bytes = if kind == Compact::Bf16 { 2 * o * k } else { o * k + 4 * o };
            assert_eq!(dev.kept_bytes(), bytes);
            let found = product(&dev, &xs, &ws, None);
            let mut squared = tensor(&dev, [n, o], &vec![7.0; n * o]);
            let plain: &dyn Device = &dev;
            plain.linear_relu2(squared.view_mut(), xs.view(), ws.view()).unwrap();
            let expected = found.iter().map(|y| f64::from((*y as f32).max(0.0)).powi(2) as f32);
            let squared = plain.read_f64(squared.view()).unwrap();
            assert!(squared.iter().map(|y| *y as f32).eq(expected), "{kind:?}");
            assert!(n * o < 20 || found != exact, "the copy is what was multiplied");
            for (at, (found, exact)) in found.iter().zip(&exact).enumerate() {
                let (row, col) = (at / o, at % o);
                let (x, w) = (&x[row * i..(row + 1) * i], &w[col * i..(col + 1) * i]);
                let most = w.iter().fold(0.0f64, |most, w| most.max(w.abs()));
                let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                    x.iter().zip(w).map(|(x, w)| f(x.abs(), w.abs())).sum()
                };
                let rounded = match kind {
                    Compact::Bf16 => sum(&|x, w| x * w / 512.0),
                    // What x is off by, and what weights are; those of a block are at most half a unit in size.
                    Compact::Int8 => {
                        sum(&|x, w| 0.5 / 65_534.0 * (w + most / 254.0) + x * most / 254.0)
                    }
                };
                let bound = rounded + 1e-5 * sum(&|x, w| x * w);
                assert!((found - exact).abs() <= bound, "{kind:?}, {n} by {o} by {i}");
            }
        }
    }
}

#[test]
fn a_row_alone_is_the_same_as_among_others_on_any_number_of_threads() {
    for [n, o, i] in SIZES {
        let (x, w, old) = (random(n * i, 3), random(o * i, 4), random(n * o, 5));
        for kind in [Compact::Bf16, Compact::Int8] {
            let mut results = Vec::new();
            for threads in [1, 3] {
                let mut dev = CompactCpu::new(Cpu::new(threads).unwrap());
                let ws = tensor(&dev, [o, i], &w);
                dev.keep(kind, ws.view()).unwrap();
                let xs = tensor(&dev, [n, i], &x);
                results.push(product(&dev, &xs, &ws, Some(&old)));
                let rows = (0..n).flat_map(|row| {
                    let xs = tensor(&dev, [1, i], &x[row * i..(row + 1) * i]);
                    product(&dev, &xs, &ws, Some(&old[row * o..(row + 1) * o]))
                });
                results.push(rows.collect());
            }
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{kind:?}");
        }
    }
}

/// Weights that are bf16 or whole numbers anyway: then nothing is lost of them, and what is left is the error of x in int8, and of sums.
#[test]
fn only_what_is_said_is_lost() {
    for (kind, off) in [(Compact::Bf16, 0.0), (Compact::Int8, 0.5 / 65_534.0)] {
        let (n, o, i) = (9, 70, 2_000);
        let x = random(n * i, 9);
        let mut w: Vec<f64> = random(o * i, 10).iter().map(|w| (w * 254.0).round()).collect();
        w.iter_mut().step_by(i).for_each(|first| *first = 127.0);
        let mut dev = CompactCpu::new(Cpu::new(2).unwrap());
        let (xs, ws) = (tensor(&dev, [n, i], &x), tensor(&dev, [o, i], &w));
        dev.keep(kind, ws.view()).unwrap();
        let found = product(&dev, &xs, &ws, None);
        for (at, found) in found.iter().enumerate() {
            let (x, w) = (&x[at / o * i..][..i], &w[at % o * i..][..i]);
            let exact: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            let size: f64 = x.iter().zip(w).map(|(x, w)| (x * w).abs()).sum();
            let bound = w.iter().map(|w| off * w.abs()).sum::<f64>() + 2e-6 * size;
            assert!((found - exact).abs() <= bound, "{kind:?}: {found} for {exact}");
        }
    }
}

#[test]
fn bits_are_those_of_plain_loops_whatever_the_vectors() {
    let mut kernels = vec![Kernel::Library];
    #[cfg(target_arch = "x86_64")]
    {
        kernels.extend(pulp::x86::V3::try_new().map(|_| Kernel::Avx2));
        kernels.extend(pulp::x86::V4::try_new().map(|_| Kernel::Avx512));
    }
    for [n, o, i] in SIZES {
        let (x, w, old) = (random(n * i, 11), random(o * i, 12), random(n * o, 13));
        for kind in [Compact::Bf16, Compact::Int8] {
            let results = kernels.iter().map(|&kernel| {
                let mut cpu = Cpu::new(1).unwrap();
                cpu.workers = cpu.workers.with_kernel(kernel);
                let mut dev = CompactCpu::new(cpu);
                let (xs, ws) = (tensor(&dev, [n, i], &x), tensor(&dev, [o, i], &w));
                dev.keep(kind, ws.view()).unwrap();
                product(&dev, &xs, &ws, Some(&old))
            });
            let results: Vec<Vec<f64>> = results.collect();
            assert!(results.windows(2).all(|two| two[0] == two[1]), "{kind:?}, {n}, {o}, {i}");
        }
    }
}

/// How weights are widened is nobody's business: element i is added to lane i mod 32, in the order of the file.
#[test]
fn bits_of_bf16_are_those_of_lanes_in_the_order_of_the_file() {
    for [n, o, i] in SIZES {
        let (x, w) = (random(n * i, 16), random(o * i, 17));
        let mut dev = CompactCpu::new(Cpu::new(2).unwrap());
        let (xs, ws) = (tensor(&dev, [n, i], &x), tensor(&dev, [o, i], &w));
        dev.keep(Compact::Bf16, ws.view()).unwrap();
        for (at, found) in product(&dev, &xs, &ws, None).into_iter().enumerate() {
            let (x, w) = (&x[at / o * i..][..i], &w[at % o * i..][..i]);
            let mut sums = [0.0f32; LANES];
            for (k, (x, w)) in x.iter().zip(w).enumerate() {
                let w = Bf16::from_f32(*w as f32).to_f32();
                sums[k % LANES] = (*x as f32).mul_add(w, sums[k % LANES]);
            }
            assert_eq!(found, f64::from(Lanes(sums).add_up()), "{n}, {o}, {i}");
        }
    }
}

/// A number that is none is never a zero to whoever multiplies, wherever it is; and the largest and smallest numbers are no such thing.
#[test]
fn what_is_no_number_stays_none() {
    let (o, i) = (3, 700);
    for kind in [Compact::Bf16, Compact::Int8] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for in_weights in [false, true] {
                let (mut x, mut w) = (random(2 * i, 14), random(o * i, 15));
                let place = if in_weights { &mut w[2 * i - 1] } else { &mut x[600] };
                *place = bad;
                let mut dev = CompactCpu::new(Cpu::new(1).unwrap());
                let (xs, ws) = (tensor(&dev, [2, i], &x), tensor(&dev, [o, i], &w));
                dev.keep(kind, ws.view()).unwrap();
                let found = product(&dev, &xs, &ws, None);
                let touched = |at: usize| if in_weights { at % o == 1 } else { at / o == 0 };
                for (at, y) in found.iter().enumerate() {
                    assert_eq!(y.is_finite(), !touched(at), "{kind:?}, {bad}: {at} is {y}");
                }
            }
        }
        for size in [1e-42, 1e-38, 1e30] {
            let x: Vec<f64> = random(i, 16).iter().map(|x| x * size).collect();
            let mut dev = CompactCpu::new(Cpu::new(1).unwrap());
            let (xs, ws) = (tensor(&dev, [1, i], &x), tensor(&dev, [1, i], &random(i, 17)));
            let exact = product(&dev, &xs, &ws, None)[0];
            dev.keep(kind, ws.view()).unwrap();
            let found = product(&dev, &xs, &ws, None)[0];
            let bound = i as f64 * (size / 254.0 + 1e-34);
            assert!((found - exact).abs() <= bound, "{kind:?}, {size:e}: {found:e}");
        }
    }
}

#[test]
fn what_is_not_kept_is_as_on_the_processor() {
    let mut dev = CompactCpu::new(Cpu::new(1).unwrap());
    let (x, w) = (tensor(&dev, [3, 20], &random(60, 6)), tensor(&dev, [7, 20], &random(140, 7)));
    let kept = tensor(&dev, [7, 20], &random(140, 8));
    dev.keep(Compact::Int8, kept.view()).unwrap();
    let plain = Cpu::new(1).unwrap();
    assert_eq!(product(&dev, &x, &w, None), product(&plain, &x, &w, None));
    let flat = dev.alloc(DType::F32, [5].into()).unwrap();
    assert!(dev.keep(Compact::Int8, flat.view()).is_err());
    let ids = dev.alloc(DType::I32, [2, 2].into()).unwrap();
    assert!(dev.keep(Compact::Bf16, ids.view()).is_err());
}
