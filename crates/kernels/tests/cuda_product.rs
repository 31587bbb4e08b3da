//! Matrix products by our own kernel, in the emulator: each element the sum that the text says, to the bit; which products take it; and what
//! happens when a library refuses one.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::Draw;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::{Gemm, Matrix, Product};
use farthing_kernels::cuda::{Cuda, Fallback};
use farthing_kernels::traced::Traced;
use farthing_kernels::{Bf16, DType, Device, Error, Memory, Result, Shape};
use ptx_emulator::Counters;

/// A library that has no algorithm for anything, or fails.
struct Refuses {
    asked: Arc<AtomicUsize>,
    with: fn() -> Error,
}

fn no_algorithm() -> Error {
    Error::NoAlgorithm { device: "refuses", what: "no algorithm".into() }
}

impl Gemm for Refuses {
    fn multiply(&self, _: &Product) -> Result<()> {
        self.asked.fetch_add(1, Relaxed);
        Err((self.with)())
    }
}

/// A device with that library, and how often it was asked.
fn refused(with: fn() -> Error) -> (Arc<Emulator>, Cuda, Arc<AtomicUsize>) {
    let (emulator, asked) = (Arc::new(Emulator::new()), Arc::new(AtomicUsize::new(0)));
    let gemm = Refuses { asked: asked.clone(), with };
    let cuda = Cuda::new(emulator.clone(), Box::new(gemm)).unwrap();
    (emulator, cuda, asked)
}

fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&x| bytemuck::bytes_of(&Bf16::from_f32(x)).to_vec()).collect(),
    }
}

fn values_of(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        _ => bytes.chunks(2).map(|b| bytemuck::pod_read_unaligned::<Bf16>(b).to_f32()).collect(),
    }
}

/// A call: sizes, the types of operands and result, which operands are turned, elements before each of a, b, c.
#[derive(Clone, Copy, Debug)]
struct Case {
    sizes: [usize; 3],
    types: [DType; 2],
    turned: [bool; 2],
    off: [usize; 3],
    accumulate: bool,
}

impl Case {
    /// Runs it on a device whose library refuses everything, between NaNs and over what is overwritten; holds each element to the sum in the
    /// order of k, to the bit.
    fn check(self) -> Vec<(&'static str, Counters)> {
        let Self { sizes: [m, n, k], types: [input, output], turned, off, accumulate } = self;
        let mut draw = Draw::new((m * 10_007 + n * 101 + k) as u64);
        let mut operand = |elements: usize| -> Vec<f32> {
            let values = draw.normals(elements).into_iter().map(|x| x as f32);
            let values = values.collect::<Vec<_>>();
            values_of(input, &bytes_of(input, &values))
        };
        let (a, b) = (operand(m * k), operand(k * n));
        let before = if accumulate {
            let values = draw.normals(m * n).into_iter().map(|x| x as f32).collect::<Vec<_>>();
            values_of(output, &bytes_of(output, &values))
        } else {
            vec![f32::NAN; m * n]
        };

        let (emulator, cuda, _) = refused(no_algorithm);
        let place = |dtype: DType, values: &[f32], off: usize| {
            let nan = |n| vec![f32::NAN; n];
            let bytes = bytes_of(dtype, &[&nan(off), values, &nan(3)].concat());
            let address = cuda.driver().alloc(bytes.len()).unwrap();
            cuda.driver().write(address, &bytes).unwrap();
            (address, bytes.len())
        };
        let (at_a, at_b) = (place(input, &a, off[0]), place(input, &b, off[1]));
        let at_c = place(output, &before, off[2]);
        let matrix = |address: u64, dtype: DType, off: usize, transposed| Matrix {
            address: address + (off * dtype.bytes()) as u64,
            dtype,
            transposed,
        };
        emulator.take_launches();
        cuda.multiply(&Product {
            m,
            n,
            k,
            a: matrix(at_a.0, input, off[0], turned[0]),
            b: matrix(at_b.0, input, off[1], turned[1]),
            c: matrix(at_c.0, output, off[2], false),
            accumulate,
        })
        .unwrap();
        let launches = emulator.take_launches();

        let mut bytes = vec![0; at_c.1];
        cuda.driver().read(&mut bytes, at_c.0).unwrap();
        let got = values_of(output, &bytes);
        let (around, got) =
            ([&got[..off[2]], &got[off[2] + m * n..]].concat(), &got[off[2]..][..m * n]);
        assert!(around.iter().all(|x| x.is_nan()), "{self:?}: written beside c");
        for i in 0..m {
            for j in 0..n {
                let (mut sum, mut wide) = (0f32, 0f64);
                for l in 0..k {
                    let x = a[if turned[0] { l * m + i } else { i * k + l }];
                    let y = b[if turned[1] { j * k + l } else { l * n + j }];
                    sum = x.mul_add(y, sum);
                    wide += f64::from(x) * f64::from(y);
                }
                assert!((f64::from(sum) - wide).abs() <= 1e-5 * (k as f64).max(1.0));
                let sum = if accumulate { before[i * n + j] + sum } else { sum };
                let expected = values_of(output, &bytes_of(output, &[sum]))[0];
                let got = got[i * n + j];
                assert_eq!(
                    got.to_bits(),
                    expected.to_bits(),
                    "{self:?}, ({i}, {j}): {got}, {expected}"
                );
            }
        }
        launches
    }
}

