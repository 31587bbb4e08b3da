//! Attention by mma.sync and products by wgmma, as nvcc makes them, and mma of every type, against f64.

#![allow(clippy::unwrap_used, reason = "a test's helper may fail the test")]
#![allow(
    clippy::precedence,
    clippy::precedence_bits,
    clippy::manual_midpoint,
    clippy::cast_abs_to_unsigned,
    clippy::verbose_bit_mask,
    clippy::manual_is_multiple_of,
    clippy::needless_range_loop,
    clippy::eq_op,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::nonminimal_bool,
    reason = "references are written as their definitions read"
)]
#![allow(
    clippy::items_after_statements,
    clippy::type_complexity,
    reason = "a table's type stands beside the table"
)]
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    clippy::unreadable_literal,
    reason = "PTX is put together from pieces"
)]

mod common;
use common::matrix::{Attention, gemm};
use common::{Numbers, module, relative, wide};
use ptx_emulator::{Class, Memory, Module, Options};

#[test]
fn attention_at_both_widths_with_and_without_window_and_at_odd_lengths() {
    let module = module("attention");
    for (batch, time, heads, dim, window) in [
        (1, 192, 2, 64, 0),
        (2, 100, 1, 64, 30),
        (1, 130, 1, 128, 0),
        (1, 128, 2, 128, 70),
        (1, 1, 1, 64, 0),
    ] {
        let a = Attention { batch, time, heads, dim, window };
        let mut numbers = Numbers(time as u64);
        let [q, k, v] = [0; 3].map(|_| numbers.bf16(a.size()));
        let (out, lse, counters) = a.run(&module, &q, &k, &v).unwrap();
        let (want, want_lse) = a.reference(&q, &k, &v);
        let error = relative(out.iter().map(|x| wide(*x) as f64), want);
        // Probabilities and outputs are rounded to 8 bits.
        assert!(error < 4e-3, "out: {error}");
        let error = relative(lse.iter().map(|x| *x as f64), want_lse);
        assert!(error < 1e-4, "lse: {error}");
        assert!(counters.class(Class::Matrix) > 0);
        assert_eq!(counters.bank_conflicts, 0, "the swizzle spreads the columns over the banks");
    }
}

#[test]
fn wgmma_with_a_ring_of_bulk_copies() {
    let (error, counters) = gemm(&module("hopper"), "gemm_ring", 128, 256, 384).unwrap();
    assert!(error < 3e-3, "{error}");
    // Each block fetches its rows of A and B once.
    assert_eq!(counters.global_load.bytes, 4 * (64 + 128) * 384 * 2);
    assert_eq!(counters.global_load.efficiency(), 1.0);
}

#[test]
fn wgmma_with_a_from_registers_and_b_transposed() {
    let (error, _) = gemm(&module("hopper"), "gemm_registers", 64, 256, 128).unwrap();
    assert!(error < 3e-3, "{error}");
}

/// A small format by its fields: values of all codes.
fn decode(format: &str, code: u64) -> f64 {
    let (exponent, mantissa) = match format {
        "f16" => (5, 10),
        "bf16" => (8, 7),
        "tf32" => (8, 23),
        "e4m3" => (4, 3),
        "e5m2" => (5, 2),
        "u8" => return code as u8 as f64,
        _ => return code as u8 as i8 as f64,
    };
    let bias = (1 << (exponent - 1)) - 1;
    let (e, f) = (code >> mantissa & ((1 << exponent) - 1), code & ((1 << mantissa) - 1));
    let unit = 2f64.powi(-mantissa);
    let v = if e == 0 {
        f as f64 * unit * 2f64.powi(1 - bias)
    } else {
        (1.0 + f as f64 * unit) * 2f64.powi(e as i32 - bias)
    };
    if code >> (exponent + mantissa) & 1 == 1 { -v } else { v }
}

/// A random code of moderate size, so that no sum overflows and f32 sums of its products are nearly exact.
fn code(format: &str, bits: u64) -> u64 {
    let bits = bits >> 8;
    match format {
        "f16" => bits & 0x8000 | 0x3800 | bits & 0x07ff,
        "bf16" => bits & 0x8000 | 0x3f00 | bits & 0xff,
        // The lower 13 bits are not looked at.
        "tf32" => bits & 0x8000_0000 | 0x3f00_0000 | bits & 0x00ff_e000,
        "e4m3" => bits & 0x80 | 0x30 | bits & 0x0f,
        "e5m2" => bits & 0x80 | 0x38 | bits & 0x07,
        _ => bits & 0xff,
    }
}