const TYPES: [([DType; 2], &str); 3] = [
    ([DType::BF16, DType::BF16], "product_bf16"),
    ([DType::BF16, DType::F32], "product_bf16_f32"),
    ([DType::F32, DType::F32], "product_f32"),
];

#[test]
fn every_element_is_its_sum_to_the_bit_whatever_sizes_and_addresses() {
    for (i, sizes) in [
        [1, 1, 1],
        [12, 12, 12],
        [3, 17, 33],
        [32, 32, 32],
        [33, 31, 64],
        [31, 65, 1],
        [1, 70, 100],
        [70, 1, 31],
        [65, 33, 97],
    ]
    .into_iter()
    .enumerate()
    {
        for turned in [[false, false], [false, true], [true, false], [true, true]] {
            for (j, (types, name)) in TYPES.into_iter().enumerate() {
                for off in [[0; 3], [1, 3, 5]] {
                    let accumulate = (i + j + off[0]) % 2 == 0;
                    let launches = Case { sizes, types, turned, off, accumulate }.check();
                    assert_eq!(launches.iter().map(|l| l.0).collect::<Vec<_>>(), [name]);
                }
            }
        }
    }
}

#[test]
fn a_product_moves_what_its_kernel_says_without_bank_conflicts() {
    for (types, _) in TYPES {
        for turned in [[false, false], [false, true], [true, false], [true, true]] {
            let [m, n, k] = [70, 45, 100];
            for accumulate in [false, true] {
                let case = Case { sizes: [m, n, k], types, turned, off: [0; 3], accumulate };
                let counters = &case.check()[0].1;
                let [input, output] = types.map(DType::bytes);
                let read = input * (m * k * n.div_ceil(32) + k * n * m.div_ceil(32));
                let of_c = output * m * n;
                let read = read + if accumulate { of_c } else { 0 };
                assert_eq!(counters.global_load.bytes as usize, read, "{case:?}");
                assert_eq!(counters.global_store.bytes as usize, of_c, "{case:?}");
                assert_eq!(counters.bank_conflicts, 0, "{case:?}");
            }
        }
    }
}

#[test]
fn no_terms_are_a_sum_of_zero() {
    let (types, turned) = (TYPES[0].0, [false, true]);
    for accumulate in [false, true] {
        let case = Case { sizes: [5, 3, 0], types, turned, off: [0, 0, 1], accumulate };
        assert!(case.check().is_empty());
    }
}

/// x (n, i), w (o, i), y (n, o) of a `linear` on this device.
fn linear(dev: &dyn Device, [n, i, o]: [usize; 3], off: usize) -> Result<()> {
    let x = dev.activations([n * i + off])?;
    let x = x.view().rows(off..off + n * i)?.reshape(Shape::from([n, i]))?;
    let (w, mut y) = (dev.activations([o, i])?, dev.activations([n, o])?);
    dev.linear(y.view_mut(), x, w.view(), false)
}

#[test]
fn the_library_is_asked_once_for_a_kind_of_product_that_it_refuses() {
    let (emulator, cuda, asked) = refused(no_algorithm);
    let names = |emulator: &Emulator| -> Vec<_> {
        emulator.take_launches().into_iter().map(|launch| launch.0).collect()
    };
    for times in 1..=3 {
        linear(&cuda, [64, 64, 64], 0).unwrap();
        assert_eq!((asked.load(Relaxed), names(&emulator)), (1, vec!["product_bf16"]));
        let [Fallback { sizes, why, launches, .. }] = &cuda.fallbacks()[..] else { panic!() };
        assert_eq!((*sizes, &why[..], *launches), ([64; 3], "no algorithm", times));
    }
    // Another size is another question; an odd or a tiny one is none.
    linear(&cuda, [72, 64, 64], 0).unwrap();
    linear(&cuda, [64, 64, 64], 1).unwrap();
    linear(&cuda, [8, 8, 8], 0).unwrap();
    assert_eq!((asked.load(Relaxed), names(&emulator).len()), (2, 3));
    let note =
        |times| format!("emulated: no algorithm; multiplied {times} by a slower kernel of our own");
    let notes = [note("3 times"), note("once")];
    assert_eq!(cuda.notes(), notes);
    // Whoever holds the device by another name is told too.
    let traced: Box<dyn Device> = Box::new(Traced::new(Box::new(cuda)));
    assert_eq!(traced.notes(), notes);
}

#[test]
fn a_device_that_no_library_refuses_has_nothing_to_say() {
    let cuda = Cuda::emulated().unwrap();
    linear(&cuda, [64, 64, 64], 0).unwrap();
    linear(&cuda, [3, 5, 7], 1).unwrap();
    assert!(cuda.fallbacks().is_empty() && cuda.notes().is_empty());
}

#[test]
fn any_other_failure_of_the_library_is_passed_on() {
    let failure = || Error::Driver { op: "gemm", device: "refuses", what: "broken".into() };
    let (emulator, cuda, asked) = refused(failure);
    for times in 1..=2 {
        let error = linear(&cuda, [64, 64, 64], 0).unwrap_err();
        assert_eq!(error.to_string(), "gemm: refuses: broken");
        assert_eq!(asked.load(Relaxed), times);
    }
    assert!(emulator.take_launches().is_empty() && cuda.fallbacks().is_empty());
}

/// Muon's gates have rows of 24 bytes, and its parameters may start anywhere: no library is asked.
#[test]
fn polar_express_of_gates_needs_no_library() {
    let (emulator, cuda, asked) = refused(no_algorithm);
    let (dev, shape): (&dyn Device, _) = (&cuda, Shape::from([3, 12, 12]));
    let mut x = dev.master(shape).unwrap();
    dev.write_f64(x.view_mut(), &Draw::new(3).normals(shape.elements())).unwrap();
    let mut scratch = dev.master([dev.polar_express_scratch(shape)]).unwrap();
    let steps = [[3.0, -2.0, 0.5]; 2];
    dev.polar_express(x.view_mut(), scratch.view_mut(), 1.01, &steps).unwrap();
    let launches = emulator.take_launches();
    let products = launches.iter().filter(|launch| launch.0 == "product_bf16").count();
    assert_eq!((products, asked.load(Relaxed)), (3 * 2 * 3, 0));
}