#[test]
fn mma_of_every_shape_and_type() {
    let mut forms = vec![
        ("m16n8k8", 8, "f16", "f16", "f32"),
        ("m16n8k16", 16, "f16", "f16", "f32"),
        ("m16n8k8", 8, "f16", "f16", "f16"),
        ("m16n8k16", 16, "f16", "f16", "f16"),
        ("m16n8k8", 8, "bf16", "bf16", "f32"),
        ("m16n8k16", 16, "bf16", "bf16", "f32"),
        ("m16n8k4", 4, "tf32", "tf32", "f32"),
        ("m16n8k8", 8, "tf32", "tf32", "f32"),
    ];
    for a in ["s8", "u8"] {
        for b in ["s8", "u8"] {
            forms.extend([("m16n8k16", 16, a, b, "s32"), ("m16n8k32", 32, a, b, "s32")]);
        }
    }
    for a in ["e4m3", "e5m2"] {
        forms.extend(["e4m3", "e5m2"].map(|b| ("m16n8k32", 32, a, b, "f32")));
    }
    for (shape, k, at, bt, ct) in forms {
        let width = match at {
            "f16" | "bf16" => 16,
            "tf32" => 32,
            _ => 8,
        };
        let per = 32 / width;
        let (na, nb) = (16 * k / per / 32, 8 * k / per / 32);
        let nc = if ct == "f16" { 2 } else { 4 };
        let mut numbers = Numbers(k as u64);
        let a: Vec<u64> = (0..16 * k).map(|_| code(at, numbers.bits())).collect();
        let b: Vec<u64> = (0..8 * k).map(|_| code(bt, numbers.bits())).collect();
        let c: Vec<u64> = (0..16 * 8)
            .map(|_| match ct {
                "f16" => code("f16", numbers.bits()),
                "f32" => 0x3f80_0000 | numbers.bits() & 0x007f_0000,
                _ => numbers.bits() & 0xffff,
            })
            .collect();
        // The manual's fragments, of 4-byte registers: lane 4 g + t holds row g or g + 8 of A and column g of B.
        let mut input: Vec<u32> = Vec::new();
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            let mut push = |f: &dyn Fn(usize) -> u64, count: usize| {
                let bits = 32 / count;
                input.push(
                    (0..count)
                        .map(|j| (f(j) as u32) << if count == 1 { 0 } else { bits * j })
                        .sum(),
                );
            };
            for i in 0..na {
                push(&|j| a[(g + 8 * (i % 2)) * k + t * per + j + 4 * per * (i / 2)], per);
            }
            for i in 0..nb {
                push(&|j| b[g * k + t * per + j + 4 * per * i], per);
            }
            for i in 0..nc {
                if ct == "f16" {
                    push(&|j| c[(g + 8 * i) * 8 + 2 * t + j], 2);
                } else {
                    push(&|_| c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2], 1);
                }
            }
        }
        let total = na + nb + nc;
        let list = |from: usize, n: usize| {
            (from..from + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            ".version 8.4\n.target sm_89\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
             .reg .b32 %r<40>; .reg .b64 %l<6>;\nld.param.u64 %l0, [out]; ld.param.u64 %l1, [in];\nmov.u32 %r30, %tid.x;\n\
             mul.wide.u32 %l2, %r30, {}; add.u64 %l1, %l1, %l2;\nmul.wide.u32 %l2, %r30, {}; add.u64 %l0, %l0, %l2;\n",
            4 * total,
            4 * nc
        );
        for i in 0..total {
            text += &format!("ld.global.b32 %r{i}, [%l1+{}];\n", 4 * i);
        }
        text += &format!(
            "mma.sync.aligned.{shape}.row.col.{ct}.{at}.{bt}.{ct} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
            list(20, nc),
            list(0, na),
            list(na, nb),
            list(na + nb, nc)
        );
        for i in 0..nc {
            text += &format!("st.global.b32 [%l0+{}], %r{};\n", 4 * i, 20 + i);
        }
        text += "ret;\n}\n";
        let module = Module::parse(&text).unwrap();
        let mut memory = Memory::new();
        let (out, input) = (memory.alloc(32 * nc * 4), memory.upload(&input));
        module
            .kernel("k")
            .unwrap()
            .launch(
                [1; 3],
                [32, 1, 1],
                0,
                &[out.into(), input.into()],
                &mut memory,
                &Options::default(),
            )
            .unwrap();
        let got: Vec<u32> = memory.read(out, 32 * nc).unwrap();
        for row in 0..16 {
            for column in 0..8 {
                let dot: f64 = (0..k)
                    .map(|i| decode(at, a[row * k + i]) * decode(bt, b[column * k + i]))
                    .sum();
                let lane = row % 8 * 4 + column / 2;
                let start = c[row * 8 + column];
                let (value, exact, near) = match ct {
                    "f16" => {
                        let h = got[lane * nc + row / 8] >> (16 * (column % 2)) & 0xffff;
                        let exact = dot + decode("f16", start);
                        (
                            decode("f16", h as u64),
                            exact,
                            exact.abs() * 2f64.powi(-10) + 2f64.powi(-9),
                        )
                    }
                    "f32" => {
                        let x = f32::from_bits(got[lane * nc + row / 8 * 2 + column % 2]);
                        (x as f64, dot + f32::from_bits(start as u32) as f64, 1e-3)
                    }
                    _ => {
                        let x = got[lane * nc + row / 8 * 2 + column % 2] as i32;
                        (x as f64, dot + start as f64, 0.0)
                    }
                };
                assert!(
                    (value - exact).abs() <= near,
                    "{shape} {at} {bt} {ct} at ({row}, {column}): {value}, not {exact}"
                );
            }
        }
    }
}
